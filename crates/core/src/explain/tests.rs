//! Tests of whole lines of the waiter's messages, because users see them. The lines are in `told/`,
//! in one file for each test. `GENERATE=1 cargo test -p migration-gate-core --lib explain` writes
//! the files.

#![allow(
    clippy::disallowed_methods,
    reason = "the lines are files; the core itself has none"
)]

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
        applier: Applier::Unknown,
    }
}

fn waiting(what: What) -> Waiting {
    Waiting {
        job: JobName::Exact(JOB.into()),
        what,
        trouble: None,
        record_unread: false,
        applier: Applier::Unknown,
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

/// A required Job that was never seen, with this problem of its watch.
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
        applier: Applier::Unknown,
    }
}

const ATTEMPT: Option<Attempt> = Some(Attempt { number: 2, of: 4 });

const TIMEOUT: Duration = Duration::from_mins(10);

fn old_complete(version: String, foreign: bool) -> What {
    What::OldComplete { version, foreign }
}

/// All values of [`What`].
fn all() -> Vec<What> {
    let version = || "version 1 (image piefed/init:1)".to_owned();
    let untold = "an unknown version".to_owned();
    let queue = Some("batch".into());
    let failure = failure("BackoffLimitExceeded", "too often");
    vec![
        What::NoJob,
        What::Vanished,
        What::Settling { vanished: false },
        What::Deleting,
        old_complete(version(), false),
        old_complete(untold, false),
        old_complete("version 10 (image flyway:10)".to_owned(), true),
        What::OldFailed { version: version() },
        What::Other { version: version() },
        What::Forgotten,
        What::Empty,
        What::Failed { failure },
        What::FailedUnlessRecorded,
        What::Suspended { queue: None },
        What::Suspended { queue },
        What::NoPod,
        What::BetweenAttempts { attempt: ATTEMPT },
        What::PodNotReady { attempt: ATTEMPT },
        What::Running { attempt: ATTEMPT },
        What::Succeeding,
        What::Failing,
    ]
}

/// Compares the lines with those in the test's file.
fn check(test: &str, lines: &[String]) {
    let path = format!("{}/src/explain/told/{test}.txt", env!("CARGO_MANIFEST_DIR"));
    let lines = lines.join("\n") + "\n";
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(&path, &lines).expect("a file");
    }
    assert_eq!(lines, std::fs::read_to_string(&path).expect(&path));
}

/// The line for a wait.
fn told(what: What, trouble: Option<Trouble>) -> String {
    let moment = Moment {
        trouble,
        ..moment()
    };
    line(&subject(), &waiting(what), &moment).expect("a line")
}

/// The reason for a wait that has timed out.
fn gave_up(waiting: Waiting, seen: &Seen) -> String {
    let trouble = seen.jobs[0].trouble().map(|trouble| trouble.kind);
    let waiting = Waiting { trouble, ..waiting };
    timed_out(&subject(), &[waiting], seen, TIMEOUT, "sa")
}

#[test]
fn a_line_tells_what_is_seen_and_how_long_yet() {
    let lines: Vec<_> = all().into_iter().map(|what| told(what, None)).collect();
    check("a_line_tells_what_is_seen_and_how_long_yet", &lines);
    assert_eq!(line(&subject(), &waiting(What::Nothing), &moment()), None);
}

#[test]
fn a_line_tells_of_trouble_what_it_is() {
    let forbidden = trouble(Denied, true, "jobs.batch is forbidden");
    let refused = trouble(Unreachable, false, "Connection refused");
    let late = trouble(Unreachable, true, "etcdserver: request timed out");
    let lines = [
        told(What::Nothing, forbidden),
        told(What::NoPod, refused),
        told(What::Nothing, late),
    ];
    check("a_line_tells_of_trouble_what_it_is", &lines);
}

#[test]
fn a_record_that_was_not_read_is_not_passed_off_as_empty() {
    let mut seen = unseen(None);
    seen.record.watch.trouble = trouble(Denied, true, "configmaps is forbidden");
    let mut lines = Vec::new();
    for what in [What::NoJob, What::Vanished] {
        let unread = Waiting {
            record_unread: true,
            ..waiting(what)
        };
        lines.extend(line(&subject(), &unread, &moment()));
        lines.push(gave_up(unread, &seen));
    }
    let test = "a_record_that_was_not_read_is_not_passed_off_as_empty";
    check(test, &lines);
}

#[test]
fn the_deadline_tells_what_to_do() {
    let whats = all().into_iter().map(waiting);
    let mut lines: Vec<_> = whats.map(|w| gave_up(w, &unseen(None))).collect();
    // The last one came too shortly before the deadline.
    let user = r#"User "sa" cannot list resource "jobs""#;
    for (what, kind, answered, message) in [
        (What::Nothing, Unreachable, false, "Connection refused"),
        (
            What::Suspended { queue: None },
            Unreachable,
            true,
            "too many requests",
        ),
        (What::Nothing, Denied, true, user),
    ] {
        let seen = unseen(trouble(kind, answered, message));
        lines.push(gave_up(waiting(what), &seen));
    }
    check("the_deadline_tells_what_to_do", &lines);
}

/// Requirements that are met are no longer waited for.
#[test]
fn the_trouble_is_that_of_the_job_that_is_waited_for() {
    let mut seen = unseen(None);
    let away = trouble(Unreachable, false, "Connection refused");
    seen.jobs.extend(unseen(away).jobs);
    let waiting = Waiting {
        trouble: Some(Unreachable),
        ..waiting(What::NoPod)
    };
    let text = timed_out(&subject(), &[waiting], &seen, TIMEOUT, "sa");
    let expect =
        "gave up after 10m0s: the API server did not answer at the end: Connection refused;";
    assert!(text.starts_with(expect), "{text}");
}

#[test]
fn what_is_not_permitted_is_named_with_the_verb_that_was_refused() {
    let job = JobName::Exact(JOB.into());
    let lines = [
        r#"jobs.batch is forbidden: User "sa" cannot list resource"#,
        r#"jobs.batch is forbidden: User "sa" cannot watch resource"#,
        "Unauthorized",
    ]
    .map(|message| not_permitted(&subject(), &job, message, "sa", Duration::from_secs(30)));
    let test = "what_is_not_permitted_is_named_with_the_verb_that_was_refused";
    check(test, &lines);
}

#[test]
fn an_end_is_told_with_its_reason() {
    let mut lines = vec![opened(&Why::Complete {
        job: JOB.into(),
        version: "version 2 (image piefed/init:2)".into(),
    })];
    for image in [Some("piefed/init:2"), None] {
        lines.push(opened(&Why::Recorded {
            version: "2".into(),
            image: image.map(str::to_owned),
            completed: jiff::Timestamp::UNIX_EPOCH,
        }));
    }
    for (reason, message) in [("", ""), ("A", ""), ("", "b"), ("A", "b")] {
        lines.push(job_failed(&subject(), &failure(reason, message)));
    }
    check("an_end_is_told_with_its_reason", &lines);
}

/// The Job's applier counts, or else the workload's.
#[test]
fn the_way_out_is_that_of_who_applies_the_job() {
    let argo_cd = |replaces| Applier::ArgoCd {
        application: "shop".into(),
        replaces,
    };
    let (namespace, name) = ("flux-system".to_owned(), "shop".to_owned());
    let release = Applier::Helm {
        release: "shop".into(),
    };
    let appliers = [
        argo_cd(true),
        argo_cd(false),
        Applier::Flux {
            namespace: namespace.clone(),
            name: name.clone(),
        },
        Applier::FluxRelease { namespace, name },
        release.clone(),
        Applier::Kubectl,
    ];
    let mut lines = Vec::new();
    for applier in appliers {
        let of_workload = Subject {
            applier: applier.clone(),
            ..subject()
        };
        let time_out = |subject: &Subject, waiting: Waiting| {
            timed_out(subject, &[waiting], &unseen(None), TIMEOUT, "sa")
        };
        lines.push(time_out(&of_workload, waiting(What::NoJob)));
        let old = Waiting {
            applier: applier.clone(),
            ..waiting(old_complete("version 1".to_owned(), false))
        };
        let other = Subject {
            applier: release.clone(),
            ..subject()
        };
        lines.push(time_out(&other, old));
        let failure = Failure {
            applier,
            ..failure("", "")
        };
        let failed = Waiting {
            applier: failure.applier.clone(),
            ..waiting(What::Failed {
                failure: failure.clone(),
            })
        };
        lines.extend(line(&subject(), &failed, &moment()));
        lines.push(job_failed(&subject(), &failure));
    }
    check("the_way_out_is_that_of_who_applies_the_job", &lines);
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
