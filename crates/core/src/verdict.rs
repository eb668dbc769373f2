//! The waiter's decision, as a function of what was seen, the wanted version and the time.
//!
//! [`verdict`] is the entry point. Nothing here watches, prints or sleeps. Times are durations
//! since the waiter's start, except for a Job's age, which uses the cluster's clock.

mod seen;
mod standing;

use std::time::Duration;

use jiff::Timestamp;

use super::applier::Applier;
use super::job::Attempt;
use super::version::Wanted;
pub use seen::{Jobs, RecordSeen, Seen, Trouble, TroubleKind, Watch};
use standing::{Standing, standing};

/// How long the waiter tolerates each kind of problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// The whole wait.
    pub timeout: Duration,
    /// Missing permissions: the Role may not have been applied yet.
    pub denied: Duration,
    /// No Job, before the record opens the gate: appliers that replace a Job delete it and create
    /// it again.
    pub settle: Duration,
    /// A Job without a pod, before the record of its version opens the gate.
    pub no_pod: Duration,
}

/// The time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// The time since the waiter's start.
    pub elapsed: Duration,
    /// The wall clock.
    pub clock: Timestamp,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Keep waiting, and decide again when something else is seen, or at `until`.
    Wait {
        /// The reasons, one for each requirement that is not met.
        waiting: Vec<Waiting>,
        /// When the decision may change without an event, since the waiter's start.
        until: Duration,
    },
    /// The wait is over.
    End(End),
}

/// The end of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Let the pod start, for these reasons, one for each requirement.
    Open(Vec<Why>),
    /// Give up: a Job has failed.
    Failed(Failure),
    /// Give up: the waiter is not permitted to watch a Job.
    NotPermitted {
        /// The Job.
        subject: JobName,
        /// The API server's error.
        message: String,
    },
    /// Give up: the timeout has passed.
    TimedOut(Vec<Waiting>),
}

/// A Job that has failed, without further attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub job: String,
    /// Its uid, by which its pods are found.
    pub uid: String,
    /// Such as `BackoffLimitExceeded`.
    pub reason: String,
    /// The Job controller's message.
    pub message: String,
    /// Its last attempt.
    pub attempt: Option<Attempt>,
    /// The tool that applies it.
    pub applier: Applier,
}

/// The reason why a requirement is met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// A Job is complete.
    Complete {
        /// Its name.
        job: String,
        /// Its version, in words.
        version: String,
    },
    /// The record has the version.
    Recorded {
        /// The version.
        version: String,
        /// The image whose version was migrated.
        image: Option<String>,
        /// When the migration completed.
        completed: Timestamp,
    },
}

/// The name of the required Jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobName {
    /// The name of the one Job that exists or is required.
    Exact(String),
    /// A pattern or a selector.
    Any(String),
}

/// A reason to wait: what the waiter sees, and whether it can see it. Equal values are printed
/// once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The Job.
    pub job: JobName,
    /// What was last seen.
    pub what: What,
    /// The problem that may make it out of date, if there is one.
    pub trouble: Option<TroubleKind>,
    /// Whether the record has never been read.
    pub record_unread: bool,
    /// The tool that applies the Job, if it exists.
    pub applier: Applier,
}

/// What the waiter sees of its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are those of `Job`, or its version in words"
)]
pub enum What {
    /// Nothing is known yet.
    Nothing,
    /// There is no Job.
    NoJob,
    /// The Job existed and was deleted.
    Vanished,
    /// There is no Job, and the record has only a tag that moves: a new Job may be about to be
    /// created.
    Settling {
        /// Whether a Job was seen before.
        vanished: bool,
    },
    /// It is being deleted.
    Deleting,
    /// It is complete, but of another version.
    OldComplete {
        version: String,
        /// Whether the compared images are of two repositories, so that their versions may be
        /// unrelated.
        foreign: bool,
    },
    /// It has failed, but is of another version.
    OldFailed {
        version: String,
    },
    /// It exists, but is of another version.
    Other {
        version: String,
    },
    /// It is complete, but its completion was forgotten with `record forget`.
    Forgotten,
    /// It is complete, but it ran nothing: `spec.completions` is 0.
    Empty,
    /// It has failed, and it is not known yet whether its version was recorded earlier.
    FailedUnlessRecorded,
    /// It has failed, and the waiter waits for another run.
    Failed {
        failure: Failure,
    },
    Suspended {
        queue: Option<String>,
    },
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

/// The waiter's decision at `now`.
///
/// The gate opens when every requirement is met. A failed Job, or missing permission to watch one,
/// ends the wait. A waiter that was restarted waits until its timeout instead.
pub fn verdict(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Now) -> Verdict {
    let standings: Vec<Standing> = (0..seen.jobs.len())
        .map(|requirement| standing(seen, requirement, wanted, limits, now))
        .collect();
    if !standings.is_empty()
        && let Some(whys) = standings.iter().map(Standing::why).collect()
    {
        return Verdict::End(End::Open(whys));
    }
    let over = now.elapsed >= limits.timeout;
    if over || !seen.restarted {
        for standing in &standings {
            match standing {
                Standing::Failed { failure, .. } => {
                    return Verdict::End(End::Failed(failure.clone()));
                }
                Standing::NotPermitted {
                    subject, message, ..
                } => {
                    return Verdict::End(End::NotPermitted {
                        subject: subject.clone(),
                        message: message.clone(),
                    });
                }
                Standing::Met(_) | Standing::Waits { .. } => {}
            }
        }
    }
    let until = standings
        .iter()
        .filter_map(Standing::until)
        .filter(|moment| *moment > now.elapsed)
        .fold(limits.timeout, Duration::min);
    let waiting = standings
        .into_iter()
        .filter_map(Standing::waiting)
        .collect();
    if over {
        Verdict::End(End::TimedOut(waiting))
    } else {
        Verdict::Wait { waiting, until }
    }
}

/// Whether the gate opens only because the Jobs had no event for some time. A watch whose
/// connection is dead gets no events either, and does not notice it at once.
pub fn opens_by_silence(seen: &Seen, wanted: &Wanted, limits: &Limits, now: Now) -> bool {
    let opens = |seen: &Seen| {
        let verdict = verdict(seen, wanted, limits, now);
        matches!(verdict, Verdict::End(End::Open(_)))
    };
    let unconfirmed = Seen {
        unconfirmed: true,
        ..seen.clone()
    };
    opens(seen) && !opens(&unconfirmed)
}

impl Seen {
    /// The uid of a Job that is sure to fail, and whose failure the waiter must report. Its logs
    /// must be read now: the Job controller deletes running pods before it marks the Job as failed.
    pub fn about_to_fail(&self, wanted: &Wanted) -> Option<&str> {
        let jobs = self.jobs.iter().flat_map(|jobs| jobs.present.values());
        jobs.filter(|job| job.state == super::job::JobState::Failing && !job.deleting)
            .find(|job| wanted.relation(&job.contents) != super::image::Relation::Different)
            .map(|job| job.uid.as_str())
    }

    /// The existing Job of this name.
    pub fn job(&self, name: &str) -> Option<&super::job::Job> {
        self.jobs.iter().find_map(|jobs| jobs.present.get(name))
    }
}

#[cfg(test)]
mod tests;
