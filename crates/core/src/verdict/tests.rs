//! The rows of the waiter's table, in its order.

use serde_json::{Value, json};

use super::*;
use crate::gates::{Gate, Requirement};
use crate::job::Job;
use crate::record::Record;

const LIMITS: Limits = Limits {
    timeout: Duration::from_mins(10),
    denied: Duration::from_secs(30),
    settle: Duration::from_secs(5),
    no_pod: Duration::from_secs(10),
};

/// When most of the rows are asked, since the waiter's start.
const ASKED: u64 = 60;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn clock() -> Timestamp {
    "2026-01-01T00:01:00Z".parse().expect("a time")
}

fn now(elapsed: u64) -> Now {
    Now {
        elapsed: seconds(elapsed),
        clock: clock(),
    }
}

fn wanted_by(settings: &Value, template: &Value) -> Wanted {
    let mut gate = json!({"name": "g", "namespace": "n", "job": "j", "serviceAccount": "s"});
    json_patch::merge(&mut gate, settings);
    let gate: Gate = serde_json::from_value(gate).expect("a gate");
    Wanted::of(&gate, template).expect("a version")
}

fn wanted(image: &str) -> Wanted {
    let template = json!({"spec": {"containers": [{"name": "web", "image": image}]}});
    wanted_by(&json!({}), &template)
}

fn version_2() -> Wanted {
    wanted("web:2")
}

fn mutable() -> Wanted {
    wanted("web")
}

/// A Job of the version `tag`, old enough to have had its first pod.
fn job(tag: &str, status: &Value) -> Job {
    job_with(tag, status, &json!({}))
}

fn job_with(tag: &str, status: &Value, fields: &Value) -> Job {
    let mut object = json!({
        "metadata": {"name": "j", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": format!("init:{tag}")}]}}},
        "status": status,
    });
    json_patch::merge(&mut object, fields);
    serde_json::from_value(object).expect("a Job")
}

fn named(name: &str, created: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created}})
}

fn deleting() -> Value {
    json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}})
}

fn condition(kind: &str) -> Value {
    json!({"conditions": [{"type": kind, "status": "True"}]})
}

fn running() -> Value {
    json!({"active": 1, "ready": 1})
}

/// What releases up to 0.1 wrote of completions of these images.
fn record(images: &[&str]) -> Record {
    let data: serde_json::Map<_, _> = images
        .iter()
        .map(|image| {
            let entry = json!({"image": image, "job": "j", "uid": "old",
                               "completed": "1970-01-01T00:00:00Z"});
            let version = crate::image::Reference::of(image)
                .version()
                .replace(':', ".");
            (version, entry.to_string().into())
        })
        .collect();
    let record: Record = serde_json::from_value(json!({"data": data})).expect("a record");
    assert_eq!(record.entries.len(), images.len(), "{record:?}");
    record
}

/// A gate with one Job `j`, of which nothing is known yet.
fn unseen() -> Seen {
    Seen {
        jobs: vec![Jobs::new(Requirement::parse("j").expect("a name"))],
        ..Seen::default()
    }
}

/// What a waiter sees that saw all of it when it started.
fn seen(jobs: impl IntoIterator<Item = Job>, record: Option<Record>) -> Seen {
    let mut seen = unseen();
    seen.jobs[0].listed(0, jobs.into_iter().collect(), Duration::ZERO);
    read(&mut seen, record);
    seen
}

fn read(seen: &mut Seen, record: Option<Record>) {
    seen.record.watch.answers(Duration::ZERO);
    seen.record.record = record;
}

/// A gate of several requirements, with nothing recorded.
fn several(requirements: &[&str]) -> Seen {
    let mut seen = Seen::default();
    for requirement in requirements {
        let requirement = Requirement::parse(requirement).expect("a requirement");
        let mut jobs = Jobs::new(requirement);
        for alternative in 0..jobs.watches.len() {
            jobs.listed(alternative, Vec::new(), Duration::ZERO);
        }
        seen.jobs.push(jobs);
    }
    read(&mut seen, None);
    seen
}

fn fails_since(watch: &mut Watch, kind: TroubleKind, since: u64) {
    watch.fails(kind, "no".into(), true, seconds(since));
}

#[track_caller]
fn opens(wanted: &Wanted, seen: &Seen) {
    let verdict = verdict(seen, wanted, &LIMITS, now(ASKED));
    assert!(matches!(verdict, Verdict::End(End::Open(_))), "{verdict:?}");
}

#[track_caller]
fn fails(wanted: &Wanted, seen: &Seen) {
    let verdict = verdict(seen, wanted, &LIMITS, now(ASKED));
    assert!(
        matches!(verdict, Verdict::End(End::Failed(_))),
        "{verdict:?}"
    );
}

#[track_caller]
fn waiting_at(wanted: &Wanted, seen: &Seen, at: u64) -> (Vec<Waiting>, Duration) {
    match verdict(seen, wanted, &LIMITS, now(at)) {
        Verdict::Wait { waiting, until } => (waiting, until),
        Verdict::End(end) => panic!("{end:?}"),
    }
}

#[track_caller]
fn waits(wanted: &Wanted, seen: &Seen, expect: &What) {
    let (waiting, _) = waiting_at(wanted, seen, ASKED);
    let whats: Vec<&What> = waiting.iter().map(|waiting| &waiting.what).collect();
    assert_eq!(whats, [expect]);
}

#[test]
fn job_complete_of_the_wanted_version() {
    for record in [None, Some(record(&["init:1"]))] {
        opens(
            &version_2(),
            &seen([job("2", &condition("Complete"))], record),
        );
    }
    // Being deleted, it has completed all the same.
    opens(
        &version_2(),
        &seen([job_with("2", &condition("Complete"), &deleting())], None),
    );
    opens(
        &mutable(),
        &seen([job("latest", &condition("Complete"))], None),
    );
    let by_digest = json!({"spec": {"template": {"spec": {
        "containers": [{"name": "c", "image": "init@sha256:ab"}],
    }}}});
    let complete = seen([job_with("1", &condition("Complete"), &by_digest)], None);
    opens(&wanted("web@sha256:ab"), &complete);
    // What opened is told.
    let why = Why::Complete {
        job: "j".into(),
        version: "version 2 (image init:2)".into(),
    };
    assert_eq!(
        verdict(
            &seen([job("2", &condition("Complete"))], None),
            &version_2(),
            &LIMITS,
            now(0)
        ),
        Verdict::End(End::Open(vec![why]))
    );
}

/// The record may say that this completion doesn't count any more.
#[test]
fn a_complete_job_opens_once_the_record_was_read_or_cannot_be() {
    for (wanted, tag) in [
        (version_2(), "2"),
        (mutable(), "latest"),
        (Wanted::Any, "1"),
    ] {
        let mut unread = unseen();
        unread.jobs[0].listed(0, vec![job(tag, &condition("Complete"))], Duration::ZERO);
        waits(&wanted, &unread, &What::Nothing);
        fails_since(&mut unread.record.watch, TroubleKind::Unreachable, 31);
        assert_eq!(waiting_at(&wanted, &unread, ASKED).1, seconds(61));
        let mut away = unread.clone();
        away.record.watch = Watch::default();
        fails_since(&mut away.record.watch, TroubleKind::Unreachable, 30);
        opens(&wanted, &away);
        unread.record.watch = Watch::default();
        fails_since(&mut unread.record.watch, TroubleKind::Denied, 60);
        opens(&wanted, &unread);
    }
}

#[test]
fn a_job_that_was_to_run_nothing_does_not_count() {
    let none = json!({"spec": {"completions": 0}});
    let empty = job_with("2", &condition("Complete"), &none);
    waits(&version_2(), &seen([empty.clone()], None), &What::Empty);
    // It is no attempt either.
    opens(&version_2(), &seen([empty], Some(record(&["init:2"]))));
}

#[test]
fn a_first_attempt_of_the_wanted_version_holds_although_it_is_recorded() {
    let attempt = |number| Some(Attempt { number, of: 7 });
    let recorded = || Some(record(&["init:2"]));
    let check = |status: Value, expect: &What| {
        waits(&version_2(), &seen([job("2", &status)], recorded()), expect);
    };
    check(
        running(),
        &What::Running {
            attempt: attempt(1),
        },
    );
    check(
        json!({"active": 1, "ready": 0}),
        &What::PodNotReady {
            attempt: attempt(1),
        },
    );
    check(condition("SuccessCriteriaMet"), &What::Succeeding);
    // Of another version it says nothing.
    opens(&version_2(), &seen([job("3", &running())], recorded()));
    // So it does of this version, where it is being deleted or has failed before.
    let deleted = job_with("2", &running(), &deleting());
    opens(&version_2(), &seen([deleted], recorded()));
    opens(
        &version_2(),
        &seen([job("2", &json!({"active": 1, "failed": 1}))], recorded()),
    );
}

#[test]
fn a_job_without_a_pod_holds_a_recorded_version_for_ten_seconds() {
    // It is 2026-01-01T00:01:00Z.
    let without_pod = |created: &str| {
        let fields = json!({"metadata": {"creationTimestamp": created}});
        let job = job_with("2", &json!({}), &fields);
        seen([job], Some(record(&["init:2"])))
    };
    opens(&version_2(), &without_pod("2026-01-01T00:00:50Z"));
    let young = without_pod("2026-01-01T00:00:51Z");
    waits(&version_2(), &young, &What::NoPod);
    assert_eq!(waiting_at(&version_2(), &young, ASKED).1, seconds(61));
    // By a clock that is behind, it isn't older than nothing.
    let future = without_pod("2026-01-01T01:00:00Z");
    assert_eq!(waiting_at(&version_2(), &future, ASKED).1, seconds(70));
    let ageless = job_with(
        "2",
        &json!({}),
        &json!({"metadata": {"creationTimestamp": null}}),
    );
    opens(&version_2(), &seen([ageless], Some(record(&["init:2"]))));
}

#[test]
fn a_record_of_the_wanted_immutable_version() {
    let recorded = || Some(record(&["init:1", "init:2"]));
    let suspended = json!({"spec": {"suspend": true}});
    for jobs in [
        vec![],
        vec![job_with("2", &json!({}), &suspended)],
        vec![job("2", &json!({}))],
        vec![job_with("2", &running(), &deleting())],
        vec![job("2", &json!({"active": 1, "failed": 1}))],
        vec![job("2", &json!({"failed": 1}))],
        vec![job("2", &condition("FailureTarget"))],
        vec![job("2", &condition("Failed"))],
        vec![job("3", &condition("Complete"))],
        vec![job("3", &running())],
    ] {
        opens(&version_2(), &seen(jobs, recorded()));
    }
    let mut vanished = seen([], recorded());
    vanished.jobs[0].vanished = Some(seconds(60));
    opens(&version_2(), &vanished);
    opens(
        &wanted("web@sha256:ab"),
        &seen([], Some(record(&["init@sha256:ab"]))),
    );
    waits(
        &version_2(),
        &seen([], Some(record(&["init:1", "init:3", "init"]))),
        &What::NoJob,
    );
    // The tag that is spelt like a digest's key is not the digest.
    waits(
        &wanted("web@sha256:ab"),
        &seen([], Some(record(&["init:sha256.ab"]))),
        &What::NoJob,
    );
}

/// A Job of this version may be at its first attempt.
#[test]
fn a_record_speaks_once_the_jobs_were_seen_or_cannot_be() {
    let mut blind = unseen();
    read(&mut blind, Some(record(&["init:2"])));
    waits(&version_2(), &blind, &What::Nothing);
    let watch = |kind, since| {
        let mut seen = blind.clone();
        fails_since(&mut seen.jobs[0].watches[0], kind, since);
        seen
    };
    assert_eq!(
        waiting_at(&version_2(), &watch(TroubleKind::Unreachable, 31), ASKED).1,
        seconds(61)
    );
    opens(&version_2(), &watch(TroubleKind::Unreachable, 30));
    opens(&version_2(), &watch(TroubleKind::Denied, 60));
}

#[test]
fn no_job_and_a_record_of_a_mutable_version() {
    opens(&mutable(), &seen([], Some(record(&["init:latest"]))));
    // A tag without a digit moves as `latest` does.
    opens(&wanted("web:main"), &seen([], Some(record(&["init:main"]))));
    // Versions that can't be compared are not the same.
    waits(
        &mutable(),
        &seen([], Some(record(&["init:1"]))),
        &What::NoJob,
    );
    // A new Job runs: the record is of an older one.
    for (wanted, tag) in [(mutable(), "latest"), (wanted("web:main"), "main")] {
        let image = format!("init:{tag}");
        waits(
            &wanted,
            &seen([job(tag, &running())], Some(record(&[&image]))),
            &What::Running {
                attempt: Some(Attempt { number: 1, of: 7 }),
            },
        );
        fails(
            &wanted,
            &seen([job(tag, &condition("Failed"))], Some(record(&[&image]))),
        );
    }
    let mut blind = unseen();
    read(&mut blind, Some(record(&["init:latest"])));
    waits(&mutable(), &blind, &What::Nothing);
}

#[test]
fn a_mutable_job_that_vanished_may_be_on_its_way_back() {
    let vanished = |at| {
        let mut seen = seen([job("latest", &running())], Some(record(&["init:latest"])));
        seen.jobs[0].deleted(job("latest", &running()), seconds(at));
        seen
    };
    waits(
        &mutable(),
        &vanished(58),
        &What::Settling { vanished: true },
    );
    waits(
        &Wanted::Any,
        &vanished(58),
        &What::Settling { vanished: true },
    );
    assert_eq!(waiting_at(&mutable(), &vanished(58), ASKED).1, seconds(63));
    opens(&mutable(), &vanished(55));
    opens(&Wanted::Any, &vanished(55));
}

/// Appliers delete the old Job before they create the new one, and a waiter may start in between.
#[test]
fn a_mutable_job_that_is_not_there_at_the_start_may_be_on_its_way() {
    for wanted in [mutable(), Wanted::Any] {
        let mut absent = unseen();
        absent.jobs[0].listed(0, Vec::new(), seconds(58));
        read(&mut absent, Some(record(&["init:latest"])));
        waits(&wanted, &absent, &What::Settling { vanished: false });
        assert_eq!(waiting_at(&wanted, &absent, ASKED).1, seconds(63));
        assert!(matches!(
            verdict(&absent, &wanted, &LIMITS, now(63)),
            Verdict::End(End::Open(_))
        ));
    }
}

#[test]
fn a_mutable_job_that_is_being_deleted_does_not_count() {
    for (wanted, tag) in [(mutable(), "latest"), (Wanted::Any, "1")] {
        let old = job_with(tag, &condition("Complete"), &deleting());
        let image = format!("init:{tag}");
        for record in [None, Some(record(&[&image]))] {
            waits(&wanted, &seen([old.clone()], record), &What::Deleting);
        }
        // Nor does it once it has gone.
        let mut gone = seen([old.clone()], None);
        gone.jobs[0].deleted(old, seconds(1));
        waits(&wanted, &gone, &What::Vanished);
    }
}

#[test]
fn job_complete_of_another_version_and_no_record_of_the_wanted_one() {
    let old = |image: &str| What::OldComplete {
        version: format!(
            "version {} (image {image})",
            image.rsplit(':').next().unwrap_or_default()
        ),
    };
    for record in [None, Some(record(&["init:1"]))] {
        let seen = seen([job("1", &condition("Complete"))], record);
        waits(&version_2(), &seen, &old("init:1"));
        waits(&mutable(), &seen, &old("init:1"));
    }
    let seen_latest = seen([job("latest", &condition("Complete"))], None);
    waits(&version_2(), &seen_latest, &old("init:latest"));
    // A Job whose image can't be told is of no version.
    let nameless = json!({"spec": {"template": null}});
    let seen_nameless = seen([job_with("2", &condition("Complete"), &nameless)], None);
    let untold = What::OldComplete {
        version: "a version that can't be told".into(),
    };
    waits(&version_2(), &seen_nameless, &untold);
    waits(&mutable(), &seen_nameless, &untold);
}

#[test]
fn job_failed_of_the_wanted_version() {
    let failed = || [job("2", &condition("Failed"))];
    fails(&version_2(), &seen(failed(), None));
    fails(&version_2(), &seen(failed(), Some(record(&["init:1"]))));
    fails(
        &mutable(),
        &seen(
            [job("latest", &condition("Failed"))],
            Some(record(&["init"])),
        ),
    );
    fails(&Wanted::Any, &seen(failed(), Some(record(&["init:2"]))));
    // Where the record has no say while there is a Job, it isn't waited for.
    let mut mutable_failed = unseen();
    mutable_failed.jobs[0].listed(0, vec![job("latest", &condition("Failed"))], Duration::ZERO);
    fails(&mutable(), &mutable_failed);
    fails(&Wanted::Any, &mutable_failed);
    // Otherwise it might know better, so it is heard first…
    let mut unread = unseen();
    unread.jobs[0].listed(0, failed().into(), Duration::ZERO);
    waits(&version_2(), &unread, &What::Nothing);
    fails_since(&mut unread.record.watch, TroubleKind::Unreachable, 31);
    waits(&version_2(), &unread, &What::FailedUnlessRecorded);
    assert_eq!(waiting_at(&version_2(), &unread, ASKED).1, seconds(61));
    // …unless it can't be.
    unread.record.watch = Watch::default();
    fails_since(&mut unread.record.watch, TroubleKind::Unreachable, 30);
    fails(&version_2(), &unread);
    unread.record.watch = Watch::default();
    fails_since(&mut unread.record.watch, TroubleKind::Denied, 60);
    fails(&version_2(), &unread);
}

#[test]
fn a_waiter_that_was_restarted_stays_with_a_failed_job() {
    let mut seen = seen([job("2", &condition("Failed"))], None);
    seen.restarted = true;
    let (waiting, until) = waiting_at(&version_2(), &seen, ASKED);
    let What::Failed { failure } = &waiting[0].what else {
        panic!("{waiting:?}");
    };
    assert_eq!((failure.job.as_str(), failure.uid.as_str()), ("j", "u"));
    assert_eq!(until, LIMITS.timeout);
    // It fails at the deadline, with the code of a failed Job.
    let last = verdict(&seen, &version_2(), &LIMITS, now(600));
    assert!(matches!(last, Verdict::End(End::Failed(_))), "{last:?}");
    // And the Job that is run again opens.
    seen.jobs[0].deleted(job("2", &condition("Failed")), seconds(70));
    let again = json!({"metadata": {"uid": "again"}});
    seen.jobs[0].changed(job_with("2", &running(), &again), seconds(71));
    assert!(!matches!(
        verdict(&seen, &version_2(), &LIMITS, now(72)),
        Verdict::End(_)
    ));
    let complete = job_with("2", &condition("Complete"), &again);
    seen.jobs[0].changed(complete, seconds(73));
    opens(&version_2(), &seen);
}

#[test]
fn job_failed_and_being_deleted() {
    for wanted in [version_2(), Wanted::Any] {
        let seen = seen([job_with("2", &condition("Failed"), &deleting())], None);
        waits(&wanted, &seen, &What::Deleting);
    }
}

#[test]
fn job_failed_of_another_version() {
    waits(
        &version_2(),
        &seen([job("1", &condition("Failed"))], None),
        &What::OldFailed {
            version: "version 1 (image init:1)".into(),
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
            // Of another version, that is what there is to say.
            let expect = match tag {
                "1" if expect != What::Deleting => What::Other {
                    version: "version 1 (image init:1)".into(),
                },
                _ => expect.clone(),
            };
            let seen = seen([job_with(tag, &status, &fields)], None);
            waits(&version_2(), &seen, &expect);
        }
    };
    let none = json!({});
    check(
        json!({}),
        &json!({"spec": {"suspend": true}}),
        What::Suspended { queue: None },
    );
    check(
        json!({}),
        &json!({"spec": {"suspend": true},
                "metadata": {"labels": {"kueue.x-k8s.io/queue-name": "batch"}}}),
        What::Suspended {
            queue: Some("batch".into()),
        },
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
        running(),
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
    check(json!({"active": 1}), &deleting(), What::Deleting);
}

#[test]
fn no_job_and_no_record() {
    for wanted in [version_2(), mutable(), Wanted::Any] {
        waits(&wanted, &seen([], None), &What::NoJob);
        waits(&wanted, &seen([], Some(record(&[]))), &What::NoJob);
    }
}

#[test]
fn job_deleted_while_waiting() {
    for record in [None, Some(record(&["init:1"]))] {
        let mut seen = seen([job("2", &running())], record);
        seen.jobs[0].deleted(job("2", &running()), seconds(1));
        waits(&version_2(), &seen, &What::Vanished);
        // It goes on with the new one.
        let again = json!({"metadata": {"uid": "again"}});
        let complete = job_with("2", &condition("Complete"), &again);
        seen.jobs[0].changed(complete, seconds(2));
        opens(&version_2(), &seen);
    }
}

#[test]
fn what_completed_in_the_moment_of_its_deletion_is_complete() {
    let complete = || job("2", &condition("Complete"));
    let mut deleted = seen([job("2", &running())], None);
    deleted.jobs[0].deleted(complete(), seconds(1));
    opens(&version_2(), &deleted);
    // Also where it was replaced, and only the second was heard of.
    let mut replaced = seen([complete()], None);
    let third = json!({"metadata": {"uid": "third"}});
    replaced.jobs[0].changed(job_with("3", &running(), &third), seconds(1));
    opens(&version_2(), &replaced);
    // Or the list after an outage lacks it.
    let mut listed = seen([complete()], None);
    listed.jobs[0].listed(0, Vec::new(), seconds(1));
    opens(&version_2(), &listed);
    // The last event of an older Job of the name doesn't take the newer one away.
    let mut late = seen([job_with("2", &running(), &third)], None);
    late.jobs[0].deleted(job("2", &running()), seconds(1));
    assert_eq!(late.job("j").map(|job| job.uid.as_str()), Some("third"));
}

#[test]
fn success_criteria_met_or_failure_target_only() {
    waits(
        &version_2(),
        &seen([job("2", &condition("SuccessCriteriaMet"))], None),
        &What::Succeeding,
    );
    waits(
        &version_2(),
        &seen([job("2", &condition("FailureTarget"))], None),
        &What::Failing,
    );
}

#[test]
fn a_job_that_is_about_to_fail_is_known_before() {
    let failing = seen([job("2", &condition("FailureTarget"))], None);
    assert_eq!(failing.about_to_fail(&version_2()), Some("u"));
    assert_eq!(failing.about_to_fail(&Wanted::Any), Some("u"));
    assert_eq!(failing.about_to_fail(&mutable()), None);
    for other in ["Failed", "SuccessCriteriaMet"] {
        let seen = seen([job("2", &condition(other))], None);
        assert_eq!(seen.about_to_fail(&version_2()), None);
    }
    let deleting = job_with("2", &condition("FailureTarget"), &deleting());
    assert_eq!(seen([deleting], None).about_to_fail(&version_2()), None);
}

#[test]
fn not_permitted() {
    let mut denied = unseen();
    fails_since(&mut denied.jobs[0].watches[0], TroubleKind::Denied, 31);
    let (waiting, until) = waiting_at(&version_2(), &denied, ASKED);
    assert_eq!(waiting[0].trouble, Some(TroubleKind::Denied));
    assert_eq!(until, seconds(61));
    // Other trouble in between doesn't make it any better.
    let watch = &mut denied.jobs[0].watches[0];
    *watch = Watch::default();
    fails_since(watch, TroubleKind::Denied, 30);
    for (kind, now) in [(TroubleKind::Unreachable, 40), (TroubleKind::Denied, 50)] {
        fails_since(watch, kind, now);
    }
    let not_permitted = Verdict::End(End::NotPermitted {
        subject: JobName::Exact("j".into()),
        message: "no".into(),
    });
    assert_eq!(
        verdict(&denied, &version_2(), &LIMITS, now(ASKED)),
        not_permitted
    );
    // A waiter that was restarted stays until its time is over.
    denied.restarted = true;
    assert_eq!(waiting_at(&version_2(), &denied, ASKED).1, LIMITS.timeout);
    assert_eq!(
        verdict(&denied, &version_2(), &LIMITS, now(600)),
        not_permitted
    );
    // What the record says needs no right to see the Job.
    read(&mut denied, Some(record(&["init:2"])));
    opens(&version_2(), &denied);
    // And what the Job says needs no right to see the record.
    let mut no_record = unseen();
    no_record.jobs[0].listed(0, vec![job("2", &condition("Complete"))], Duration::ZERO);
    fails_since(&mut no_record.record.watch, TroubleKind::Denied, 1);
    opens(&version_2(), &no_record);
    no_record.jobs = unseen().jobs;
    no_record.jobs[0].listed(0, Vec::new(), Duration::ZERO);
    waits(&version_2(), &no_record, &What::NoJob);
    let unread = |seen: &Seen| waiting_at(&version_2(), seen, ASKED).0[0].record_unread;
    assert!(unread(&no_record));
    read(&mut no_record, None);
    assert!(!unread(&no_record));
}

#[test]
fn api_unreachable() {
    let mut away = seen([job("2", &running())], None);
    fails_since(&mut away.jobs[0].watches[0], TroubleKind::Unreachable, 1);
    let (waiting, until) = waiting_at(&version_2(), &away, 599);
    assert_eq!(waiting[0].trouble, Some(TroubleKind::Unreachable));
    assert_eq!(until, seconds(600));
}

#[test]
fn the_deadline() {
    let old = seen([job("1", &condition("Complete"))], None);
    let at = |elapsed| verdict(&old, &version_2(), &LIMITS, now(elapsed));
    assert!(matches!(at(599), Verdict::Wait { until, .. } if until == seconds(600)));
    match at(600) {
        Verdict::End(End::TimedOut(waiting)) => {
            assert!(matches!(waiting[0].what, What::OldComplete { .. }));
        }
        verdict => panic!("{verdict:?}"),
    }
    // What opens the gate at the last moment opens it.
    let complete = seen([job("2", &condition("Complete"))], None);
    let last = verdict(&complete, &version_2(), &LIMITS, now(600));
    assert!(matches!(last, Verdict::End(End::Open(_))));
}

#[test]
fn freshness_any() {
    for tag in ["1", "2", "latest"] {
        let image = format!("init:{tag}");
        opens(
            &Wanted::Any,
            &seen([job(tag, &condition("Complete"))], None),
        );
        fails(&Wanted::Any, &seen([job(tag, &condition("Failed"))], None));
        opens(&Wanted::Any, &seen([], Some(record(&[&image]))));
    }
    // Otherwise the first completion would open the gate for ever.
    waits(
        &Wanted::Any,
        &seen([job("3", &json!({}))], Some(record(&["init:1", "init:2"]))),
        &What::NoPod,
    );
}

#[test]
fn every_wake_up_lies_ahead() {
    let mut seen = unseen();
    seen.jobs[0].vanished = Some(seconds(1));
    fails_since(&mut seen.jobs[0].watches[0], TroubleKind::Unreachable, 2);
    fails_since(&mut seen.record.watch, TroubleKind::Unreachable, 3);
    for at in [5, 6, 33, 34, 599] {
        let (_, until) = waiting_at(&version_2(), &seen, at);
        assert!(until > seconds(at), "{at:?} {until:?}");
    }
}

/// A Job for each release, as Helm charts make them.
#[test]
fn of_several_jobs_the_newest_of_the_wanted_version_counts() {
    let pattern = |jobs: Vec<Job>, record: Option<Record>| {
        let mut seen = several(&["j-*"]);
        seen.jobs[0].listed(0, jobs, Duration::ZERO);
        read(&mut seen, record);
        seen
    };
    let of = |name: &str, tag: &str, created: &str, status: &Value| {
        job_with(tag, status, &named(name, created))
    };
    let (first, second) = ("2025-12-31T00:00:00Z", "2025-12-31T00:00:01Z");
    let complete = condition("Complete");
    let failed = condition("Failed");
    // Older siblings neither open nor close the gate of a newer version.
    for old in [&complete, &failed, &running()] {
        let old = || of("j-1", "1", first, old);
        let new = |status: &Value| of("j-2", "2", second, status);
        opens(&version_2(), &pattern(vec![old(), new(&complete)], None));
        fails(&version_2(), &pattern(vec![old(), new(&failed)], None));
        waits(
            &version_2(),
            &pattern(vec![old(), new(&json!({}))], None),
            &What::NoPod,
        );
        opens(
            &version_2(),
            &pattern(vec![old()], Some(record(&["init:2"]))),
        );
    }
    // Nor do newer ones, after a rollback.
    let newer = of("j-3", "3", second, &failed);
    opens(
        &version_2(),
        &pattern(vec![of("j-2", "2", first, &complete), newer], None),
    );
    // Of two of one version, the newer one is at work: somebody migrates again.
    let again = pattern(
        vec![
            of("j-2", "2", first, &complete),
            of("j-3", "2", second, &running()),
        ],
        Some(record(&["init:2"])),
    );
    waits(
        &version_2(),
        &again,
        &What::Running {
            attempt: Some(Attempt { number: 1, of: 7 }),
        },
    );
    // The one that completed opens, after the newer one has failed.
    let both = pattern(
        vec![
            of("j-2", "2", first, &complete),
            of("j-3", "2", second, &failed),
        ],
        None,
    );
    opens(&version_2(), &both);
    // Under a tag that moves, the newest decides alone.
    let moving = |new: &Value| {
        pattern(
            vec![
                of("j-2", "main", first, &complete),
                of("j-3", "main", second, new),
            ],
            Some(record(&["init:main"])),
        )
    };
    fails(&wanted("web:main"), &moving(&failed));
    waits(&wanted("web:main"), &moving(&json!({})), &What::NoPod);
    // A Job of another name is none of the gate's.
    waits(&version_2(), &several(&["j-*"]), &What::NoJob);
}

#[test]
fn a_gate_with_several_jobs_opens_when_each_has_completed() {
    let mut seen = several(&["prepare", "migrate"]);
    let whats = |seen: &Seen| -> Vec<What> {
        let waiting = waiting_at(&version_2(), seen, ASKED).0;
        waiting.into_iter().map(|waiting| waiting.what).collect()
    };
    assert_eq!(whats(&seen), [What::NoJob, What::NoJob]);
    let created = "2025-12-31T00:00:00Z";
    let complete = |name: &str| job_with("2", &condition("Complete"), &named(name, created));
    seen.jobs[0].changed(complete("prepare"), seconds(1));
    assert_eq!(whats(&seen), [What::NoJob]);
    // What was seen complete and has gone stays done.
    seen.jobs[0].deleted(complete("prepare"), seconds(2));
    assert_eq!(whats(&seen), [What::NoJob]);
    let mut failed = seen.clone();
    let no = job_with("2", &condition("Failed"), &named("migrate", created));
    failed.jobs[1].changed(no, seconds(3));
    fails(&version_2(), &failed);
    seen.jobs[1].changed(complete("migrate"), seconds(3));
    match verdict(&seen, &version_2(), &LIMITS, now(ASKED)) {
        Verdict::End(End::Open(whys)) => assert_eq!(whys.len(), 2),
        verdict => panic!("{verdict:?}"),
    }
    // A gate without a Job never opens by having none to wait for.
    read(&mut seen, Some(record(&["init:2"])));
    seen.jobs.clear();
    assert_eq!(whats(&seen), []);
}

#[test]
fn of_alternatives_one_is_enough_and_all_must_be_known() {
    let created = "2025-12-31T00:00:00Z";
    let complete = |name: &str| job_with("2", &condition("Complete"), &named(name, created));
    for name in ["install", "upgrade"] {
        let mut seen = several(&["install|upgrade"]);
        seen.jobs[0].changed(complete(name), seconds(1));
        opens(&version_2(), &seen);
    }
    // As long as one of them may be running, no record speaks.
    let mut half = several(&["install|upgrade"]);
    read(&mut half, Some(record(&["init:2"])));
    opens(&version_2(), &half);
    half.jobs[0].watches[1] = Watch::default();
    waits(&version_2(), &half, &What::Nothing);
}

#[test]
fn what_was_forgotten_opens_nothing() {
    let forgotten = |uid: &str| -> Record {
        let uids = [uid.to_owned()].into();
        match crate::record::forget(None, &std::collections::BTreeSet::new(), &uids) {
            Some(crate::record::Write::Create(data)) => {
                serde_json::from_value(json!({"data": data})).expect("a record")
            }
            write => panic!("{write:?}"),
        }
    };
    for (wanted, tag) in [
        (version_2(), "2"),
        (mutable(), "latest"),
        (Wanted::Any, "2"),
    ] {
        let complete = || job(tag, &condition("Complete"));
        waits(
            &wanted,
            &seen([complete()], Some(forgotten("u"))),
            &What::Forgotten,
        );
        opens(&wanted, &seen([complete()], Some(forgotten("another"))));
        // Also after it has gone.
        let mut gone = seen([complete()], Some(forgotten("u")));
        gone.jobs[0].deleted(complete(), seconds(1));
        waits(&wanted, &gone, &What::Vanished);
        // And what has gone may have been forgotten although nobody knew its uid.
        let mut gone = seen([complete()], Some(forgotten("another")));
        gone.jobs[0].deleted(complete(), seconds(1));
        waits(&wanted, &gone, &What::Vanished);
        // What runs anew counts.
        let again = json!({"metadata": {"uid": "again"}});
        let again = job_with(tag, &condition("Complete"), &again);
        opens(&wanted, &seen([again], Some(forgotten("u"))));
    }
}

/// Somebody has forgotten what a Job completed, and migrated by hand.
#[test]
fn what_is_recorded_after_a_job_was_forgotten_opens_beside_it() {
    let mut after = record(&["init:main"]);
    after.forgotten = vec!["u".into()];
    let complete = || job("main", &condition("Complete"));
    let wanted = wanted("web:main");
    opens(&wanted, &seen([complete()], Some(after.clone())));
    let verdict = verdict(
        &seen([complete()], Some(after.clone())),
        &wanted,
        &LIMITS,
        now(4),
    );
    assert!(
        matches!(verdict, Verdict::Wait { until, .. } if until == seconds(5)),
        "{verdict:?}"
    );
    // While it is replaced, it isn't known what comes.
    let replaced = job_with("main", &condition("Complete"), &deleting());
    waits(&wanted, &seen([replaced], Some(after)), &What::Forgotten);
}

#[test]
fn digests_decide_where_there_are_two() {
    let of = |digest: &str, status: &Value| {
        let image = format!("shop:main@sha256:{digest}");
        let template = json!({"spec": {"template": {"spec": {
            "containers": [{"name": "c", "image": image}],
        }}}});
        job_with("1", status, &template)
    };
    let wanted = wanted("shop:main@sha256:bb");
    opens(&wanted, &seen([of("bb", &condition("Complete"))], None));
    let old = of("aa", &condition("Complete"));
    waits(
        &wanted,
        &seen([old], Some(record(&["shop:main@sha256:aa"]))),
        &What::OldComplete {
            version: "version main (image shop:main@sha256:aa)".into(),
        },
    );
}

#[test]
fn a_label_tells_the_version() {
    let template = json!({"metadata": {"labels": {"v": "7"}}});
    let wanted = wanted_by(&json!({"version": {"label": "v"}}), &template);
    let of = |value: &str| {
        let labels = json!({"metadata": {"labels": {"v": value}}});
        job_with("latest", &condition("Complete"), &labels)
    };
    opens(&wanted, &seen([of("7")], None));
    waits(
        &wanted,
        &seen([of("6")], None),
        &What::OldComplete {
            version: "version 6 (label v)".into(),
        },
    );
    waits(
        &wanted,
        &seen([job("7", &condition("Complete"))], None),
        &What::OldComplete {
            version: "no version (it has no label v)".into(),
        },
    );
}
