//! The state of a gate for the workloads that it holds, and the Events about it.

use jiff::Timestamp;
use migration_gate_core::injection::Injection;
use migration_gate_core::outlook::GateState::{Failed, Open, Unknown, Waiting};
use serde_json::{Value, json};

use crate::recorder::{RecorderLog, RecorderThread, gate_g};
use testkit::fake::FakeApi;
use testkit::gate::{JOB_PATH, RECORD_PATH, complete, failed, job, running};

const WEB_PATH: &str = "/apis/apps/v1/namespaces/ns/deployments/web";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/ns/events";

/// A Deployment of version 2 that waits at the gate, with one new pod.
fn web(tag: &str) -> Value {
    let config = gate_g(&["web"]);
    let image = format!("web:{tag}");
    let mut template = json!({"spec": {"containers": [{"name": "web", "image": image}]}});
    let waiter = Injection::wanted(&config.gates[0], &config.waiter, &template).container;
    template["spec"]["initContainers"] = json!([waiter]);
    json!({
        "metadata": {"name": "web", "uid": "uid-of-web"},
        "spec": {"replicas": 2, "template": template},
        "status": {"replicas": 3, "updatedReplicas": 1, "readyReplicas": 2},
    })
}

/// A recorder whose gate holds the Deployment.
fn start(api: &FakeApi) -> RecorderThread {
    RecorderThread::start_holding(api, &["web"], true, |_| {})
}

/// The Events as reason and object, in the order of their names.
fn events(api: &FakeApi) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut told: Vec<String> = api
        .list(EVENTS)
        .iter()
        .map(|event| {
            let about = &event["regarding"];
            format!(
                "{} {} {}",
                text(&event["reason"]),
                text(&about["kind"]),
                text(&about["uid"])
            )
        })
        .collect();
    told.sort();
    told
}

#[test]
fn a_gate_is_open_only_while_all_that_it_holds_would_start() {
    let api = FakeApi::start();
    api.put(WEB_PATH, web("2"));
    let recorder = start(&api);
    recorder.await_report("a gate that waits", |r| {
        r.state == Waiting && r.waiting_pods == 1
    });
    api.put(JOB_PATH, job("2", running()));
    api.put(JOB_PATH, job("2", failed()));
    recorder.await_report("a gate that has failed", |r| r.state == Failed);
    api.delete(JOB_PATH);
    api.put(JOB_PATH, job("2", complete()));
    recorder.await_report("an open gate", |r| r.state == Open && r.waiting_pods == 0);
    // The record still has the version.
    api.await_object(RECORD_PATH, |record| record["data"]["2"].is_string());
    api.delete(JOB_PATH);
    let seen = recorder.states().len();
    // The next release, without its Job.
    api.put(WEB_PATH, web("3"));
    recorder.await_report("a gate that waits again", |r| r.state == Waiting);
    assert_eq!(recorder.states().len(), seen + 1, "{:?}", recorder.states());
    // Back to the migrated version, while the other version's Job fails; and forward again.
    api.put(WEB_PATH, web("2"));
    recorder.await_report("an open gate", |r| r.state == Open);
    api.put(JOB_PATH, job("3", failed()));
    api.put(WEB_PATH, web("4"));
    recorder.await_report("a gate that waits", |r| r.state == Waiting);
    let states = recorder.states();
    assert_eq!(states[seen..], [Waiting, Open, Waiting], "{states:?}");
    assert!(!states[1..].contains(&Unknown), "{states:?}");
}

#[test]
fn two_replicas_tell_each_thing_once() {
    let api = FakeApi::start();
    api.put(WEB_PATH, web("2"));
    let replicas = [start(&api), start(&api)];
    api.put(JOB_PATH, job("2", failed()));
    api.await_answers("create", EVENTS, 409, 2);
    let failure = [
        "MigrationFailed Deployment uid-of-web",
        "MigrationFailed Job uid-of-2",
    ];
    assert_eq!(events(&api), failure);
    api.delete(JOB_PATH);
    let mut repaired = job("2", complete());
    repaired["metadata"]["uid"] = json!("repaired");
    repaired["status"]["completionTime"] = json!(Timestamp::now().to_string());
    api.put(JOB_PATH, repaired);
    api.await_answers("create", EVENTS, 201, 4);
    let mut all = failure.to_vec();
    all.extend([
        "MigrationCompleted Deployment uid-of-web",
        "MigrationCompleted Job repaired",
    ]);
    all.sort_unstable();
    assert_eq!(events(&api), all);
    assert_eq!(api.count("create", EVENTS, 201), 4);
    drop(replicas);
}

#[test]
fn an_event_that_is_refused_is_logged_and_hurts_nothing_else() {
    let log = RecorderLog::shared();
    let api = FakeApi::start();
    api.deny("create", "events");
    api.put(WEB_PATH, web("2"));
    api.put(JOB_PATH, job("2", failed()));
    let _recorder = start(&api);
    log.await_line("events is forbidden");
    api.delete(JOB_PATH);
    api.put(JOB_PATH, job("2", complete()));
    api.await_object(RECORD_PATH, |record| record["data"]["2"].is_string());
    // Each was tried once, and not again.
    assert!(
        api.count("create", EVENTS, 403) <= 4,
        "{:?}",
        api.requests()
    );
}

#[test]
fn an_event_is_tried_again_while_the_server_fails() {
    let api = FakeApi::start();
    api.put(WEB_PATH, web("2"));
    let _recorder = start(&api);
    api.fail_writes(3);
    api.put(JOB_PATH, job("2", failed()));
    api.await_answers("create", EVENTS, 201, 2);
    assert_eq!(api.count("create", EVENTS, 500), 3);
}

#[test]
fn without_events_there_are_none() {
    let api = FakeApi::start();
    api.put(WEB_PATH, web("2"));
    api.put(JOB_PATH, job("2", failed()));
    let recorder = RecorderThread::start_holding(&api, &["web"], false, |_| {});
    recorder.await_report("a gate that has failed", |r| r.state == Failed);
    api.put(JOB_PATH, job("2", complete()));
    api.await_object(RECORD_PATH, |record| record["data"]["2"].is_string());
    assert_eq!(events(&api), [""; 0]);
}

#[test]
fn what_cannot_be_watched_is_reported_and_is_no_open_gate() {
    let api = FakeApi::start();
    api.deny("list", "deployments");
    api.put(WEB_PATH, web("2"));
    api.put(JOB_PATH, job("2", complete()));
    let recorder = start(&api);
    api.await_object(RECORD_PATH, |record| record["data"]["2"].is_string());
    recorder.await_report("watches", |r| {
        r.sees_jobs && r.sees_record && !r.sees_workloads
    });
    assert_eq!(recorder.states(), [Unknown]);
    api.heal();
    recorder.await_report("an open gate", |r| r.state == Open && r.sees_workloads);
}
