//! Stores the reports of watches for the core.

use std::time::Duration;

use super::observe::{Delta, Update, WatchError};
use migration_gate_core::job::Job;
use migration_gate_core::record::Record;
use migration_gate_core::verdict::{Jobs, RecordSeen, TroubleKind, Watch};

/// Stores an event of a requirement's Jobs, at the time `now`. `alternative` is the index of the
/// source that reports it.
pub fn take_in(jobs: &mut Jobs, alternative: usize, delta: Delta<Job>, now: Duration) {
    match delta {
        Delta::Listed(listed) => jobs.listed(alternative, listed, now),
        Delta::Present(job) => jobs.changed(job, now),
        Delta::Deleted(last) => jobs.deleted(last, now),
        Delta::Resumed => jobs.watches[alternative].works_again(now),
        Delta::Cut => jobs.watches[alternative].loses_connection(),
        Delta::Restored => jobs.watches[alternative].continues(now),
        Delta::Failed(error) => fails(&mut jobs.watches[alternative], error, now),
    }
}

/// Stores an event of the record, at the time `now`.
pub fn take_in_record(seen: &mut RecordSeen, update: Update<Record>, now: Duration) {
    match update {
        Update::Present(record) => {
            seen.watch.answers(now);
            seen.record = Some(record);
        }
        Update::Absent(_) => {
            seen.watch.answers(now);
            seen.record = None;
        }
        Update::Resumed => seen.watch.works_again(now),
        Update::Failed(error) => fails(&mut seen.watch, error, now),
    }
}

/// Stores a watch's error, at the time `now`.
pub fn fails(watch: &mut Watch, error: WatchError, now: Duration) {
    let (kind, message, answered) = match error {
        WatchError::Denied(message) => (TroubleKind::Denied, message, true),
        WatchError::NoSuchKind(message) | WatchError::Failing(message) => {
            (TroubleKind::Unreachable, message, true)
        }
        WatchError::Unreachable(message) => (TroubleKind::Unreachable, message, false),
    };
    watch.fails(kind, message, answered, now);
}
