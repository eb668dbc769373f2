//! The waiter's decision, as a function of what was seen, what is wanted, and the time.
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
    /// Missing rights: RBAC may be on its way.
    pub denied: Duration,
    /// No Job, before a record opens the gate: appliers that replace a Job delete it and
    /// create it again.
    pub settle: Duration,
    /// A Job without a pod, before a record of its version opens the gate.
    pub no_pod: Duration,
}

/// The time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Now {
    /// Since the waiter's start.
    pub elapsed: Duration,
    /// Of the clock.
    pub clock: Timestamp,
}

/// The decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Go on, and ask again when something else is seen, or at `until`.
    Wait {
        /// For what: one for each requirement that isn't met.
        waiting: Vec<Waiting>,
        /// When the answer changes by itself.
        until: Duration,
    },
    /// The wait is over.
    End(End),
}

/// The end of a wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// Let the pod start, for these reasons: one for each requirement.
    Open(Vec<Why>),
    /// Give up: a Job has failed.
    Failed(Failure),
    /// Give up: a Job may not be watched.
    NotPermitted {
        /// Which.
        subject: JobName,
        /// The API server's error.
        message: String,
    },
    /// Give up: the time is over.
    TimedOut(Vec<Waiting>),
}

/// A Job that has failed, without further attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name.
    pub job: String,
    /// Its uid, for its pods.
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
        /// Its version in words.
        version: String,
    },
    /// The record has it.
    Recorded {
        /// The version.
        version: String,
        /// The image that was migrated for.
        image: Option<String>,
        /// When.
        completed: Timestamp,
    },
}

/// The name of the required Jobs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobName {
    /// There is one, of this name, or it is awaited by it.
    Exact(String),
    /// A pattern for its name, or a selector.
    Any(String),
}

/// What the waiter waits for: what it sees, and whether it sees at all. Equal values are one line
/// of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// The Job.
    pub job: JobName,
    /// The last thing that was seen.
    pub what: What,
    /// Whether that may be out of date, and why.
    pub trouble: Option<TroubleKind>,
    /// The record has never been read, so what it says isn't known.
    pub record_unread: bool,
    /// The tool that applies the Job, if it exists.
    pub applier: Applier,
}

/// The waiter's view of its Job.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "the fields are those of `Job`, or its version in words"
)]
pub enum What {
    /// Nothing yet.
    Nothing,
    /// There is no Job.
    NoJob,
    /// The Job that was there has gone.
    Vanished,
    /// No Job, and a record of a tag that moves: a new Job may be on its way.
    Settling {
        /// There was one.
        vanished: bool,
    },
    /// It is deleted, and still exists.
    Deleting,
    /// It is complete, but of another version.
    OldComplete {
        version: String,
        /// The images that were compared are of two repositories, so their versions may have
        /// nothing to do with each other.
        foreign: bool,
    },
    /// It has failed, but is of another version.
    OldFailed {
        version: String,
    },
    /// It is there, but of another version.
    Other {
        version: String,
    },
    /// It is complete, but its completion was forgotten with `record forget`.
    Forgotten,
    /// It is complete, but it was to run nothing.
    Empty,
    /// It has failed; whether its version was recorded earlier isn't known yet.
    FailedUnlessRecorded,
    /// It has failed, and the waiter stays until it is run again.
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

/// Decides.
///
/// Each requirement must be met. A failed Job, or one that may not be watched, ends the wait. A
/// waiter that was restarted stays until its deadline instead.
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

/// Whether the gate opens only because no event of the Jobs came for a time. A watch that is cut
/// off gets no events either, and does not notice at once.
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
    /// The uid of a Job that is sure to fail, and whose failure the waiter must report. The Job
    /// controller deletes running pods before it marks the Job as failed, so their logs must be
    /// read now.
    pub fn about_to_fail(&self, wanted: &Wanted) -> Option<&str> {
        let jobs = self.jobs.iter().flat_map(|jobs| jobs.present.values());
        jobs.filter(|job| job.state == super::job::JobState::Failing && !job.deleting)
            .find(|job| wanted.relation(&job.contents) != super::image::Relation::Different)
            .map(|job| job.uid.as_str())
    }

    /// A Job that is there, by its name.
    pub fn job(&self, name: &str) -> Option<&super::job::Job> {
        self.jobs.iter().find_map(|jobs| jobs.present.get(name))
    }
}

#[cfg(test)]
mod tests;
