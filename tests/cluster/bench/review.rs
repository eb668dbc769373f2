//! `review` of many manifests, compared with gator and kubectl-validate. It also counts
//! instructions, which do not depend on other work on the machine.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use testkit::sandbox::Sandbox;

use super::figures::{OTHER, OURS, Part, programs, tool};
use super::waiter::peak_memory;
use super::{gatekeeper, milliseconds};

testkit::tests! {
    standalone: review, instructions;
}

pub(super) const COUNTS: [usize; 4] = [100, 1000, 10_000, 100_000];
pub(super) const GATOR: &str = "gator test";
pub(super) const KUBECTL_VALIDATE: &str = "kubectl-validate";
/// Maximum number of manifests for which the others run more than once: for more, they take minutes
/// and gigabytes.
const REPEATED: usize = 10_000;

fn review(sandbox: &Sandbox) -> Result<()> {
    let folder = sandbox.state("bench-review")?;
    let constraint = folder.join("constraint.yaml");
    let deployments = json!({"kinds": [{"apiGroups": ["apps"], "kinds": ["Deployment"]}]});
    let active = gatekeeper::constraint(&deployments);
    fs::write(
        &constraint,
        format!("{}---\n{active}\n", gatekeeper::TEMPLATE),
    )?;
    let mut part = Part::default();
    let mut contenders: Vec<(&str, PathBuf)> = programs()?;
    for (name, program) in [(GATOR, "gator"), (KUBECTL_VALIDATE, "kubectl-validate")] {
        match tool(program) {
            Some(path) => contenders.push((name, path)),
            None => part.note(format!("{name} could not be built here.")),
        }
    }
    for count in COUNTS {
        let file = folder.join(format!("{count}.yaml"));
        fs::write(&file, manifests(count))?;
        let rounds = if count > 1000 { 3 } else { 5 };
        let mut seen = vec![[const { Vec::new() }; 2]; contenders.len()];
        for round in 0..rounds {
            for ((who, program), seen) in contenders.iter().zip(&mut seen) {
                let ours = matches!(*who, OURS | OTHER);
                if ours || round == 0 || count <= REPEATED {
                    let (time, memory) = run(command(who, program, &file, &constraint))?;
                    seen[0].push(time);
                    seen[1].extend(memory);
                }
            }
        }
        for ((who, _), [times, memory]) in contenders.iter().zip(&seen) {
            part.add(&format!("{count} Deployments: time"), who, "ms", times);
            part.add(&format!("{count} Deployments: memory"), who, "MB", memory);
        }
        next_to_others(&mut part, count);
    }
    part.keep("review")
}

/// How much faster `review` is than the faster one of the others, and its share of that one's
/// memory.
fn next_to_others(part: &mut Part, count: usize) {
    let of = |who: &str, what: &str| {
        Some(
            part.find(&format!("{count} Deployments: {what}"), who)?
                .median(),
        )
    };
    let others = [GATOR, KUBECTL_VALIDATE].into_iter();
    let fastest = others
        .filter_map(|who| Some((of(who, "time")?, of(who, "memory")?)))
        .min_by(|a, b| a.0.total_cmp(&b.0));
    if let (Some((time, memory)), Some(ours), Some(taken)) =
        (fastest, of(OURS, "time"), of(OURS, "memory"))
    {
        part.add(
            &format!("{count} Deployments: as fast"),
            OURS,
            "times",
            &[time / ours],
        );
        part.add(
            &format!("{count} Deployments: of its memory"),
            OURS,
            "x",
            &[taken / memory],
        );
    }
}

fn command(who: &str, program: &Path, file: &Path, constraint: &Path) -> Command {
    let mut command = Command::new(program);
    match who {
        GATOR => command
            .args(["test", "-f"])
            .arg(constraint)
            .arg("-f")
            .arg(file),
        KUBECTL_VALIDATE => command.arg(file),
        _ => command.arg("review").arg(file),
    };
    command
}

/// The time of a command in milliseconds, and its peak memory in MB.
fn run(mut command: Command) -> Result<(f64, Option<f64>)> {
    let begun = Instant::now();
    let mut child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let (pid, over) = (child.id(), AtomicBool::new(false));
    thread::scope(|scope| {
        let sampler = scope.spawn(|| peak_memory(pid, &over));
        let status = child.wait();
        let took = milliseconds(begun.elapsed());
        over.store(true, Ordering::Relaxed);
        let peak = sampler.join().ok().flatten();
        let status = status?;
        ensure!(status.success(), "{command:?} ended with {status}");
        Ok((took, peak))
    })
}

/// `count` typical Deployments of 2.1 KB. A tenth of them is in a gate's namespace, and the gate
/// holds none.
fn manifests(count: usize) -> String {
    let mut text = String::new();
    for i in 0..count {
        let namespace = if i % 10 == 0 {
            "piefed-application"
        } else {
            "other"
        };
        let tag = i % 7;
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "---
# Deployment {i}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-{i}
  namespace: {namespace}
  labels:
    app.kubernetes.io/name: web-{i}
    app.kubernetes.io/part-of: shop
spec:
  replicas: 2
  selector:
    matchLabels:
      app.kubernetes.io/name: web-{i}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: web-{i}
        app.kubernetes.io/part-of: shop
      annotations:
        checksum/config: \"{i:064}\"
    spec:
      containers:
      - name: web
        image: registry.example/shop/web:1.{tag}.0
        ports:
        - name: http
          containerPort: 8080
        env:
"
        );
        for j in 0..18 {
            let _ = write!(
                text,
                "        - name: SETTING_{j}\n          value: \"value-{i}-{j}\"\n"
            );
        }
        text.push_str(
            "        resources:
          requests:
            cpu: 100m
            memory: 128Mi
          limits:
            memory: 256Mi
        readinessProbe:
          httpGet:
            path: /health
            port: http
        volumeMounts:
        - name: tmp
          mountPath: /tmp
      volumes:
      - name: tmp
        emptyDir: {}
",
        );
    }
    text
}

/// The rules of `crates/core/examples/rules.rs`.
pub(super) const RULES: [[&str; 2]; 4] = [
    ["mutate", "held"],
    ["mutate", "other"],
    ["validate", "held"],
    ["validate", "other"],
];

fn instructions(sandbox: &Sandbox) -> Result<()> {
    let folder = sandbox.state("bench-instructions")?;
    let mut part = Part::default();
    if Command::new("valgrind")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_err()
    {
        println!("valgrind isn't here, so no instructions are counted");
        return Ok(());
    }
    let files = [100, 300].map(|count| (count, folder.join(format!("{count}.yaml"))));
    for (count, file) in &files {
        fs::write(file, manifests(*count))?;
    }
    for (who, program) in programs()? {
        let review =
            |file: &Path| counted(Command::new(&program).arg("review").arg(file), &program);
        let each = (review(&files[1].1)? - review(&files[0].1)?) / 200.0;
        part.add("review of a Deployment", who, "instructions", &[each]);
    }
    if let Some(rules) = std::env::var_os("BENCH_RULES").map(PathBuf::from) {
        for rule in RULES {
            let times = |times| counted(Command::new(&rules).args(rule).arg(times), &rules);
            let each = (times("1100")? - times("100")?) / 1000.0;
            part.add(&rule.join(", "), OURS, "instructions", &[each]);
        }
    }
    part.keep("instructions")
}

/// The number of instructions of a command, by callgrind.
fn counted(command: &Command, program: &Path) -> Result<f64> {
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args(command.get_args());
    let output = valgrind.stdout(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    let collected = said
        .lines()
        .find_map(|line| line.split("Collected : ").nth(1));
    let count = collected.with_context(|| format!("callgrind counted nothing: {said}"))?;
    Ok(count.trim().parse()?)
}
