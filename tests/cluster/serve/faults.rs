//! 100,000 calls while certificates rotate, replicas roll and are killed, and the API server is
//! restarted.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::installed::Installed;
use super::load::Load;
use testkit::cluster::Cluster;

const CALLS: usize = 100_000;
const ROTATIONS: usize = 20;
const ROLL_OUTS: usize = 10;
const RESTARTS: usize = 10;
const KILLS: usize = 5;
/// Number of steps of the run: roll-outs and restarts in turns, with kills between them.
const STEPS: usize = ROLL_OUTS + RESTARTS + KILLS;

/// A span of time in which a fault may affect calls.
struct Window {
    from: Instant,
    until: Instant,
}

impl Window {
    fn has(&self, at: Instant) -> bool {
        (self.from..=self.until).contains(&at)
    }
}

/// Only kills may lose calls. Requests that fail because the API server itself restarts do not
/// count.
pub(super) fn of_100_000_calls_only_killed_replicas_lose_some(cluster: &Cluster) -> Result<()> {
    let plane = cluster.control_plane()?;
    let installed = Installed::self_managed(cluster)?;
    let kubectl = &installed.namespace.kubectl;
    let load = Load::with_updates(cluster, &installed.namespace.name);
    let begun = Instant::now();
    let mut certificates = BTreeSet::from([installed.certificate()?]);
    let (mut kills, mut restarts) = (Vec::new(), Vec::new());
    let mut step = 0;
    while step < STEPS || certificates.len() <= ROTATIONS {
        let from = Instant::now();
        match step % 5 {
            0 | 2 => {
                kubectl.run("rollout restart deployment/serve")?;
                kubectl.run("rollout status deployment/serve --timeout=170s")?;
            }
            1 | 3 => {
                plane.kill_api_server()?;
                plane.start_api_server()?;
                kubectl.wait("node/node-1", "condition=Ready", 120)?;
                restarts.push(window(from));
            }
            _ => {
                installed.kills_a_replica()?;
                // The kubelet starts it again.
                load.reaches(load.created() + 1000)?;
                kubectl.run("rollout status deployment/serve --timeout=170s")?;
                kills.push(window(from));
            }
        }
        step += 1;
        certificates.insert(installed.certificate()?);
        load.reaches(CALLS * step.min(STEPS) / STEPS)?;
        certificates.insert(installed.certificate()?);
    }
    load.reaches(CALLS)?;
    let calls = load.created();
    let (mut by_kill, mut away, mut others) = (vec![0; kills.len()], 0, Vec::new());
    for (at, failure) in load.failures() {
        let is_lost = failure.contains("failed calling webhook");
        let kill = kills.iter().position(|window| window.has(at));
        match kill {
            Some(kill) if is_lost => by_kill[kill] += 1,
            _ if !is_lost && restarts.iter().any(|window| window.has(at)) => away += 1,
            _ => others.push(failure),
        }
    }
    eprintln!(
        "serve: {calls} calls in {} s, {} rotations, {ROLL_OUTS} roll-outs: none lost; {} starts of the API server: none lost, \
         {away} that it didn't take; {} replicas killed: {by_kill:?} lost",
        begun.elapsed().as_secs(),
        certificates.len() - 1,
        restarts.len(),
        kills.len(),
    );
    ensure!(
        others.is_empty(),
        "{} of {calls} calls were lost otherwise: {:#?}",
        others.len(),
        &others[..others.len().min(5)]
    );
    Ok(())
}

/// From `from` until a moment after now, because a failed call is counted only when its caller is
/// scheduled.
fn window(from: Instant) -> Window {
    Window {
        from,
        until: Instant::now() + Duration::from_secs(1),
    }
}
