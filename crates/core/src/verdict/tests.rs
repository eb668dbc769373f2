//! Tests of the rows of the waiter's table, in its order.

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

/// When most rows are decided, in seconds since the waiter's start.
const ASKED: u64 = 60;

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn now(elapsed: u64) -> Now {
    Now {
        elapsed: seconds(elapsed),
        clock: "2026-01-01T00:01:00Z".parse().expect("a time"),
    }
}

fn wanted_by(settings: &Value, template: &Value) -> Wanted {
    let mut gate = json!({"name": "g", "namespace": "n", "job": "j", "serviceAccount": "s"});
    json_patch::merge(&mut gate, settings);
    let gate: Gate = serde_json::from_value(gate).expect("a gate");
    Wanted::of(&gate, template).expect("a version")
}

/// The version of an image, or `any`.
impl From<&str> for Wanted {
    fn from(image: &str) -> Self {
        let template = json!({"spec": {"containers": [{"name": "web", "image": image}]}});
        match image {
            "any" => Self::Any,
            _ => wanted_by(&json!({}), &template),
        }
    }
}

impl From<&Wanted> for Wanted {
    fn from(wanted: &Wanted) -> Self {
        wanted.clone()
    }
}

/// A Job in words: its tag or image, and its state. It is old enough to have had its first pod.
fn job(words: &str) -> Job {
    job_with(words, &json!({}))
}

fn job_with(words: &str, fields: &Value) -> Job {
    let mut words = words.split(' ');
    let image = match words.next().unwrap_or_default() {
        image if image.contains([':', '@']) => image.to_owned(),
        tag => format!("init:{tag}"),
    };
    let mut object = json!({
        "metadata": {"name": "j", "uid": "u", "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}},
    });
    for word in words {
        let fields = match word {
            "starts" => json!({"status": {"active": 1, "ready": 0}}),
            "runs" => json!({"status": {"active": 1, "ready": 1}}),
            "retries" => json!({"status": {"active": 1, "failed": 1}}),
            "failed-once" => json!({"status": {"failed": 1}}),
            "suspended" => json!({"spec": {"suspend": true}}),
            "empty" => json!({"spec": {"completions": 0}}),
            "deleting" => json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            "again" => json!({"metadata": {"uid": "again"}}),
            "Complete" | "Failed" | "FailureTarget" | "SuccessCriteriaMet" => {
                json!({"status": {"conditions": [{"type": word, "status": "True"}]}})
            }
            _ => panic!("{word:?}"),
        };
        json_patch::merge(&mut object, &fields);
    }
    json_patch::merge(&mut object, fields);
    serde_json::from_value(object).expect("a Job")
}

fn named(name: &str, created: &str) -> Value {
    json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created}})
}

const FIRST: Option<Attempt> = Some(Attempt { number: 1, of: 7 });

fn first_attempt() -> What {
    What::Running { attempt: FIRST }
}

fn old_complete(version: &str) -> What {
    What::OldComplete {
        version: version.into(),
        // The pods of most tests run `web`.
        foreign: version.contains("(image init:"),
    }
}

/// A record of these images, as releases up to 0.1 wrote it.
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

/// A gate with one Job `j`; nothing is known yet.
fn unseen() -> Seen {
    Seen {
        jobs: vec![Jobs::new(Requirement::parse("j").expect("a name"))],
        ..Seen::default()
    }
}

/// The Jobs were listed at once, and the record has not been read yet.
fn unread(words: &str) -> Seen {
    let mut seen = unseen();
    seen.jobs[0].listed(0, vec![job(words)], Duration::ZERO);
    seen
}

/// The record was read at once, and no Job has been seen yet.
fn blind(image: &str) -> Seen {
    let mut seen = unseen();
    read(&mut seen, Some(record(&[image])));
    seen
}

/// A waiter that has seen everything at its start.
fn seen(jobs: impl IntoIterator<Item = Job>, record: Option<Record>) -> Seen {
    let mut seen = unseen();
    seen.jobs[0].listed(0, jobs.into_iter().collect(), Duration::ZERO);
    read(&mut seen, record);
    seen
}

/// The same for one Job or none, and for a record of one image or none.
fn see(words: &str, recorded: Option<&str>) -> Seen {
    let jobs = (!words.is_empty()).then(|| job(words));
    seen(jobs, recorded.map(|image| record(&[image])))
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

/// The same without earlier errors.
fn only_fails_since(watch: &mut Watch, kind: TroubleKind, since: u64) {
    *watch = Watch::default();
    fails_since(watch, kind, since);
}

fn decided(wanted: impl Into<Wanted>, seen: &Seen, at: u64) -> Verdict {
    verdict(seen, &wanted.into(), &LIMITS, now(at))
}

#[track_caller]
fn opens(wanted: impl Into<Wanted>, seen: &Seen) {
    let verdict = decided(wanted, seen, ASKED);
    assert!(matches!(verdict, Verdict::End(End::Open(_))), "{verdict:?}");
}

#[track_caller]
fn fails_at(wanted: impl Into<Wanted>, seen: &Seen, at: u64) {
    let verdict = decided(wanted, seen, at);
    let failed = matches!(verdict, Verdict::End(End::Failed(_)));
    assert!(failed, "{verdict:?}");
}

#[track_caller]
fn fails(wanted: impl Into<Wanted>, seen: &Seen) {
    fails_at(wanted, seen, ASKED);
}

#[track_caller]
fn waiting_at(wanted: impl Into<Wanted>, seen: &Seen, at: u64) -> (Vec<Waiting>, Duration) {
    match decided(wanted, seen, at) {
        Verdict::Wait { waiting, until } => (waiting, until),
        Verdict::End(end) => panic!("{end:?}"),
    }
}

/// Checks that it waits, and may decide otherwise without an event after `until` seconds.
#[track_caller]
fn waits_until(wanted: impl Into<Wanted>, seen: &Seen, until: u64) {
    assert_eq!(waiting_at(wanted, seen, ASKED).1, seconds(until));
}

#[track_caller]
fn waits(wanted: impl Into<Wanted>, seen: &Seen, expect: &What) {
    let (waiting, _) = waiting_at(wanted, seen, ASKED);
    let whats: Vec<&What> = waiting.iter().map(|waiting| &waiting.what).collect();
    assert_eq!(whats, [expect]);
}

#[test]
fn job_complete_of_the_wanted_version() {
    for record in [None, Some("init:1")] {
        opens("web:2", &see("2 Complete", record));
    }
    // A complete Job opens the gate even while it is being deleted.
    opens("web:2", &see("2 Complete deleting", None));
    opens("web", &see("latest Complete", None));
    opens("web@sha256:ab", &see("init@sha256:ab Complete", None));
    // The reason names the Job and the version.
    let why = Why::Complete {
        job: "j".into(),
        version: "version 2 (image init:2)".into(),
    };
    let verdict = decided("web:2", &see("2 Complete", None), 0);
    assert_eq!(verdict, Verdict::End(End::Open(vec![why])));
}

/// The record may have forgotten this completion.
#[test]
fn a_complete_job_opens_once_the_record_was_read_or_cannot_be() {
    for (wanted, job) in [
        ("web:2", "2 Complete"),
        ("web", "latest Complete"),
        ("any", "1 Complete"),
    ] {
        let mut seen = unread(job);
        waits(wanted, &seen, &What::Nothing);
        let opens_since = |seen: &mut Seen, kind, since| {
            only_fails_since(&mut seen.record.watch, kind, since);
            opens(wanted, seen);
        };
        fails_since(&mut seen.record.watch, TroubleKind::Unreachable, 31);
        waits_until(wanted, &seen, 61);
        opens_since(&mut seen, TroubleKind::Unreachable, 30);
        opens_since(&mut seen, TroubleKind::Denied, 60);
    }
}

#[test]
fn a_job_that_was_to_run_nothing_does_not_count() {
    waits("web:2", &see("2 Complete empty", None), &What::Empty);
    // An empty Job is no attempt either.
    opens("web:2", &see("2 Complete empty", Some("init:2")));
}

#[test]
fn a_first_attempt_of_the_wanted_version_holds_although_it_is_recorded() {
    let recorded = |job| see(job, Some("init:2"));
    waits("web:2", &recorded("2 runs"), &first_attempt());
    let not_ready = What::PodNotReady { attempt: FIRST };
    waits("web:2", &recorded("2 starts"), &not_ready);
    let met = recorded("2 SuccessCriteriaMet");
    waits("web:2", &met, &What::Succeeding);
    // A Job of another version does not count.
    opens("web:2", &recorded("3 runs"));
    // A Job of this version does not count if it is being deleted or has failed before.
    opens("web:2", &recorded("2 runs deleting"));
    opens("web:2", &recorded("2 retries"));
}

#[test]
fn a_job_without_a_pod_holds_a_recorded_version_for_ten_seconds() {
    // The clock shows 2026-01-01T00:01:00Z.
    let without_pod = |created: Value| {
        let job = job_with("2", &json!({"metadata": {"creationTimestamp": created}}));
        seen([job], Some(record(&["init:2"])))
    };
    opens("web:2", &without_pod("2026-01-01T00:00:50Z".into()));
    let young = without_pod("2026-01-01T00:00:51Z".into());
    waits("web:2", &young, &What::NoPod);
    waits_until("web:2", &young, 61);
    // By a clock that is behind, its age is zero.
    waits_until("web:2", &without_pod("2026-01-01T01:00:00Z".into()), 70);
    opens("web:2", &without_pod(Value::Null));
}

#[test]
fn a_record_of_the_wanted_immutable_version() {
    let recorded = || Some(record(&["init:1", "init:2"]));
    for words in [
        "2 suspended",
        "2",
        "2 runs deleting",
        "2 retries",
        "2 failed-once",
        "2 FailureTarget",
        "2 Failed",
        "3 Complete",
        "3 runs",
    ] {
        opens("web:2", &seen([job(words)], recorded()));
    }
    let mut vanished = seen([], recorded());
    opens("web:2", &vanished);
    vanished.jobs[0].vanished = Some(seconds(60));
    opens("web:2", &vanished);
    opens("web@sha256:ab", &see("", Some("init@sha256:ab")));
    let others = seen([], Some(record(&["init:1", "init:3", "init"])));
    waits("web:2", &others, &What::NoJob);
    // A tag that looks like a digest's key is not the digest.
    let tag = see("", Some("init:sha256.ab"));
    waits("web@sha256:ab", &tag, &What::NoJob);
}

/// A Job of this version may be at its first attempt.
#[test]
fn a_record_speaks_once_the_jobs_were_seen_or_cannot_be() {
    waits("web:2", &blind("init:2"), &What::Nothing);
    let watch = |kind, since| {
        let mut seen = blind("init:2");
        fails_since(&mut seen.jobs[0].watches[0], kind, since);
        seen
    };
    waits_until("web:2", &watch(TroubleKind::Unreachable, 31), 61);
    opens("web:2", &watch(TroubleKind::Unreachable, 30));
    opens("web:2", &watch(TroubleKind::Denied, 60));
}

#[test]
fn no_job_and_a_record_of_a_mutable_version() {
    opens("web", &see("", Some("init:latest")));
    // A tag without a digit moves as `latest` does.
    opens("web:main", &see("", Some("init:main")));
    // Versions that cannot be compared are not the same.
    waits("web", &see("", Some("init:1")), &What::NoJob);
    // A new Job runs: the record is of an older one.
    for (wanted, tag) in [("web", "latest"), ("web:main", "main")] {
        let beside = |state| see(&format!("{tag} {state}"), Some(&format!("init:{tag}")));
        waits(wanted, &beside("runs"), &first_attempt());
        fails(wanted, &beside("Failed"));
    }
    waits("web", &blind("init:latest"), &What::Nothing);
}

#[test]
fn a_mutable_job_that_vanished_may_be_on_its_way_back() {
    let vanished = |at| {
        let mut seen = see("latest runs", Some("init:latest"));
        seen.jobs[0].deleted(job("latest runs"), seconds(at));
        seen
    };
    let settling = What::Settling { vanished: true };
    for wanted in ["web", "any"] {
        waits(wanted, &vanished(58), &settling);
        waits_until(wanted, &vanished(58), 63);
        opens(wanted, &vanished(55));
    }
}

/// Appliers delete the old Job before they create the new one, and a waiter may start in between.
#[test]
fn a_mutable_job_that_is_not_there_at_the_start_may_be_on_its_way() {
    let mut absent = blind("init:latest");
    absent.jobs[0].listed(0, Vec::new(), seconds(58));
    let settling = What::Settling { vanished: false };
    for wanted in ["web", "any"] {
        waits(wanted, &absent, &settling);
        waits_until(wanted, &absent, 63);
        let verdict = decided(wanted, &absent, 63);
        assert!(matches!(verdict, Verdict::End(End::Open(_))));
    }
}

/// Without a connection, a Job may come and go unseen.
#[test]
fn silence_over_a_cut_connection_opens_nothing() {
    let settling = What::Settling { vanished: false };
    let mut seen = see("", Some("init:latest"));
    opens("web", &seen);
    let watch = |seen: &mut Seen, change: fn(&mut Watch)| change(&mut seen.jobs[0].watches[0]);
    watch(&mut seen, Watch::loses_connection);
    waits("web", &seen, &settling);
    for (began, opened) in [(58, 63), (59, 64)] {
        let mut restored = seen.clone();
        restored.jobs[0].watches[0].continues(seconds(began));
        waits("web", &restored, &settling);
        waits_until("web", &restored, opened);
    }
    watch(&mut seen, |watch| watch.continues(seconds(55)));
    opens("web", &seen);
    watch(&mut seen, |watch| watch.works_again(seconds(58)));
    waits_until("web", &seen, 63);
    // An immutable version was recorded, come what may.
    let mut seen = see("", Some("init:2"));
    watch(&mut seen, Watch::loses_connection);
    opens("web:2", &seen);
}

#[test]
fn a_mutable_job_that_is_being_deleted_does_not_count() {
    for (wanted, tag) in [("web", "latest"), ("any", "1")] {
        let old = format!("{tag} Complete deleting");
        let image = format!("init:{tag}");
        for record in [None, Some(&*image)] {
            waits(wanted, &see(&old, record), &What::Deleting);
        }
        // The same after it is deleted.
        let mut gone = see(&old, None);
        gone.jobs[0].deleted(job(&old), seconds(1));
        waits(wanted, &gone, &What::Vanished);
    }
}

#[test]
fn what_opens_with_time_is_told_and_can_be_held_back() {
    let mut settled = seen([], Some(record(&["init:latest", "init:2"])));
    settled.jobs[0].vanished = Some(seconds(50));
    let late = json!({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}});
    let late = seen([job_with("2", &late)], Some(record(&["init:2"])));
    for (wanted, seen, by_silence) in [
        ("web", &settled, true),
        ("web:2", &settled, false),
        ("web:2", &late, true),
        ("web", &see("latest Complete", None), false),
    ] {
        opens(wanted, seen);
        let told = opens_by_silence(seen, &wanted.into(), &LIMITS, now(ASKED));
        assert_eq!(told, by_silence, "{seen:?}");
        let unconfirmed = Seen {
            unconfirmed: true,
            ..seen.clone()
        };
        let verdict = decided(wanted, &unconfirmed, ASKED);
        let waits = matches!(verdict, Verdict::Wait { .. });
        assert_eq!(waits, by_silence, "{verdict:?}");
    }
}

/// The state of the newer Job does not matter: it is about to be replaced, or was withdrawn.
#[test]
fn a_mutable_job_that_has_gone_does_not_count_after_a_newer_one() {
    let at = |name: &str, second: u32| named(name, &format!("2026-01-01T00:00:0{second}Z"));
    let old = || job_with("latest Complete", &at("a", 1));
    for newer in [at("b", 2), at("a", 2), at("a", 1)] {
        for wanted in ["web", "any"] {
            let mut gone = seen([old()], None);
            gone.jobs[0].deleted(old(), seconds(1));
            opens(wanted, &gone);
            let newer = || {
                let mut newer = job_with("latest runs", &newer);
                newer.uid = "newer".to_owned();
                newer
            };
            gone.jobs[0].changed(newer(), seconds(2));
            waits(wanted, &gone, &first_attempt());
            gone.jobs[0].deleted(newer(), seconds(3));
            waits(wanted, &gone, &What::Vanished);
        }
    }
}

#[test]
fn job_complete_of_another_version_and_no_record_of_the_wanted_one() {
    let old = old_complete("version 1 (image init:1)");
    for record in [None, Some("init:1")] {
        let seen = see("1 Complete", record);
        waits("web:2", &seen, &old);
        waits("web", &seen, &old);
    }
    let latest = old_complete("version latest (image init:latest)");
    waits("web:2", &see("latest Complete", None), &latest);
    let own = old_complete("version 2 (image web:2)");
    waits("web:3", &see("web:2 Complete", None), &own);
    // A Job without an image has no version.
    let nameless = job_with("2 Complete", &json!({"spec": {"template": null}}));
    let nameless = seen([nameless], None);
    let untold = old_complete("an unknown version");
    waits("web:2", &nameless, &untold);
    waits("web", &nameless, &untold);
}

#[test]
fn job_failed_of_the_wanted_version() {
    fails("web:2", &see("2 Failed", None));
    fails("web:2", &see("2 Failed", Some("init:1")));
    fails("web", &see("latest Failed", Some("init")));
    fails("any", &see("2 Failed", Some("init:2")));
    // If the record does not count beside a Job, the waiter does not wait for it.
    fails("web", &unread("latest Failed"));
    fails("any", &unread("latest Failed"));
    // Otherwise the record may have the version, so the waiter waits for it…
    let mut unread = unread("2 Failed");
    waits("web:2", &unread, &What::Nothing);
    fails_since(&mut unread.record.watch, TroubleKind::Unreachable, 31);
    waits("web:2", &unread, &What::FailedUnlessRecorded);
    waits_until("web:2", &unread, 61);
    // …unless it cannot be read.
    for (kind, since) in [(TroubleKind::Unreachable, 30), (TroubleKind::Denied, 60)] {
        only_fails_since(&mut unread.record.watch, kind, since);
        fails("web:2", &unread);
    }
}

#[test]
fn a_waiter_that_was_restarted_stays_with_a_failed_job() {
    let mut seen = see("2 Failed", None);
    seen.restarted = true;
    let (waiting, until) = waiting_at("web:2", &seen, ASKED);
    let What::Failed { failure } = &waiting[0].what else {
        panic!("{waiting:?}");
    };
    assert_eq!((failure.job.as_str(), failure.uid.as_str()), ("j", "u"));
    assert_eq!(until, LIMITS.timeout);
    // It fails at the deadline, with the code of a failed Job.
    fails_at("web:2", &seen, 600);
    // A Job that is run again opens the gate.
    seen.jobs[0].deleted(job("2 Failed"), seconds(70));
    seen.jobs[0].changed(job("2 runs again"), seconds(71));
    waiting_at("web:2", &seen, 72);
    seen.jobs[0].changed(job("2 Complete again"), seconds(73));
    opens("web:2", &seen);
}

#[test]
fn job_failed_and_being_deleted() {
    for wanted in ["web:2", "any"] {
        waits(wanted, &see("2 Failed deleting", None), &What::Deleting);
    }
}

#[test]
fn job_failed_of_another_version() {
    let old = What::OldFailed {
        version: "version 1 (image init:1)".into(),
    };
    waits("web:2", &see("1 Failed", None), &old);
}

#[test]
fn job_suspended_or_running_or_without_a_pod() {
    let attempt = |number| Some(Attempt { number, of: 4 });
    let queue = json!({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "batch"}}});
    let check = |words: &str, fields: &Value, expect: What| {
        let mut fields = fields.clone();
        json_patch::merge(&mut fields, &json!({"spec": {"backoffLimit": 3}}));
        let of = |tag: &str| {
            let words = format!("{tag} {words}");
            seen([job_with(words.trim_end(), &fields)], None)
        };
        waits("web:2", &of("2"), &expect);
        // With another version, the reason names it, except while the Job is being deleted.
        let other = match expect {
            What::Deleting => What::Deleting,
            _ => What::Other {
                version: "version 1 (image init:1)".into(),
            },
        };
        waits("web:2", &of("1"), &other);
    };
    let none = json!({});
    check("suspended", &none, What::Suspended { queue: None });
    let queued = Some("batch".into());
    check("suspended", &queue, What::Suspended { queue: queued });
    check("", &none, What::NoPod);
    let (first, second) = (attempt(1), attempt(2));
    check("starts", &none, What::PodNotReady { attempt: first });
    check("runs", &none, What::Running { attempt: first });
    let between = What::BetweenAttempts { attempt: second };
    check("failed-once", &none, between);
    check("starts deleting", &none, What::Deleting);
}

#[test]
fn no_job_and_no_record() {
    for wanted in ["web:2", "web", "any"] {
        waits(wanted, &seen([], None), &What::NoJob);
        waits(wanted, &seen([], Some(record(&[]))), &What::NoJob);
    }
}

#[test]
fn job_deleted_while_waiting() {
    for record in [None, Some("init:1")] {
        let mut seen = see("2 runs", record);
        seen.jobs[0].deleted(job("2 runs"), seconds(1));
        waits("web:2", &seen, &What::Vanished);
        // The waiter continues with the new Job.
        seen.jobs[0].changed(job("2 Complete again"), seconds(2));
        opens("web:2", &seen);
    }
}

#[test]
fn what_completed_in_the_moment_of_its_deletion_is_complete() {
    let mut deleted = see("2 runs", None);
    deleted.jobs[0].deleted(job("2 Complete"), seconds(1));
    opens("web:2", &deleted);
    // The same if it was replaced and only the new one was seen.
    let mut replaced = see("2 Complete", None);
    replaced.jobs[0].changed(job("3 runs again"), seconds(1));
    opens("web:2", &replaced);
    // The same if the list after an outage does not have it.
    let mut listed = see("2 Complete", None);
    listed.jobs[0].listed(0, Vec::new(), seconds(1));
    opens("web:2", &listed);
    // A late event of an older Job with the same name does not remove the newer one.
    let mut late = see("2 runs again", None);
    late.jobs[0].deleted(job("2 runs"), seconds(1));
    assert_eq!(late.job("j").map(|job| job.uid.as_str()), Some("again"));
}

#[test]
fn success_criteria_met_or_failure_target_only() {
    let met = see("2 SuccessCriteriaMet", None);
    waits("web:2", &met, &What::Succeeding);
    waits("web:2", &see("2 FailureTarget", None), &What::Failing);
}

#[test]
fn a_job_that_is_about_to_fail_is_known_before() {
    let check = |words: &str, wanted: &str, expect: Option<&str>| {
        assert_eq!(see(words, None).about_to_fail(&wanted.into()), expect);
    };
    check("2 FailureTarget", "web:2", Some("u"));
    check("2 FailureTarget", "any", Some("u"));
    check("2 FailureTarget", "web", None);
    for other in ["Failed", "SuccessCriteriaMet", "FailureTarget deleting"] {
        check(&format!("2 {other}"), "web:2", None);
    }
}

#[test]
fn not_permitted() {
    let mut denied = unseen();
    fails_since(&mut denied.jobs[0].watches[0], TroubleKind::Denied, 31);
    let (waiting, until) = waiting_at("web:2", &denied, ASKED);
    assert_eq!(waiting[0].trouble, Some(TroubleKind::Denied));
    assert_eq!(until, seconds(61));
    // Other errors in between do not reset the time.
    let watch = &mut denied.jobs[0].watches[0];
    only_fails_since(watch, TroubleKind::Denied, 30);
    for (kind, now) in [(TroubleKind::Unreachable, 40), (TroubleKind::Denied, 50)] {
        fails_since(watch, kind, now);
    }
    let not_permitted = Verdict::End(End::NotPermitted {
        subject: JobName::Exact("j".into()),
        message: "no".into(),
    });
    assert_eq!(decided("web:2", &denied, ASKED), not_permitted);
    // A waiter that was restarted waits until its timeout.
    denied.restarted = true;
    waits_until("web:2", &denied, LIMITS.timeout.as_secs());
    assert_eq!(decided("web:2", &denied, 600), not_permitted);
    // The record opens the gate without permission to see the Job.
    read(&mut denied, Some(record(&["init:2"])));
    opens("web:2", &denied);
    // The Job opens the gate without permission to see the record.
    let mut no_record = unread("2 Complete");
    fails_since(&mut no_record.record.watch, TroubleKind::Denied, 1);
    opens("web:2", &no_record);
    no_record.jobs = unseen().jobs;
    no_record.jobs[0].listed(0, Vec::new(), Duration::ZERO);
    waits("web:2", &no_record, &What::NoJob);
    let unread = |seen: &Seen| waiting_at("web:2", seen, ASKED).0[0].record_unread;
    assert!(unread(&no_record));
    read(&mut no_record, None);
    assert!(!unread(&no_record));
}

#[test]
fn api_unreachable() {
    let mut away = see("2 runs", None);
    fails_since(&mut away.jobs[0].watches[0], TroubleKind::Unreachable, 1);
    let (waiting, until) = waiting_at("web:2", &away, 599);
    assert_eq!(waiting[0].trouble, Some(TroubleKind::Unreachable));
    assert_eq!(until, seconds(600));
}

#[test]
fn the_deadline() {
    let old = see("1 Complete", None);
    assert_eq!(waiting_at("web:2", &old, 599).1, seconds(600));
    match decided("web:2", &old, 600) {
        Verdict::End(End::TimedOut(waiting)) => {
            assert!(matches!(waiting[0].what, What::OldComplete { .. }));
        }
        verdict => panic!("{verdict:?}"),
    }
    // A completion at the last moment opens the gate.
    let last = decided("web:2", &see("2 Complete", None), 600);
    assert!(matches!(last, Verdict::End(End::Open(_))));
}

#[test]
fn freshness_any() {
    for tag in ["1", "2", "latest"] {
        opens("any", &see(&format!("{tag} Complete"), None));
        fails("any", &see(&format!("{tag} Failed"), None));
        opens("any", &see("", Some(&format!("init:{tag}"))));
    }
    // Otherwise the first completion would open the gate permanently.
    let recorded = Some(record(&["init:1", "init:2"]));
    waits("any", &seen([job("3")], recorded), &What::NoPod);
}

#[test]
fn every_wake_up_lies_ahead() {
    let mut seen = unseen();
    seen.jobs[0].vanished = Some(seconds(1));
    fails_since(&mut seen.jobs[0].watches[0], TroubleKind::Unreachable, 2);
    fails_since(&mut seen.record.watch, TroubleKind::Unreachable, 3);
    for at in [5, 6, 33, 34, 599] {
        let (_, until) = waiting_at("web:2", &seen, at);
        assert!(until > seconds(at), "{at:?} {until:?}");
    }
}

/// A Job for each release, as from Helm charts.
#[test]
fn of_several_jobs_the_newest_of_the_wanted_version_counts() {
    // A Job is created each second: `j-1` and so on.
    let pattern = |jobs: &[&str], recorded: Option<&str>| {
        let made = jobs.iter().zip(1..).map(|(words, second)| {
            let created = format!("2025-12-31T00:00:0{second}Z");
            job_with(words, &named(&format!("j-{second}"), &created))
        });
        let mut seen = several(&["j-*"]);
        seen.jobs[0].listed(0, made.collect(), Duration::ZERO);
        read(&mut seen, recorded.map(|image| record(&[image])));
        seen
    };
    // Older siblings neither open nor close the gate of a newer version.
    for old in ["1 Complete", "1 Failed", "1 runs"] {
        opens("web:2", &pattern(&[old, "2 Complete"], None));
        fails("web:2", &pattern(&[old, "2 Failed"], None));
        waits("web:2", &pattern(&[old, "2"], None), &What::NoPod);
        opens("web:2", &pattern(&[old], Some("init:2")));
    }
    // Nor do newer ones, after a rollback.
    opens("web:2", &pattern(&["2 Complete", "3 Failed"], None));
    // Of two Jobs of the same version, the newer one runs: it migrates again.
    let again = pattern(&["2 Complete", "2 runs"], Some("init:2"));
    waits("web:2", &again, &first_attempt());
    // The completed Job opens the gate after the newer one has failed.
    opens("web:2", &pattern(&["2 Complete", "2 Failed"], None));
    // With a moving tag, the newest Job decides alone.
    let moving = |new| pattern(&["main Complete", new], Some("init:main"));
    fails("web:main", &moving("main Failed"));
    waits("web:main", &moving("main"), &What::NoPod);
    // A Job with another name does not belong to the gate.
    waits("web:2", &several(&["j-*"]), &What::NoJob);
}

#[test]
fn a_gate_with_several_jobs_opens_when_each_has_completed() {
    let mut seen = several(&["prepare", "migrate"]);
    let whats = |seen: &Seen| -> Vec<What> {
        let waiting = waiting_at("web:2", seen, ASKED).0;
        waiting.into_iter().map(|waiting| waiting.what).collect()
    };
    assert_eq!(whats(&seen), [What::NoJob, What::NoJob]);
    let created = "2025-12-31T00:00:00Z";
    let complete = |name: &str| job_with("2 Complete", &named(name, created));
    seen.jobs[0].changed(complete("prepare"), seconds(1));
    assert_eq!(whats(&seen), [What::NoJob]);
    // A Job that was seen complete and then deleted still counts.
    seen.jobs[0].deleted(complete("prepare"), seconds(2));
    assert_eq!(whats(&seen), [What::NoJob]);
    let mut failed = seen.clone();
    failed.jobs[1].changed(job_with("2 Failed", &named("migrate", created)), seconds(3));
    fails("web:2", &failed);
    seen.jobs[1].changed(complete("migrate"), seconds(3));
    match decided("web:2", &seen, ASKED) {
        Verdict::End(End::Open(whys)) => assert_eq!(whys.len(), 2),
        verdict => panic!("{verdict:?}"),
    }
    // A gate without Jobs never opens.
    read(&mut seen, Some(record(&["init:2"])));
    seen.jobs.clear();
    assert_eq!(whats(&seen), []);
}

#[test]
fn of_alternatives_one_is_enough_and_all_must_be_known() {
    for name in ["install", "upgrade"] {
        let mut seen = several(&["install|upgrade"]);
        let complete = job_with("2 Complete", &named(name, "2025-12-31T00:00:00Z"));
        seen.jobs[0].changed(complete, seconds(1));
        opens("web:2", &seen);
    }
    // While one of the alternatives may be running, the record does not count.
    let mut half = several(&["install|upgrade"]);
    read(&mut half, Some(record(&["init:2"])));
    opens("web:2", &half);
    half.jobs[0].watches[1] = Watch::default();
    waits("web:2", &half, &What::Nothing);
}

#[test]
fn what_was_forgotten_opens_nothing() {
    let forgotten = |uid: &str| -> Record {
        let uids = [uid.to_owned()].into();
        match crate::record::forget(None, &std::collections::BTreeSet::new(), &uids, &uids) {
            Ok(Some(crate::record::Write::Create(data))) => {
                serde_json::from_value(json!({"data": data})).expect("a record")
            }
            write => panic!("{write:?}"),
        }
    };
    for (wanted, tag) in [("web:2", "2"), ("web", "latest"), ("any", "2")] {
        let complete = || job(&format!("{tag} Complete"));
        let beside = |uid| seen([complete()], Some(forgotten(uid)));
        waits(wanted, &beside("u"), &What::Forgotten);
        opens(wanted, &beside("another"));
        // The same after it is deleted: it may have been forgotten by its version, without its uid.
        for uid in ["u", "another"] {
            let mut gone = beside(uid);
            gone.jobs[0].deleted(complete(), seconds(1));
            waits(wanted, &gone, &What::Vanished);
        }
        // A new run counts.
        let again = job(&format!("{tag} Complete again"));
        opens(wanted, &seen([again], Some(forgotten("u"))));
    }
}

/// A Job's completion was forgotten, and then the version was recorded by hand.
#[test]
fn what_is_recorded_after_a_job_was_forgotten_opens_beside_it() {
    let mut after = record(&["init:main"]);
    after.forgotten = vec!["u".into()];
    let beside = |words| seen([job(words)], Some(after.clone()));
    opens("web:main", &beside("main Complete"));
    let (_, until) = waiting_at("web:main", &beside("main Complete"), 4);
    assert_eq!(until, seconds(5));
    // While the Job is being replaced, the gate stays closed.
    let replaced = beside("main Complete deleting");
    waits("web:main", &replaced, &What::Forgotten);
}

#[test]
fn digests_decide_where_there_are_two() {
    let wanted = "shop:main@sha256:bb";
    opens(wanted, &see("shop:main@sha256:bb Complete", None));
    let aa = "shop:main@sha256:aa";
    let old = old_complete("version main (image shop:main@sha256:aa)");
    waits(wanted, &see(&format!("{aa} Complete"), Some(aa)), &old);
}

#[test]
fn a_label_tells_the_version() {
    let template = json!({"metadata": {"labels": {"v": "7"}}});
    let wanted = wanted_by(&json!({"version": {"label": "v"}}), &template);
    let of = |value: &str| {
        let labels = json!({"metadata": {"labels": {"v": value}}});
        seen([job_with("latest Complete", &labels)], None)
    };
    opens(&wanted, &of("7"));
    waits(&wanted, &of("6"), &old_complete("version 6 (label v)"));
    let unlabelled = old_complete("no version (it has no label v)");
    waits(&wanted, &see("7 Complete", None), &unlabelled);
}
