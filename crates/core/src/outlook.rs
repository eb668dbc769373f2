//! The state of a gate for its workloads, by the waiter's own decision for a pod of each.

use std::time::Duration;

use super::dependent::Dependent;
use super::verdict::{Jobs, Limits, Now, Seen, Verdict, Waiting, What, verdict};

/// The state of a gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GateState {
    /// A pod of every held workload would start.
    Open,
    /// A held workload wants a version that is not migrated.
    Waiting,
    /// The same, and the Job that should migrate it has failed.
    Failed,
    /// The Jobs, the record or the held workloads cannot be watched.
    Unknown,
}

/// The state of a gate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outlook<'d> {
    /// Whether the gate is open, waiting or failed, if that is known.
    pub state: GateState,
    /// Number of waiting pods.
    pub waiting_pods: u64,
    /// Each held workload with its waiter's decision; `None` for a workload without a version,
    /// whose waiter exits with an error.
    pub prospects: Vec<(&'d Dependent, Option<Verdict>)>,
    /// When this may change without an event, on the clock of [`Now::elapsed`].
    pub until: Duration,
}

/// The limits of an observer, which never gives up and otherwise decides as a waiter.
pub const OBSERVER: Limits = Limits {
    timeout: Duration::MAX,
    denied: Duration::from_secs(30),
    settle: Duration::from_secs(5),
    no_pod: Duration::from_secs(10),
};

/// Computes the state of a gate for the workloads that it holds. `known` says whether `dependents`
/// are all of them.
pub fn outlook<'d>(
    seen: &Seen,
    dependents: impl IntoIterator<Item = &'d Dependent>,
    known: bool,
    now: Now,
) -> Outlook<'d> {
    let mut until = Duration::MAX;
    let mut waiting_pods = 0;
    let mut state = GateState::Open;
    let mut prospects = Vec::new();
    for dependent in dependents {
        let verdict = match &dependent.wanted {
            Ok(wanted) => Some(verdict(seen, wanted, &OBSERVER, now)),
            Err(_) => None,
        };
        if let Some(Verdict::Wait { until: change, .. }) = &verdict {
            until = until.min(*change);
        }
        let own = state_of(verdict.as_ref());
        if own != GateState::Open {
            waiting_pods += dependent.waiting_pods;
        }
        state = state.max(own);
        prospects.push((dependent, verdict));
    }
    let record = &seen.record.watch;
    let all_is_seen = known
        && seen.jobs.iter().all(Jobs::works)
        && record.answered.is_some()
        && record.trouble.is_none();
    Outlook {
        state: if all_is_seen {
            state
        } else {
            GateState::Unknown
        },
        waiting_pods,
        prospects,
        until,
    }
}

fn state_of(verdict: Option<&Verdict>) -> GateState {
    match verdict {
        Some(Verdict::End(_)) => GateState::Open,
        Some(Verdict::Wait { waiting, .. }) if waiting.iter().any(has_failed) => GateState::Failed,
        Some(Verdict::Wait { .. }) | None => GateState::Waiting,
    }
}

fn has_failed(waiting: &Waiting) -> bool {
    matches!(waiting.what, What::Failed { .. })
}
