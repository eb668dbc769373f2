//! The state of a gate, and the reports about it.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tracing::debug;

use super::{GateNews, GateReport, Recorder, Stored};
use crate::api::observe::{Delta, Update, WatchError};
use crate::api::seen::{fails, take_in, take_in_record};
use crate::serve::events::Emitter;
use migration_gate_core::announcement::Announcements;
use migration_gate_core::dependent::{Dependent, GatedWorkload};
use migration_gate_core::gates::{Gate, HeldKind};
use migration_gate_core::job::Job;
use migration_gate_core::outlook::outlook;
use migration_gate_core::record::Record;
use migration_gate_core::verdict::{Jobs, Now, Seen, Watch};

/// Maximum time until the state is computed again, so that no sum of times overflows.
const LATEST: Duration = Duration::from_hours(24);

/// The state of one gate: its Jobs, its record and its workloads.
pub(super) struct Lookout {
    /// The start, from which all durations are counted.
    since: Instant,
    seen: Seen,
    /// The kinds of the gate's entries.
    kinds: Vec<HeldKind>,
    /// The waiting workloads, by entry and name.
    dependents: BTreeMap<(usize, String), Dependent>,
    /// The watches of held workloads, one for each entry.
    watches: Vec<Watch>,
    announcements: Announcements,
    emitter: Option<Emitter>,
    /// When the state is computed next.
    next: Instant,
}

impl Lookout {
    pub(super) fn new(gate: &Gate, emitter: Option<Emitter>) -> Self {
        let since = Instant::now();
        let kinds: Vec<HeldKind> = gate.all_workloads().iter().map(|w| w.kind).collect();
        Self {
            since,
            seen: Seen {
                jobs: gate.requirements().into_iter().map(Jobs::new).collect(),
                // An observer never gives up.
                restarted: true,
                ..Seen::default()
            },
            watches: vec![Watch::default(); kinds.len()],
            kinds,
            dependents: BTreeMap::new(),
            announcements: Announcements::default(),
            emitter,
            next: since + LATEST,
        }
    }

    /// A report with only the state of the watches.
    pub(super) fn blank(&self) -> GateReport {
        GateReport {
            sees_jobs: self.sees_jobs(),
            sees_record: works(&self.seen.record.watch),
            sees_workloads: self.watches.iter().all(works),
            ..GateReport::blind()
        }
    }

    /// Whether all watches of the gate's Jobs work.
    fn sees_jobs(&self) -> bool {
        self.seen.jobs.iter().all(Jobs::works)
    }

    /// Resolves when the state must be computed again.
    pub(super) fn changes(&self) -> impl Future<Output = ()> + use<> {
        tokio::time::sleep_until(self.next)
    }

    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    pub(super) fn on_jobs(&mut self, requirement: usize, alternative: usize, delta: Delta<Job>) {
        let now = self.now();
        let jobs = &mut self.seen.jobs[requirement];
        take_in(jobs, alternative, delta, now);
        // The record has the completions of deleted Jobs.
        jobs.forget_gone();
        self.next = Instant::now();
    }

    pub(super) fn on_record(&mut self, record: &Stored) {
        let update = match record {
            Stored::Unknown => return,
            Stored::Absent => Update::Absent(None),
            Stored::Present(record) => Update::Present(record.clone()),
        };
        self.on_record_update(update);
    }

    pub(super) fn on_record_watch(&mut self, watch: Result<(), WatchError>) {
        self.on_record_update(match watch {
            Ok(()) => Update::Resumed,
            Err(error) => Update::Failed(error),
        });
    }

    fn on_record_update(&mut self, update: Update<Record>) {
        let now = self.now();
        take_in_record(&mut self.seen.record, update, now);
        self.next = Instant::now();
    }

    fn on_workloads(&mut self, gate: &Gate, entry: usize, delta: Delta<GatedWorkload>) {
        let now = self.now();
        self.next = Instant::now();
        match delta {
            Delta::Listed(workloads) => {
                self.watches[entry].answers(now);
                self.dependents.retain(|(of, _), _| *of != entry);
                for workload in workloads {
                    self.takes_in(gate, entry, workload);
                }
            }
            Delta::Present(workload) => self.takes_in(gate, entry, workload),
            Delta::Deleted(last) => {
                self.dependents.remove(&(entry, last.name));
            }
            Delta::Resumed => self.watches[entry].works_again(now),
            Delta::Cut | Delta::Restored => {}
            // A kind that is not installed has no workloads.
            Delta::Failed(WatchError::NoSuchKind(_)) => {
                self.watches[entry].answers(now);
                self.watches[entry].works_again(now);
                self.dependents.retain(|(of, _), _| *of != entry);
            }
            Delta::Failed(error) => fails(&mut self.watches[entry], error, now),
        }
    }

    fn takes_in(&mut self, gate: &Gate, entry: usize, workload: GatedWorkload) {
        let key = (entry, workload.name.clone());
        match Dependent::of(gate, self.kinds[entry], workload) {
            Some(dependent) => self.dependents.insert(key, dependent),
            None => self.dependents.remove(&key),
        };
    }
}

fn works(watch: &Watch) -> bool {
    watch.answered.is_some() && watch.trouble.is_none()
}

impl Recorder {
    pub(super) fn on_workload_delta(&mut self, entry: usize, delta: Delta<GatedWorkload>) {
        match &delta {
            Delta::Resumed => self.report_solved("workloads"),
            Delta::Failed(WatchError::NoSuchKind(cause)) => {
                debug!(gate = self.gate.name, cause, "a held kind is not installed");
            }
            Delta::Failed(error) => {
                let kind = self.lookout.kinds[entry].as_str();
                let namespace = &self.gate.namespace;
                let what = format!("cannot watch the {kind}s of namespace {namespace}");
                self.report_problem("workloads", &what, &error.to_string());
            }
            _ => {}
        }
        self.lookout.on_workloads(&self.gate, entry, delta);
    }

    /// Computes the gate's state, reports it, and creates the Events that are due.
    pub(super) fn look(&mut self) {
        // `write` has run before, so these are the completions that it could not write.
        let unrecorded = self.completed.len();
        let last = self.last();
        let lookout = &mut self.lookout;
        let now = Now {
            elapsed: lookout.now(),
            clock: Timestamp::now(),
        };
        // Two entries of the gate may select the same workload.
        let dependents: BTreeMap<&str, &Dependent> = (lookout.dependents.values())
            .map(|dependent| (dependent.uid.as_str(), dependent))
            .collect();
        let mut dependents: Vec<&Dependent> = dependents.into_values().collect();
        dependents.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        let known = lookout.watches.iter().all(works);
        let outlook = outlook(&lookout.seen, dependents, known, now);
        let mut until = outlook.until;
        if let Some(emitter) = &lookout.emitter {
            let announcements = &mut lookout.announcements;
            let (due, next) = announcements.due(&self.gate, &lookout.seen, &outlook, now);
            for announcement in due {
                emitter.emit(&announcement);
            }
            until = until.min(next);
        }
        let report = GateReport {
            state: outlook.state,
            waiting_pods: outlook.waiting_pods,
            unrecorded,
            last,
            ..lookout.blank()
        };
        lookout.next = lookout.since + until.min(now.elapsed + LATEST);
        (self.report)(&self.gate.name, GateNews::State(report));
    }

    /// The newest completion in the record: its time, and its duration in seconds, if that is
    /// known.
    fn last(&self) -> Option<(Timestamp, Option<u64>)> {
        let Stored::Present(record) = &self.record else {
            return None;
        };
        let last = record.entries.values().max_by_key(|e| e.completed)?;
        Some((last.completed, last.took))
    }
}
