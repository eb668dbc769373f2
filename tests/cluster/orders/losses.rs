//! The record loses nothing: thousands of Jobs complete and are deleted within milliseconds, while
//! recorders are killed and cut off, the API server is restarted, and the Jobs' times are wrong by
//! up to an hour.
//!
//! A completion must be recorded if the watch of a recorder that lives on could see it. A Job that
//! has not completed must never be recorded.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, ResourceExt as _};
use serde_json::{Value, json};

use super::recorders::{Recorders, Settings};
use super::watchers::{Watchers, Witnesses};
use testkit::client::block_on;
use testkit::gate::{complete, failed, manifest, running};
use testkit::image;
use testkit::poll::{Look, until, until_is};
use testkit::process;
use testkit::random::Random;
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, set_status};

/// Number of gates, each in a namespace of its own.
const GATES: usize = 50;
/// Number of Jobs for each gate. A record keeps 250 versions.
const ROUNDS: usize = 200;
const SIDE_BY_SIDE: usize = 8;
/// How often the API server is restarted.
const RESTARTS: usize = 4;
/// Maximum time for which recorders are cut off, in milliseconds.
const CUT: usize = 10_000;
const PATIENCE: Duration = Duration::from_mins(3);

/// A Job that has completed.
struct Completed {
    gate: usize,
    version: String,
    uid: String,
    /// The recorders that have seen its deletion.
    seen: Witnesses,
}

/// All completions, and whether they are recorded.
#[derive(Default)]
struct Ledger {
    completed: Vec<Completed>,
    /// The completions that were found in the record.
    recorded: BTreeSet<String>,
    /// The completions that no living recorder has seen.
    unseen: BTreeSet<String>,
    /// Number of Jobs that were deleted or failed before they completed.
    never: usize,
}

struct World<'a> {
    plane: RwLock<&'a mut Plane>,
    client: kube::Client,
    watchers: Watchers,
    ledger: Mutex<Ledger>,
    begun: AtomicUsize,
}

/// Checks 10,000 completions: every one that a recorder could see is recorded.
pub(super) fn the_record_loses_none_of_10_000_completions(sandbox: &Sandbox) -> Result<()> {
    let random = Random::seeded("completions that may be lost")?;
    let mut plane = Plane::start(sandbox, "losses", 9)?;
    let began = Instant::now();
    let folder = tempfile::tempdir()?;
    let config = folder.path().join("config.yaml");
    let gates: Vec<Value> = (0..GATES).map(gate).collect();
    fs::write(&config, json!({ "gates": gates }).to_string())?;
    let client = plane.client.clone();
    let namespaces: Api<Namespace> = Api::all(client.clone());
    for number in 0..GATES {
        let object = serde_json::from_value(json!({"metadata": {"name": namespace(number)}}))?;
        block_on(namespaces.create(&PostParams::default(), &object))?;
    }
    let certificate = plane
        .server
        .authority()
        .server("losses", &["localhost"], &[])?;
    let logs = sandbox.logs("losses-recorders")?;
    let program = image::released_binary().unwrap_or_else(|_| process::program());
    let mut recorders = Recorders::new(
        Settings {
            program: &program,
            config: &config,
            logs: &logs,
            certificate: &certificate,
            port: 18720,
            namespaces: GATES,
        },
        &plane,
    )?;
    let world = World {
        plane: RwLock::new(&mut plane),
        client,
        watchers: Watchers::default(),
        ledger: Mutex::default(),
        begun: AtomicUsize::new(0),
    };
    world.all_watch(&mut recorders)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|thread| {
                let (world, stop, random) = (&world, &stop, random.part(thread as u64));
                scope.spawn(move || {
                    let done = world.completes(thread, random, stop);
                    stop.fetch_or(done.is_err(), Ordering::Relaxed);
                    done
                })
            })
            .collect();
        let mut faults = random.part(u64::MAX);
        let mut restarts = 0;
        let mut disturbed = Ok(());
        while disturbed.is_ok() && threads.iter().any(|thread| !thread.is_finished()) {
            disturbed = world.goes_wrong(&mut recorders, &mut faults, &mut restarts);
        }
        stop.fetch_or(disturbed.is_err(), Ordering::Relaxed);
        for thread in threads {
            thread.join().map_err(|_| anyhow!("a thread panicked"))??;
        }
        ensure!(
            restarts == RESTARTS,
            "the API server was restarted {restarts} times"
        );
        disturbed
    })?;
    world.all_watch(&mut recorders)?;
    world.await_record()?;
    let ledger = world.ledger();
    eprintln!(
        "cluster: {} completions in {} s, {} recorded, none lost of those that a living recorder saw, {} that none did; \
         {} Jobs that did not complete, none recorded; {} recorders killed, the API server restarted {RESTARTS} times",
        ledger.completed.len(),
        began.elapsed().as_secs(),
        ledger.recorded.len(),
        ledger.completed.len() - ledger.recorded.len(),
        ledger.never,
        recorders.kills,
    );
    Ok(())
}

fn namespace(gate: usize) -> String {
    format!("losses-{gate}")
}

/// A gate. Half of the gates have Jobs whose names change.
fn gate(number: usize) -> Value {
    let job = if number.is_multiple_of(2) {
        "migrate"
    } else {
        "migrate-*"
    };
    json!({
        "name": format!("g{number}"), "namespace": namespace(number), "job": job,
        "deployments": ["web"], "serviceAccount": "waiter",
    })
}

impl World<'_> {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn all_watch(&self, recorders: &mut Recorders<'_>) -> Result<()> {
        let plane = self.plane.read().unwrap_or_else(PoisonError::into_inner);
        recorders.revive(&plane, &self.watchers)?;
        let look = || {
            recorders.look(&plane, &self.watchers)?;
            Ok(recorders.ready())
        };
        until_is("the recorders to watch", PATIENCE, look, |ready| *ready)
    }

    /// Runs all rounds of one thread's gates.
    fn completes(&self, thread: usize, mut random: Random, stop: &AtomicBool) -> Result<()> {
        for round in 0..ROUNDS {
            for gate in (thread..GATES).step_by(SIDE_BY_SIDE) {
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
                // No request is sent while the API server restarts.
                let _plane = self.plane.read().unwrap_or_else(PoisonError::into_inner);
                self.begun.fetch_add(1, Ordering::Relaxed);
                self.one(gate, round, &mut random)
                    .with_context(|| format!("version 1.{round} of gate {gate}"))?;
            }
        }
        Ok(())
    }

    /// Creates a Job, completes most of them, and deletes it at once.
    fn one(&self, gate: usize, round: usize, random: &mut Random) -> Result<()> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &namespace(gate));
        let version = format!("1.{round}");
        let name = if gate.is_multiple_of(2) {
            "migrate".to_owned()
        } else {
            format!("migrate-{round}")
        };
        let fails = random.one_in(10);
        if fails {
            // A version that is never migrated, and so must never be recorded.
            let object = serde_json::from_value(manifest(&name, &format!("never-{version}")))?;
            block_on(jobs.create(&PostParams::default(), &object))?;
            let status = if random.one_in(2) {
                failed()
            } else {
                running()
            };
            set_status(&jobs, &name, &status)?;
            deletes(&jobs, &name, random)?;
            self.ledger().never += 1;
        }
        let object = serde_json::from_value(manifest(&name, &version))?;
        let created = block_on(jobs.create(&PostParams::default(), &object))?;
        let uid = created.metadata.uid.context("a uid")?;
        // The Job's times are wrong by up to an hour in both directions.
        let minute = random.within(61..180);
        let mut status = complete();
        status["completionTime"] = json!(format!(
            "2026-01-01T{:02}:{:02}:00Z",
            minute / 60,
            minute % 60
        ));
        set_status(&jobs, &name, &status)?;
        // The recorders that watch before its deletion see it.
        let seen = self.watchers.now();
        deletes(&jobs, &name, random)?;
        self.ledger().completed.push(Completed {
            gate,
            version,
            uid,
            seen,
        });
        Ok(())
    }

    /// Causes one fault, and ends it.
    fn goes_wrong(
        &self,
        recorders: &mut Recorders<'_>,
        random: &mut Random,
        restarts: &mut usize,
    ) -> Result<()> {
        self.rests(recorders, random.within(100..1500))?;
        let due = (*restarts + 1) * GATES * ROUNDS / (RESTARTS + 1);
        if *restarts < RESTARTS && self.begun.load(Ordering::Relaxed) >= due {
            *restarts += 1;
            return self.restarts(recorders, restarts.is_multiple_of(2));
        }
        let index = random.below(2);
        if random.one_in(3) {
            // Both get the events that they have missed afterwards.
            let other = random.one_in(2).then_some(1 - index);
            let cut = || std::iter::once(index).chain(other);
            cut().for_each(|index| recorders.cut_off(index));
            self.rests(recorders, random.within(100..CUT))?;
            cut().for_each(|index| recorders.reconnect(index));
        } else {
            let alone = self.plane.write().unwrap_or_else(PoisonError::into_inner);
            recorders.kill(index, &self.watchers);
            drop(alone);
            self.rests(recorders, random.within(0..500))?;
            let plane = self.plane.read().unwrap_or_else(PoisonError::into_inner);
            recorders.revive(&plane, &self.watchers)?;
        }
        Ok(())
    }

    /// Waits until every completion that was seen is in the record.
    fn await_record(&self) -> Result<()> {
        until("what was seen to be recorded", PATIENCE, || {
            match self.check() {
                Ok(0) => Look::Done(()),
                Ok(missing) => Look::Pending(format!("{missing} of them are missing")),
                Err(error) => Look::Failed(error),
            }
        })
    }

    /// Restarts the API server. Watches never report earlier changes afterwards.
    fn restarts(&self, recorders: &mut Recorders<'_>, quiet: bool) -> Result<()> {
        let plane = self.plane.write().unwrap_or_else(PoisonError::into_inner);
        if quiet {
            self.await_record()?;
        } else {
            self.check()?;
        }
        plane.server.kill_api_server()?;
        plane.server.start_api_server()?;
        recorders.server_restarts(&plane, &self.watchers)
    }

    fn rests(&self, recorders: &mut Recorders<'_>, milliseconds: usize) -> Result<()> {
        let until = Instant::now() + Duration::from_millis(u64::try_from(milliseconds)?);
        loop {
            let plane = self.plane.read().unwrap_or_else(PoisonError::into_inner);
            recorders.look(&plane, &self.watchers)?;
            drop(plane);
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(100)));
        }
    }

    /// The number of completions that the record must have and does not. Fails if it has one that
    /// it must not have.
    fn check(&self) -> Result<usize> {
        let records: Api<ConfigMap> = Api::all(self.client.clone());
        let labels = ListParams::default().labels("app.kubernetes.io/managed-by=migration-gate");
        let records: BTreeMap<String, BTreeMap<String, String>> = block_on(records.list(&labels))?
            .into_iter()
            .map(|record| (record.namespace().unwrap_or_default(), record))
            .map(|(namespace, record)| (namespace, record.data.unwrap_or_default()))
            .collect();
        let mut ledger = self.ledger();
        let ledger = &mut *ledger;
        let mut expected: BTreeMap<String, BTreeMap<&str, &str>> = BTreeMap::new();
        let mut missing = 0;
        for completed in &ledger.completed {
            let (version, uid) = (completed.version.as_str(), completed.uid.as_str());
            let namespace = namespace(completed.gate);
            let data = records.get(&namespace);
            expected.entry(namespace).or_default().insert(version, uid);
            if data.is_some_and(|data| data.contains_key(version)) {
                ledger.recorded.insert(completed.uid.clone());
                continue;
            }
            ensure!(
                !ledger.recorded.contains(uid),
                "{version} of {uid} was recorded and has gone"
            );
            if !self.watchers.remember(&completed.seen) {
                ledger.unseen.insert(completed.uid.clone());
            } else if !ledger.unseen.contains(uid) {
                missing += 1;
            }
        }
        for (namespace, data) in &records {
            for (version, text) in data {
                let entry: Value = serde_json::from_str(text)?;
                let right = expected
                    .get(namespace)
                    .and_then(|of| of.get(version.as_str()));
                let right = right.is_some_and(|uid| entry["uid"] == **uid);
                ensure!(
                    right,
                    "{namespace} has {version}: {text}, which did not complete"
                );
            }
        }
        Ok(missing)
    }
}

/// Deletes a Job as kubectl does, or as Kubernetes does after its TTL.
fn deletes(jobs: &Api<Job>, name: &str, random: &mut Random) -> Result<()> {
    if random.one_in(2) {
        block_on(jobs.delete(name, &DeleteParams::background()))?;
        return Ok(());
    }
    block_on(jobs.delete(name, &DeleteParams::foreground()))?;
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    block_on(jobs.patch(name, &PatchParams::default(), &patch))?;
    Ok(())
}
