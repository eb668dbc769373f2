//! The waiter's decision at this time, for each held workload of a gate.

use std::cell::RefCell;
use std::time::Duration;

use jiff::Timestamp;

use super::seen::{JobSeen, NamespaceSeen, PodSeen, Snapshot, WorkloadSeen, word};
use super::{GateLine, JobLine, Passage, PodLine, RecordLine, WorkloadLine};
use crate::applier::Applier;
use crate::explain::{self, Subject};
use crate::gates::Gate;
use crate::job::{Job, JobState};
use crate::record::Record;
use crate::verdict::{
    End, Jobs, Limits, Now, RecordSeen, Seen, TroubleKind, Verdict, Waiting, What, verdict,
};
use crate::version::Wanted;

/// How long the imagined waiter has been waiting: longer than all of its limits.
const LATER: Duration = Duration::from_hours(1);

/// The imagined waiter's limits: those of a waiter, but without a timeout.
const LIMITS: Limits = Limits {
    timeout: Duration::MAX,
    denied: Duration::from_secs(30),
    settle: Duration::from_secs(5),
    no_pod: Duration::from_secs(10),
};

/// A gate with everything that was read about it.
pub(super) struct View<'s> {
    pub(super) snapshot: &'s Snapshot<'s>,
    pub(super) gate: &'s Gate,
    pub(super) now: Timestamp,
    /// The objects of its namespace.
    pub(super) namespace: &'s NamespaceSeen,
    seen: Option<Seen>,
    /// Decisions so far, by version: most workloads and pods want the same one.
    known: RefCell<Vec<(Wanted, Decided)>>,
    /// The workloads that the gate holds, each with its decision; `None` if that is unknown.
    pub(super) held: Vec<(&'s WorkloadSeen, Option<Decided>)>,
}

/// A waiter's decision.
#[derive(Clone)]
pub(super) enum Decided {
    /// The pod starts, for these reasons.
    Opens(Vec<String>),
    /// It waits.
    Waits(Vec<Waiting>),
}

impl<'s> View<'s> {
    pub(super) fn new(snapshot: &'s Snapshot<'s>, gate: &'s Gate, now: Timestamp) -> Self {
        static NOTHING: std::sync::LazyLock<NamespaceSeen> =
            std::sync::LazyLock::new(NamespaceSeen::default);
        let namespace = snapshot.namespaces.get(&gate.namespace).unwrap_or(&NOTHING);
        let mut view = Self {
            snapshot,
            gate,
            now,
            namespace,
            seen: seen(gate, namespace),
            known: RefCell::default(),
            held: Vec::new(),
        };
        let workloads = namespace.workloads.iter().flatten();
        let workloads = workloads.filter(|w| w.gates.first() == Some(&gate.name));
        view.held = workloads
            .map(|workload| {
                let decided = workload.version().and_then(|wanted| view.decide(wanted));
                (workload, decided)
            })
            .collect();
        view
    }

    /// A waiter's decision for a version. `None` if the Jobs could not be read, or if they do not
    /// open the gate and the record could not be read.
    pub(super) fn decide(&self, wanted: &Wanted) -> Option<Decided> {
        let mut known = self.known.borrow_mut();
        if let Some((_, decided)) = known.iter().find(|(known, _)| known == wanted) {
            return Some(decided.clone());
        }
        let now = Now {
            elapsed: LATER,
            clock: self.now,
        };
        let decided = match verdict(self.seen.as_ref()?, wanted, &LIMITS, now) {
            Verdict::End(End::Open(whys)) => {
                let opened = |why| explain::opened(why).trim_start_matches("open: ").to_owned();
                Decided::Opens(whys.iter().map(opened).collect())
            }
            Verdict::Wait { .. } if !self.namespace.records.contains_key(&self.gate.name) => {
                return None;
            }
            Verdict::Wait { waiting, .. } => Decided::Waits(waiting),
            // This does not happen: the imagined waiter counts as restarted and has no timeout.
            Verdict::End(_) => return None,
        };
        known.push((wanted.clone(), decided.clone()));
        Some(decided)
    }

    /// The existing Jobs that match the gate's requirements.
    pub(super) fn jobs(&self) -> impl Iterator<Item = &'s JobSeen> {
        let requirements = self.gate.requirements();
        let jobs = self.namespace.jobs.iter().flatten();
        jobs.filter(move |seen| {
            let mut sources = requirements.iter().flat_map(|of| &of.any_of);
            sources.any(|source| seen.job.is_of(source))
        })
    }

    /// The gate's Job of this name.
    pub(super) fn job(&self, name: &str) -> Option<&'s JobSeen> {
        self.jobs().find(|seen| seen.job.name == name)
    }

    /// The pods that wait at the gate.
    pub(super) fn pods(&self) -> impl Iterator<Item = &'s PodSeen> {
        let pods = self.namespace.pods.iter().flatten();
        pods.filter(|pod| pod.gate.as_ref() == Some(&self.gate.name))
    }

    /// Whether a pod waits. `true` if the pods could not be read.
    pub(super) fn holds_pods(&self) -> bool {
        self.namespace.pods.is_none() || self.pods().next().is_some()
    }

    /// The record, if it exists and could be read.
    pub(super) fn record(&self) -> Option<&'s Record> {
        self.namespace.records.get(&self.gate.name)?.as_ref()
    }

    pub(super) fn subject(&self, wanted: &Wanted, applier: &Applier) -> Subject {
        Subject {
            applier: applier.clone(),
            gate: self.gate.name.clone(),
            namespace: self.gate.namespace.clone(),
            wanted: wanted.clone(),
        }
    }

    /// How long the last recorded migration took, in seconds.
    pub(super) fn last_took(&self) -> Option<u64> {
        let entries = self.record()?.entries.values();
        entries.max_by_key(|entry| entry.completed)?.took
    }

    /// The time since `then`, in seconds.
    pub(super) fn seconds_since(&self, then: Option<Timestamp>) -> Option<u64> {
        u64::try_from(self.now.duration_since(then?).as_secs()).ok()
    }

    fn state(&self) -> Passage {
        if self.seen.is_none() || self.namespace.workloads.is_none() {
            return Passage::Unknown;
        }
        let mut state = Passage::Unused;
        for (workload, decided) in &self.held {
            match decided {
                Some(Decided::Opens(_)) if !workload.goes_by_the_gate() => {
                    state = state.or_doubtful();
                }
                Some(Decided::Opens(_)) if state == Passage::Unused => state = Passage::Open,
                Some(Decided::Waits(waiting)) => {
                    let failed = |w: &Waiting| matches!(w.what, What::Failed { .. });
                    if waiting.iter().any(failed) {
                        return Passage::Failed;
                    }
                    state = Passage::Waiting;
                }
                // Its pods never start, because their version cannot be determined.
                None if workload.wanted.as_ref().is_some_and(Result::is_err) => {
                    state = Passage::Waiting;
                }
                None if workload.wanted.is_some() => state = state.or_doubtful(),
                Some(Decided::Opens(_)) | None => {}
            }
        }
        state
    }

    pub(super) fn line(&self) -> GateLine {
        GateLine {
            name: self.gate.name.clone(),
            namespace: self.gate.namespace.clone(),
            state: self.state(),
            jobs: self.job_lines(),
            record: self.record().map(record_line),
            workloads: self
                .held
                .iter()
                .map(|(w, d)| self.workload_line(w, d.as_ref()))
                .collect(),
            pods: self.pod_lines(),
        }
    }

    fn job_lines(&self) -> Vec<JobLine> {
        if self.namespace.jobs.is_none() {
            return Vec::new();
        }
        let last_seconds = self.last_took();
        let requirements = self.gate.requirements();
        let mut lines: Vec<JobLine> = self
            .jobs()
            .map(|seen| self.job_line(seen, last_seconds))
            .collect();
        for requirement in requirements {
            let mut jobs = self.jobs();
            if !jobs.any(|seen| requirement.any_of.iter().any(|s| seen.job.is_of(s))) {
                lines.push(JobLine {
                    name: requirement.to_string(),
                    state: "missing",
                    version: None,
                    attempt: None,
                    attempts: None,
                    seconds: None,
                    last_seconds,
                });
            }
        }
        lines
    }

    fn job_line(&self, seen: &JobSeen, last_seconds: Option<u64>) -> JobLine {
        let job = &seen.job;
        let is_over = matches!(
            job.state,
            JobState::Complete { .. } | JobState::Failed { .. }
        );
        let seconds = match job.started {
            Some(started) if is_over => seen
                .ended
                .and_then(|ended| u64::try_from(ended.duration_since(started).as_secs()).ok()),
            started => self.seconds_since(started),
        };
        let attempt = job.attempt.filter(|_| job.state != JobState::NoPod);
        JobLine {
            name: job.name.clone(),
            state: state_word(job),
            version: version_of(job, self.gate),
            attempt: attempt.map(|attempt| attempt.number),
            attempts: attempt.map(|attempt| attempt.of),
            seconds,
            last_seconds,
        }
    }

    fn workload_line(&self, workload: &WorkloadSeen, decided: Option<&Decided>) -> WorkloadLine {
        let (open, why) = match (&workload.wanted, decided) {
            (Some(Err(error)), _) => (Some(false), vec![error.to_string()]),
            (Some(Ok(wanted)), Some(decided)) => match self.words(wanted, decided) {
                (Some(true), why) if !workload.goes_by_the_gate() => (None, why),
                known => known,
            },
            _ => (None, Vec::new()),
        };
        WorkloadLine {
            kind: workload.kind.as_str(),
            name: workload.name.clone(),
            wants: workload.version().map(word),
            runs: workload.runs.clone(),
            replicas: workload.replicas,
            ready: workload.ready,
            waiter: workload.waiter.as_str(),
            open,
            why,
        }
    }

    fn words(&self, wanted: &Wanted, decided: &Decided) -> (Option<bool>, Vec<String>) {
        match decided {
            Decided::Opens(whys) => (Some(true), whys.clone()),
            Decided::Waits(waiting) => {
                let subject = self.subject(wanted, &Applier::Unknown);
                let words = waiting.iter().map(|w| explain::sentence(&subject, w));
                (Some(false), words.collect())
            }
        }
    }

    fn pod_lines(&self) -> Vec<PodLine> {
        let mut lines = Vec::new();
        for pod in self.pods() {
            let decided = pod.wanted.as_ref().and_then(|wanted| self.decide(wanted));
            let why = match (&pod.wanted, &decided) {
                (Some(wanted), Some(decided)) => self.words(wanted, decided).1,
                _ => Vec::new(),
            };
            let seconds = self.seconds_since(pod.since);
            lines.push(PodLine {
                name: pod.name.clone(),
                wants: pod.wanted.as_ref().map(word),
                seconds,
                gives_up_in: pod
                    .timeout
                    .and_then(|all| all.as_secs().checked_sub(seconds?)),
                restarts: pod.restarts,
                why,
            });
        }
        lines
    }
}

/// What a waiter would see of a gate; `None` if the Jobs could not be read.
fn seen(gate: &Gate, namespace: &NamespaceSeen) -> Option<Seen> {
    let listed = namespace.jobs.as_ref()?;
    let at = Duration::ZERO;
    let jobs = gate.requirements().into_iter().map(|requirement| {
        let alternatives = requirement.any_of.clone();
        let mut jobs = Jobs::new(requirement);
        for (index, source) in alternatives.iter().enumerate() {
            let meant = listed.iter().filter(|seen| seen.job.is_of(source));
            jobs.listed(index, meant.map(|seen| seen.job.clone()).collect(), at);
        }
        jobs
    });
    let mut record = RecordSeen::default();
    match namespace.records.get(&gate.name) {
        Some(read) => {
            record.watch.answers(at);
            record.record.clone_from(read);
        }
        None => record
            .watch
            .fails(TroubleKind::Denied, String::new(), true, at),
    }
    Some(Seen {
        jobs: jobs.collect(),
        record,
        restarted: true,
        unconfirmed: false,
    })
}

fn record_line(record: &Record) -> RecordLine {
    let last = record.entries.values().max_by_key(|entry| entry.completed);
    RecordLine {
        versions: record.entries.len(),
        last: last.map(|entry| entry.version.to_string()),
        completed: last.map(|entry| entry.completed),
    }
}

fn state_word(job: &Job) -> &'static str {
    if job.deleting {
        return "deleting";
    }
    match job.state {
        JobState::Complete { .. } => "complete",
        JobState::Failed { .. } => "failed",
        JobState::Succeeding => "succeeding",
        JobState::Failing => "failing",
        JobState::Empty => "empty",
        JobState::Suspended { .. } => "suspended",
        JobState::NoPod => "no pod",
        JobState::BetweenAttempts => "trying again",
        JobState::PodNotReady => "pod not ready",
        JobState::Running => "running",
    }
}

/// The version that a Job migrates for, in words.
pub(super) fn version_of(job: &Job, gate: &Gate) -> Option<String> {
    let mut contents = job.contents.clone();
    contents.keep_only(gate.version.as_ref());
    let word = crate::record::Recorded::Contents(contents).to_string();
    (!word.is_empty()).then_some(word)
}
