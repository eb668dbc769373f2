//! The waiter's decision, as a function of what was seen, what is wanted, and the time.
//!
//! [`verdict`] is the whole of it. Nothing here watches, prints or sleeps; times are durations
//! since the waiter's start.

mod seen;

use std::time::Duration;

use jiff::Timestamp;

use super::image::{Version, same_version};
use super::job::{Attempt, Job, JobState};
use super::record::{Entry, Record};
pub use seen::{Seen, Sight, Source, Trouble, TroubleKind};

/// What has to have happened before the gate opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// A Job of the version of this image has completed.
    Version(String),
    /// Some Job has completed (`freshness: any`).
    Any,
}

impl Wanted {
    /// Whether that Job's end, good or bad, is the one that is waited for. A Job whose image
    /// can't be told is of no version.
    fn counts(&self, job: &Job) -> bool {
        match self {
            Self::Any => true,
            Self::Version(image) => job
                .image
                .as_deref()
                .is_some_and(|actual| same_version(actual, image)),
        }
    }

    /// A version that always names the same thing, so that its migration never needs to run twice.
    fn immutable(&self) -> Option<Version> {
        match self {
            Self::Any => None,
            Self::Version(image) => Some(Version::of(image)).filter(|v| !v.is_mutable()),
        }
    }

    /// The record's answer for a gate that can't tell one run of the Job from another, asked only
    /// while there is no Job.
    fn recorded<'a>(&self, record: &'a Record) -> Option<&'a Entry> {
        match self {
            Self::Any => record.latest(),
            Self::Version(image) => record.find(&Version::of(image)),
        }
    }
}

/// How long the waiter bears with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The whole wait.
    pub timeout: Duration,
    /// Missing rights: RBAC may be on its way.
    pub denied: Duration,
    /// A Job that has just vanished, before an older record may speak for it: appliers that
    /// replace a Job delete it and create it anew.
    pub settle: Duration,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Let the pod start.
    Open(Why),
    /// Give up: the Job has failed.
    Failed {
        /// The Job, for its pods.
        uid: String,
        /// Such as `BackoffLimitExceeded`.
        reason: String,
        /// What the Job controller says.
        message: String,
        /// Its last attempt.
        attempt: Option<Attempt>,
    },
    /// Give up: the Job may not be watched.
    NotPermitted {
        /// What the API server says.
        message: String,
    },
    /// Give up: the time is over.
    TimedOut(Waiting),
    /// Go on, and ask again when something else is seen, or at `until`.
    Wait {
        /// For what.
        waiting: Waiting,
        /// When the answer changes by itself.
        until: Duration,
    },
}

/// Why the gate is open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The Job is complete.
    Complete {
        /// Its image.
        image: Option<String>,
    },
    /// The record has it.
    Recorded {
        /// The image that was migrated for.
        image: String,
        /// When.
        completed: Timestamp,
    },
}

/// What the waiter waits for: what it sees, and whether it sees at all. Equal values are one
/// line of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What was last seen.
    pub what: What,
    /// Whether that may be out of date, and why.
    pub trouble: Option<TroubleKind>,
    /// The record has never been read, so what it says isn't known.
    pub record_unread: bool,
}

/// What a waiter sees of its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields are those of `Job`")]
pub enum What {
    /// Nothing yet.
    Nothing,
    /// There is no Job.
    NoJob,
    /// The Job that was there has gone.
    Vanished,
    /// Somebody has deleted it, and it is still there.
    Deleting,
    /// It is complete, but of another version.
    OldComplete {
        image: Option<String>,
    },
    /// It has failed, but is of another version.
    OldFailed {
        image: Option<String>,
    },
    /// It has failed; whether its version was recorded earlier isn't known yet.
    FailedUnlessRecorded,
    Suspended,
    NoPod,
    BetweenAttempts {
        attempt: Option<Attempt>,
    },
    PodNotReady {
        attempt: Option<Attempt>,
    },
    Running {
        attempt: Option<Attempt>,
    },
    Succeeding,
    Failing,
}

/// Decides.
///
/// A completed Job of the wanted version opens the gate, and so does a record of an immutable
/// version, whatever the Job does now. Where versions are mutable or don't matter, the Job that is
/// there decides alone, and the record only speaks while there is none.
pub fn verdict(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Duration) -> Verdict {
    if let Some(why) = open(seen, wanted, limits, now) {
        return Verdict::Open(why);
    }
    if let Some(failed) = failed(seen, wanted, limits, now) {
        return failed;
    }
    let denied = seen.job.in_trouble(TroubleKind::Denied);
    if let Some(trouble) = &seen.job.trouble
        && denied.is_some_and(|since| now >= since + limits.denied)
    {
        return Verdict::NotPermitted {
            message: trouble.message.clone(),
        };
    }
    let waiting = Waiting {
        what: what(seen, wanted),
        trouble: seen.job.trouble.as_ref().map(|trouble| trouble.kind),
        record_unread: seen.record.sight == Sight::Unknown,
    };
    if now >= limits.timeout {
        return Verdict::TimedOut(waiting);
    }
    let vanished = match seen.job.sight {
        Sight::Absent { vanished } => vanished,
        _ => None,
    };
    // Each of these lies ahead or has had its say already.
    let until = [
        denied.map(|since| since + limits.denied),
        vanished.map(|since| since + limits.settle),
        seen.record
            .in_trouble(TroubleKind::Unreachable)
            .map(|since| since + limits.denied),
    ]
    .into_iter()
    .flatten()
    .filter(|moment| *moment > now)
    .fold(limits.timeout, Duration::min);
    Verdict::Wait { waiting, until }
}

fn open(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Duration) -> Option<Why> {
    if let Some(job) = seen.job.present()
        && matches!(job.state, JobState::Complete { .. })
        && wanted.counts(job)
    {
        return Some(Why::Complete {
            image: job.image.clone(),
        });
    }
    let record = seen.record.present()?;
    let entry = match wanted.immutable() {
        Some(version) => record.find(&version),
        None => match seen.job.sight {
            Sight::Absent { vanished: None } => wanted.recorded(record),
            Sight::Absent {
                vanished: Some(since),
            } if now >= since + limits.settle => wanted.recorded(record),
            _ => None,
        },
    }?;
    Some(Why::Recorded {
        image: entry.image.clone(),
        completed: entry.completed,
    })
}

fn failed(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Duration) -> Option<Verdict> {
    let job = seen.job.present()?;
    let JobState::Failed { reason, message } = &job.state else {
        return None;
    };
    // A failed Job that is being deleted is about to be tried anew.
    if job.deleting || !wanted.counts(job) || !record_has_spoken(seen, wanted, limits, now) {
        return None;
    }
    Some(Verdict::Failed {
        uid: job.uid.clone(),
        reason: reason.clone(),
        message: message.clone(),
        attempt: job.attempt,
    })
}

/// Whether the record can't open the gate any more: it was read, or can't be.
fn record_has_spoken(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Duration) -> bool {
    let record = &seen.record;
    wanted.immutable().is_none()
        || record.sight != Sight::Unknown
        || record.in_trouble(TroubleKind::Denied).is_some()
        || record
            .in_trouble(TroubleKind::Unreachable)
            .is_some_and(|since| now >= since + limits.denied)
}

fn what(seen: &Seen, wanted: &Wanted) -> What {
    if seen.record.sight == Sight::Unknown && seen.record.trouble.is_none() {
        // The record comes with the same breath; what is told before would often be told in vain.
        return What::Nothing;
    }
    let job = match &seen.job.sight {
        Sight::Unknown => return What::Nothing,
        Sight::Absent { vanished: None } => return What::NoJob,
        Sight::Absent { vanished: Some(_) } => return What::Vanished,
        Sight::Present(job) => job,
    };
    let image = || job.image.clone();
    let attempt = job.attempt;
    match &job.state {
        JobState::Complete { .. } => What::OldComplete { image: image() },
        JobState::Failed { .. } if !wanted.counts(job) => What::OldFailed { image: image() },
        _ if job.deleting => What::Deleting,
        JobState::Failed { .. } => What::FailedUnlessRecorded,
        JobState::Succeeding => What::Succeeding,
        JobState::Failing => What::Failing,
        JobState::Suspended => What::Suspended,
        JobState::NoPod => What::NoPod,
        JobState::BetweenAttempts => What::BetweenAttempts { attempt },
        JobState::PodNotReady => What::PodNotReady { attempt },
        JobState::Running => What::Running { attempt },
    }
}

#[cfg(test)]
mod tests;
