//! The objects that a waiter sees.

use serde_json::{Value, json};

/// The Job that all tests are about.
pub(crate) const JOB: &str = "db-init";
/// Its record.
pub(crate) const RECORD: &str = "migration-gate-g";

/// The Job, of an image with this tag.
#[allow(
    clippy::needless_pass_by_value,
    reason = "it is always made for the call"
)]
pub(crate) fn job(tag: &str, status: Value) -> Value {
    json!({
        "metadata": {"uid": format!("uid-of-{tag}")},
        "spec": {
            "backoffLimit": 3,
            "template": {"spec": {
                "restartPolicy": "Never",
                "containers": [{"name": "migrate", "image": format!("init:{tag}")}],
            }},
        },
        "status": status,
    })
}

pub(crate) fn running() -> Value {
    json!({"active": 1, "ready": 1})
}

pub(crate) fn condition(kind: &str) -> Value {
    json!({"conditions": [{
        "type": kind, "status": "True", "reason": format!("Because{kind}"), "message": "so it is",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }]})
}

pub(crate) fn complete() -> Value {
    condition("Complete")
}

/// The record of completions of images with these tags.
pub(crate) fn record(tags: &[&str]) -> Value {
    let data: serde_json::Map<_, _> = tags
        .iter()
        .map(|tag| {
            let entry = json!({"image": format!("init:{tag}"), "job": JOB, "uid": "u",
                               "completed": "2026-01-01T00:00:00Z"});
            ((*tag).to_owned(), json!(entry.to_string()))
        })
        .collect();
    json!({"metadata": {}, "data": data})
}

/// The Job's end, after so many pods that failed.
pub(crate) fn failed(pods: usize) -> Value {
    let mut status = condition("Failed");
    status["failed"] = json!(pods);
    status
}
