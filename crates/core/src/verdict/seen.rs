//! The waiter's view of the objects that it watches.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gates::Requirement;
use crate::job::Job;
use crate::record::Record;

/// Why an object can't be watched at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The last kind of problem.
    pub kind: TroubleKind,
    /// When permissions were first missing, since the watch last worked. Other errors in between
    /// say nothing about them.
    pub denied: Option<Duration>,
    /// When there was first other trouble, since the watch last worked.
    pub unreachable: Option<Duration>,
    /// The last error of the API server or the connection.
    pub message: String,
    /// It was the API server.
    pub answered: bool,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// 401 or 403.
    Denied,
    /// Everything else: no connection, a time-out, an error of the server's.
    Unreachable,
}

/// One watch: whether it has answered, and whether it works.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// When it first answered.
    pub answered: Option<Duration>,
    /// Set while it doesn't work.
    pub trouble: Option<Trouble>,
}

impl Watch {
    /// It has answered, at `now`. A list that succeeds is not yet the end of trouble, because a
    /// watch may need rights that a list doesn't.
    pub fn answers(&mut self, now: Duration) {
        self.answered.get_or_insert(now);
    }

    /// It works again.
    pub fn works_again(&mut self) {
        self.trouble = None;
    }

    /// It doesn't work, as was seen at `now`. `answered` says that the API server said so.
    pub fn fails(&mut self, kind: TroubleKind, message: String, answered: bool, now: Duration) {
        let (mut denied, mut unreachable) = self
            .trouble
            .as_ref()
            .map_or((None, None), |before| (before.denied, before.unreachable));
        match kind {
            TroubleKind::Denied => denied = denied.or(Some(now)),
            TroubleKind::Unreachable => unreachable = unreachable.or(Some(now)),
        }
        self.trouble = Some(Trouble {
            kind,
            denied,
            unreachable,
            message,
            answered,
        });
    }

    /// When the present trouble began, if it is of that kind.
    pub(super) fn failing(&self, kind: TroubleKind) -> Option<Duration> {
        let trouble = self
            .trouble
            .as_ref()
            .filter(|trouble| trouble.kind == kind)?;
        match kind {
            TroubleKind::Denied => trouble.denied,
            TroubleKind::Unreachable => trouble.unreachable,
        }
    }
}

/// The Jobs of one requirement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Jobs {
    /// The requirement that they must meet.
    pub requirement: Requirement,
    /// A watch for each of its alternatives.
    pub watches: Vec<Watch>,
    /// The Jobs that are there, by name.
    pub(super) present: BTreeMap<String, Job>,
    /// Jobs that were seen and have been deleted since.
    pub(super) gone: Vec<Job>,
    /// When a Job was last seen to vanish.
    pub(super) vanished: Option<Duration>,
}

impl Jobs {
    /// Nothing is known yet.
    pub fn new(requirement: Requirement) -> Self {
        Self {
            watches: vec![Watch::default(); requirement.any_of.len()],
            requirement,
            present: BTreeMap::new(),
            gone: Vec::new(),
            vanished: None,
        }
    }

    /// One of the alternatives was listed, and these are all its Jobs. What it had before and isn't
    /// among them has vanished since the last look.
    pub fn listed(&mut self, alternative: usize, jobs: Vec<Job>, now: Duration) {
        if let Some(watch) = self.watches.get_mut(alternative) {
            watch.answers(now);
        }
        let source = self.requirement.any_of.get(alternative);
        let before: Vec<Job> = self
            .present
            .values()
            .filter(|job| source.is_some_and(|source| job.is_of(source)))
            .filter(|job| !jobs.iter().any(|listed| listed.name == job.name))
            .cloned()
            .collect();
        for job in before {
            self.deleted(job, now);
        }
        for job in jobs {
            self.changed(job, now);
        }
    }

    /// A Job has appeared, or changed.
    pub fn changed(&mut self, job: Job, now: Duration) {
        let uid = job.uid.clone();
        if let Some(before) = self.present.insert(job.name.clone(), job)
            && before.uid != uid
        {
            // Deleted and created again, and only the second was heard of.
            self.vanishes(before, now);
        }
    }

    /// A Job was deleted, and this was the last of it. What completed in that moment is complete.
    pub fn deleted(&mut self, last: Job, now: Duration) {
        if self
            .present
            .get(&last.name)
            .is_none_or(|job| job.uid == last.uid)
        {
            self.present.remove(&last.name);
            self.vanishes(last, now);
        }
    }

    /// Forgets the Jobs that were seen complete and have gone. A waiter remembers them while it
    /// waits for others; an observer that goes on for ever has the record.
    pub fn forget_gone(&mut self) {
        self.gone.clear();
    }

    fn vanishes(&mut self, last: Job, now: Duration) {
        self.vanished = Some(now);
        self.gone.push(last);
    }

    /// Since when it has been known which Jobs there are; `None` while it isn't.
    pub(super) fn known_since(&self) -> Option<Duration> {
        self.watches
            .iter()
            .map(|watch| watch.answered)
            .try_fold(Duration::ZERO, |latest, at| Some(latest.max(at?)))
    }

    /// Whether all watches have answered and work.
    pub fn works(&self) -> bool {
        self.known_since().is_some() && self.trouble().is_none()
    }

    /// The watch that doesn't work, if there is one.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.watches.iter().find_map(|watch| watch.trouble.as_ref())
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordSeen {
    /// Its watch.
    pub watch: Watch,
    /// What it said last; `None` if there is none.
    pub record: Option<Record>,
}

/// Everything that the waiter watches, and what it knows of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The Jobs, one for each of the gate's requirements.
    pub jobs: Vec<Jobs>,
    /// The gate's record.
    pub record: RecordSeen,
    /// The waiter has ended before in this pod and was restarted, so the reason is in the pod's
    /// status. It stays from then on, because each further restart would come later.
    pub restarted: bool,
    /// No event of the Jobs came for a time, and the connection may be dead.
    /// Decisions that only need time are not made then.
    pub unconfirmed: bool,
}
