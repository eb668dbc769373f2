//! The time from the Job's condition to the end of the waiter, and the cost of the wait.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::figures::{OTHER, OURS, Part, programs};
use super::milliseconds;
use super::server::resident;
use testkit::gate::{JOB, V2, complete, running};
use testkit::poll::{Look, until};
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene};

testkit::tests! {
    standalone: waiter;
}

const ROUNDS: u32 = 20;
/// How long hand-written waiters sleep between two checks.
const POLL: Duration = Duration::from_secs(2);

/// The contenders.
#[derive(Clone, Copy)]
enum Contender {
    Gate,
    KubectlWait,
    Poll,
}

/// The part of a reaction that no waiter can change: the API server's answer to the write.
pub(super) const WRITE: &str = "of it, until the write is answered";
pub(super) const KUBECTL_WAIT: &str = "kubectl wait";
pub(super) const POLLING: &str = "kubectl get, every 2 s";

fn waiter(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "bench", 6)?;
    let programs = programs()?;
    let ours = programs[0].1.clone();
    let mut contenders: Vec<(&str, Contender, PathBuf)> = vec![
        (KUBECTL_WAIT, Contender::KubectlWait, ours.clone()),
        (POLLING, Contender::Poll, ours.clone()),
    ];
    contenders.extend(
        programs
            .into_iter()
            .map(|(who, path)| (who, Contender::Gate, path)),
    );
    let mut reactions = vec![Vec::new(); contenders.len()];
    let mut writes = vec![Vec::new(); contenders.len()];
    let mut first_lines = vec![Vec::new(); contenders.len()];
    for round in 0..ROUNDS {
        for (index, (who, contender, binary)) in contenders.iter().enumerate() {
            let scene = Scene::on(&plane, &format!("bench-{round}-{index}"))?;
            scene.create("2")?;
            scene.status(&running())?;
            let started = Instant::now();
            let mut child = start(*contender, &plane, &scene, binary)?;
            if matches!(*who, OURS | OTHER) {
                let mut out = child.stdout.take().context("no standard output")?;
                out.read_exact(&mut [0])?;
                first_lines[index].push(milliseconds(started.elapsed()));
                // Later output must be read, too, or the waiter would write to a closed pipe.
                thread::spawn(move || out.read_to_end(&mut Vec::new()));
            }
            await_readiness(*contender, &plane, &scene)?;
            if matches!(contender, Contender::Poll) {
                // Completions come at any moment between two checks.
                thread::sleep(POLL * round / ROUNDS);
            }
            let begun = Instant::now();
            scene.status(&complete())?;
            writes[index].push(milliseconds(begun.elapsed()));
            let status = child.wait()?;
            reactions[index].push(milliseconds(begun.elapsed()));
            ensure!(status.success(), "{status}");
        }
    }
    let mut part = Part::default();
    for (index, (who, ..)) in contenders.iter().enumerate() {
        part.add("complete to exit", who, "ms", &reactions[index]);
        part.add(WRITE, who, "ms", &writes[index]);
        part.add("start to first line", who, "ms", &first_lines[index]);
    }
    footprint(&plane, &ours, &mut part)?;
    part.keep("waiter")
}

fn start(contender: Contender, plane: &Plane, scene: &Scene, binary: &Path) -> Result<Child> {
    let kubectl = plane.kubectl.program.display();
    let namespace = &scene.namespace;
    let (mut command, out) = match contender {
        Contender::Gate => (gate(binary, namespace), Stdio::piped()),
        Contender::KubectlWait => {
            let mut command = Command::new(&plane.kubectl.program);
            command.args(["wait", "--for=condition=Complete", "--timeout=10m"]);
            command.arg(format!("--namespace={namespace}"));
            command.arg(format!("job/{JOB}"));
            (command, Stdio::null())
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
            (command, Stdio::null())
        }
    };
    command
        .env("KUBECONFIG", plane.server.admin())
        .env("KUBECACHEDIR", &plane.kubectl.cache)
        .stdout(out)
        .spawn()
        .context("starting a waiter")
}

pub(super) fn gate(binary: &Path, namespace: &str) -> Command {
    let mut command = Command::new(binary);
    command
        .args(["wait", "--gate=g", "--termination-log=/dev/null", V2])
        .arg(format!("--namespace={namespace}"))
        .arg(format!("--job={JOB}"));
    command
}

/// Waits until the API server has answered, or begun to answer, the contender's request.
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

/// Peak memory and requests of one wait until a completion.
fn footprint(plane: &Plane, binary: &Path, part: &mut Part) -> Result<()> {
    let waiting = Scene::on(plane, "bench-footprint")?;
    waiting.create("2")?;
    waiting.status(&running())?;
    let mut child = start(Contender::Gate, plane, &waiting, binary)?;
    // Its output is read to the end in a thread of its own.
    let out = child.stdout.take();
    thread::spawn(move || out.map(|mut out| out.read_to_end(&mut Vec::new())));
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
        // The sampler must end also after an error.
        over.store(true, Ordering::Relaxed);
        let peak = sampler.join().ok().flatten();
        waited.and(peak.context("no look at the waiter's memory"))
    })?;
    // All reads are the waiter's: the scene only writes.
    let reads = |event: &&Value| {
        event["stage"] == "ResponseComplete"
            && matches!(event["verb"].as_str(), Some("list" | "watch" | "get"))
    };
    let requests = plane.requests(&waiting.namespace)?;
    let requests = requests.iter().filter(reads).count();
    part.add("memory of a wait, at its peak", OURS, "MB", &[peak]);
    part.note(format!(
        "A wait that sees one completion makes {requests} requests."
    ));
    Ok(())
}

/// The peak resident size of a process, in MB, as last seen before its end.
pub(super) fn peak_memory(pid: u32, over: &AtomicBool) -> Option<f64> {
    let mut peak = None;
    while !over.load(Ordering::Relaxed) {
        peak = resident(pid, "VmHWM").ok().or(peak);
        thread::sleep(Duration::from_millis(1));
    }
    peak
}
