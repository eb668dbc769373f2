//! Created Events, and the next ones.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;

use super::budget::Budget;
use super::facts::{Fact, Facts};
use super::{Announcement, EventReason};
use crate::dependent::Dependent;
use crate::gates::Gate;
use crate::job::{Job, JobState};
use crate::outlook::{GateState, Outlook};
use crate::verdict::{End, JobName, Now, Seen, Verdict, Waiting, What, Why};

/// A workload that waits for a migration that has failed.
#[derive(Debug)]
struct HeldUp {
    /// The uid of the last Job that failed.
    job: String,
    /// When the first failure was seen.
    since: Timestamp,
}

/// The Events of one gate.
#[derive(Debug, Default)]
pub struct Announcements {
    /// The names of the Events whose facts still hold.
    told: BTreeSet<String>,
    /// The workloads that wait after a failure, by their uids.
    held_up: BTreeMap<String, HeldUp>,
    budget: Budget,
}

impl Announcements {
    /// The Events to create now, and the time to call this again if there is no event before, on
    /// the clock of [`Now::elapsed`].
    ///
    /// There are no Events while the gate's state is unknown.
    pub fn due(
        &mut self,
        gate: &Gate,
        seen: &Seen,
        outlook: &Outlook<'_>,
        now: Now,
    ) -> (Vec<Announcement>, Duration) {
        if outlook.state == GateState::Unknown {
            return (Vec::new(), Duration::MAX);
        }
        let mut facts = Facts::default();
        let mut until = Duration::MAX;
        for (dependent, verdict) in &outlook.prospects {
            match verdict {
                Some(Verdict::Wait { waiting, .. }) => {
                    for waiting in waiting {
                        let overdue = self.waits(gate, seen, dependent, waiting, now, &mut facts);
                        until = until.min(overdue);
                    }
                }
                Some(Verdict::End(End::Open(whys))) => {
                    self.opens(seen, dependent, whys, &mut facts);
                }
                _ => {}
            }
        }
        self.held_up.retain(|uid, _| {
            let mut dependents = outlook.prospects.iter();
            dependents.any(|(dependent, _)| dependent.uid == *uid)
        });
        let (announcements, next) = self.tell(facts.announcements(gate), now);
        (announcements, until.min(next))
    }

    /// Stores the state of a waiting workload. Returns the time at which its Job is overdue.
    fn waits<'d>(
        &mut self,
        gate: &Gate,
        seen: &Seen,
        dependent: &'d Dependent,
        waiting: &Waiting,
        now: Now,
        facts: &mut Facts<'d>,
    ) -> Duration {
        if let What::Failed { failure } = &waiting.what {
            let uid = failure.uid.clone();
            let held_up = HeldUp {
                since: self
                    .held_up
                    .get(&dependent.uid)
                    .map_or(now.clock, |before| before.since),
                job: uid.clone(),
            };
            self.held_up.insert(dependent.uid.clone(), held_up);
            facts.add(
                &uid,
                Fact::Failed(failure.clone()),
                (dependent, uid.clone()),
            );
            return Duration::MAX;
        }
        let JobName::Exact(name) = &waiting.job else {
            return Duration::MAX;
        };
        let job = seen.job(name).filter(|job| is_under_way(job));
        let Some((job, begun)) = job.and_then(|job| Some((job, job.started.or(job.created)?)))
        else {
            return Duration::MAX;
        };
        let age = Duration::try_from(now.clock.duration_since(begun)).unwrap_or_default();
        let left = gate.timeout.saturating_sub(age);
        if left.is_zero() {
            let fact = Fact::Overdue(job.name.clone());
            facts.add(&job.uid, fact, (dependent, job.uid.clone()));
            return Duration::MAX;
        }
        now.elapsed + left
    }

    /// Handles a workload whose pods start for the reasons `whys`.
    fn opens<'d>(
        &mut self,
        seen: &Seen,
        dependent: &'d Dependent,
        whys: &[Why],
        facts: &mut Facts<'d>,
    ) {
        let Some(held_up) = self.held_up.get(&dependent.uid) else {
            return;
        };
        // Replicas may see the completion in the Job or in the record. They have all seen the
        // failure, so its Job's uid is the key.
        let key = held_up.job.clone();
        let completed = whys.iter().find_map(|why| match why {
            Why::Complete { job, .. } => seen.job(job),
            Why::Recorded { .. } => None,
        });
        let recorded = whys.iter().any(|why| match why {
            Why::Complete { .. } => false,
            // The record's times are whole seconds.
            Why::Recorded { completed, .. } => completed.as_second() >= held_up.since.as_second(),
        });
        if let Some(job) = completed {
            let fact = Fact::Completed(Some(job.name.clone()));
            facts.add(&job.uid, fact, (dependent, key));
        } else if recorded {
            facts.add(&key, Fact::Completed(None), (dependent, key.clone()));
        } else {
            // The workload has gone back to a version that was migrated before.
            self.held_up.remove(&dependent.uid);
        }
    }

    fn tell(&mut self, wanted: Vec<Announcement>, now: Now) -> (Vec<Announcement>, Duration) {
        self.told
            .retain(|name| wanted.iter().any(|announcement| announcement.name == *name));
        let mut due = Vec::new();
        for announcement in wanted {
            if self.told.contains(&announcement.name) {
                continue;
            }
            if let Err(next) = self.budget.take(now.elapsed) {
                return (due, next);
            }
            if announcement.reason == EventReason::MigrationCompleted {
                self.held_up.remove(&announcement.regarding.uid);
            }
            self.told.insert(announcement.name.clone());
            due.push(announcement);
        }
        (due, Duration::MAX)
    }
}

fn is_under_way(job: &Job) -> bool {
    !job.deleting
        && matches!(
            job.state,
            JobState::NoPod
                | JobState::BetweenAttempts
                | JobState::PodNotReady
                | JobState::Running
                | JobState::Succeeding
                | JobState::Failing
        )
}
