use std::time::Duration;

use jiff::Timestamp;
use serde_json::json;

use super::budget::{BURST, PACE};
use super::*;
use crate::applier::Applier;
use crate::gates::{Config, Gate, HeldKind};
use crate::image::MovingTags;
use crate::outlook::outlook;
use crate::verdict::{Jobs, Now, Seen};
use crate::version::{Images, Wanted};

/// A gate with what is seen of it, and its Events so far.
struct GateStage {
    gate: Gate,
    seen: Seen,
    held: Vec<Dependent>,
    announcements: Announcements,
    now: Now,
}

const START: &str = "2026-01-01T00:00:00Z";

impl GateStage {
    /// Workloads of version 2, without Job or record.
    fn new(workloads: usize) -> Self {
        let gate = Config::default().gates.remove(0);
        let mut seen = Seen {
            jobs: gate.requirements().into_iter().map(Jobs::new).collect(),
            restarted: true,
            ..Seen::default()
        };
        seen.jobs[0].listed(0, Vec::new(), Duration::ZERO);
        seen.record.watch.answers(Duration::ZERO);
        Self {
            gate,
            seen,
            held: (0..workloads).map(|i| dependent(i, "2")).collect(),
            announcements: Announcements::default(),
            now: Now {
                elapsed: Duration::ZERO,
                clock: START.parse().expect("a time"),
            },
        }
    }

    fn job(&mut self, uid: &str, version: &str, status: &Value) {
        let job = json!({
            "metadata": {"name": "piefed-db-init", "uid": uid, "creationTimestamp": START},
            "spec": {"template": {"spec": {
                "containers": [{"name": "m", "image": format!("app:{version}")}],
            }}},
            "status": status,
        });
        let job = serde_json::from_value(job).expect("a Job");
        self.seen.jobs[0].changed(job, self.now.elapsed);
    }

    fn fails(&mut self, uid: &str, version: &str) {
        let condition = json!({"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded",
                               "message": "postgres://u:hunter2@db gave up"});
        self.job(
            uid,
            version,
            &json!({"failed": 4, "conditions": [condition]}),
        );
    }

    fn completes(&mut self, uid: &str, version: &str) {
        let condition = json!({"type": "Complete", "status": "True"});
        self.job(uid, version, &json!({"conditions": [condition]}));
    }

    fn later(&mut self, by: Duration) {
        self.now.elapsed += by;
        self.now.clock += by;
    }

    fn due(&mut self) -> (Vec<Announcement>, Duration) {
        let outlook = outlook(&self.seen, &self.held, true, self.now);
        self.announcements
            .due(&self.gate, &self.seen, &outlook, self.now)
    }

    /// Checks the Events that are due now, as reason and object.
    #[track_caller]
    fn tells(&mut self, expect: &[&str]) {
        let (due, _) = self.due();
        let told: Vec<String> = due
            .iter()
            .map(|n| format!("{} {}", n.reason.as_str(), n.regarding.name))
            .collect();
        assert_eq!(told, expect);
    }
}

fn dependent(number: usize, version: &str) -> Dependent {
    Dependent {
        kind: HeldKind::Deployment,
        name: format!("web-{number}"),
        uid: format!("uid-of-{number}"),
        wanted: Ok(Wanted::Images {
            images: Images::one(&format!("app:{version}")),
            container: None,
            told: false,
            moving: MovingTags::default(),
        }),
        waiting_pods: 1,
    }
}

/// Argo CD creates a deleted hook again only in a full sync.
#[test]
fn the_way_out_is_that_of_who_applies_the_job() {
    let mut stage = GateStage::new(1);
    stage.fails("j1", "2");
    let mut job = stage.seen.job("piefed-db-init").expect("a Job").clone();
    job.applier = Applier::ArgoCd {
        application: "shop".to_owned(),
        replaces: true,
    };
    stage.seen.jobs[0].changed(job, stage.now.elapsed);
    let (due, _) = stage.due();
    assert_eq!(due.len(), 2);
    for announcement in due {
        let note = announcement.note;
        assert!(note.contains(": argocd app sync shop. Its logs:"), "{note}");
        assert!(!note.contains("delete"), "{note}");
    }
}

#[test]
fn a_failure_is_told_once_of_the_job_and_of_each_workload_that_it_holds() {
    let mut stage = GateStage::new(1);
    stage.held.push(dependent(7, "1"));
    stage.tells(&[]);
    stage.fails("j1", "2");
    stage.tells(&["MigrationFailed piefed-db-init", "MigrationFailed web-0"]);
    stage.tells(&[]);
    // Another Job is another failure.
    stage.fails("j2", "2");
    stage.tells(&["MigrationFailed piefed-db-init", "MigrationFailed web-0"]);
}

#[test]
fn a_failure_that_holds_nothing_is_not_told() {
    let mut stage = GateStage::new(1);
    stage.fails("j1", "3");
    stage.tells(&[]);
}

#[test]
fn a_completion_is_told_after_a_failure_alone() {
    let mut stage = GateStage::new(1);
    stage.completes("j0", "2");
    stage.tells(&[]);
    let mut stage = GateStage::new(1);
    stage.fails("j1", "2");
    stage.due();
    stage.job("j2", "2", &json!({"active": 1}));
    stage.tells(&[]);
    stage.completes("j2", "2");
    let completed = [
        "MigrationCompleted piefed-db-init",
        "MigrationCompleted web-0",
    ];
    stage.tells(&completed);
    stage.tells(&[]);
    // The corrected release is of another version.
    stage.held = vec![dependent(0, "3")];
    stage.fails("j3", "3");
    stage.due();
    stage.held = vec![dependent(0, "4")];
    stage.completes("j4", "4");
    stage.tells(&completed);
}

#[test]
fn a_rollback_is_no_completion_and_a_correction_of_the_record_is_one() {
    let record = |completed: &str| {
        let entry = json!({"image": "app:1", "job": "", "uid": "", "completed": completed});
        let record = json!({"metadata": {}, "data": {"1": entry.to_string()}});
        serde_json::from_value(record).expect("a record")
    };
    let mut stage = GateStage::new(1);
    stage.fails("j1", "2");
    stage.due();
    stage.held = vec![dependent(0, "1")];
    stage.seen.record.record = Some(record("2025-01-01T00:00:00Z"));
    stage.tells(&[]);
    stage.held = vec![dependent(0, "2")];
    stage.due();
    stage.held = vec![dependent(0, "1")];
    stage.seen.record.record = Some(record("2026-01-01T00:00:01Z"));
    stage.tells(&["MigrationCompleted web-0"]);
}

#[test]
fn a_migration_that_runs_for_longer_than_the_timeout_is_told_when_that_is_so() {
    let mut stage = GateStage::new(1);
    let running = json!({"active": 1, "ready": 1, "startTime": START});
    stage.job("j1", "2", &running);
    let (due, until) = stage.due();
    assert_eq!((due.len(), until), (0, stage.gate.timeout));
    stage.later(until);
    stage.tells(&["MigrationOverdue piefed-db-init", "MigrationOverdue web-0"]);
    stage.tells(&[]);
    // A Job that waits in a queue is not overdue.
    let mut stage = GateStage::new(1);
    let timeout = stage.gate.timeout;
    stage.later(timeout);
    stage.completes("j1", "1");
    stage.tells(&[]);
}

#[test]
fn nothing_is_told_while_it_is_not_known_how_the_gate_stands() {
    let mut stage = GateStage::new(1);
    stage.fails("j1", "2");
    let outlook = outlook(&stage.seen, &stage.held, false, stage.now);
    let (due, _) = stage
        .announcements
        .due(&stage.gate, &stage.seen, &outlook, stage.now);
    assert_eq!(due, []);
    stage.tells(&["MigrationFailed piefed-db-init", "MigrationFailed web-0"]);
}

#[test]
fn however_many_workloads_there_are_events_come_slowly() {
    let mut stage = GateStage::new(100);
    stage.fails("j1", "2");
    let (due, until) = stage.due();
    assert_eq!((due.len(), until), (BURST as usize, PACE));
    stage.later(PACE);
    stage.tells(&["MigrationFailed web-24"]);
    for _ in 0..200 {
        stage.later(PACE);
        stage.due();
    }
    // All Events were created, and the budget does not exceed its maximum.
    stage.fails("j2", "2");
    assert_eq!(stage.due().0.len(), BURST as usize);
}

#[test]
fn replicas_give_the_same_event_the_same_name() {
    let names = || {
        let mut stage = GateStage::new(2);
        stage.fails("j1", "2");
        let (due, _) = stage.due();
        due.into_iter().map(|n| n.name).collect::<Vec<_>>()
    };
    let first = names();
    assert_eq!(first, names());
    let distinct: std::collections::BTreeSet<_> = first.iter().collect();
    assert_eq!(distinct.len(), 3, "{first:?}");
}

#[test]
fn an_event_says_what_to_do_and_is_one_that_the_api_server_takes() {
    let mut stage = GateStage::new(9);
    stage.fails("j1", "2");
    let (due, _) = stage.due();
    let at: Timestamp = START.parse().expect("a time");
    let event = due[0].event("piefed-application", "replica-1", at);
    assert_eq!(event["eventTime"], "2026-01-01T00:00:00.000000Z");
    assert_eq!(event["type"], "Warning");
    assert_eq!(
        event["regarding"],
        json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": "piefed-application",
               "name": "piefed-db-init", "uid": "j1"})
    );
    assert_eq!(
        event["note"],
        "Job piefed-db-init has failed (BackoffLimitExceeded: postgres://u:***@db gave up), so gate \
         piefed holds Deployment web-0, Deployment web-1, Deployment web-2 and 6 more. Fix the cause, delete the Job and apply it again: kubectl delete job piefed-db-init -n \
         piefed-application. Its logs: kubectl logs -n piefed-application -l \
         batch.kubernetes.io/job-name=piefed-db-init --prefix --tail=-1"
    );
    let event = due[1].event("piefed-application", "replica-1", at);
    assert_eq!(event["regarding"]["kind"], "Deployment");
    assert_eq!(event["related"]["name"], "piefed-db-init");
}

#[test]
fn a_note_keeps_its_advice_whatever_the_length() {
    let check = |what: usize, advice: usize| {
        let note = note(&"ä".repeat(what), &"ö".repeat(advice));
        assert!(note.len() <= NOTE, "{} bytes", note.len());
        assert!(note.contains('ö'), "{note}");
    };
    check(10, 10);
    check(5000, 10);
    check(5000, 5000);
}
