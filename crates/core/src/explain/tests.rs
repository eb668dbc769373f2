//! The words, whole lines of them, as they are part of what users see.

use super::TroubleKind::{Denied, Unreachable};
use super::*;
use crate::gates::{Config, Requirement};
use crate::verdict::{Jobs, Watch};

const JOB: &str = "piefed-db-init";

fn subject() -> Subject {
    let template = serde_json::json!({"spec": {
        "containers": [{"name": "web", "image": "piefed/web:2"}],
    }});
    Subject {
        gate: "piefed".into(),
        namespace: "ns".into(),
        wanted: Wanted::of(&Config::default().gates[0], &template).expect("a version"),
    }
}

fn waiting(what: What) -> Waiting {
    Waiting {
        job: JobName::Exact(JOB.into()),
        what,
        trouble: None,
        record_unread: false,
    }
}

fn moment() -> Moment {
    Moment {
        running: Some(Duration::from_secs(72)),
        remaining: Duration::from_secs(528),
        trouble: None,
    }
}

fn trouble(kind: TroubleKind, answered: bool, message: &str) -> Option<Trouble> {
    let mut watch = Watch::default();
    watch.fails(kind, message.to_owned(), answered, Duration::ZERO);
    watch.trouble
}

/// One Job, of which nothing was seen but this trouble.
fn unseen(trouble: Option<Trouble>) -> Seen {
    let mut jobs = Jobs::new(Requirement::parse(JOB).expect("a name"));
    jobs.watches[0].trouble = trouble;
    Seen {
        jobs: vec![jobs],
        ..Seen::default()
    }
}

fn failure(reason: &str, message: &str) -> Failure {
    Failure {
        job: JOB.into(),
        uid: "u".into(),
        reason: reason.into(),
        message: message.into(),
        attempt: None,
    }
}

const ATTEMPT: Option<Attempt> = Some(Attempt { number: 2, of: 4 });

/// Everything that can be seen, with the sentence and the advice for it.
fn all() -> impl Iterator<Item = (What, &'static str, &'static str)> {
    of_other_jobs().into_iter().chain(of_the_job())
}

fn of_other_jobs() -> Vec<(What, &'static str, &'static str)> {
    let version = || "version 1 (image piefed/init:1)".to_owned();
    let immutable = "A Job's template is immutable, so an apply with a new image fails on the old Job. \
                     Delete it and apply again: kubectl delete job piefed-db-init -n ns";
    let apply = "Apply the migration Job; look whether it is there: kubectl get job piefed-db-init \
                 -n ns";
    vec![
        (
            What::NoJob,
            "there is no Job piefed-db-init in namespace ns, and no record of version 2",
            apply,
        ),
        (
            What::Vanished,
            "Job piefed-db-init was deleted, and there is no record of version 2",
            apply,
        ),
        (
            What::Settling { vanished: false },
            "there is no Job piefed-db-init in namespace ns; if none comes, the record of version 2 \
             opens",
            apply,
        ),
        (
            What::Deleting,
            "Job piefed-db-init is being deleted",
            "Look what holds it back (finalizers, pods that do not end): kubectl get job \
             piefed-db-init -n ns -o yaml",
        ),
        (
            What::OldComplete { version: version() },
            "Job piefed-db-init is complete, but for version 1 (image piefed/init:1); this pod needs \
             version 2",
            immutable,
        ),
        (
            What::OldComplete {
                version: "a version that can't be told".into(),
            },
            "Job piefed-db-init is complete, but for a version that can't be told; this pod needs \
             version 2",
            immutable,
        ),
        (
            What::OldFailed { version: version() },
            "Job piefed-db-init has failed, but for version 1 (image piefed/init:1); this pod needs \
             version 2",
            immutable,
        ),
        (
            What::Other { version: version() },
            "Job piefed-db-init is not over, and is for version 1 (image piefed/init:1); this pod \
             needs version 2",
            immutable,
        ),
        (
            What::Forgotten,
            "Job piefed-db-init is complete, but its completion was forgotten; this pod needs it \
             again",
            "Delete the Job and apply it again, so that it runs: kubectl delete job piefed-db-init \
             -n ns",
        ),
        (
            What::Empty,
            "Job piefed-db-init is complete, but asked for no completions, so it ran nothing",
            "Set spec.completions to 1, or leave it out: kubectl get job piefed-db-init -n ns -o yaml",
        ),
        (
            What::Failed {
                failure: failure("BackoffLimitExceeded", "too often"),
            },
            "Job piefed-db-init has failed (BackoffLimitExceeded: too often)",
            "Mend the cause, delete the Job and apply it again; this pod starts as soon as it has \
             completed: kubectl delete job piefed-db-init -n ns",
        ),
    ]
}

fn of_the_job() -> Vec<(What, &'static str, &'static str)> {
    let logs = "Look what it does: kubectl logs -n ns -l batch.kubernetes.io/job-name=piefed-db-init \
                --all-containers";
    vec![
        (
            What::FailedUnlessRecorded,
            "Job piefed-db-init has failed; looking whether version 2 is recorded",
            logs,
        ),
        (
            What::Suspended { queue: None },
            "Job piefed-db-init is suspended",
            r#"Resume it: kubectl patch job piefed-db-init -n ns -p '{"spec":{"suspend":false}}'"#,
        ),
        (
            What::Suspended {
                queue: Some("batch".into()),
            },
            "Job piefed-db-init is suspended in queue batch",
            "Look why its queue does not admit it: kubectl get workloads -n ns",
        ),
        (
            What::NoPod,
            "Job piefed-db-init has no pod yet",
            "Look why no pod is created (quota, admission): kubectl describe job piefed-db-init -n ns",
        ),
        (
            What::BetweenAttempts { attempt: ATTEMPT },
            "Job piefed-db-init is about to try again",
            logs,
        ),
        (
            What::PodNotReady { attempt: ATTEMPT },
            "Job piefed-db-init has a pod that is not ready",
            "Look why its pod does not start: kubectl describe pods -n ns -l \
             batch.kubernetes.io/job-name=piefed-db-init",
        ),
        (
            What::Running { attempt: ATTEMPT },
            "Job piefed-db-init is running",
            logs,
        ),
        (
            What::Succeeding,
            "Job piefed-db-init has succeeded, and its pods are ending",
            logs,
        ),
        (
            What::Failing,
            "Job piefed-db-init is failing, and its pods are ending",
            logs,
        ),
    ]
}

#[test]
fn a_line_tells_what_is_seen_and_how_long_yet() {
    for (what, sentence, advice) in all() {
        let expect = match &what {
            What::OldComplete { .. }
            | What::OldFailed { .. }
            | What::Forgotten
            | What::Empty
            | What::Failed { .. } => {
                format!("waiting: {sentence} (gives up in 8m48s). {advice}")
            }
            What::BetweenAttempts { .. } | What::PodNotReady { .. } | What::Running { .. } => {
                format!("waiting: {sentence} (attempt 2 of 4, 1m12s; gives up in 8m48s)")
            }
            What::Succeeding | What::Failing => {
                format!("waiting: {sentence} (1m12s; gives up in 8m48s)")
            }
            _ => format!("waiting: {sentence} (gives up in 8m48s)"),
        };
        let line = line(&subject(), &waiting(what), &moment());
        assert_eq!(line.as_deref(), Some(&*expect));
    }
    assert_eq!(line(&subject(), &waiting(What::Nothing), &moment()), None);
    // In full, as people have come to read it.
    let running = waiting(What::Running { attempt: ATTEMPT });
    assert_eq!(
        line(&subject(), &running, &moment()).as_deref(),
        Some("waiting: Job piefed-db-init is running (attempt 2 of 4, 1m12s; gives up in 8m48s)")
    );
}

#[test]
fn a_line_tells_of_trouble_what_it_is() {
    let check = |what: What, trouble: Option<Trouble>, expect: &str| {
        let moment = Moment {
            trouble,
            ..moment()
        };
        let line = line(&subject(), &waiting(what), &moment);
        assert_eq!(line.as_deref(), Some(expect));
    };
    check(
        What::Nothing,
        trouble(Denied, true, "jobs.batch is forbidden"),
        "waiting: not permitted to watch Job piefed-db-init: jobs.batch is forbidden (trying again; \
         gives up in 8m48s)",
    );
    check(
        What::NoPod,
        trouble(Unreachable, false, "Connection refused"),
        "waiting: the API server does not answer: Connection refused; last seen: Job piefed-db-init \
         has no pod yet (trying again; gives up in 8m48s)",
    );
    check(
        What::Nothing,
        trouble(Unreachable, true, "etcdserver: request timed out"),
        "waiting: the API server answers with an error: etcdserver: request timed out (trying \
         again; gives up in 8m48s)",
    );
}

#[test]
fn a_record_that_was_not_read_is_not_passed_off_as_empty() {
    for (what, expect) in [
        (
            What::NoJob,
            "there is no Job piefed-db-init in namespace ns, and what the record says is not known",
        ),
        (
            What::Vanished,
            "Job piefed-db-init was deleted, and what the record says is not known",
        ),
    ] {
        let unread = Waiting {
            record_unread: true,
            ..waiting(what)
        };
        assert_eq!(
            line(&subject(), &unread, &moment()),
            Some(format!("waiting: {expect} (gives up in 8m48s)"))
        );
        let mut seen = unseen(None);
        seen.record.watch.trouble = trouble(TroubleKind::Denied, true, "configmaps is forbidden");
        let timeout = Duration::from_mins(10);
        let timed_out = timed_out(&subject(), &[unread], &seen, timeout, "u");
        let expect = format!("gave up after 10m0s: {expect} (configmaps is forbidden). Apply ");
        assert!(timed_out.starts_with(&expect), "{timed_out}");
    }
}

#[test]
fn the_deadline_tells_what_to_do() {
    let timed_out = |what: What, seen: &Seen| {
        let timeout = Duration::from_mins(10);
        let trouble = seen.jobs[0].trouble().map(|trouble| trouble.kind);
        let waiting = Waiting {
            trouble,
            ..waiting(what)
        };
        timed_out(&subject(), &[waiting], seen, timeout, "sa")
    };
    let correction =
        ". If version 2 was migrated before: migration-gate record done 2 --gate piefed";
    for (what, sentence, advice) in all() {
        let correction = match &what {
            What::NoJob
            | What::Vanished
            | What::Settling { .. }
            | What::OldComplete { .. }
            | What::OldFailed { .. } => correction,
            _ => "",
        };
        assert_eq!(
            timed_out(what, &unseen(None)),
            format!("gave up after 10m0s: {sentence}. {advice}{correction}")
        );
    }
    let with = |kind, answered, message| unseen(trouble(kind, answered, message));
    assert_eq!(
        timed_out(
            What::Nothing,
            &with(TroubleKind::Unreachable, false, "Connection refused")
        ),
        "gave up after 10m0s: the API server did not answer at the end: Connection refused; last \
         seen: Job piefed-db-init has not been seen yet. Look whether pods of namespace ns can \
         reach the API server (network policies, DNS)."
    );
    assert_eq!(
        timed_out(
            What::Suspended { queue: None },
            &with(TroubleKind::Unreachable, true, "too many requests")
        ),
        "gave up after 10m0s: the API server answered with an error at the end: too many requests; \
         last seen: Job piefed-db-init is suspended. Resume it: kubectl patch job piefed-db-init \
         -n ns -p '{\"spec\":{\"suspend\":false}}'"
    );
    // Before there was time to bear with it.
    assert_eq!(
        timed_out(
            What::Nothing,
            &with(
                TroubleKind::Denied,
                true,
                "User \"sa\" cannot list resource \"jobs\""
            )
        ),
        "gave up after 10m0s: not permitted to watch Job piefed-db-init: User \"sa\" cannot list \
         resource \"jobs\"; last seen: Job piefed-db-init has not been seen yet. Look whether Role \
         and RoleBinding are there: kubectl auth can-i list jobs.batch/piefed-db-init --as=sa -n ns"
    );
}

/// The requirements that are met aren't waited for any more.
#[test]
fn the_trouble_is_that_of_the_job_that_is_waited_for() {
    let mut seen = unseen(None);
    let away = trouble(Unreachable, false, "Connection refused");
    seen.jobs.extend(unseen(away).jobs);
    let waiting = Waiting {
        trouble: Some(Unreachable),
        ..waiting(What::NoPod)
    };
    let text = timed_out(&subject(), &[waiting], &seen, Duration::from_mins(10), "sa");
    let expect =
        "gave up after 10m0s: the API server did not answer at the end: Connection refused;";
    assert!(text.starts_with(expect), "{text}");
}

#[test]
fn what_is_not_permitted_is_named_with_the_verb_that_was_refused() {
    let check = |message: &str, verb: &str| {
        assert_eq!(
            not_permitted(
                &subject(),
                &JobName::Exact(JOB.into()),
                message,
                "sa",
                Duration::from_secs(30)
            ),
            format!(
                "not permitted to watch Job piefed-db-init for 30s: {message}; look whether Role and \
                 RoleBinding are there: kubectl auth can-i {verb} jobs.batch/piefed-db-init --as=sa -n ns"
            )
        );
    };
    check(
        "jobs.batch is forbidden: User \"sa\" cannot list resource",
        "list",
    );
    check(
        "jobs.batch is forbidden: User \"sa\" cannot watch resource",
        "watch",
    );
    check("Unauthorized", "watch");
}

#[test]
fn an_end_is_told_with_its_reason() {
    let complete = Why::Complete {
        job: JOB.into(),
        version: "version 2 (image piefed/init:2)".into(),
    };
    assert_eq!(
        opened(&complete),
        "open: Job piefed-db-init is complete, of version 2 (image piefed/init:2)"
    );
    let recorded = |image: Option<&str>| {
        opened(&Why::Recorded {
            version: "2".into(),
            image: image.map(str::to_owned),
            completed: jiff::Timestamp::UNIX_EPOCH,
        })
    };
    assert_eq!(
        recorded(Some("piefed/init:2")),
        "open: the record has version 2, completed 1970-01-01T00:00:00Z (image piefed/init:2)"
    );
    assert_eq!(
        recorded(None),
        "open: the record has version 2, marked as done 1970-01-01T00:00:00Z"
    );
    let mend = "so this pod must not start; mend the cause, delete the Job and apply it again: \
                kubectl delete job piefed-db-init -n ns";
    for (reason, message, why) in [
        ("", "", ""),
        ("A", "", " (A)"),
        ("", "b", " (b)"),
        ("A", "b", " (A: b)"),
    ] {
        assert_eq!(
            job_failed(&subject(), &failure(reason, message)),
            format!("Job {JOB} has failed{why}, {mend}")
        );
    }
}

#[test]
fn a_duration_is_written_as_people_write_it() {
    for (seconds, expect) in [
        (0, "0s"),
        (59, "59s"),
        (72, "1m12s"),
        (600, "10m0s"),
        (5432, "1h30m32s"),
    ] {
        assert_eq!(duration(Duration::from_secs(seconds)), expect);
    }
}
