//! `serve` as a process without an API server: its rate compared with a bare server, its memory,
//! and the time until it is ready.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use testkit::assets::{printed, repository};
use testkit::pki::{ClusterAuthority, Pair};
use testkit::poll::until_is;
use testkit::process::{self, Process};
use testkit::sandbox::Sandbox;

use super::figures::{Part, programs, tool};
use super::milliseconds;

testkit::tests! {
    standalone: start, server, memory;
}

/// Number of rounds of each contender, in turns.
const ROUNDS: usize = 3;
/// The duration of each load.
const LOAD: Duration = Duration::from_millis(700);
/// The sizes of reviews, and the number of annotations of 200 bytes in them.
pub(super) const SIZES: [(&str, usize); 3] = [("2 KB", 3), ("20 KB", 85), ("1 MB", 4500)];
pub(super) const PROTOCOLS: [(&str, &str); 2] = [("HTTP/1.1", "h1"), ("HTTP/2", "h2")];
pub(super) const CONNECTIONS: [usize; 3] = [1, 16, 64];
/// Reviews before the memory is measured, and the time for which one size of them is sent in turn.
const MIXED: f64 = 1e6;
const MIXED_LOAD: Duration = Duration::from_secs(2);
const GATES: usize = 1000;

/// The certificates and bodies that the servers of this file share.
struct Bench {
    authority: PathBuf,
    pair: Pair,
    folder: PathBuf,
    logs: PathBuf,
    load: PathBuf,
    /// The chart's value of `GLIBC_TUNABLES`.
    tunables: String,
}

impl Bench {
    fn new(sandbox: &Sandbox) -> Result<Self> {
        let folder = sandbox.state("bench-server")?;
        let authority = ClusterAuthority::create(&folder)?;
        for (name, annotations) in SIZES {
            let body = review(annotations).to_string();
            fs::write(folder.join(name), body)?;
        }
        Ok(Self {
            authority: authority.pair().certificate,
            pair: authority.server("bench", &["localhost"], &[])?,
            logs: sandbox.logs("bench-server")?,
            load: tool("http").context("no load: `make bench` builds it")?,
            tunables: tunables()?,
            folder,
        })
    }

    /// Starts `serve` of a program on two ports from `port` on. Returns it when it is ready, and
    /// the time that this took.
    fn serve(&self, program: &Path, port: u16, config: &Value) -> Result<(Process, u32, Duration)> {
        let file = self.folder.join("config.yaml");
        fs::write(&file, config.to_string())?;
        let begun = Instant::now();
        let mut command = on_processor(1, program);
        command
            .env("KUBECONFIG", "/nonexistent")
            .env("GLIBC_TUNABLES", &self.tunables)
            .arg("serve")
            .arg(format!("--config={}", file.display()))
            .arg(format!("--tls-cert={}", self.pair.certificate.display()))
            .arg(format!("--tls-key={}", self.pair.key.display()))
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--health-listen=127.0.0.1:{}", port + 1));
        let server = Process::spawn("serve", &self.logs, &mut command)?;
        let ready = loop {
            if is_ready(port + 1) {
                break begun.elapsed();
            }
            server.check()?;
            ensure!(begun.elapsed() < Duration::from_mins(1), "it isn't ready");
        };
        let pid = server.pid();
        Ok((server, pid, ready))
    }

    fn bare(&self, port: u16) -> Result<Process> {
        let mut command = on_processor(1, &self.load);
        command.arg("bare").arg(format!("127.0.0.1:{port}"));
        command.args([&self.pair.certificate, &self.pair.key]);
        let server = Process::spawn("bare", &self.logs, &mut command)?;
        server.await_ready("the bare server", Duration::from_secs(30), || {
            Ok(TcpStream::connect(("127.0.0.1", port))?)
        })?;
        Ok(server)
    }

    fn load(&self, port: u16, load: &Load) -> Result<Loaded> {
        let mut command = on_processor(0, &self.load);
        command.arg("load").arg(format!("127.0.0.1:{port}"));
        command.args([&self.authority, &self.folder.join(load.size)]);
        command.arg(load.protocol);
        let duration = load.duration.as_millis();
        command.args([
            load.connections.to_string(),
            load.streams().to_string(),
            duration.to_string(),
        ]);
        let printed = process::run(&mut command, "", Duration::from_mins(2))?.success()?;
        Ok(serde_json::from_str(&printed)?)
    }
}

/// The chart's value of `GLIBC_TUNABLES`.
fn tunables() -> Result<String> {
    let template = repository().join("charts/migration-gate/templates/deployment.yaml");
    let text = fs::read_to_string(template)?;
    let mut after = text
        .lines()
        .skip_while(|line| !line.contains("GLIBC_TUNABLES"));
    let value = after
        .nth(1)
        .and_then(|line| line.trim().strip_prefix("value: "));
    Ok(value
        .context("the chart sets no GLIBC_TUNABLES")?
        .to_owned())
}

struct Load {
    size: &'static str,
    protocol: &'static str,
    connections: usize,
    duration: Duration,
}

impl Load {
    /// Number of concurrent requests on a connection. One request of 1 MB is enough to fill a
    /// connection.
    fn streams(&self) -> usize {
        if self.protocol == "h2" && self.size != "1 MB" {
            8
        } else {
            1
        }
    }
}

/// The results of a load, with latencies in milliseconds.
#[derive(Deserialize)]
struct Loaded {
    answered: f64,
    refused: f64,
    seconds: f64,
    p99: f64,
}

/// A command that runs on one of the machine's processors, so that server and load do not share
/// one.
fn on_processor(number: usize, program: &Path) -> Command {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() > number.max(1))
    {
        let mut command = Command::new("taskset");
        command.args(["-c", &number.to_string()]).arg(program);
        return command;
    }
    Command::new(program)
}

/// Whether `/readyz` says 200.
fn is_ready(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<String> {
        let mut connection = TcpStream::connect(("127.0.0.1", port))?;
        connection
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// A review of the creation of a held Deployment with this number of long annotations.
fn review(annotations: usize) -> Value {
    let annotations: serde_json::Map<String, Value> = (0..annotations)
        .map(|i| (format!("a{i}"), json!("x".repeat(200))))
        .collect();
    let env: Vec<Value> = (0..10)
        .map(|i| json!({"name": format!("V{i}"), "value": "1"}))
        .collect();
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
        "name": "piefed-web", "namespace": "piefed-application", "operation": "CREATE",
        "userInfo": {"username": "kustomize-controller", "groups": ["system:authenticated"]},
        "object": {"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "piefed-web", "namespace": "piefed-application",
                "labels": {"app": "web"}, "annotations": annotations},
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{
                    "name": "web", "image": "example/piefed-web:1.2.3", "env": env,
                    "resources": {"requests": {"cpu": "100m", "memory": "256Mi"}},
                }]}}}},
        "oldObject": null, "dryRun": false,
    }})
}

/// `count` gates. The first one holds the Deployment of [`review`].
fn gates(count: usize) -> Value {
    let gate = |i: usize| {
        let suffix = if i == 0 {
            String::new()
        } else {
            format!("-{i}")
        };
        json!({
            "name": format!("piefed{suffix}"), "namespace": format!("piefed-application{suffix}"),
            "job": "piefed-db-init", "serviceAccount": "piefed-init-checker",
            "deployments": ["piefed-web", "piefed-worker"],
        })
    };
    json!({"gates": (0..count).map(gate).collect::<Vec<_>>(), "forbiddenEnv": ["PIEFED_INIT_CONTAINER"]})
}

fn server(sandbox: &Sandbox) -> Result<()> {
    let bench = Bench::new(sandbox)?;
    let bare = bench.bare(19100)?;
    let mut servers = vec![("bare", 19100, bare)];
    for ((who, program), port) in programs()?.into_iter().zip([19200, 19300]) {
        servers.push((who, port, bench.serve(&program, port, &gates(1))?.0));
    }
    let mut part = Part::default();
    let mut refused = 0.0;
    for (size, _) in SIZES {
        for (protocol, name) in PROTOCOLS {
            for connections in CONNECTIONS {
                let load = Load {
                    size,
                    protocol: name,
                    connections,
                    duration: LOAD,
                };
                // For each server: its rate, the latency of its slowest hundredth, and its
                // processor time.
                let mut all = vec![[const { Vec::new() }; 3]; servers.len()];
                for _ in 0..ROUNDS {
                    for ((_, port, server), seen) in servers.iter().zip(&mut all) {
                        let before = processor_time(server.pid())?;
                        let one = bench.load(*port, &load)?;
                        let took = processor_time(server.pid())? - before;
                        seen[0].push(one.answered / one.seconds);
                        seen[1].push(one.p99);
                        seen[2].push(took * 1000.0 / (one.answered + one.refused));
                        refused += one.refused;
                    }
                }
                let what = format!("{size}, {protocol}, {connections}");
                let next_to_bare = |index: usize, measured: &[f64]| -> Vec<f64> {
                    let bare: &[f64] = &all[0][index];
                    measured.iter().zip(bare).map(|(a, b)| a / b).collect()
                };
                for ((who, ..), [rate, p99, time]) in servers.iter().zip(&all) {
                    part.add(&what, who, "/s", rate);
                    part.add(&format!("{what}: p99"), who, "ms", p99);
                    part.add(&format!("{what}: processor time"), who, "ms", time);
                    if *who != "bare" {
                        let (rate, p99) = (next_to_bare(0, rate), next_to_bare(1, p99));
                        part.add(&format!("{what}: share"), who, "of it", &rate);
                        part.add(&format!("{what}: p99 share"), who, "x", &p99);
                        let time: Vec<f64> = next_to_bare(2, time)
                            .iter()
                            .map(|share| 1.0 / share)
                            .collect();
                        part.add(&format!("{what}: by processor time"), who, "of it", &time);
                    }
                }
            }
        }
    }
    if refused > 0.0 {
        part.note(format!(
            "{refused:.0} reviews were turned away, which the API server repeats."
        ));
    }
    part.keep("server")
}

/// The processor time of a process's threads, in seconds (`proc_pid_schedstat`(5), in nanoseconds).
fn processor_time(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0.0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread that has ended meanwhile has no such file.
        let text = fs::read_to_string(thread?.path().join("schedstat")).unwrap_or_default();
        let spent: f64 = text
            .split(' ')
            .next()
            .unwrap_or_default()
            .parse()
            .unwrap_or(0.0);
        nanoseconds += spent;
    }
    Ok(nanoseconds / 1e9)
}

fn memory(sandbox: &Sandbox) -> Result<()> {
    let bench = Bench::new(sandbox)?;
    let mut part = Part::default();
    for (who, program) in programs()? {
        let (server, pid, _) = bench.serve(&program, 19200, &gates(1))?;
        part.add("idle", who, "MB", &[resident(pid, "VmRSS")?]);
        let mut sent = 0.0;
        while sent < MIXED {
            for (protocol, connections) in [("h2", 16), ("h1", 64)] {
                for (size, _) in SIZES {
                    let load = Load {
                        size,
                        protocol,
                        connections,
                        duration: MIXED_LOAD,
                    };
                    sent += bench.load(19200, &load)?.answered;
                }
            }
        }
        part.add("after a mixed load", who, "MB", &[resident(pid, "VmRSS")?]);
        part.add("at its peak", who, "MB", &[resident(pid, "VmHWM")?]);
        drop(server);
        let (server, pid, ready) = bench.serve(&program, 19200, &gates(GATES))?;
        part.add(
            "start to ready, with 1,000 gates",
            who,
            "ms",
            &[milliseconds(ready)],
        );
        part.add("with 1,000 gates", who, "MB", &[resident(pid, "VmRSS")?]);
        drop(server);
    }
    part.note(format!(
        "The mixed load is {:.0} million reviews of 2 KB, 20 KB and 1 MB in turns, over 16 connections of\n\
         HTTP/2 and 64 of HTTP/1.1. They are closed when the memory is read.",
        MIXED / 1e6
    ));
    part.keep("memory")
}

/// A process's memory in MB, by a line of its status.
pub(super) fn resident(pid: u32, line: &str) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kilobytes: f64 = status
        .lines()
        .find_map(|text| {
            text.strip_prefix(line)?
                .strip_prefix(':')?
                .split_whitespace()
                .next()
        })
        .with_context(|| format!("no {line}"))?
        .parse()?;
    Ok(kilobytes * 1024.0 / 1e6)
}

fn start(sandbox: &Sandbox) -> Result<()> {
    let bench = Bench::new(sandbox)?;
    let mut part = Part::default();
    let mut times = vec![Vec::new(); programs()?.len()];
    for _ in 0..20 {
        for ((_, program), times) in programs()?.into_iter().zip(&mut times) {
            let (server, _, ready) = bench.serve(&program, 19200, &gates(1))?;
            times.push(milliseconds(ready));
            drop(server);
            until_is(
                "the port to be free",
                Duration::from_secs(30),
                || Ok(is_ready(19201)),
                |ready| !ready,
            )?;
        }
    }
    for ((who, program), times) in programs()?.into_iter().zip(&times) {
        part.add("start to ready", who, "ms", times);
        let bytes = fs::metadata(program)?.len();
        part.add("binary", who, "MB", &[as_megabytes(bytes)]);
    }
    let archive = bench.folder.join("image.tar");
    let mut script = Command::new(repository().join("build/image.sh"));
    script.arg(&archive).stdin(Stdio::null());
    printed(script)?;
    let mut gzip = Command::new("gzip");
    let compressed = gzip
        .args(["-9", "--stdout"])
        .arg(&archive)
        .output()?
        .stdout
        .len();
    part.add(
        "image, compressed",
        super::figures::OURS,
        "MB",
        &[as_megabytes(u64::try_from(compressed)?)],
    );
    part.add(
        "image",
        super::figures::OURS,
        "MB",
        &[as_megabytes(fs::metadata(archive)?.len())],
    );
    part.keep("start")
}

#[allow(clippy::cast_precision_loss, reason = "some megabytes")]
fn as_megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
