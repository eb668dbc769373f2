//! Messages about a gate's migrations.

use std::collections::BTreeMap;

use super::{About, Announcement, EventReason};
use crate::dependent::Dependent;
use crate::explain;
use crate::gates::Gate;
use crate::text::shorten;
use crate::verdict::Failure;

/// Maximum number of workloads in a Job's note.
const NAMED: usize = 3;

/// Maximum length of a quoted message of the Job controller, in bytes.
const QUOTED: usize = 200;

/// The state of one migration. Jobs are identified by their names.
pub(super) enum Fact {
    /// It has failed.
    Failed(Failure),
    /// It has completed after a failure: the Job's name, or `None` if only the record shows it.
    Completed(Option<String>),
    /// It has been running for too long.
    Overdue(String),
}

impl Fact {
    fn reason(&self) -> EventReason {
        match self {
            Self::Failed(_) => EventReason::MigrationFailed,
            Self::Completed(_) => EventReason::MigrationCompleted,
            Self::Overdue(_) => EventReason::MigrationOverdue,
        }
    }

    fn job(&self) -> Option<&str> {
        match self {
            Self::Failed(failure) => Some(&failure.job),
            Self::Completed(job) => job.as_deref(),
            Self::Overdue(job) => Some(job),
        }
    }
}

/// A workload that a fact concerns, and the text that makes its Event unique.
type Concerned<'d> = (&'d Dependent, String);

/// Everything that has happened, by reason and Job uid.
#[derive(Default)]
pub(super) struct Facts<'d>(BTreeMap<(EventReason, String), (Fact, Vec<Concerned<'d>>)>);

impl<'d> Facts<'d> {
    /// Adds a fact about the Job with the uid `job`.
    pub(super) fn add(&mut self, job: &str, fact: Fact, concerned: Concerned<'d>) {
        let entry = self.0.entry((fact.reason(), job.to_owned()));
        let (_, all) = entry.or_insert_with(|| (fact, Vec::new()));
        all.push(concerned);
    }

    /// For each fact, an Event on the Job and one on each workload.
    pub(super) fn announcements(self, gate: &Gate) -> Vec<Announcement> {
        let mut announcements = Vec::new();
        for ((reason, uid), (fact, concerned)) in self.0 {
            let job = fact.job().map(|name| About::job(name, &uid));
            if let Some(job) = job.clone() {
                let held: Vec<&Dependent> = concerned.iter().map(|(held, _)| *held).collect();
                let note = (of_job(gate, &fact, &held), advice(gate, &fact));
                announcements.push(Announcement::new(reason, job, None, &uid, note));
            }
            for (held, key) in concerned {
                let note = (of_workload(gate, &fact), advice(gate, &fact));
                let about = About::workload(held);
                announcements.push(Announcement::new(reason, about, job.clone(), &key, note));
            }
        }
        announcements
    }
}

fn of_job(gate: &Gate, fact: &Fact, held: &[&Dependent]) -> String {
    let (name, held) = (&gate.name, names(held));
    match fact {
        Fact::Failed(failure) => {
            format!("{}, so gate {name} holds {held}.", has_failed(failure))
        }
        Fact::Completed(_) => {
            format!("The migration has completed after a failure, so gate {name} opens for {held}.")
        }
        Fact::Overdue(_) => {
            format!(
                "The migration has been running for longer than {}, and gate {name} holds {held}.",
                explain::duration(gate.timeout)
            )
        }
    }
}

fn of_workload(gate: &Gate, fact: &Fact) -> String {
    match fact {
        Fact::Failed(failure) => format!("New pods wait: {}.", has_failed(failure)),
        Fact::Completed(Some(job)) => {
            format!("Waiting pods start: Job {job} has completed after a failure.")
        }
        Fact::Completed(None) => {
            "Waiting pods start: their version is recorded as migrated, after a failure.".to_owned()
        }
        Fact::Overdue(job) => format!(
            "New pods wait: Job {job} has been running for longer than {}.",
            explain::duration(gate.timeout)
        ),
    }
}

fn has_failed(failure: &Failure) -> String {
    let reason = shorten(&explain::reason(failure), QUOTED);
    format!("Job {} has failed{reason}", failure.job)
}

/// The remedy.
fn advice(gate: &Gate, fact: &Fact) -> String {
    let ns = &gate.namespace;
    let logs = |job: &str| {
        format!("kubectl logs -n {ns} -l batch.kubernetes.io/job-name={job} --prefix --tail=-1")
    };
    match fact {
        Fact::Failed(Failure { job, applier, .. }) => {
            let again = match explain::again(applier, ns, Some(job)) {
                Some(again) => format!("Fix the cause. {again}"),
                None => format!(
                    "Fix the cause, delete the Job and apply it again: kubectl delete job {job} -n {ns}"
                ),
            };
            format!("{again}. Its logs: {}", logs(job))
        }
        Fact::Completed(_) => String::new(),
        Fact::Overdue(job) => format!(
            "Its logs: {}. If it always takes this long, raise the gate's timeout.",
            logs(job)
        ),
    }
}

/// The names of the first workloads, and the number of the others.
fn names(held: &[&Dependent]) -> String {
    let mut names: Vec<String> = held
        .iter()
        .take(NAMED)
        .map(|held| format!("{} {}", held.kind.as_str(), held.name))
        .collect();
    if let Some(more) = held.len().checked_sub(NAMED).filter(|more| *more > 0) {
        names.push(format!("{more} more"));
    }
    match names.split_last() {
        Some((last, others)) if !others.is_empty() => format!("{} and {last}", others.join(", ")),
        Some((last, _)) => last.clone(),
        None => "nothing".to_owned(),
    }
}
