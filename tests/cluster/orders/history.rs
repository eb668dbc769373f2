//! What was done to one gate, and what its waiters may do then. It knows the contract and nothing
//! of the product's code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::watchers::Witnesses;

/// How long a Job must have been away before the record of a tag that moves speaks.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// After that long without a pod, a Job doesn't hold what is recorded. Its creation has whole
/// seconds.
const NO_POD: Duration = Duration::from_secs(9);

/// How far a Job has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    NoPod,
    Running,
    /// After an attempt has failed.
    Retrying,
    Failed,
    Complete,
    /// Complete, and it was to run nothing.
    Empty,
}

/// A Job that is there.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) tag: &'static str,
    pub(super) phase: Phase,
    pub(super) deleting: bool,
    /// Someone has said that what it completed doesn't count.
    forgotten: bool,
    created: Instant,
}

impl Job {
    pub(super) fn new(name: String, tag: &'static str, phase: Phase) -> Self {
        Self {
            name,
            tag,
            phase,
            deleting: false,
            forgotten: false,
            created: Instant::now(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Failed | Phase::Complete | Phase::Empty)
    }

    pub(super) fn counts(&self) -> bool {
        self.phase == Phase::Complete && !self.forgotten
    }

    fn holds(&self, until: Instant) -> bool {
        let late = self.phase == Phase::NoPod && until.duration_since(self.created) >= NO_POD;
        matches!(self.phase, Phase::NoPod | Phase::Running) && !self.deleting && !late
    }

    /// As good as not there.
    pub(super) fn is_void(&self) -> bool {
        self.phase == Phase::Complete && self.forgotten && !self.deleting
    }
}

/// What there is.
#[derive(Debug, Clone)]
pub(super) struct OrderState {
    /// The oldest first.
    pub(super) jobs: Vec<Job>,
    /// The tags that a Job has completed, or an operator has marked as done, since they were last
    /// forgotten.
    pub(super) migrated: BTreeSet<&'static str>,
    /// Since when there has been no Job.
    vacant: Option<Instant>,
}

impl OrderState {
    pub(super) fn job(&mut self, name: &str) -> Option<&mut Job> {
        self.jobs.iter_mut().find(|job| job.name == name)
    }

    pub(super) fn forget(&mut self, tag: &str) {
        self.migrated.remove(tag);
        for job in &mut self.jobs {
            job.forgotten |= job.tag == tag && job.phase == Phase::Complete;
        }
    }

    /// The Job that counts for a tag that moves.
    fn newest(&self) -> Option<&Job> {
        let stays = self.jobs.iter().rev().find(|job| !job.deleting);
        stays.or_else(|| self.jobs.last())
    }

    /// Whether the gate is open for a waiter that has looked on from then until then.
    pub(super) fn is_open(&self, tag: &str, moves: bool, from: Instant, until: Instant) -> bool {
        if !moves {
            let newest = self.jobs.iter().rev().find(|job| job.tag == tag);
            let held = newest.is_some_and(|job| job.holds(until));
            return self.migrated.contains(tag) && !held;
        }
        if let Some(job) = self.newest().filter(|job| !job.is_void()) {
            return job.counts() && !job.deleting;
        }
        let vacant = self.vacant.map_or(until, |since| since.max(from));
        self.migrated.contains(tag) && until.saturating_duration_since(vacant) >= SETTLE
    }

    /// As a waiter sees it that has heard of all of this but for the record, which was so. It has a
    /// watch for each, and either may lag behind the other.
    fn with_record_of(&self, record: &Self) -> Self {
        let mut seen = self.clone();
        seen.migrated.clone_from(&record.migrated);
        for job in &mut seen.jobs {
            let mut then = record.jobs.iter();
            if let Some(then) =
                then.find(|then| then.name == job.name && then.created == job.created)
            {
                job.forgotten = then.forgotten;
            }
        }
        seen
    }

    /// Whether a waiter may say that the migration has failed.
    fn has_failed(&self, tag: &str, moves: bool) -> bool {
        let newest = if moves {
            self.newest()
        } else {
            self.jobs.iter().rev().find(|job| job.tag == tag)
        };
        newest.is_some_and(|job| job.phase == Phase::Failed)
    }
}

/// A state, and when it may have been the one that watches saw.
struct PossibleState {
    state: OrderState,
    from: Instant,
    until: Option<Instant>,
}

/// A Job's completion, by the Job's uid.
pub(super) struct Completion {
    pub(super) tag: &'static str,
    /// When, as its Job has it.
    pub(super) at: String,
    pub(super) forgotten: bool,
    /// The recorders that have seen it, of a Job that is gone.
    pub(super) gone: Option<Witnesses>,
    /// Those that saw it when it completed.
    pub(super) seen: Witnesses,
}

/// What was done to one gate.
pub(super) struct History {
    pub(super) moves: bool,
    pub(super) now: OrderState,
    spans: Vec<PossibleState>,
    pub(super) completions: BTreeMap<String, Completion>,
    /// The tags that were marked as done and not forgotten since.
    pub(super) done: BTreeSet<&'static str>,
    began: Instant,
    log: String,
}

impl History {
    pub(super) fn new(moves: bool) -> Self {
        let began = Instant::now();
        let now = OrderState {
            jobs: Vec::new(),
            migrated: BTreeSet::new(),
            vacant: Some(began),
        };
        Self {
            moves,
            spans: vec![PossibleState {
                state: now.clone(),
                from: began,
                until: None,
            }],
            now,
            completions: BTreeMap::new(),
            done: BTreeSet::new(),
            began,
            log: String::new(),
        }
    }

    /// Does something that changes the state so. While it is being done, both states are possible.
    pub(super) fn step<T>(
        &mut self,
        what: &str,
        change: impl FnOnce(&mut OrderState),
        act: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let from = Instant::now();
        self.note(what);
        change(&mut self.now);
        let vacant = self.now.jobs.iter().all(Job::is_void);
        self.now.vacant = vacant.then(|| self.now.vacant.unwrap_or(from));
        let done = act();
        if let Some(last) = self.spans.last_mut() {
            last.until = Some(Instant::now());
        }
        self.spans.push(PossibleState {
            state: self.now.clone(),
            from,
            until: None,
        });
        done
    }

    pub(super) fn note(&mut self, what: &str) {
        let at = self.began.elapsed().as_millis();
        let _ = writeln!(self.log, "{at:>7} ms  {what}");
    }

    /// The lines of all that was done.
    pub(super) fn text(&self) -> &str {
        &self.log
    }

    /// Judges the end of a waiter.
    pub(super) fn judge(
        &self,
        tag: &str,
        code: Option<i32>,
        from: Instant,
        until: Instant,
    ) -> Result<()> {
        let spans = self.spans.iter().filter_map(|span| {
            let begin = span.from.max(from);
            let end = span.until.unwrap_or(until).min(until);
            (begin <= end).then_some((&span.state, end))
        });
        let spans: Vec<_> = spans.collect();
        let moves = self.moves;
        let right = match code {
            // The vacancy counts from when the waiter began to look.
            Some(0) => spans.iter().any(|(jobs, end)| {
                let mut records = spans.iter().map(|(record, _)| jobs.with_record_of(record));
                records.any(|seen| seen.is_open(tag, moves, from, *end))
            }),
            Some(3) => spans.iter().any(|(state, _)| state.has_failed(tag, moves)),
            _ => false,
        };
        ensure!(
            right,
            "a waiter for {tag} that ran from {} ms to {} ms ended with {code:?}, for which there was no reason",
            (from - self.began).as_millis(),
            (until - self.began).as_millis()
        );
        Ok(())
    }
}
