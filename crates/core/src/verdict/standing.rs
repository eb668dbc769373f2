//! The state of one of a gate's requirements.

use std::cmp::Reverse;
use std::time::Duration;

use super::seen::{Jobs, Watch};
use super::{Failure, JobName, Limits, Now, Seen, TroubleKind, Waiting, What, Why};
use crate::image::Relation;
use crate::job::{Job, JobState};
use crate::record::{Entry, Record};
use crate::version::Wanted;

/// The state of a requirement.
pub(super) enum Standing {
    Met(Why),
    Failed {
        failure: Failure,
        waiting: Waiting,
    },
    NotPermitted {
        subject: JobName,
        message: String,
        waiting: Waiting,
    },
    Waits {
        waiting: Waiting,
        /// When this may change without an event.
        until: Option<Duration>,
    },
}

impl Standing {
    pub(super) fn why(&self) -> Option<Why> {
        match self {
            Self::Met(why) => Some(why.clone()),
            _ => None,
        }
    }

    pub(super) fn until(&self) -> Option<Duration> {
        match self {
            Self::Waits { until, .. } => *until,
            _ => None,
        }
    }

    pub(super) fn waiting(self) -> Option<Waiting> {
        match self {
            Self::Met(_) => None,
            Self::Failed { waiting, .. }
            | Self::NotPermitted { waiting, .. }
            | Self::Waits { waiting, .. } => Some(waiting),
        }
    }
}

/// The state of the requirement with this index.
pub(super) fn standing(
    seen: &Seen,
    requirement: usize,
    wanted: &Wanted,
    limits: &Limits,
    now: Now,
) -> Standing {
    let case = Case {
        seen,
        jobs: &seen.jobs[requirement],
        wanted,
        limits,
        now,
    };
    case.standing()
}

struct Case<'a> {
    seen: &'a Seen,
    jobs: &'a Jobs,
    wanted: &'a Wanted,
    limits: &'a Limits,
    now: Now,
}

impl<'a> Case<'a> {
    fn standing(&self) -> Standing {
        let (record_has_spoken, record_until) = self.record_has_spoken();
        if let Some(why) = self.met().filter(|_| record_has_spoken) {
            return Standing::Met(why);
        }
        let newest = self.newest();
        let waiting = |what| Waiting {
            job: self.name(newest),
            what,
            trouble: self.jobs.trouble().map(|trouble| trouble.kind),
            record_unread: self.record_is_unread(),
            applier: self
                .named(newest)
                .map(|job| job.applier.clone())
                .unwrap_or_default(),
        };
        if let Some(failure) = newest.and_then(failed) {
            // With moving tags, the record does not count while a Job exists.
            if record_has_spoken || self.wanted.moves() {
                let what = What::Failed {
                    failure: failure.clone(),
                };
                return Standing::Failed {
                    failure,
                    waiting: waiting(what),
                };
            }
            // The record usually arrives right after, so print nothing yet.
            let what = match self.seen.record.watch.trouble {
                Some(_) => What::FailedUnlessRecorded,
                None => What::Nothing,
            };
            return Standing::Waits {
                waiting: waiting(what),
                until: record_until,
            };
        }
        let waiting = waiting(self.what(newest));
        let mut denied = self.jobs.watches.iter().filter_map(|watch| {
            let since = watch.failing(TroubleKind::Denied)?;
            Some((since + self.limits.denied, watch.trouble.as_ref()?))
        });
        if let Some((_, trouble)) = denied.clone().find(|(end, _)| self.now.elapsed >= *end) {
            return Standing::NotPermitted {
                subject: waiting.job.clone(),
                message: trouble.message.clone(),
                waiting,
            };
        }
        // The decision above has already considered those that have passed.
        let moments = [
            denied.next().map(|(end, _)| end),
            self.quiet_since().map(|since| since + self.limits.settle),
            newest.and_then(|job| self.pod_is_due(job)),
            record_until,
            self.jobs_have_spoken().1,
        ];
        let until = moments
            .into_iter()
            .flatten()
            .filter(|at| *at > self.now.elapsed)
            .min();
        Standing::Waits { waiting, until }
    }

    /// The reason why the requirement is met.
    ///
    /// A completed Job of the wanted version meets it, and so does an entry of the record, unless a
    /// Job of the same version is at its first attempt: then the operator has decided to migrate
    /// again. With moving tags, the newest existing Job decides alone, and the record counts only
    /// while there is no Job.
    fn met(&self) -> Option<Why> {
        let newest = self.newest();
        if newest.is_some_and(|job| self.holds(job)) {
            return None;
        }
        let same = self
            .counting()
            .find(|job| self.relation(job) == Relation::Same && self.has_completed(job));
        if let Some(job) = same {
            return Some(self.complete(job));
        }
        let recorded = self.recorded();
        if let Some((entry, Relation::Same)) = recorded
            && self.jobs_have_spoken().0
        {
            return Some(by_record(entry));
        }
        if let Some(job) = newest.filter(|job| !self.is_void(job)) {
            return (!job.deleting && self.has_completed(job)).then(|| self.complete(job));
        }
        let (entry, _) = recorded?;
        let quiet = self.quiet_since()?;
        let settled = self.now.elapsed >= quiet + self.limits.settle;
        (settled && !self.seen.unconfirmed).then(|| by_record(entry))
    }

    /// Whether a Job keeps the gate closed even if the version is recorded.
    fn holds(&self, job: &Job) -> bool {
        let late = job.state == JobState::NoPod
            && !self.seen.unconfirmed
            && self
                .pod_is_due(job)
                .is_none_or(|due| self.now.elapsed >= due);
        job.is_first_attempt() && !late
    }

    /// Until when a Job without a pod is expected to get its first one. `None` if it has one, or is
    /// late.
    fn pod_is_due(&self, job: &Job) -> Option<Duration> {
        if job.state != JobState::NoPod {
            return None;
        }
        let age = self.now.clock.duration_since(job.created?);
        let age = Duration::try_from(age).unwrap_or_default();
        let left = self.limits.no_pod.saturating_sub(age);
        // The Job is already late if no time is left.
        (!left.is_zero()).then(|| self.now.elapsed + left)
    }

    fn relation(&self, job: &Job) -> Relation {
        self.wanted.relation(&job.contents)
    }

    /// The Jobs that may be of the wanted version, the newest first. They include Jobs that were
    /// seen complete and have been deleted, except those with a moving tag that were replaced, or
    /// are about to be.
    fn counting(&self) -> impl Iterator<Item = &'a Job> {
        // A forgotten completion may belong to a deleted Job of an unknown uid.
        let nothing_forgotten = |record: &Record| record.forgotten.is_empty();
        let counts = self.record().is_none_or(nothing_forgotten);
        let gone = self.jobs.gone.iter().enumerate().filter(move |_| counts);
        let gone = gone.filter(|(index, job)| {
            matches!(job.state, JobState::Complete { .. })
                && (self.relation(job) == Relation::Same
                    || !(job.deleting || self.is_followed(*index, job)))
        });
        let gone = gone.map(|(_, job)| job);
        let present = self.jobs.present.values();
        let mut jobs: Vec<&Job> = present
            .chain(gone)
            .filter(|job| self.relation(job) != Relation::Different)
            .collect();
        jobs.sort_by_key(|job| Reverse(job.age()));
        jobs.into_iter()
    }

    /// Whether a newer Job was seen that may be of the wanted version, in any state. A Job that was
    /// created again may have the same creation time, which has whole seconds.
    fn is_followed(&self, index: usize, job: &Job) -> bool {
        let later = self.jobs.gone.iter().skip(index + 1);
        let mut others = self.jobs.present.values().chain(later);
        others.any(|other| other.age() >= job.age() && self.relation(other) != Relation::Different)
    }

    /// The newest of [`Self::counting`]. With moving tags, a Job that is being deleted comes last:
    /// it is about to be replaced.
    fn newest(&self) -> Option<&'a Job> {
        let counts = |job: &&Job| self.relation(job) == Relation::Same || !job.deleting;
        self.counting()
            .find(counts)
            .or_else(|| self.counting().next())
    }

    fn has_completed(&self, job: &Job) -> bool {
        matches!(job.state, JobState::Complete { .. }) && !self.is_forgotten(job)
    }

    /// Whether a complete Job no longer counts: its completion was forgotten, and it is not being
    /// deleted.
    fn is_void(&self, job: &Job) -> bool {
        matches!(job.state, JobState::Complete { .. }) && !job.deleting && self.is_forgotten(job)
    }

    fn is_forgotten(&self, job: &Job) -> bool {
        self.record()
            .is_some_and(|record| record.has_forgotten(&job.uid))
    }

    /// Since when there has been no Job that has precedence over the record. `None` while there is
    /// one, or while that is not known.
    fn quiet_since(&self) -> Option<Duration> {
        // A Job with the exact name is about to be replaced, even if it is of another version.
        let exact = self
            .jobs
            .requirement
            .any_of
            .iter()
            .all(|source| source.exact_name().is_some());
        let stands =
            |job: &Job| (exact || self.relation(job) != Relation::Different) && !self.is_void(job);
        if self.jobs.present.values().any(stands) {
            return None;
        }
        self.jobs.quiet_since()
    }

    fn record(&self) -> Option<&'a Record> {
        self.seen.record.record.as_ref()
    }

    fn recorded(&self) -> Option<(&'a Entry, Relation)> {
        let of_several = self.seen.jobs.len() > 1;
        self.record()?
            .find(self.wanted, &self.jobs.requirement, of_several)
    }

    fn record_is_unread(&self) -> bool {
        self.seen.record.watch.answered.is_none()
    }

    /// Whether the record has been read, or cannot be expected to be. If not, until when to wait
    /// for it.
    fn record_has_spoken(&self) -> (bool, Option<Duration>) {
        self.has_spoken(&self.seen.record.watch)
    }

    /// The same for the Jobs of all alternatives.
    fn jobs_have_spoken(&self) -> (bool, Option<Duration>) {
        let (spoken, until): (Vec<bool>, Vec<Option<Duration>>) = self
            .jobs
            .watches
            .iter()
            .map(|watch| self.has_spoken(watch))
            .unzip();
        (
            spoken.into_iter().all(|spoken| spoken),
            until.into_iter().flatten().max(),
        )
    }

    /// Whether a watch has been answered once, or cannot be expected to be. If not, until when to
    /// wait for it.
    fn has_spoken(&self, watch: &Watch) -> (bool, Option<Duration>) {
        if watch.answered.is_some() || watch.failing(TroubleKind::Denied).is_some() {
            return (true, None);
        }
        let end = watch
            .failing(TroubleKind::Unreachable)
            .map(|since| since + self.limits.denied);
        (end.is_some_and(|end| self.now.elapsed >= end), end)
    }

    fn complete(&self, job: &Job) -> Why {
        Why::Complete {
            job: job.name.clone(),
            version: self.wanted.compared(&job.contents).1.to_string(),
        }
    }

    /// The Job's name in messages: of the newest that counts, else of the newest of all, else the
    /// gate's requirement.
    fn name(&self, newest: Option<&Job>) -> JobName {
        let requirement = &self.jobs.requirement;
        match self.named(newest) {
            Some(job) => JobName::Exact(job.name.clone()),
            None => match requirement.exact_name() {
                Some(name) => JobName::Exact(name.to_owned()),
                None => JobName::Any(requirement.to_string()),
            },
        }
    }

    fn named(&self, newest: Option<&'a Job>) -> Option<&'a Job> {
        newest.or_else(|| self.newest_of_all())
    }

    fn newest_of_all(&self) -> Option<&'a Job> {
        self.jobs.present.values().max_by_key(|job| job.age())
    }

    fn what(&self, newest: Option<&Job>) -> What {
        if self.record_is_unread() && self.seen.record.watch.trouble.is_none() {
            // The record usually arrives right after; anything printed before it would soon be
            // obsolete.
            return What::Nothing;
        }
        if self.jobs.known_since().is_none() && self.jobs.present.is_empty() {
            return What::Nothing;
        }
        let Some(job) = newest.filter(|job| self.jobs.present.contains_key(&job.name)) else {
            return match self.newest_of_all() {
                Some(job) => self.of_another_version(job),
                None if self.recorded().is_some() => What::Settling {
                    vanished: self.jobs.vanished.is_some(),
                },
                None if self.jobs.vanished.is_some() => What::Vanished,
                None => What::NoJob,
            };
        };
        let attempt = job.attempt;
        match &job.state {
            JobState::Complete { .. } if self.is_forgotten(job) => What::Forgotten,
            _ if job.deleting => What::Deleting,
            // It meets the requirement once the record has been read.
            JobState::Complete { .. } => What::Nothing,
            JobState::Empty => What::Empty,
            JobState::Failed { .. } => What::FailedUnlessRecorded,
            JobState::Succeeding => What::Succeeding,
            JobState::Failing => What::Failing,
            JobState::Suspended { queue } => What::Suspended {
                queue: queue.clone(),
            },
            JobState::NoPod => What::NoPod,
            JobState::BetweenAttempts => What::BetweenAttempts { attempt },
            JobState::PodNotReady => What::PodNotReady { attempt },
            JobState::Running => What::Running { attempt },
        }
    }

    fn of_another_version(&self, job: &Job) -> What {
        let (_, compared) = self.wanted.compared(&job.contents);
        let version = compared.to_string();
        match &job.state {
            JobState::Complete { .. } | JobState::Empty => What::OldComplete {
                version,
                foreign: compared.is_of_two_repositories(),
            },
            JobState::Failed { .. } => What::OldFailed { version },
            _ if job.deleting => What::Deleting,
            _ => What::Other { version },
        }
    }
}

fn failed(job: &Job) -> Option<Failure> {
    let JobState::Failed { reason, message } = &job.state else {
        return None;
    };
    // A failed Job that is being deleted is about to be created again.
    (!job.deleting).then(|| Failure {
        job: job.name.clone(),
        uid: job.uid.clone(),
        reason: reason.clone(),
        message: message.clone(),
        attempt: job.attempt,
        applier: job.applier.clone(),
    })
}

fn by_record(entry: &Entry) -> Why {
    Why::Recorded {
        version: entry.version.to_string(),
        image: entry.version.image().map(str::to_owned),
        completed: entry.completed,
    }
}
