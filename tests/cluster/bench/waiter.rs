//! From the Job's condition to the end of whoever waited for it, and what the waiting costs.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{Sample, milliseconds};
use testkit::gate::{JOB, V2, complete, running};
use testkit::image;
use testkit::poll::{Look, until};
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene};

testkit::tests! {
    standalone: waiter;
}

const ROUNDS: u32 = 30;
/// What hand-written waiters sleep between two looks.
const POLL: Duration = Duration::from_secs(2);

/// Who waits.
#[derive(Clone, Copy)]
enum Contender {
    Gate,
    KubectlWait,
    Poll,
}

const CONTENDERS: [(Contender, &str); 3] = [
    (Contender::Gate, "migration-gate wait"),
    (Contender::KubectlWait, "kubectl wait"),
    (Contender::Poll, "kubectl get, every 2 s"),
];

fn waiter(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "bench", 6)?;
    let binary = image::released_binary()?;
    let mut samples = CONTENDERS.map(|_| Sample::default());
    for round in 0..ROUNDS {
        for (index, (contender, _)) in CONTENDERS.into_iter().enumerate() {
            let scene = Scene::on(&plane, &format!("bench-{round}-{index}"))?;
            scene.create("2")?;
            scene.status(&running())?;
            let mut child = start(contender, &plane, &scene, &binary)?;
            await_readiness(contender, &plane, &scene)?;
            if matches!(contender, Contender::Poll) {
                // Completions come at any moment between two looks.
                thread::sleep(POLL * round / ROUNDS);
            }
            let begun = Instant::now();
            scene.status(&complete())?;
            let status = child.wait()?;
            samples[index].push(begun.elapsed());
            ensure!(status.success(), "{status}");
        }
    }
    println!(
        "\n{ROUNDS} rounds, from sending the Job's Complete condition to the process's end; its storing included"
    );
    let gate = samples[0].median();
    for ((_, name), sample) in CONTENDERS.iter().zip(&samples) {
        println!(
            "{name:<24} median {:>8.1} ms   90 % {:>8.1} ms   {:>7.2} x",
            milliseconds(sample.median()),
            milliseconds(sample.quantile(0.9)),
            sample.median().as_secs_f64() / gate.as_secs_f64()
        );
    }
    footprint(&plane, &binary)
}

fn start(contender: Contender, plane: &Plane, scene: &Scene, binary: &Path) -> Result<Child> {
    let kubectl = plane.kubectl.program.display();
    let namespace = &scene.namespace;
    let mut command = match contender {
        Contender::Gate => gate(binary, namespace),
        Contender::KubectlWait => {
            let mut command = Command::new(&plane.kubectl.program);
            command.args(["wait", "--for=condition=Complete", "--timeout=10m"]);
            command.arg(format!("--namespace={namespace}"));
            command.arg(format!("job/{JOB}"));
            command
        }
        Contender::Poll => {
            let look = format!(
                "{kubectl} --namespace={namespace} get job {JOB} -o jsonpath='{{.status.conditions[?(@.type==\"Complete\")].status}}'"
            );
            let mut command = Command::new("sh");
            command.args([
                "-c",
                &format!(
                    "until {look} | grep -q True; do sleep {}; done",
                    POLL.as_secs()
                ),
            ]);
            command
        }
    };
    command
        .env("KUBECONFIG", plane.server.admin())
        .env("KUBECACHEDIR", &plane.kubectl.cache)
        .stdout(Stdio::null())
        .spawn()
        .context("starting a waiter")
}

fn gate(binary: &Path, namespace: &str) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["wait", "--gate=g", "--termination-log=/dev/null", V2])
        .arg(format!("--namespace={namespace}"))
        .arg(format!("--job={JOB}"));
    command
}

/// Until the API server has answered, or begun to answer, what the contender waits with.
fn await_readiness(contender: Contender, plane: &Plane, scene: &Scene) -> Result<()> {
    let (verb, wanted) = match contender {
        Contender::Gate => ("watch", 2),
        Contender::KubectlWait => ("watch", 1),
        Contender::Poll => ("get", 1),
    };
    until(
        "the contender's requests",
        Duration::from_mins(3),
        || match plane.requests(&scene.namespace) {
            Err(error) => Look::Failed(error),
            Ok(requests) => match requests
                .iter()
                .filter(|event| event["verb"] == verb)
                .count()
            {
                count if count >= wanted => Look::Done(()),
                count => Look::Pending(format!("{count} of {wanted} to {verb}")),
            },
        },
    )
}

/// Peak memory and requests of one wait that sees one completion.
fn footprint(plane: &Plane, binary: &Path) -> Result<()> {
    let waiting = Scene::on(plane, "bench-footprint")?;
    waiting.create("2")?;
    waiting.status(&running())?;
    let mut child = start(Contender::Gate, plane, &waiting, binary)?;
    let pid = child.id();
    let over = AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        let sampler = scope.spawn(|| peak_memory(pid, &over));
        let mut wait = || -> Result<()> {
            await_readiness(Contender::Gate, plane, &waiting)?;
            waiting.status(&complete())?;
            ensure!(child.wait()?.success());
            Ok(())
        };
        let waited = wait();
        // Whatever came of it, the sampler has to end.
        over.store(true, Ordering::Relaxed);
        let peak = sampler.join().ok().flatten();
        waited.and(peak.context("no look at the waiter's memory"))
    })?;
    // Whoever reads here is the waiter: the scene only writes.
    let reads = |event: &&Value| {
        event["stage"] == "ResponseComplete"
            && matches!(event["verb"].as_str(), Some("list" | "watch" | "get"))
    };
    let requests = plane.requests(&waiting.namespace)?;
    let requests = requests.iter().filter(reads).count();
    println!(
        "one wait: peak memory {peak} kB (VmHWM, the binary's own pages included), {requests} requests, binary {} kB",
        fs::metadata(binary)?.len() / 1000
    );
    Ok(())
}

/// The highest resident size that a process reached, in kB, as last seen before its end.
fn peak_memory(pid: u32, over: &AtomicBool) -> Option<u64> {
    let mut peak = None;
    while !over.load(Ordering::Relaxed) {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let found = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next())
            .and_then(|number| number.parse().ok());
        peak = peak.max(found);
        thread::sleep(Duration::from_millis(1));
    }
    peak
}
