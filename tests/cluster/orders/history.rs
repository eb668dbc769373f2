//! The history of one gate, and what its waiters may do. It knows the contract, and does not use
//! the product's code.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::watchers::Witnesses;

/// How long there must have been no Job before the record of a moving tag counts.
pub(super) const SETTLE: Duration = Duration::from_secs(5);
/// How long a Job without a pod keeps the gate closed although its version is recorded. It is less
/// than the product's limit, because creation times have whole seconds.
const NO_POD: Duration = Duration::from_secs(9);

/// The phase of a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    NoPod,
    Running,
    /// It runs after an attempt has failed.
    Retrying,
    Failed,
    Complete,
    /// Complete, but it ran nothing.
    Empty,
}

/// An existing Job.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) name: String,
    pub(super) tag: &'static str,
    pub(super) phase: Phase,
    pub(super) deleting: bool,
    /// Whether its completion was forgotten.
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

    /// Whether it counts as missing.
    pub(super) fn is_void(&self) -> bool {
        self.phase == Phase::Complete && self.forgotten && !self.deleting
    }
}

/// The state of the gate.
#[derive(Debug, Clone)]
pub(super) struct OrderState {
    /// The existing Jobs, the oldest first.
    pub(super) jobs: Vec<Job>,
    /// The tags that a Job has completed or an operator has recorded by hand, since they were last
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

    /// The Job that counts for a moving tag.
    fn newest(&self) -> Option<&Job> {
        let stays = self.jobs.iter().rev().find(|job| !job.deleting);
        stays.or_else(|| self.jobs.last())
    }

    /// Whether the gate is open for a waiter that has been watching from `from` until `until`.
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

    /// This state with the record of another: a waiter has a watch for each, and one may lag behind
    /// the other.
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

    /// Whether a waiter may report that the migration has failed.
    fn has_failed(&self, tag: &str, moves: bool) -> bool {
        let newest = if moves {
            self.newest()
        } else {
            self.jobs.iter().rev().find(|job| job.tag == tag)
        };
        newest.is_some_and(|job| job.phase == Phase::Failed)
    }
}

/// A state, and the time in which watches may have seen it.
struct PossibleState {
    state: OrderState,
    from: Instant,
    until: Option<Instant>,
}

/// A Job's completion, by the Job's uid.
pub(super) struct Completion {
    pub(super) tag: &'static str,
    /// The completion time in its Job's status.
    pub(super) at: String,
    pub(super) forgotten: bool,
    /// For a deleted Job: the recorders that have seen the completion.
    pub(super) gone: Option<Witnesses>,
    /// The recorders that watched when it completed.
    pub(super) seen: Witnesses,
}

/// The history of one gate.
pub(super) struct History {
    pub(super) moves: bool,
    pub(super) now: OrderState,
    spans: Vec<PossibleState>,
    pub(super) completions: BTreeMap<String, Completion>,
    /// The tags that were recorded by hand and not forgotten since.
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

    /// Runs an action that changes the state. While it runs, both states are possible.
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

    /// The log of all steps.
    pub(super) fn text(&self) -> &str {
        &self.log
    }

    /// Checks whether the end of a waiter was right.
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
            // The time without a Job counts from the waiter's start.
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
