//! The waiter's words: one line for what it sees, and what to do about it when time is up.

use std::time::Duration;

use super::image::Version;
use super::job::Attempt;
use super::verdict::{Seen, Trouble, TroubleKind, Waiting, Wanted, What, Why};

/// What the words are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The namespace of everything.
    pub namespace: String,
    /// The Job's name.
    pub job: String,
    /// What has to have happened.
    pub wanted: Wanted,
}

/// The parts of a line that change without anything having changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    /// How long the Job has been at it.
    pub running: Option<Duration>,
    /// How long the waiter goes on.
    pub remaining: Duration,
    /// The trouble there is.
    pub trouble: Option<Trouble>,
}

/// A duration as people write it: `1m12s`. Seconds are the smallest unit.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{seconds}s"),
        _ => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The line for a change; `None` while there is nothing to tell.
pub fn line(subject: &Subject, waiting: &Waiting, moment: &Moment) -> Option<String> {
    let sentence = sentence(subject, waiting);
    let gives_up = format!("gives up in {}", duration(moment.remaining));
    if let Some(trouble) = &moment.trouble {
        let last = match waiting.what {
            What::Nothing => String::new(),
            _ => format!("; last seen: {sentence}"),
        };
        let problem = problem(subject, trouble);
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
        // Under Flux the new Job comes within a second. Whoever applies by hand has to do something,
        // and had better not learn it from the deadline.
        What::OldComplete { .. } | What::OldFailed { .. } => format!(
            "waiting: {sentence} ({gives_up}). {}",
            advice(subject, &waiting.what)
        ),
        _ if extras.is_empty() => format!("waiting: {sentence} ({gives_up})"),
        _ => format!("waiting: {sentence} ({}; {gives_up})", extras.join(", ")),
    })
}

fn problem(subject: &Subject, trouble: &Trouble) -> String {
    let said = &trouble.message;
    match trouble.kind {
        TroubleKind::Denied => format!("not permitted to watch Job {}: {said}", subject.job),
        TroubleKind::Unreachable if trouble.answered => {
            format!("the API server answers with an error: {said}")
        }
        TroubleKind::Unreachable => format!("the API server does not answer: {said}"),
    }
}

/// Why the gate is open.
pub fn opened(subject: &Subject, why: &Why) -> String {
    match why {
        Why::Complete { image } => format!(
            "open: Job {} is complete{}",
            subject.job,
            image.as_deref().map_or(String::new(), |image| format!(
                ", of version {}",
                Version::of(image)
            ))
        ),
        Why::Recorded { image, completed } => format!(
            "open: the record has version {}, completed {completed}",
            Version::of(image)
        ),
    }
}

/// What was last seen when the time was over, and the next step.
pub fn timed_out(
    subject: &Subject,
    waiting: &Waiting,
    seen: &Seen,
    timeout: Duration,
    user: &str,
) -> String {
    let gave_up = format!("gave up after {}", duration(timeout));
    let last = sentence(subject, waiting);
    let record = match &seen.record.trouble {
        Some(trouble) if waiting.record_unread && tells_of_record(&waiting.what) => {
            format!(" ({})", trouble.message)
        }
        _ => String::new(),
    };
    let seen_last = format!("{last}{record}");
    match &seen.job.trouble {
        Some(trouble) if trouble.kind == TroubleKind::Denied => format!(
            "{gave_up}: {}; last seen: {seen_last}. Look {}",
            problem(subject, trouble),
            rights(subject, &trouble.message, user)
        ),
        Some(trouble) => format!(
            "{gave_up}: the API server {}: {}; last seen: {seen_last}. {}",
            if trouble.answered {
                "answered with an error at the end"
            } else {
                "did not answer at the end"
            },
            trouble.message,
            advice(subject, &waiting.what)
        ),
        None => format!("{gave_up}: {seen_last}. {}", advice(subject, &waiting.what)),
    }
}

/// The end of a failed Job, in one line.
pub fn job_failed(subject: &Subject, reason: &str, message: &str) -> String {
    let why = match (reason, message) {
        ("", "") => String::new(),
        ("", text) | (text, "") => format!(" ({text})"),
        (reason, message) => format!(" ({reason}: {message})"),
    };
    format!(
        "Job {} has failed{why}, so this pod must not start; mend the cause, delete the Job and apply it \
         again: kubectl delete job {} -n {}",
        subject.job, subject.job, subject.namespace
    )
}

/// What was refused for how long, and the line to run as somebody who may impersonate `user`.
pub fn not_permitted(subject: &Subject, message: &str, user: &str, borne: Duration) -> String {
    format!(
        "not permitted to watch Job {} for {}: {message}; look {}",
        subject.job,
        duration(borne),
        rights(subject, message, user)
    )
}

fn rights(subject: &Subject, refusal: &str, user: &str) -> String {
    let Subject { namespace, job, .. } = subject;
    let verb = refused_verb(refusal).unwrap_or("watch");
    format!(
        "whether Role and RoleBinding are there: \
         kubectl auth can-i {verb} jobs.batch/{job} --as={user} -n {namespace}"
    )
}

/// `jobs.batch is forbidden: User "a" cannot list resource …`
fn refused_verb(refusal: &str) -> Option<&str> {
    let (_, rest) = refusal.split_once(" cannot ")?;
    let (verb, _) = rest.split_once(' ')?;
    (!verb.is_empty() && verb.bytes().all(|b| b.is_ascii_lowercase())).then_some(verb)
}

fn sentence(subject: &Subject, waiting: &Waiting) -> String {
    let job = format!("Job {}", subject.job);
    let version = |image: &Option<String>| match image {
        Some(image) => format!("version {} (image {image})", Version::of(image)),
        None => "a version that can't be told".to_owned(),
    };
    let wanted = match &subject.wanted {
        Wanted::Any => "any version".to_owned(),
        Wanted::Version(image) => format!("version {}", Version::of(image)),
    };
    let unread = "what the record says is not known";
    match &waiting.what {
        What::Nothing => format!("{job} has not been seen yet"),
        What::NoJob if waiting.record_unread => format!(
            "there is no {job} in namespace {}, and {unread}",
            subject.namespace
        ),
        What::NoJob => format!(
            "there is no {job} in namespace {}, and no record of {wanted}",
            subject.namespace
        ),
        What::Vanished if waiting.record_unread => format!("{job} was deleted, and {unread}"),
        What::Vanished => format!("{job} was deleted, and there is no record of {wanted}"),
        What::Deleting => format!("{job} is being deleted"),
        What::OldComplete { image } => format!(
            "{job} is complete, but for {}; this pod needs {wanted}",
            version(image)
        ),
        What::OldFailed { image } => format!(
            "{job} has failed, but for {}; this pod needs {wanted}",
            version(image)
        ),
        What::FailedUnlessRecorded => {
            format!("{job} has failed; looking whether {wanted} is recorded")
        }
        What::Suspended => format!("{job} is suspended"),
        What::NoPod => format!("{job} has no pod yet"),
        What::BetweenAttempts { .. } => format!("{job} is about to try again"),
        What::PodNotReady { .. } => format!("{job} has a pod that is not ready"),
        What::Running { .. } => format!("{job} is running"),
        What::Succeeding => format!("{job} has succeeded, and its pods are ending"),
        What::Failing => format!("{job} is failing, and its pods are ending"),
    }
}

fn advice(subject: &Subject, what: &What) -> String {
    let Subject {
        namespace: ns, job, ..
    } = subject;
    match what {
        What::Nothing => format!(
            "Look whether pods of namespace {ns} can reach the API server (network policies, DNS)."
        ),
        What::NoJob | What::Vanished => format!(
            "Apply the migration Job; look whether it is there: kubectl get job {job} -n {ns}"
        ),
        What::OldComplete { .. } | What::OldFailed { .. } => format!(
            "A Job's template is immutable, so an apply with a new image fails on the old Job. Delete \
             it and apply again: kubectl delete job {job} -n {ns}"
        ),
        What::Suspended => format!(
            "Resume it: kubectl patch job {job} -n {ns} -p '{{\"spec\":{{\"suspend\":false}}}}'"
        ),
        What::Deleting => format!(
            "Look what holds it back (finalizers, pods that do not end): kubectl get job {job} -n {ns} -o yaml"
        ),
        What::NoPod => format!(
            "Look why no pod is created (quota, admission): kubectl describe job {job} -n {ns}"
        ),
        What::PodNotReady { .. } => format!(
            "Look why its pod does not start: kubectl describe pods -n {ns} -l batch.kubernetes.io/job-name={job}"
        ),
        What::FailedUnlessRecorded
        | What::BetweenAttempts { .. }
        | What::Running { .. }
        | What::Succeeding
        | What::Failing => format!(
            "Look what it does: kubectl logs -n {ns} -l batch.kubernetes.io/job-name={job} --all-containers"
        ),
    }
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
