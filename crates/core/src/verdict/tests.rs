//! The rows of the waiter's table, in its order.

use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits {
    timeout: Duration::from_mins(10),
    denied: Duration::from_secs(30),
    settle: Duration::from_secs(5),
};

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn version_2() -> Wanted {
    Wanted::Version("web:2".into())
}

fn mutable() -> Wanted {
    Wanted::Version("web".into())
}

fn job(tag: &str, status: &Value) -> Sight<Job> {
    job_with(tag, status, &json!({}))
}

fn job_with(tag: &str, status: &Value, fields: &Value) -> Sight<Job> {
    let mut object = json!({
        "metadata": {"uid": "u"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("init:{tag}")}]}}},
        "status": status,
    });
    json_patch::merge(&mut object, fields);
    Sight::Present(serde_json::from_value(object).expect("a Job"))
}

fn condition(kind: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": "True"}]})
}

fn record(images: &[&str]) -> Sight<Record> {
    let data: serde_json::Map<_, _> = images
        .iter()
        .map(|image| {
            let entry = Entry {
                image: (*image).to_owned(),
                job: "j".into(),
                uid: "u".into(),
                completed: Timestamp::UNIX_EPOCH,
            };
            (entry.key(), entry.to_value().into())
        })
        .collect();
    Sight::Present(serde_json::from_value(json!({"data": data})).expect("a record"))
}

const NONE: Sight<Record> = Sight::Absent { vanished: None };
const NO_JOB: Sight<Job> = Sight::Absent { vanished: None };

fn trouble(kind: TroubleKind, since: u64) -> Option<Trouble> {
    let mut source = Source::<Job>::default();
    source.is_in_trouble(kind, "no".into(), true, seconds(since));
    source.trouble
}

fn seen(job: Sight<Job>, record: Sight<Record>) -> Seen {
    Seen {
        job: Source {
            sight: job,
            trouble: None,
        },
        record: Source {
            sight: record,
            trouble: None,
        },
    }
}

#[track_caller]
fn opens(wanted: &Wanted, seen: &Seen) {
    let verdict = verdict(seen, wanted, &LIMITS, seconds(60));
    assert!(matches!(verdict, Verdict::Open(_)), "{verdict:?}");
}

#[track_caller]
fn fails(wanted: &Wanted, seen: &Seen) {
    let verdict = verdict(seen, wanted, &LIMITS, seconds(60));
    assert!(matches!(verdict, Verdict::Failed { .. }), "{verdict:?}");
}

#[track_caller]
fn waits(wanted: &Wanted, seen: &Seen, expect: &What) {
    match verdict(seen, wanted, &LIMITS, seconds(60)) {
        Verdict::Wait { waiting, .. } => assert_eq!(waiting.what, *expect),
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn job_complete_of_the_wanted_version() {
    for record_sight in [NONE, record(&["init:1"]), Sight::Unknown] {
        opens(
            &version_2(),
            &seen(job("2", &condition("Complete")), record_sight),
        );
    }
    // Being deleted, it has completed all the same.
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    opens(
        &version_2(),
        &seen(job_with("2", &condition("Complete"), &deleting), NONE),
    );
    opens(
        &mutable(),
        &seen(job("latest", &condition("Complete")), NONE),
    );
    let digest = |image: &str| Wanted::Version(image.to_owned());
    let by_digest =
        json!({"spec": {"template": {"spec": {"containers": [{"image": "init@sha256:ab"}]}}}});
    let complete = |fields: &Value| seen(job_with("1", &condition("Complete"), fields), NONE);
    opens(&digest("web@sha256:ab"), &complete(&by_digest));
}

#[test]
fn a_record_of_the_wanted_immutable_version() {
    for sight in [
        NO_JOB,
        Sight::Unknown,
        Sight::Absent {
            vanished: Some(seconds(60)),
        },
        job("2", &json!({"active": 1})),
        job("2", &condition("Failed")),
        job("3", &condition("Complete")),
        job("3", &json!({"active": 1})),
    ] {
        opens(&version_2(), &seen(sight, record(&["init:1", "init:2"])));
    }
    opens(
        &Wanted::Version("web@sha256:ab".into()),
        &seen(NO_JOB, record(&["init@sha256:ab"])),
    );
    waits(
        &version_2(),
        &seen(NO_JOB, record(&["init:1", "init:3", "init"])),
        &What::NoJob,
    );
    // The tag that is spelt like a digest's key is not the digest.
    waits(
        &Wanted::Version("web@sha256:ab".into()),
        &seen(NO_JOB, record(&["init:sha256.ab"])),
        &What::NoJob,
    );
}

#[test]
fn no_job_and_a_record_of_a_mutable_version() {
    opens(&mutable(), &seen(NO_JOB, record(&["init:latest"])));
    // Versions that can't be compared are not the same.
    waits(&mutable(), &seen(NO_JOB, record(&["init:1"])), &What::NoJob);
    // A new Job runs: the record is of an older one.
    let running = job("latest", &json!({"active": 1}));
    waits(
        &mutable(),
        &seen(running, record(&["init:latest"])),
        &What::Running {
            attempt: Some(Attempt { number: 1, of: 7 }),
        },
    );
    waits(
        &mutable(),
        &seen(Sight::Unknown, record(&["init:latest"])),
        &What::Nothing,
    );
}

#[test]
fn a_mutable_job_that_vanished_may_be_on_its_way_back() {
    let vanished = |at| {
        seen(
            Sight::Absent {
                vanished: Some(seconds(at)),
            },
            record(&["init:latest"]),
        )
    };
    waits(&mutable(), &vanished(58), &What::Vanished);
    waits(&Wanted::Any, &vanished(58), &What::Vanished);
    match verdict(&vanished(58), &mutable(), &LIMITS, seconds(60)) {
        Verdict::Wait { until, .. } => assert_eq!(until, seconds(63)),
        verdict => panic!("{verdict:?}"),
    }
    opens(&mutable(), &vanished(55));
    opens(&Wanted::Any, &vanished(55));
}

#[test]
fn job_complete_of_another_version_and_no_record_of_the_wanted_one() {
    let old = |image: &str| What::OldComplete {
        image: Some(image.to_owned()),
    };
    for record_sight in [NONE, record(&["init:1"])] {
        let seen = seen(job("1", &condition("Complete")), record_sight);
        waits(&version_2(), &seen, &old("init:1"));
        waits(&mutable(), &seen, &old("init:1"));
    }
    let seen_latest = seen(job("latest", &condition("Complete")), NONE);
    waits(&version_2(), &seen_latest, &old("init:latest"));
    // A Job whose image can't be told is of no version.
    let nameless = json!({"spec": {"template": null}});
    let seen_nameless = seen(job_with("2", &condition("Complete"), &nameless), NONE);
    waits(
        &version_2(),
        &seen_nameless,
        &What::OldComplete { image: None },
    );
    waits(
        &mutable(),
        &seen_nameless,
        &What::OldComplete { image: None },
    );
}

#[test]
fn job_failed_of_the_wanted_version() {
    let failed = || job("2", &condition("Failed"));
    fails(&version_2(), &seen(failed(), NONE));
    fails(&version_2(), &seen(failed(), record(&["init:1"])));
    fails(
        &mutable(),
        &seen(job("latest", &condition("Failed")), record(&["init"])),
    );
    fails(&Wanted::Any, &seen(failed(), record(&["init:2"])));
    // Where the record has no say while there is a Job, it isn't waited for.
    fails(
        &mutable(),
        &seen(job("latest", &condition("Failed")), Sight::Unknown),
    );
    // Otherwise it might know better, so it is heard first…
    let mut unread = seen(failed(), Sight::Unknown);
    waits(&version_2(), &unread, &What::Nothing);
    unread.record.trouble = trouble(TroubleKind::Unreachable, 31);
    waits(&version_2(), &unread, &What::FailedUnlessRecorded);
    // …unless it can't be.
    unread.record.trouble = trouble(TroubleKind::Unreachable, 30);
    fails(&version_2(), &unread);
    unread.record.trouble = trouble(TroubleKind::Denied, 60);
    fails(&version_2(), &unread);
}

#[test]
fn job_failed_and_being_deleted() {
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    for wanted in [version_2(), Wanted::Any] {
        let seen = seen(job_with("2", &condition("Failed"), &deleting), NONE);
        waits(&wanted, &seen, &What::Deleting);
    }
}

#[test]
fn job_failed_of_another_version() {
    waits(
        &version_2(),
        &seen(job("1", &condition("Failed")), NONE),
        &What::OldFailed {
            image: Some("init:1".into()),
        },
    );
}

#[test]
fn job_suspended_or_running_or_without_a_pod() {
    let attempt = |number| Some(Attempt { number, of: 4 });
    let limit = json!({"spec": {"backoffLimit": 3}});
    let check = |status: Value, fields: &Value, expect: What| {
        for tag in ["1", "2"] {
            let mut fields = fields.clone();
            json_patch::merge(&mut fields, &limit);
            waits(
                &version_2(),
                &seen(job_with(tag, &status, &fields), NONE),
                &expect,
            );
        }
    };
    let none = json!({});
    check(
        json!({}),
        &json!({"spec": {"suspend": true}}),
        What::Suspended,
    );
    check(json!({}), &none, What::NoPod);
    check(
        json!({"active": 1, "ready": 0}),
        &none,
        What::PodNotReady {
            attempt: attempt(1),
        },
    );
    check(
        json!({"active": 1, "ready": 1}),
        &none,
        What::Running {
            attempt: attempt(1),
        },
    );
    check(
        json!({"failed": 1}),
        &none,
        What::BetweenAttempts {
            attempt: attempt(2),
        },
    );
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    check(json!({"active": 1}), &deleting, What::Deleting);
}

#[test]
fn no_job_and_no_record() {
    for wanted in [version_2(), mutable(), Wanted::Any] {
        waits(&wanted, &seen(NO_JOB, NONE), &What::NoJob);
        waits(&wanted, &seen(NO_JOB, record(&[])), &What::NoJob);
    }
}

#[test]
fn job_deleted_while_waiting() {
    for record_sight in [NONE, record(&["init:1"])] {
        let vanished = Sight::Absent {
            vanished: Some(seconds(1)),
        };
        waits(&version_2(), &seen(vanished, record_sight), &What::Vanished);
    }
}

#[test]
fn success_criteria_met_or_failure_target_only() {
    waits(
        &version_2(),
        &seen(job("2", &condition("SuccessCriteriaMet")), NONE),
        &What::Succeeding,
    );
    waits(
        &version_2(),
        &seen(job("2", &condition("FailureTarget")), NONE),
        &What::Failing,
    );
}

#[test]
fn a_job_that_is_about_to_fail_is_known_before() {
    let failing = seen(job("2", &condition("FailureTarget")), NONE);
    assert_eq!(failing.about_to_fail(&version_2()), Some("u"));
    assert_eq!(failing.about_to_fail(&Wanted::Any), Some("u"));
    assert_eq!(failing.about_to_fail(&mutable()), None);
    for other in ["Failed", "SuccessCriteriaMet"] {
        let seen = seen(job("2", &condition(other)), NONE);
        assert_eq!(seen.about_to_fail(&version_2()), None);
    }
    let deleting = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    let deleting = job_with("2", &condition("FailureTarget"), &deleting);
    assert_eq!(seen(deleting, NONE).about_to_fail(&version_2()), None);
}

#[test]
fn not_permitted() {
    let mut denied = Seen::default();
    denied.job.trouble = trouble(TroubleKind::Denied, 31);
    match verdict(&denied, &version_2(), &LIMITS, seconds(60)) {
        Verdict::Wait { waiting, until } => {
            assert_eq!(waiting.trouble, Some(TroubleKind::Denied));
            assert_eq!(until, seconds(61));
        }
        verdict => panic!("{verdict:?}"),
    }
    // Other trouble in between doesn't make it any better.
    denied.job.trouble = trouble(TroubleKind::Denied, 30);
    for (kind, now) in [(TroubleKind::Unreachable, 40), (TroubleKind::Denied, 50)] {
        denied
            .job
            .is_in_trouble(kind, "no".into(), true, seconds(now));
    }
    assert_eq!(
        verdict(&denied, &version_2(), &LIMITS, seconds(60)),
        Verdict::NotPermitted {
            message: "no".into()
        }
    );
    // What the record says needs no right to see the Job.
    denied.record.sight = record(&["init:2"]);
    opens(&version_2(), &denied);
    // And what the Job says needs no right to see the record.
    let mut no_record = seen(job("2", &condition("Complete")), Sight::Unknown);
    no_record.record.trouble = trouble(TroubleKind::Denied, 1);
    opens(&version_2(), &no_record);
    no_record.job.sight = NO_JOB;
    waits(&version_2(), &no_record, &What::NoJob);
    let unread = |seen: &Seen| match verdict(seen, &version_2(), &LIMITS, seconds(60)) {
        Verdict::Wait { waiting, .. } => waiting.record_unread,
        verdict => panic!("{verdict:?}"),
    };
    assert!(unread(&no_record));
    no_record.record.sight = NONE;
    assert!(!unread(&no_record));
}

#[test]
fn api_unreachable() {
    let mut away = seen(job("2", &json!({"active": 1})), NONE);
    away.job.trouble = trouble(TroubleKind::Unreachable, 1);
    match verdict(&away, &version_2(), &LIMITS, seconds(599)) {
        Verdict::Wait { waiting, until } => {
            assert_eq!(waiting.trouble, Some(TroubleKind::Unreachable));
            assert_eq!(until, seconds(600));
        }
        verdict => panic!("{verdict:?}"),
    }
}

#[test]
fn the_deadline() {
    let old = seen(job("1", &condition("Complete")), NONE);
    let at = |now| verdict(&old, &version_2(), &LIMITS, now);
    assert!(matches!(at(seconds(599)), Verdict::Wait { until, .. } if until == seconds(600)));
    match at(seconds(600)) {
        Verdict::TimedOut(waiting) => assert!(matches!(waiting.what, What::OldComplete { .. })),
        verdict => panic!("{verdict:?}"),
    }
    // What opens the gate at the last moment opens it.
    let complete = seen(job("2", &condition("Complete")), NONE);
    let last = verdict(&complete, &version_2(), &LIMITS, seconds(600));
    assert!(matches!(last, Verdict::Open(_)));
}

#[test]
fn freshness_any() {
    for tag in ["1", "2", "latest"] {
        opens(&Wanted::Any, &seen(job(tag, &condition("Complete")), NONE));
        fails(&Wanted::Any, &seen(job(tag, &condition("Failed")), NONE));
        opens(
            &Wanted::Any,
            &seen(NO_JOB, record(&[&format!("init:{tag}")])),
        );
    }
    // Otherwise the first completion would open the gate for ever.
    waits(
        &Wanted::Any,
        &seen(job("3", &json!({})), record(&["init:1", "init:2"])),
        &What::NoPod,
    );
}

#[test]
fn every_wake_up_lies_ahead() {
    let mut seen = seen(
        Sight::Absent {
            vanished: Some(seconds(1)),
        },
        Sight::Unknown,
    );
    seen.job.trouble = trouble(TroubleKind::Unreachable, 2);
    seen.record.trouble = trouble(TroubleKind::Unreachable, 3);
    for now in [
        seconds(5),
        seconds(6),
        seconds(33),
        seconds(34),
        seconds(599),
    ] {
        match verdict(&seen, &version_2(), &LIMITS, now) {
            Verdict::Wait { until, .. } => assert!(until > now, "{now:?} {until:?}"),
            verdict => panic!("{verdict:?}"),
        }
    }
}
