//! The objects of a gate `g`: its Job, the states of the Job, and its record.

use serde_json::{Value, json};

/// The migration Job.
pub const JOB: &str = "db-init";
/// The record.
pub const RECORD: &str = "migration-gate-g";
/// The Job's path in a fake API server.
pub const JOB_PATH: &str = "/apis/batch/v1/namespaces/ns/jobs/db-init";
/// The record's path in a fake API server.
pub const RECORD_PATH: &str = "/api/v1/namespaces/ns/configmaps/migration-gate-g";
/// The option of a waiter for an image with the tag 2.
pub const V2: &str = "--image=web:2";

/// A fixed time, because the API server lets no Job's `startTime` change.
const STARTED: &str = "2026-01-01T00:00:00Z";
/// When a Job completes.
pub const COMPLETED: &str = "2026-01-01T00:01:00Z";

/// The path of a pod in a fake API server.
pub fn pod_path(name: &str) -> String {
    format!("/api/v1/namespaces/ns/pods/{name}")
}

/// A manifest of a Job with this name and this image tag.
pub fn manifest(name: &str, tag: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 3, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "migrate", "image": format!("init:{tag}")}],
        }}},
    })
}

/// The gate's stored Job with this status. Its uid is `uid-of-{tag}`.
#[allow(
    clippy::needless_pass_by_value,
    reason = "a status is made for the call"
)]
pub fn job(tag: &str, status: Value) -> Value {
    let mut job = manifest(JOB, tag);
    job["metadata"]["uid"] = json!(format!("uid-of-{tag}"));
    job["status"] = status;
    job
}

/// The status of a Job whose first pod runs.
pub fn running() -> Value {
    json!({"startTime": STARTED, "active": 1, "ready": 1})
}

/// The status of a Job that is sure to succeed, whose pod has not ended yet.
pub fn succeeding() -> Value {
    ending(&["SuccessCriteriaMet"])
}

/// The status of a Job that is sure to fail, whose pod has not ended yet.
pub fn failing() -> Value {
    ending(&["FailureTarget"])
}

/// The status of a Job that is complete.
pub fn complete() -> Value {
    let mut status = over(&["SuccessCriteriaMet", "Complete"]);
    status["completionTime"] = json!(COMPLETED);
    status["succeeded"] = json!(1);
    status
}

/// The same before Kubernetes 1.31, which has no condition `SuccessCriteriaMet`.
pub fn complete_of_old() -> Value {
    without_success_criteria(complete())
}

/// A status as it was before Kubernetes 1.31.
pub(crate) fn without_success_criteria(mut status: Value) -> Value {
    if let Some(conditions) = status["conditions"].as_array_mut() {
        conditions.retain(|condition| condition["type"] != "SuccessCriteriaMet");
    }
    status
}

/// The status of a Job that has failed after all its attempts.
pub fn failed() -> Value {
    failed_after(4)
}

/// The status of a Job that has failed after this number of pods.
pub fn failed_after(pods: usize) -> Value {
    let mut status = over(&["FailureTarget", "Failed"]);
    status["failed"] = json!(pods);
    status
}

fn over(conditions: &[&str]) -> Value {
    let mut status = ending(conditions);
    status["active"] = json!(0);
    status["ready"] = json!(0);
    status
}

fn ending(conditions: &[&str]) -> Value {
    let condition = |kind| {
        json!({"type": kind, "status": "True", "reason": "BecauseOfTheTest", "message": "so it is",
               "lastTransitionTime": COMPLETED})
    };
    let mut status = running();
    status["conditions"] = conditions.iter().map(condition).collect();
    status
}

/// A record's entry for an image with this tag.
pub fn entry(tag: &str) -> String {
    json!({"image": format!("init:{tag}"), "job": JOB, "uid": "u", "completed": COMPLETED})
        .to_string()
}

/// The stored record with completions of images with these tags.
pub fn record(tags: &[&str]) -> Value {
    let data: Value = tags
        .iter()
        .map(|&tag| (tag.to_owned(), json!(entry(tag))))
        .collect();
    json!({"metadata": {}, "data": data})
}
