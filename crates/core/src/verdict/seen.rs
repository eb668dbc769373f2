//! What the waiter knows of the objects that it watches.

use std::time::Duration;

use super::Wanted;
use crate::job::{Job, JobState};
use crate::record::Record;

/// What is known of an object that is being watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight<T> {
    /// Nothing yet.
    Unknown,
    /// It isn't there.
    Absent {
        /// When it was seen to vanish, if it was ever there.
        vanished: Option<Duration>,
    },
    /// This, last.
    Present(T),
}

/// Why an object can't be watched at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// What kind, the last time.
    pub kind: TroubleKind,
    /// When rights were first missing, since the watch last worked. Other trouble in between proves
    /// nothing about them.
    pub denied: Option<Duration>,
    /// When there was first other trouble, since the watch last worked.
    pub unreachable: Option<Duration>,
    /// What the API server or the connection said last.
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

/// An object that is being watched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source<T> {
    /// What was seen last.
    pub sight: Sight<T>,
    /// Set while the watch doesn't work.
    pub trouble: Option<Trouble>,
}

impl<T> Default for Source<T> {
    fn default() -> Self {
        Self {
            sight: Sight::Unknown,
            trouble: None,
        }
    }
}

impl<T> Source<T> {
    /// It isn't there, as was seen at `now`.
    pub fn is_absent(&mut self, now: Duration) {
        let vanished = match self.sight {
            Sight::Unknown => None,
            Sight::Present(_) => Some(now),
            Sight::Absent { vanished } => vanished,
        };
        self.sight = Sight::Absent { vanished };
    }

    /// The watch doesn't work, as was seen at `now`. `answered` says that it was the API server that
    /// said so.
    pub fn is_in_trouble(
        &mut self,
        kind: TroubleKind,
        message: String,
        answered: bool,
        now: Duration,
    ) {
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

    pub(super) fn present(&self) -> Option<&T> {
        match &self.sight {
            Sight::Present(object) => Some(object),
            _ => None,
        }
    }

    /// When the present trouble began, if it is of that kind.
    pub(super) fn in_trouble(&self, kind: TroubleKind) -> Option<Duration> {
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

/// Everything that the waiter watches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// The gate's Job.
    pub job: Source<Job>,
    /// The gate's record.
    pub record: Source<Record>,
}

impl Seen {
    /// The uid of the Job if it is sure to fail, in a way that the waiter will have to tell of. The
    /// Job controller deletes the pods that still run before it says that the Job has failed, so
    /// this is the time to look at their logs.
    pub fn about_to_fail(&self, wanted: &Wanted) -> Option<&str> {
        self.job
            .present()
            .filter(|job| job.state == JobState::Failing && !job.deleting && wanted.counts(job))
            .map(|job| job.uid.as_str())
    }
}
