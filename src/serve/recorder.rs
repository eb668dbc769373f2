//! Watches the gates' Jobs, and writes their completions to the record. From the same watches, and
//! those of the held workloads, it exports the state of each gate and creates Events.
//!
//! Any number of replicas do this at the same time, and none of them leads. Each replica writes
//! until the record shows what it wants, by writes that cannot undo those of another replica (see
//! [`Write`](migration_gate_core::record::Write)). If a replica dies in between, another one, or
//! its own successor, finishes the work. A completion while no replica runs is recorded by the next
//! one, as long as the Job exists. Jobs get no finalizer: a finalizer that is never removed would
//! be worse than a missing entry.

mod lookout;
mod write;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::StreamExt;
use futures::stream::SelectAll;
use jiff::Timestamp;
use kube::Client;
use tokio::task::{self, JoinError, JoinSet};
use tracing::{error, info, warn};

use self::lookout::Lookout;
use super::events::Emitter;
use crate::api::Objects;
use crate::api::objects::workload;
use crate::api::observe::{
    Delta, Pacing, Update, backoff, observe, observe_jobs, observe_workloads,
};
use migration_gate_core::gates::{Config, Gate, Requirement};
use migration_gate_core::job::{Job, JobState};
use migration_gate_core::names;
use migration_gate_core::outlook::GateState;
use migration_gate_core::record::{Entry, HISTORY, Record};

/// A report about a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GateNews {
    /// The gate's state.
    State(GateReport),
    /// The record could not be written. A write that lost against another replica is not reported.
    WriteFailed,
}

/// The state of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GateReport {
    /// Whether the gate is open, waiting or failed, if that is known.
    pub state: GateState,
    /// Number of waiting pods.
    pub waiting_pods: u64,
    /// Number of completions that the record lacks.
    pub unrecorded: usize,
    /// The newest completion in the record: its time, and its duration in seconds, if that is
    /// known.
    pub last: Option<(Timestamp, Option<u64>)>,
    /// Whether the watches of its Jobs work.
    pub sees_jobs: bool,
    /// Whether the watch of its record works.
    pub sees_record: bool,
    /// Whether the watches of the workloads that it holds work.
    pub sees_workloads: bool,
}

impl GateReport {
    /// The report of a gate that is not watched.
    pub fn blind() -> Self {
        Self {
            state: GateState::Unknown,
            waiting_pods: 0,
            unrecorded: 0,
            last: None,
            sees_jobs: false,
            sees_record: false,
            sees_workloads: false,
        }
    }
}

/// Keeps the records of all gates until `shutdown`. No answer of the API server ends it. Calls
/// `report` with a gate's name and its news, at least whenever its state changes. With `events`, it
/// also creates Events.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    events: bool,
    report: impl Fn(&str, GateNews) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) {
    let common = Common {
        client,
        events,
        report: Arc::new(report),
    };
    // Dropping the set at the end ends the tasks.
    let mut recorders = JoinSet::new();
    let mut gates: HashMap<task::Id, Gate> = HashMap::new();
    for gate in &config.gates {
        let recorder = record(&common, gate, Duration::ZERO);
        gates.insert(recorders.spawn(recorder).id(), gate.clone());
    }
    let mut pauses = backoff(Pacing::default());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            // A recorder never returns, so this one has panicked. Its successor needs none of its
            // state: it reads everything from the API server.
            Some(ended) = recorders.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                if let Some(gate) = gates.remove(&id) {
                    error!(gate = gate.name, ?ended, "record writer panicked; restarting it");
                    let pause = pauses.next().unwrap_or_default();
                    let recorder = record(&common, &gate, pause);
                    gates.insert(recorders.spawn(recorder).id(), gate);
                }
            }
        }
    }
}

/// The state that all recorders share.
#[derive(Clone)]
struct Common {
    client: Client,
    events: bool,
    report: StateReport,
}

type StateReport = Arc<dyn Fn(&str, GateNews) + Send + Sync>;

fn record(
    common: &Common,
    gate: &Gate,
    pause: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    let (common, gate) = (common.clone(), gate.clone());
    async move {
        tokio::time::sleep(pause).await;
        Recorder::new(common, gate).run().await;
    }
}

/// The record as it was last seen.
enum Stored {
    Unknown,
    Absent,
    Present(Record),
}

impl Stored {
    /// The entries that cannot be used, each with its reason.
    fn corrupt(&self) -> Option<&BTreeMap<String, String>> {
        match self {
            Self::Present(record) => Some(&record.corrupt),
            Self::Unknown | Self::Absent => None,
        }
    }
}

/// Keeps one gate's record.
struct Recorder {
    client: Client,
    gate: Gate,
    report: StateReport,
    requirements: Vec<Requirement>,
    /// The entries of the complete Jobs that exist: by requirement, alternative and name.
    entries: BTreeMap<(usize, usize, String), Entry>,
    /// Completions that the record does not show yet.
    completed: BTreeMap<String, Entry>,
    /// The record as it was last seen.
    record: Stored,
    /// Perhaps the namespace was deleted: the record is gone or another one, or the API server has
    /// refused to create it. Until a write succeeds, only Jobs that exist are recorded: completions
    /// of a deleted namespace must not count for a new one of the same name.
    in_doubt: bool,
    /// The uids of Jobs that are gone, although their deletion may not have been seen yet. They are
    /// not recorded.
    gone: BTreeSet<String>,
    /// The forgotten uids of an immutable record that was deleted, for the new one.
    forgotten: Vec<String>,
    /// The state of the gate.
    lookout: Lookout,
    /// Set after a failed write.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    pauses: ExponentialBackoff,
    /// The causes that were last logged, by subject, so that each is logged once.
    problems: BTreeMap<&'static str, String>,
}

impl Recorder {
    fn new(common: Common, gate: Gate) -> Self {
        let Common {
            client,
            events,
            report,
        } = common;
        let emitter = events.then(|| Emitter::start(&client, &gate));
        let this = Self {
            requirements: gate.requirements(),
            lookout: Lookout::new(&gate, emitter),
            client,
            gate,
            report,
            entries: BTreeMap::new(),
            completed: BTreeMap::new(),
            record: Stored::Unknown,
            in_doubt: false,
            gone: BTreeSet::new(),
            forgotten: Vec::new(),
            pause: None,
            pauses: backoff(Pacing::default()),
            problems: BTreeMap::new(),
        };
        let report = this.lookout.blank();
        (this.report)(&this.gate.name, GateNews::State(report));
        this
    }

    async fn run(mut self) {
        let pacing = Pacing::default();
        let objects = Objects::jobs(&self.client, &self.gate.namespace);
        let mut jobs = SelectAll::new();
        for (i, requirement) in self.requirements.iter().enumerate() {
            for (j, source) in requirement.any_of.iter().enumerate() {
                let deltas = observe_jobs(objects.clone(), source, pacing);
                jobs.push(deltas.map(move |delta| ((i, j), delta)).boxed());
            }
        }
        let mut workloads = SelectAll::new();
        for (i, entry) in self.gate.all_workloads().iter().enumerate() {
            let kind = workload(entry.kind.pod_kind());
            let objects = Objects::of(&self.client, kind, Some(&self.gate.namespace));
            let deltas = observe_workloads(objects, entry, Pacing::slow());
            workloads.push(deltas.map(move |delta| (i, delta)).boxed());
        }
        let records = observe(self.records(), &names::record(&self.gate.name), pacing);
        let mut records = pin!(records);
        loop {
            self.write().await;
            let paused = self.pause.is_some();
            let pause = async {
                match &mut self.pause {
                    Some(pause) => pause.await,
                    None => std::future::pending().await,
                }
            };
            let changes = self.lookout.changes();
            tokio::select! {
                // All events that have arrived are processed before the gate's state is computed.
                biased;
                Some((source, delta)) = jobs.next() => self.on_job_delta(source, delta),
                Some(update) = records.next() => self.on_record_update(update),
                Some((entry, delta)) = workloads.next() => self.on_workload_delta(entry, delta),
                () = pause, if paused => self.pause = None,
                () = changes => self.look(),
            }
        }
    }

    fn on_job_delta(&mut self, source: (usize, usize), delta: Delta<Job>) {
        let (requirement, alternative) = source;
        match &delta {
            Delta::Listed(jobs) => {
                self.entries.retain(|(of, by, _), _| (*of, *by) != source);
                for job in jobs {
                    self.track(requirement, alternative, job);
                }
            }
            Delta::Present(job) => self.track(requirement, alternative, job),
            Delta::Deleted(last) => {
                self.track(requirement, alternative, last);
                let key = (requirement, alternative, last.name.clone());
                self.entries.remove(&key);
            }
            Delta::Resumed => self.report_solved("job"),
            Delta::Cut | Delta::Restored => {}
            Delta::Failed(error) => {
                let namespace = &self.gate.namespace;
                let job = &self.requirements[requirement].any_of[alternative];
                let what = format!("cannot watch Job {namespace}/{job}");
                self.report_problem("job", &what, &error.to_string());
            }
        }
        self.lookout.on_jobs(requirement, alternative, delta);
    }

    /// Updates a Job's entry. If the Job is complete, its completion is to be recorded.
    fn track(&mut self, requirement: usize, alternative: usize, job: &Job) {
        let key = (requirement, alternative, job.name.clone());
        let entry = Entry::of(job, self.gate.version.as_ref(), Timestamp::now());
        let Some(entry) = entry else {
            self.entries.remove(&key);
            if matches!(job.state, JobState::Complete { .. }) {
                let what = format!("cannot record Job {}/{}", self.gate.namespace, job.name);
                let cause = "it has no image, or its entry would be too large";
                self.report_problem("image", &what, cause);
            }
            return;
        };
        let several = self.requirements.len() > 1;
        let entry = Entry {
            requirement: several.then(|| self.requirements[requirement].to_string()),
            ..entry
        };
        keep_latest(&mut self.completed, &entry);
        // While the record cannot be written, keep the newest completions.
        while self.completed.len() > HISTORY {
            let oldest = self.completed.iter().min_by_key(|(_, e)| e.completed);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                break;
            };
            self.completed.remove(&oldest);
        }
        self.entries.insert(key, entry);
    }

    fn on_record_update(&mut self, update: Update<Record>) {
        match update {
            Update::Present(record) => {
                self.keep_overwritten(&record);
                self.on_record(Stored::Present(record));
            }
            Update::Absent(_) => {
                // The operator deleted an immutable record, as `report_immutable` advises. Its
                // content is written again.
                if let Stored::Present(record) = &self.record {
                    self.in_doubt |= !record.immutable;
                    self.forgotten.clear();
                    if record.immutable {
                        self.forgotten.clone_from(&record.forgotten);
                        for entry in record.entries.values() {
                            keep_latest(&mut self.completed, entry);
                        }
                    }
                }
                self.on_record(Stored::Absent);
            }
            Update::Resumed => {
                self.report_solved("record");
                self.lookout.on_record_watch(Ok(()));
            }
            Update::Failed(error) => {
                let what = format!("cannot watch the record {}", self.name());
                self.report_problem("record", &what, &error.to_string());
                self.lookout.on_record_watch(Err(error));
            }
        }
    }

    /// Puts entries back that another replica has overwritten: with an older entry, because it had
    /// not seen the newer one, or with fewer fields, because it is of an earlier release. An entry
    /// without a uid is not put back: if it was forgotten, the record does not show that.
    fn keep_overwritten(&mut self, record: &Record) {
        let Stored::Present(before) = &self.record else {
            return;
        };
        for (key, entry) in &before.entries {
            let now = record.entries.get(key);
            if !entry.uid.is_empty() && now.is_some_and(|now| now.says_less_than(entry)) {
                keep_latest(&mut self.completed, entry);
            }
        }
    }

    /// Handles a record that the watch has reported.
    fn on_record(&mut self, record: Stored) {
        // If the record has changed, the cause of a failed write may be gone, so the pause ends. If
        // not, the pause goes on.
        let content = |stored: &Stored| match stored {
            Stored::Present(record) => Some(Record {
                resource_version: String::new(),
                ..record.clone()
            }),
            _ => None,
        };
        if content(&self.record) != content(&record) {
            self.pause = None;
        }
        self.remember(record);
    }

    /// Stores a state of the record, and logs new corrupt entries.
    fn remember(&mut self, record: Stored) {
        if let (Stored::Present(before), Stored::Present(now)) = (&self.record, &record) {
            self.in_doubt |= before.uid != now.uid;
        }
        self.lookout.on_record(&record);
        let before = std::mem::replace(&mut self.record, record);
        let before = before.corrupt();
        for (key, cause) in self.record.corrupt().into_iter().flatten() {
            if before.and_then(|before| before.get(key)) != Some(cause) {
                error!(
                    gate = self.gate.name,
                    record = self.name(),
                    key,
                    cause,
                    "ignoring and removing a corrupt entry of the record"
                );
            }
        }
    }

    fn records(&self) -> Objects {
        Objects::config_maps(&self.client, &self.gate.namespace)
    }

    fn name(&self) -> String {
        format!("{}/{}", self.gate.namespace, names::record(&self.gate.name))
    }

    fn report_problem(&mut self, about: &'static str, what: &str, cause: &str) {
        if self.problems.get(about).is_none_or(|known| known != cause) {
            warn!(gate = self.gate.name, cause, "{what}; trying again");
            self.problems.insert(about, cause.to_owned());
        }
    }

    fn report_solved(&mut self, about: &'static str) {
        if let Some(cause) = self.problems.remove(about) {
            info!(gate = self.gate.name, cause, "{about}: recovered");
        }
    }
}

/// Adds a completion to those to record, unless a later one of the same version is there: an older
/// Job may change last, such as when it is deleted.
fn keep_latest(completed: &mut BTreeMap<String, Entry>, entry: &Entry) {
    let key = entry.key();
    let known = completed.get(&key);
    if known.is_none_or(|known| known.says_less_than(entry)) {
        completed.insert(key, entry.clone());
    }
}
