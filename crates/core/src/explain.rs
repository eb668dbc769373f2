//! The waiter's messages: a line for each state, and the remedy at the deadline.

use std::time::Duration;

use super::applier::Applier;
use super::job::Attempt;
use super::mask;
use super::text::{printable, shorten, truncate};
use super::verdict::{Failure, JobName, Jobs, Seen, Trouble, TroubleKind, Waiting, What, Why};
use super::version::Wanted;

mod again;

pub(crate) use again::{again, capital};

/// The subject of the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The gate's name.
    pub gate: String,
    /// The namespace of its Jobs, record and workloads.
    pub namespace: String,
    /// The version that must be migrated.
    pub wanted: Wanted,
    /// The tool that applies the waiting workload.
    pub applier: Applier,
}

/// The parts of a line that change with time, and do not make it a new line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    /// How long the Job has been running.
    pub running: Option<Duration>,
    /// How long the waiter will still wait.
    pub remaining: Duration,
    /// The current problem of the watches.
    pub trouble: Option<Trouble>,
}

/// A duration such as `1m12s`. Seconds are the smallest unit.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The line to print for a change; `None` if there is none.
pub fn line(subject: &Subject, waiting: &Waiting, moment: &Moment) -> Option<String> {
    let sentence = sentence(subject, waiting);
    let gives_up = format!("gives up in {}", duration(moment.remaining));
    if let Some(trouble) = &moment.trouble {
        let last = match waiting.what {
            What::Nothing => String::new(),
            _ => format!("; last seen: {sentence}"),
        };
        let problem = problem(&waiting.job, trouble);
        return Some(format!(
            "waiting: {problem}{last} (trying again; {gives_up})"
        ));
    }
    let mut extras = Vec::new();
    if let Some(Attempt { number, of }) = attempt(&waiting.what) {
        extras.push(format!("attempt {number} of {of}"));
    }
    if let Some(running) = moment.running.filter(|_| is_active(&waiting.what)) {
        extras.push(duration(running));
    }
    Some(match waiting.what {
        What::Nothing => return None,
        // Flux creates the new Job within a second. With kubectl, the operator must act, and must
        // know it before the deadline.
        What::OldComplete { .. }
        | What::OldFailed { .. }
        | What::Forgotten
        | What::Empty
        | What::Failed { .. } => {
            format!(
                "waiting: {sentence} ({gives_up}). {}",
                advice(subject, waiting)
            )
        }
        _ if extras.is_empty() => format!("waiting: {sentence} ({gives_up})"),
        _ => format!("waiting: {sentence} ({}; {gives_up})", extras.join(", ")),
    })
}

fn problem(job: &JobName, trouble: &Trouble) -> String {
    let said = quoted(&trouble.message);
    match trouble.kind {
        TroubleKind::Denied => format!("not permitted to watch {}: {said}", name(job)),
        TroubleKind::Unreachable if trouble.answered => {
            format!("the API server answers with an error: {said}")
        }
        TroubleKind::Unreachable => format!("the API server does not answer: {said}"),
    }
}

/// The reason why a requirement is met.
pub fn opened(why: &Why) -> String {
    match why {
        Why::Complete { job, version } => format!("open: Job {job} is complete, of {version}"),
        Why::Recorded {
            version,
            image: Some(image),
            completed,
        } => {
            format!("open: the record has version {version}, completed {completed} (image {image})")
        }
        Why::Recorded {
            version,
            image: None,
            completed,
        } => format!("open: the record has version {version}, marked as done {completed}"),
    }
}

/// What was last seen before the deadline, and the next step.
pub fn timed_out(
    subject: &Subject,
    waiting: &[Waiting],
    seen: &Seen,
    timeout: Duration,
    user: &str,
) -> String {
    let gave_up = format!("gave up after {}", duration(timeout));
    let last: Vec<String> = waiting
        .iter()
        .map(|w| last_seen(subject, w, seen))
        .collect();
    let last = last.join("; and ");
    let advice = waiting
        .first()
        .map(|waiting| match correction(subject, waiting) {
            Some(correction) => format!("{}. {correction}", advice(subject, waiting)),
            None => advice(subject, waiting),
        })
        .unwrap_or_default();
    let mut troubles = seen.jobs.iter().filter_map(Jobs::trouble);
    let trouble = waiting.iter().find_map(|waiting| {
        let kind = waiting.trouble?;
        Some((waiting, troubles.find(|trouble| trouble.kind == kind)?))
    });
    match trouble {
        Some((waiting, trouble)) if trouble.kind == TroubleKind::Denied => format!(
            "{gave_up}: {}; last seen: {last}. Check {}",
            problem(&waiting.job, trouble),
            rights(subject, &waiting.job, &trouble.message, user)
        ),
        Some((_, trouble)) => format!(
            "{gave_up}: the API server {}: {}; last seen: {last}. {advice}",
            if trouble.answered {
                "answered with an error at the end"
            } else {
                "did not answer at the end"
            },
            quoted(&trouble.message),
        ),
        None => format!("{gave_up}: {last}. {advice}"),
    }
}

fn last_seen(subject: &Subject, waiting: &Waiting, seen: &Seen) -> String {
    let last = sentence(subject, waiting);
    match &seen.record.watch.trouble {
        Some(trouble) if waiting.record_unread && tells_of_record(&waiting.what) => {
            format!("{last} ({})", quoted(&trouble.message))
        }
        _ => last,
    }
}

/// Describes the failure of a Job, in one line.
pub fn job_failed(subject: &Subject, failure: &Failure) -> String {
    let (job, ns) = (&failure.job, &subject.namespace);
    let reason = reason(failure);
    let start = format!("Job {job} has failed{reason}, so this pod must not start; fix the cause");
    match again(failure.applier.or(&subject.applier), ns, Some(job)) {
        Some(again) => format!("{start}. {again}"),
        None => {
            format!("{start}, delete the Job and apply it again: kubectl delete job {job} -n {ns}")
        }
    }
}

/// Maximum length of a quoted text within a line of the waiter, in bytes.
const LONGEST_QUOTED: usize = 1024;

/// A text from elsewhere, safe for a pod's status: with secrets masked, without control characters,
/// and of limited length.
pub fn quoted(text: &str) -> String {
    let shown = truncate(text, 4 * LONGEST_QUOTED);
    let masked = mask::passwords(shown, shown.len() < text.len());
    shorten(&printable(&masked), LONGEST_QUOTED)
}

pub(crate) fn reason(failure: &Failure) -> String {
    let (reason, message) = (quoted(&failure.reason), quoted(&failure.message));
    match (reason.as_str(), message.as_str()) {
        ("", "") => String::new(),
        ("", text) | (text, "") => format!(" ({text})"),
        (reason, message) => format!(" ({reason}: {message})"),
    }
}

/// What was refused for how long, and the command that shows it, for an operator who may
/// impersonate `user`.
pub fn not_permitted(
    subject: &Subject,
    job: &JobName,
    message: &str,
    user: &str,
    tolerated: Duration,
) -> String {
    format!(
        "not permitted to watch {} for {}: {}; check {}",
        name(job),
        duration(tolerated),
        quoted(message),
        rights(subject, job, message, user)
    )
}

fn rights(subject: &Subject, job: &JobName, refusal: &str, user: &str) -> String {
    let Subject { namespace, .. } = subject;
    let verb = refused_verb(refusal).unwrap_or("watch");
    let which = match job {
        JobName::Exact(name) => format!("/{name}"),
        JobName::Any(_) => String::new(),
    };
    format!(
        "that the Role and RoleBinding exist: kubectl auth can-i {verb} jobs.batch{which} --as={user} -n {namespace}"
    )
}

/// `jobs.batch is forbidden: User "a" cannot list resource …`
fn refused_verb(refusal: &str) -> Option<&str> {
    let (_, rest) = refusal.split_once(" cannot ")?;
    let (verb, _) = rest.split_once(' ')?;
    (!verb.is_empty() && verb.bytes().all(|b| b.is_ascii_lowercase())).then_some(verb)
}

fn name(job: &JobName) -> String {
    match job {
        JobName::Exact(name) | JobName::Any(name) => format!("Job {name}"),
    }
}

/// The state of the Job, in a sentence without a full stop.
pub fn sentence(subject: &Subject, waiting: &Waiting) -> String {
    let job = name(&waiting.job);
    let namespace = &subject.namespace;
    let wanted = subject.wanted.version();
    let unread = "the record has not been read";
    match &waiting.what {
        What::Nothing => format!("{job} has not been seen yet"),
        What::NoJob if waiting.record_unread => {
            format!("there is no {job} in namespace {namespace}, and {unread}")
        }
        What::NoJob => {
            format!("there is no {job} in namespace {namespace}, and no record of {wanted}")
        }
        What::Vanished if waiting.record_unread => format!("{job} was deleted, and {unread}"),
        What::Vanished => format!("{job} was deleted, and there is no record of {wanted}"),
        What::Settling { vanished: true } => {
            format!("{job} was deleted; if none is created, the record of {wanted} opens the gate")
        }
        What::Settling { vanished: false } => format!(
            "there is no {job} in namespace {namespace}; if none is created, the record of {wanted} opens the gate"
        ),
        What::Deleting => format!("{job} is being deleted"),
        What::OldComplete { version, .. } => {
            format!("{job} is complete, but for {version}; this pod needs {wanted}")
        }
        What::OldFailed { version } => {
            format!("{job} has failed, but for {version}; this pod needs {wanted}")
        }
        What::Other { version } => {
            format!("{job} is not over, and is for {version}; this pod needs {wanted}")
        }
        What::Forgotten => {
            format!("{job} is complete, but its completion was forgotten; this pod needs it again")
        }
        What::Empty => {
            format!("{job} is complete, but asked for no completions, so it ran nothing")
        }
        What::FailedUnlessRecorded => {
            format!("{job} has failed; checking whether {wanted} is recorded")
        }
        What::Failed { failure } => format!("{job} has failed{}", reason(failure)),
        What::Suspended { queue: None } => format!("{job} is suspended"),
        What::Suspended { queue: Some(queue) } => format!("{job} is suspended in queue {queue}"),
        What::NoPod => format!("{job} has no pod yet"),
        What::BetweenAttempts { .. } => format!("{job} is about to try again"),
        What::PodNotReady { .. } => format!("{job} has a pod that is not ready"),
        What::Running { .. } => format!("{job} is running"),
        What::Succeeding => format!("{job} has succeeded, and its pods are ending"),
        What::Failing => format!("{job} is failing, and its pods are ending"),
    }
}

fn advice(subject: &Subject, waiting: &Waiting) -> String {
    let (ns, gate) = (&subject.namespace, &subject.gate);
    let (jobs, of_job) = match &waiting.job {
        JobName::Exact(job) => (
            format!("job {job} -n {ns}"),
            format!("-l batch.kubernetes.io/job-name={job}"),
        ),
        JobName::Any(_) => (
            format!("jobs -n {ns}"),
            "-l batch.kubernetes.io/job-name".to_owned(),
        ),
    };
    let there = match &waiting.job {
        JobName::Exact(job) if !is_missing(&waiting.what) => Some(job.as_str()),
        _ => None,
    };
    let again = again(waiting.applier.or(&subject.applier), ns, there);
    match &waiting.what {
        What::Nothing => format!(
            "Check whether pods of namespace {ns} can reach the API server (network policies, DNS)."
        ),
        What::NoJob | What::Vanished | What::Settling { .. } => again.unwrap_or_else(|| {
            format!("Apply the migration Job; check that it exists: kubectl get {jobs}")
        }),
        What::OldComplete { foreign: true, .. } => format!(
            "If its image has versions of its own, let gate {gate} compare a label or annotation \
             (`version`); if it is an old Job, delete it and apply again: kubectl delete {jobs}"
        ),
        What::OldComplete { .. } | What::OldFailed { .. } | What::Other { .. } => again
            .unwrap_or_else(|| {
                format!(
                    "A Job's template is immutable, so an apply with a new image fails on the old \
                     Job. Delete it and apply again: kubectl delete {jobs}"
                )
            }),
        What::Forgotten => again.unwrap_or_else(|| {
            format!("Delete the Job and apply it again, so that it runs: kubectl delete {jobs}")
        }),
        What::Empty => {
            format!("Set spec.completions to 1, or leave it out: kubectl get {jobs} -o yaml")
        }
        What::Failed { .. } => match again {
            Some(again) => {
                format!("Fix the cause; this pod starts as soon as the Job has completed. {again}")
            }
            None => format!(
                "Fix the cause, delete the Job and apply it again; this pod starts as soon as it \
                 has completed: kubectl delete {jobs}"
            ),
        },
        What::Suspended { queue: None } => {
            format!("Resume it: kubectl patch {jobs} -p '{{\"spec\":{{\"suspend\":false}}}}'")
        }
        What::Suspended { .. } => {
            format!("Check why its queue does not admit it: kubectl get workloads -n {ns}")
        }
        What::Deleting => format!(
            "Check what blocks its deletion (finalizers, pods that do not end): kubectl get {jobs} -o yaml"
        ),
        What::NoPod => {
            format!("Check why no pod is created (quota, admission): kubectl describe {jobs}")
        }
        What::PodNotReady { .. } => {
            format!("Check why its pod does not start: kubectl describe pods -n {ns} {of_job}")
        }
        What::FailedUnlessRecorded
        | What::BetweenAttempts { .. }
        | What::Running { .. }
        | What::Succeeding
        | What::Failing => {
            format!("Check its logs: kubectl logs -n {ns} {of_job} --all-containers")
        }
    }
}

/// The command to record a version that is migrated but not recorded, such as one from before the
/// gate was installed.
fn correction(subject: &Subject, waiting: &Waiting) -> Option<String> {
    let Subject { gate, wanted, .. } = subject;
    let may_be_recorded = matches!(
        waiting.what,
        What::NoJob
            | What::Vanished
            | What::Settling { .. }
            | What::OldComplete { .. }
            | What::OldFailed { .. }
    );
    may_be_recorded.then(|| {
        let version = wanted.version();
        let word = wanted.word().unwrap_or("--wanted");
        format!("If {version} was migrated before: migration-gate record done {word} --gate {gate}")
    })
}

/// Whether there is no Job, so none must be replaced.
fn is_missing(what: &What) -> bool {
    matches!(what, What::NoJob | What::Vanished | What::Settling { .. })
}

fn tells_of_record(what: &What) -> bool {
    matches!(
        what,
        What::NoJob | What::Vanished | What::FailedUnlessRecorded
    )
}

fn attempt(what: &What) -> Option<Attempt> {
    match what {
        What::BetweenAttempts { attempt }
        | What::PodNotReady { attempt }
        | What::Running { attempt } => *attempt,
        _ => None,
    }
}

fn is_active(what: &What) -> bool {
    matches!(
        what,
        What::BetweenAttempts { .. }
            | What::PodNotReady { .. }
            | What::Running { .. }
            | What::Succeeding
            | What::Failing
    )
}

#[cfg(test)]
mod tests;
