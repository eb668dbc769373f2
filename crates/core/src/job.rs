//! What a Job says about itself, as far as a gate needs to know.
//!
//! The fields follow `batch/v1` Job; see
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::podspec::default_container;

/// One Job, reduced to what decisions and messages need. Read from the API server's JSON; what
/// is missing there takes the API's own default, and what isn't needed is skipped unread.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub struct Job {
    /// Tells this Job from another one of the same name.
    pub uid: String,
    /// Where a watch goes on after this state.
    pub resource_version: String,
    /// The image of the pod template's default container, which is what the Job migrates for.
    pub image: Option<String>,
    /// What it is doing.
    pub state: JobState,
    /// Somebody has deleted it, and what is left is being cleaned up.
    pub deleting: bool,
    /// When its first pod was allowed to start.
    pub started: Option<Timestamp>,
    /// Which attempt this is, or was the last, and how many there can be, where failed pods tell.
    pub attempt: Option<Attempt>,
}

/// How often a Job has tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// One more than the Job's `backoffLimit`.
    pub of: u32,
}

/// What a Job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// The condition `Complete` is true.
    Complete {
        /// When.
        at: Option<Timestamp>,
    },
    /// The condition `Failed` is true.
    Failed {
        /// Such as `BackoffLimitExceeded`.
        reason: String,
        /// What the Job controller says.
        message: String,
    },
    /// `SuccessCriteriaMet`, and its pods have not ended yet. Not over.
    Succeeding,
    /// `FailureTarget`, and its pods have not ended yet. Not over.
    Failing,
    /// `spec.suspend`.
    Suspended,
    /// Created, and no pod yet.
    NoPod,
    /// A pod has failed, and the next one isn't there yet.
    BetweenAttempts,
    /// It has a pod, none of them ready: pulling an image, in an init container, or ending.
    PodNotReady,
    /// A pod runs.
    Running,
}

/// A Job as the API server writes it.
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    uid: String,
    resource_version: String,
    deletion_timestamp: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    suspend: Option<bool>,
    backoff_limit: Option<u32>,
    completions: Option<u32>,
    parallelism: Option<u32>,
    template: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    conditions: Option<Vec<Condition>>,
    active: Option<u32>,
    ready: Option<u32>,
    failed: Option<u32>,
    succeeded: Option<u32>,
    start_time: Option<Timestamp>,
    completion_time: Option<Timestamp>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<Timestamp>,
}

/// What the API server takes for an absent `backoffLimit`.
const DEFAULT_BACKOFF_LIMIT: u32 = 6;

impl From<Wire> for Job {
    fn from(wire: Wire) -> Self {
        let Wire {
            metadata,
            spec,
            status,
        } = wire;
        let state = state(&spec, &status);
        Self {
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            image: default_container(&spec.template)
                .and_then(|container| container.get("image")?.as_str())
                .map(str::to_owned),
            deleting: metadata.deletion_timestamp.is_some(),
            started: status.start_time,
            attempt: attempt(&spec, &status, &state),
            state,
        }
    }
}

fn state(spec: &Spec, status: &Status) -> JobState {
    let condition = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.kind == kind && condition.status == "True")
    };
    let count = |pods: Option<u32>| pods.unwrap_or_default();
    if let Some(complete) = condition("Complete") {
        JobState::Complete {
            at: status.completion_time.or(complete.last_transition_time),
        }
    } else if let Some(failed) = condition("Failed") {
        JobState::Failed {
            reason: failed.reason.clone(),
            message: failed.message.clone(),
        }
    } else if condition("FailureTarget").is_some() {
        JobState::Failing
    } else if condition("SuccessCriteriaMet").is_some() {
        JobState::Succeeding
    } else if spec.suspend == Some(true) {
        JobState::Suspended
    } else if count(status.active) > 0 {
        if status.ready == Some(0) {
            JobState::PodNotReady
        } else {
            JobState::Running
        }
    } else if count(status.failed) > 0 {
        JobState::BetweenAttempts
    } else if count(status.succeeded) > 0 {
        JobState::Running
    } else {
        JobState::NoPod
    }
}

/// With several pods at once, or pods whose containers restart in place, the number of failed
/// pods says nothing about attempts.
fn attempt(spec: &Spec, status: &Status, state: &JobState) -> Option<Attempt> {
    let restarts_in_place = spec
        .template
        .get("spec")
        .and_then(|pod| pod.get("restartPolicy"))
        .is_some_and(|policy| policy == "OnFailure");
    let single = spec.completions.unwrap_or(1) == 1 && spec.parallelism.unwrap_or(1) <= 1;
    let of = spec
        .backoff_limit
        .unwrap_or(DEFAULT_BACKOFF_LIMIT)
        .saturating_add(1);
    let failed = status.failed.unwrap_or_default();
    let number = match state {
        // There won't be another one.
        JobState::Failed { .. } => failed,
        _ => failed.saturating_add(1),
    };
    (single && !restarts_in_place).then(|| Attempt {
        number: number.clamp(1, of),
        of,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(spec: &Value, status: &Value) -> Job {
        let mut spec = spec.clone();
        spec["template"] = json!({"spec": {"containers": [{"name": "c", "image": "job:1"}]}});
        serde_json::from_value(json!({
            "metadata": {"uid": "u1", "managedFields": [{"manager": "x"}]},
            "spec": spec,
            "status": status,
        }))
        .expect("a Job")
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": "R", "message": "M",
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    #[test]
    fn the_state_is_the_condition_or_else_what_the_pods_do() {
        let check = |spec: Value, status: Value, expect: JobState| {
            assert_eq!(job(&spec, &status).state, expect, "{spec} {status}");
        };
        let at: Option<Timestamp> = "2026-01-01T00:00:00Z".parse().ok();
        let with = |conditions: &[&str]| {
            let conditions: Vec<_> = conditions.iter().map(|kind| condition(kind)).collect();
            json!({"active": 1, "ready": 1, "conditions": conditions})
        };
        check(json!({}), json!({}), JobState::NoPod);
        check(json!({"suspend": true}), json!({}), JobState::Suspended);
        check(json!({}), json!({"active": 1}), JobState::Running);
        check(
            json!({}),
            json!({"active": 1, "ready": 1}),
            JobState::Running,
        );
        check(
            json!({}),
            json!({"active": 1, "ready": 0}),
            JobState::PodNotReady,
        );
        check(json!({}), json!({"failed": 1}), JobState::BetweenAttempts);
        check(json!({}), json!({"succeeded": 1}), JobState::Running);
        check(
            json!({}),
            with(&["SuccessCriteriaMet"]),
            JobState::Succeeding,
        );
        check(json!({}), with(&["FailureTarget"]), JobState::Failing);
        check(
            json!({}),
            with(&["SuccessCriteriaMet", "Complete"]),
            JobState::Complete { at },
        );
        check(
            json!({"suspend": true}),
            with(&["FailureTarget", "Failed"]),
            JobState::Failed {
                reason: "R".into(),
                message: "M".into(),
            },
        );
        let mut retracted = with(&["Complete"]);
        retracted["conditions"][0]["status"] = json!("False");
        check(json!({}), retracted, JobState::Running);
    }

    #[test]
    fn an_attempt_is_counted_in_failed_pods() {
        let check = |spec: Value, failed: u32, expect: Option<(u32, u32)>| {
            assert_eq!(
                job(&spec, &json!({"failed": failed})).attempt,
                expect.map(|(number, of)| Attempt { number, of }),
                "{spec} {failed}"
            );
        };
        check(json!({"backoffLimit": 3}), 0, Some((1, 4)));
        check(json!({"backoffLimit": 3}), 1, Some((2, 4)));
        check(json!({"backoffLimit": 3}), 4, Some((4, 4)));
        check(json!({"backoffLimit": 0}), 0, Some((1, 1)));
        check(json!({}), 0, Some((1, 7)));
        check(json!({"completions": 3}), 0, None);
        check(json!({"parallelism": 2}), 0, None);
        // After the last one there is no next.
        let mut over = condition("Failed");
        over["reason"] = json!("DeadlineExceeded");
        let over = json!({"failed": 2, "conditions": [over]});
        let last = job(&json!({"backoffLimit": 3}), &over).attempt;
        assert_eq!(last, Some(Attempt { number: 2, of: 4 }));
    }

    #[test]
    fn only_the_default_containers_image_counts() {
        let job: Job = serde_json::from_value(json!({"spec": {"template": {
            "metadata": {"annotations": {"kubectl.kubernetes.io/default-container": "migrate"}},
            "spec": {"restartPolicy": "OnFailure", "containers": [
                {"name": "proxy", "image": "proxy:7"}, {"name": "migrate", "image": "job:2"}]},
        }}}))
        .expect("a Job");
        assert_eq!(job.image.as_deref(), Some("job:2"));
        assert_eq!(job.attempt, None);
    }

    #[test]
    fn a_bare_object_is_a_job_without_a_pod() {
        let job: Job = serde_json::from_str("{}").expect("a Job");
        assert_eq!(job.state, JobState::NoPod);
        assert_eq!(job.image, None);
    }
}
