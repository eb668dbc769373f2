//! Printed messages, so that each is printed once.

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use migration_gate_core::explain::{self, Moment};
use migration_gate_core::verdict::{JobName, Jobs, Seen, TroubleKind, Waiting};

use super::args::Plan;
use super::output::{Output, Severity};

/// Maximum number of the record's corrupt entries that are named. The others are only counted: a
/// record can hold tens of thousands.
const MOST_CORRUPT: usize = 5;

/// What has been printed. Each change is printed in one line.
#[derive(Default)]
pub(super) struct Told {
    waiting: Vec<Waiting>,
    record: Vec<TroubleKind>,
    corrupt: BTreeSet<String>,
}

impl Told {
    /// Prints the reasons to wait that have changed.
    pub(super) fn waiting(
        &mut self,
        plan: &Plan,
        seen: &Seen,
        waiting: Vec<Waiting>,
        now: Duration,
        output: &Output,
    ) {
        for change in waiting
            .iter()
            .filter(|waiting| !self.waiting.contains(waiting))
        {
            let trouble = seen.jobs.iter().find_map(|jobs| jobs.trouble());
            let moment = Moment {
                running: running(seen, change),
                remaining: plan.limits.timeout.saturating_sub(now),
                trouble: trouble.filter(|t| Some(t.kind) == change.trouble).cloned(),
            };
            if let Some(line) = explain::line(&plan.subject, change, &moment) {
                let level = match change.trouble {
                    Some(_) => Severity::Warn,
                    None => Severity::Info,
                };
                output.say(level, &line);
            }
        }
        self.waiting = waiting;
    }

    /// Prints new problems with the record, and its new corrupt entries.
    pub(super) fn record(&mut self, plan: &Plan, seen: &Seen, output: &Output) {
        let record = &seen.record;
        if let Some(trouble) = &record.watch.trouble
            && !self.record.contains(&trouble.kind)
            && let Some(problem) = match trouble.kind {
                TroubleKind::Denied => Some("not permitted to read the record"),
                // If the record was read before, that state still counts. If the Jobs cannot be
                // read either, the line about the Job reports it.
                TroubleKind::Unreachable => (record.watch.answered.is_none()
                    && seen.jobs.iter().all(Jobs::works))
                .then_some("cannot read the record yet"),
            }
        {
            self.record.push(trouble.kind);
            let problem = format!(
                "{problem}; continuing with the Job alone: {}",
                explain::quoted(&trouble.message)
            );
            output.say(Severity::Warn, &problem);
        }
        let Some(record) = &record.record else {
            return;
        };
        let name = &plan.record;
        let new = record.corrupt.iter();
        let new = new.filter(|(key, _)| !self.corrupt.contains(*key));
        for (key, cause) in new.clone().take(MOST_CORRUPT) {
            let cause = explain::quoted(cause);
            let corrupt =
                format!("ConfigMap {name}: the entry {key} is corrupt and ignored: {cause}");
            output.say(Severity::Warn, &corrupt);
        }
        let others = new.count().saturating_sub(MOST_CORRUPT);
        if others > 0 {
            let corrupt =
                format!("ConfigMap {name}: {others} more entries are corrupt and ignored");
            output.say(Severity::Warn, &corrupt);
        }
        self.corrupt = record.corrupt.keys().cloned().collect();
    }
}

/// How long the Job has been running: from its `startTime` until now by the local clock.
fn running(seen: &Seen, waiting: &Waiting) -> Option<Duration> {
    let JobName::Exact(name) = &waiting.job else {
        return None;
    };
    let started = seen.job(name)?.started?;
    Some(
        Timestamp::now()
            .duration_since(started)
            .try_into()
            .unwrap_or_default(),
    )
}
