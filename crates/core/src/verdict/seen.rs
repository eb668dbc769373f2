//! The waiter's view of the objects that it watches.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::gates::Requirement;
use crate::job::Job;
use crate::record::Record;

/// The current problem of a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// The kind of the last error.
    pub kind: TroubleKind,
    /// When permissions were first missing since the watch last worked. Other errors in between do
    /// not reset it.
    pub denied: Option<Duration>,
    /// When another error first occurred since the watch last worked.
    pub unreachable: Option<Duration>,
    /// The last error of the API server or the connection.
    pub message: String,
    /// Whether the API server has answered, and sent this error.
    pub answered: bool,
}

/// The kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// 401 or 403.
    Denied,
    /// Everything else: no connection, a timeout, another error of the server.
    Unreachable,
}

/// The state of one watch. Times are since the waiter's start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Watch {
    /// When it was first answered.
    pub answered: Option<Duration>,
    /// Set while it does not work.
    pub trouble: Option<Trouble>,
    /// Whether its connection has ended and there is no other yet.
    cut: bool,
    /// When it last began again after a cut or a problem.
    restored: Option<Duration>,
}

impl Watch {
    /// Stores that it was answered at `now`. A list that succeeds does not end a problem: the watch
    /// may lack permissions that the list does not need.
    pub fn answers(&mut self, now: Duration) {
        self.answered.get_or_insert(now);
    }

    /// Stores that it works again at `now`.
    pub fn works_again(&mut self, now: Duration) {
        self.trouble = None;
        self.continues(now);
    }

    /// Stores that its connection has ended, which is normal.
    pub fn loses_connection(&mut self) {
        self.cut = true;
    }

    /// Stores that it has a connection again at `now`. The events of the meantime follow, or were
    /// lost.
    pub fn continues(&mut self, now: Duration) {
        self.cut = false;
        self.restored = Some(now);
    }

    /// Since when it has passed on every event; `None` if it does not.
    fn without_gap_since(&self) -> Option<Duration> {
        let answered = self.answered.filter(|_| !self.cut)?;
        Some(self.restored.map_or(answered, |at| at.max(answered)))
    }

    /// Stores an error at `now`. `answered` says whether the API server has sent it.
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

    /// When errors of this kind began, if the current problem has one.
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
    /// The existing Jobs, by name.
    pub(super) present: BTreeMap<String, Job>,
    /// Jobs that were seen and have been deleted since.
    pub(super) gone: Vec<Job>,
    /// When a Job was last deleted.
    pub(super) vanished: Option<Duration>,
}

impl Jobs {
    /// The Jobs of a requirement about which nothing is known yet.
    pub fn new(requirement: Requirement) -> Self {
        Self {
            watches: vec![Watch::default(); requirement.any_of.len()],
            requirement,
            present: BTreeMap::new(),
            gone: Vec::new(),
            vanished: None,
        }
    }

    /// Stores a complete list of one alternative's Jobs at `now`. Its Jobs that are not in the list
    /// have been deleted.
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

    /// Stores a new or changed Job.
    pub fn changed(&mut self, job: Job, now: Duration) {
        let uid = job.uid.clone();
        if let Some(before) = self.present.insert(job.name.clone(), job)
            && before.uid != uid
        {
            // It was deleted and created again, and only the creation was seen.
            self.vanishes(before, now);
        }
    }

    /// Stores that a Job was deleted. `last` is its last state: it may have completed at that
    /// moment.
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

    /// Forgets the deleted Jobs. A waiter remembers their completions while it waits for others. An
    /// observer, which never ends, has the record instead.
    pub fn forget_gone(&mut self) {
        self.gone.clear();
    }

    fn vanishes(&mut self, last: Job, now: Duration) {
        self.vanished = Some(now);
        self.gone.push(last);
    }

    /// When it was first known which Jobs exist; `None` while it is not known.
    pub(super) fn known_since(&self) -> Option<Duration> {
        self.latest(|watch| watch.answered)
    }

    /// When the last Job was deleted, or later: when the watches last had a gap, in which a Job may
    /// have come and gone. `None` while a watch is cut or has not answered.
    pub(super) fn quiet_since(&self) -> Option<Duration> {
        let known = self.latest(Watch::without_gap_since)?;
        Some(self.vanished.map_or(known, |vanished| vanished.max(known)))
    }

    fn latest(&self, at: impl Fn(&Watch) -> Option<Duration>) -> Option<Duration> {
        let mut times = self.watches.iter().map(at);
        times.try_fold(Duration::ZERO, |latest, at| Some(latest.max(at?)))
    }

    /// Whether all watches have answered and work.
    pub fn works(&self) -> bool {
        self.known_since().is_some() && self.trouble().is_none()
    }

    /// The problem of a watch that does not work, if there is one.
    pub fn trouble(&self) -> Option<&Trouble> {
        self.watches.iter().find_map(|watch| watch.trouble.as_ref())
    }
}

/// The record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecordSeen {
    /// Its watch.
    pub watch: Watch,
    /// Its last known state; `None` if it does not exist.
    pub record: Option<Record>,
}

/// Everything that the waiter watches, and what it knows about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The Jobs, one for each of the gate's requirements.
    pub jobs: Vec<Jobs>,
    /// The gate's record.
    pub record: RecordSeen,
    /// Whether the waiter has ended before in this pod and was restarted, so that the pod's status
    /// has the reason. It does not end again before its timeout, because the kubelet would delay
    /// each further restart longer.
    pub restarted: bool,
    /// Whether the connection may be dead, because no event of the Jobs came for some time. No
    /// decision is then made that depends only on time.
    pub unconfirmed: bool,
}
