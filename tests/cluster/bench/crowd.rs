//! Many waiters on one Job: when the last one ends, and their cost for the API server.

use std::fs;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use testkit::client::block_on;
use testkit::gate::{complete, running};
use testkit::poll::{Look, until};
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene};

use super::figures::{Part, programs};
use super::milliseconds;
use super::server::resident;
use super::waiter::gate;

testkit::tests! {
    standalone: crowd;
}

pub(super) const CROWDS: [usize; 3] = [100, 1000, 5000];
/// Number of waiters that start together. If all started at once, the start of processes would be
/// measured.
const BATCH: usize = 250;
/// Maximum memory of a waiter, in MB, so that a crowd that does not fit is not started.
const WAITER: f64 = 3.0;

#[allow(clippy::cast_precision_loss, reason = "some thousand waiters")]
fn crowd(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "bench-crowd", 8)?;
    let api_server = plane.server.pid()?;
    let mut part = Part::default();
    for (who, program) in programs()? {
        for waiters in CROWDS {
            if available()? < WAITER * waiters as f64 {
                part.note(format!(
                    "{waiters} waiters don't fit into this machine's memory."
                ));
                continue;
            }
            let scene = Scene::on(&plane, &format!("crowd-{who}-{waiters}"))?;
            scene.create("2")?;
            scene.status(&running())?;
            let before = (resident(api_server, "VmRSS")?, processor_time(api_server)?);
            let mut crowd = Vec::new();
            while crowd.len() < waiters {
                for _ in 0..BATCH.min(waiters - crowd.len()) {
                    let mut command = gate(&program, &scene.namespace);
                    command.env("KUBECONFIG", plane.server.admin());
                    crowd.push(command.stdout(Stdio::null()).spawn()?);
                }
                await_watches(&plane, crowd.len())?;
            }
            let waiting = resident(api_server, "VmRSS")?;
            scene.status(&complete())?;
            let (first, last) = ends(crowd)?;
            let after = processor_time(api_server)?;
            let each = waiters as f64;
            let what = |what: &str| format!("{waiters} waiters: {what}");
            part.add(
                &what("first to last exit"),
                who,
                "ms",
                &[milliseconds(last - first)],
            );
            part.add(
                &what("memory each"),
                who,
                "MB",
                &[(waiting - before.0).max(0.0) / each],
            );
            part.add(
                &what("processor time each"),
                who,
                "ms",
                &[(after - before.1) * 1000.0 / each],
            );
            await_watches(&plane, 0)?;
        }
    }
    part.keep("crowd")
}

/// When the first and the last waiter ended.
fn ends(mut crowd: Vec<Child>) -> Result<(Instant, Instant)> {
    let begun = Instant::now();
    let mut first = None;
    while !crowd.is_empty() {
        let mut left = Vec::new();
        for mut child in crowd {
            match child.try_wait()? {
                None => left.push(child),
                Some(status) => {
                    ensure!(status.success(), "{status}");
                    first.get_or_insert_with(Instant::now);
                }
            }
        }
        crowd = left;
        ensure!(
            begun.elapsed() < Duration::from_mins(3),
            "{} still wait",
            crowd.len()
        );
    }
    Ok((first.context("no waiter")?, Instant::now()))
}

/// Waits until the API server serves `wanted` watches of Jobs.
fn await_watches(plane: &Plane, wanted: usize) -> Result<()> {
    until("the watches", Duration::from_mins(5), || {
        let request = hyper::Request::get("/metrics").body(Vec::new());
        let text = match request
            .map_err(anyhow::Error::from)
            .and_then(|request| Ok(block_on(plane.client.request_text(request))?))
        {
            Ok(text) => text,
            Err(error) => return Look::Failed(error),
        };
        let watches: f64 = text
            .lines()
            .filter(|line| line.starts_with("apiserver_longrunning_requests{"))
            .filter(|line| line.contains("resource=\"jobs\"") && line.contains("verb=\"WATCH\""))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a count"
        )]
        let watches = watches as usize;
        let there = if wanted == 0 {
            watches == 0
        } else {
            watches >= wanted
        };
        if there {
            Look::Done(())
        } else {
            Look::Pending(format!("{watches} of {wanted}"))
        }
    })
}

/// The processor time of a process, in seconds. A tick is a hundredth of a second
/// (`proc_pid_stat`(5)).
fn processor_time(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, fields) = stat.rsplit_once(')').context("no name in stat")?;
    let ticks: Vec<f64> = fields
        .split_whitespace()
        .skip(11)
        .take(2)
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// The machine's free memory, in MB.
fn available() -> Result<f64> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let kilobytes: f64 = memory
        .lines()
        .find_map(|line| {
            line.strip_prefix("MemAvailable:")?
                .split_whitespace()
                .next()
        })
        .context("no MemAvailable")?
        .parse()?;
    Ok(kilobytes / 1000.0)
}
