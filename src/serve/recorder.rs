//! Keeps the record: watches the gates' Jobs and writes down what completes.
//!
//! Any number of replicas do this at the same time, and none of them leads. Each brings the record
//! to the state that it wants, by writes that can't undo another's (see
//! [`Write`](migration_gate_core::record::Write)), for as long as the record doesn't show it; so one that dies in
//! between leaves nothing that another, or its own successor, doesn't finish. What completed while
//! nobody looked is recorded by whoever looks next, as long as the Job is there. Jobs get no
//! finalizer: one that nobody removes would be worse than a missing entry.

mod write;

use std::collections::{BTreeMap, HashMap};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use backon::ExponentialBackoff;
use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use tokio::task::{self, JoinError, JoinSet};
use tracing::{error, info, warn};

use super::gate_state::GateState;
use crate::api::Objects;
use crate::api::observe::{Pacing, Update, backoff, observe};
use migration_gate_core::gates::{Config, Gate};
use migration_gate_core::job::{Job, JobState};
use migration_gate_core::names;
use migration_gate_core::record::{Entry, HISTORY, Record};
use migration_gate_core::verdict::Sight;

/// Keeps the records of all gates until `shutdown`. Whatever the API server answers, this goes
/// on; `report` is told a gate's name and what its Job does, at least whenever that changes.
pub async fn run(
    client: Client,
    config: Arc<Config>,
    report: impl Fn(&str, GateState) + Send + Sync + 'static,
    shutdown: impl Future<Output = ()>,
) {
    let report: StateReport = Arc::new(report);
    // Dropped at the end, which ends the tasks.
    let mut recorders = JoinSet::new();
    let mut gates: HashMap<task::Id, Gate> = HashMap::new();
    for gate in &config.gates {
        let recorder = record(&client, gate, &report, Duration::ZERO);
        gates.insert(recorders.spawn(recorder).id(), gate.clone());
    }
    let mut pauses = backoff(Pacing::default());
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => return,
            // A recorder has no end of its own. One that panicked has met a bug, and the next one
            // finds out by itself what there is to do.
            Some(ended) = recorders.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                if let Some(gate) = gates.remove(&id) {
                    error!(gate = gate.name, ?ended, "keeping the record has stopped, which is a bug; starting again");
                    let pause = pauses.next().unwrap_or_default();
                    let recorder = record(&client, &gate, &report, pause);
                    gates.insert(recorders.spawn(recorder).id(), gate);
                }
            }
        }
    }
}

fn record(
    client: &Client,
    gate: &Gate,
    report: &StateReport,
    pause: Duration,
) -> impl Future<Output = ()> + Send + 'static {
    let (client, gate, report) = (client.clone(), gate.clone(), Arc::clone(report));
    async move {
        tokio::time::sleep(pause).await;
        Recorder::new(client, gate, report).run().await;
    }
}

type StateReport = Arc<dyn Fn(&str, GateState) + Send + Sync>;

/// Keeps one gate's record.
struct Recorder {
    client: Client,
    gate: Gate,
    report: StateReport,
    /// The Job's completion, while it is there: it is recorded again if the record loses it.
    current: Option<Entry>,
    /// What the Job does, while it can be watched.
    state: GateState,
    /// Completions that the record doesn't show yet.
    completed: BTreeMap<String, Entry>,
    /// The record as it was last seen.
    record: Sight<Record>,
    /// Set after a failed write.
    pause: Option<Pin<Box<tokio::time::Sleep>>>,
    pauses: ExponentialBackoff,
    /// The problem that was last logged, so that it is logged once: by what it is about.
    problems: BTreeMap<&'static str, String>,
}

impl Recorder {
    fn new(client: Client, gate: Gate, report: StateReport) -> Self {
        report(&gate.name, GateState::Unknown);
        Self {
            client,
            gate,
            report,
            current: None,
            state: GateState::Unknown,
            completed: BTreeMap::new(),
            record: Sight::Unknown,
            pause: None,
            pauses: backoff(Pacing::default()),
            problems: BTreeMap::new(),
        }
    }

    async fn run(mut self) {
        let Gate { namespace, job, .. } = &self.gate;
        let record = names::record(&self.gate.name);
        let pacing = Pacing::default();
        let jobs = observe(Objects::jobs(&self.client, namespace), job, pacing);
        let records = observe(self.records(), &record, pacing);
        let (mut jobs, mut records) = (pin!(jobs), pin!(records));
        loop {
            self.write().await;
            let paused = self.pause.is_some();
            let pause = async {
                match &mut self.pause {
                    Some(pause) => pause.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(update) = jobs.next() => self.on_job_update(update),
                Some(update) = records.next() => self.on_record_update(update),
                () = pause, if paused => self.pause = None,
            }
        }
    }

    fn on_job_update(&mut self, update: Update<Job>) {
        match update {
            Update::Present(job) => {
                self.report_state(GateState::of(&job));
                self.collect_completion(&job);
            }
            Update::Absent(last) => {
                self.report_state(GateState::Absent);
                if let Some(job) = last {
                    self.collect_completion(&job);
                }
                self.current = None;
            }
            Update::Resumed => {
                self.report_state(self.state);
                self.report_solved("job");
            }
            Update::Failed(error) => {
                (self.report)(&self.gate.name, GateState::Unknown);
                let what = format!("cannot watch Job {}/{}", self.gate.namespace, self.gate.job);
                self.report_problem("job", &what, &error.to_string());
            }
        }
    }

    fn report_state(&mut self, state: GateState) {
        self.state = state;
        let recorded = matches!(&self.record, Sight::Present(record) if !record.entries.is_empty());
        let state = match state {
            GateState::Absent if recorded => GateState::Recorded,
            state => state,
        };
        (self.report)(&self.gate.name, state);
    }

    /// Takes the Job for the current one, and its completion for one to record.
    fn collect_completion(&mut self, job: &Job) {
        self.current = Entry::of(&self.gate.job, job, Timestamp::now());
        if let Some(entry) = &self.current {
            self.completed.insert(entry.key(), entry.clone());
            // While the record can't be written, the newest completions are the ones to keep.
            while self.completed.len() > HISTORY {
                let oldest = self.completed.iter().min_by_key(|(_, e)| e.completed);
                let Some(oldest) = oldest.map(|(key, _)| key.clone()) else {
                    break;
                };
                self.completed.remove(&oldest);
            }
        } else if matches!(job.state, JobState::Complete { .. }) {
            let image = job.image.as_deref().unwrap_or_default();
            let what = format!(
                "cannot record Job {}/{}",
                self.gate.namespace, self.gate.job
            );
            let cause = format!("the version of its image `{image}` can't be a ConfigMap's key");
            self.report_problem("image", &what, &cause);
        }
    }

    fn on_record_update(&mut self, update: Update<Record>) {
        match update {
            Update::Present(record) => self.on_record(Sight::Present(record)),
            Update::Absent(_) => {
                // Somebody did as they were told, and what they had to delete is not to be lost.
                if let Sight::Present(record) = &self.record
                    && record.immutable
                {
                    for (key, entry) in &record.entries {
                        let completed = self.completed.entry(key.clone());
                        completed.or_insert_with(|| entry.clone());
                    }
                }
                self.on_record(Sight::Absent { vanished: None });
            }
            Update::Resumed => self.report_solved("record"),
            Update::Failed(error) => {
                let what = format!("cannot watch the record {}", self.name());
                self.report_problem("record", &what, &error.to_string());
            }
        }
    }

    /// The watch says what the record is now.
    fn on_record(&mut self, record: Sight<Record>) {
        // Whatever a write stumbled over may have changed, and if it hasn't, a pause is in order.
        let content = |sight: &Sight<Record>| match sight {
            Sight::Present(record) => Some(Record {
                resource_version: String::new(),
                ..record.clone()
            }),
            _ => None,
        };
        if content(&self.record) != content(&record) {
            self.pause = None;
        }
        self.remember(record);
        if self.state == GateState::Absent {
            self.report_state(GateState::Absent);
        }
    }

    /// Takes a state of the record in, and tells what is new and corrupt in it.
    fn remember(&mut self, record: Sight<Record>) {
        let before = std::mem::replace(&mut self.record, record);
        let corrupt = |record| match record {
            &Sight::Present(Record { ref corrupt, .. }) => Some(corrupt),
            _ => None,
        };
        let before = corrupt(&before);
        for (key, cause) in corrupt(&self.record).into_iter().flatten() {
            if before.and_then(|before| before.get(key)) != Some(cause) {
                error!(
                    gate = self.gate.name,
                    record = self.name(),
                    key,
                    cause,
                    "an entry of the record is corrupt; it is not obeyed, and is removed"
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
            info!(
                gate = self.gate.name,
                cause, "the trouble with the {about} is over"
            );
        }
    }
}
