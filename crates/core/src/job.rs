//! A Job, with the fields that a gate needs.
//!
//! The fields follow `batch/v1` Job; see
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use super::applier::Applier;
use super::gates::JobSource;
use super::version::Contents;

/// One Job, reduced to the fields that decisions and messages need. It is read from the API
/// server's JSON: missing fields get the API's defaults, and other fields are skipped.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "JobWire")]
pub struct Job {
    /// Its name.
    pub name: String,
    /// Its uid, which distinguishes it from another Job of the same name.
    pub uid: String,
    /// The resourceVersion from which a watch resumes.
    pub resource_version: String,
    /// The versions that it migrates for.
    pub contents: Contents,
    /// Its state.
    pub state: JobState,
    /// Whether it is being deleted (`metadata.deletionTimestamp`).
    pub deleting: bool,
    /// When it was created.
    pub created: Option<Timestamp>,
    /// Its `status.startTime`.
    pub started: Option<Timestamp>,
    /// Its current or last attempt, if the number of failed pods shows it.
    pub attempt: Option<Attempt>,
    /// Whether a pod of it has failed.
    pub has_failed_pods: bool,
    /// Whether a CronJob has created it on its schedule.
    pub scheduled: bool,
    /// The tool that applies it.
    pub applier: Applier,
}

impl Job {
    /// Whether it is migrating or about to, and no attempt has failed yet.
    pub fn is_first_attempt(&self) -> bool {
        !self.has_failed_pods
            && !self.deleting
            && matches!(
                self.state,
                JobState::NoPod | JobState::PodNotReady | JobState::Running | JobState::Succeeding
            )
    }

    /// Whether `source` selects this Job. Patterns and selectors do not match a Job that a CronJob
    /// has created on its schedule: it often has the labels and name prefix of a migration, but is
    /// not one.
    pub fn is_of(&self, source: &JobSource) -> bool {
        (!self.scheduled || source.exact_name().is_some())
            && source.matches(&self.name, |key| self.contents.label(key))
    }

    /// Orders Jobs by their creation time, then by their names.
    pub fn age(&self) -> (Option<Timestamp>, &str) {
        (self.created, &self.name)
    }
}

/// The attempts of a Job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Counts from 1.
    pub number: u32,
    /// One more than the Job's `backoffLimit`.
    pub of: u32,
}

/// The state of a Job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobState {
    /// The condition `Complete` is true.
    Complete {
        /// Its completion time.
        at: Option<Timestamp>,
    },
    /// The condition `Failed` is true.
    Failed {
        /// Such as `BackoffLimitExceeded`.
        reason: String,
        /// The Job controller's message.
        message: String,
    },
    /// The condition `SuccessCriteriaMet` is true, and its pods have not ended yet. It is not over.
    Succeeding,
    /// The condition `FailureTarget` is true, and its pods have not ended yet. It is not over.
    Failing,
    /// `Complete`, but it ran nothing: `spec.completions` is 0.
    Empty,
    /// `spec.suspend`.
    Suspended {
        /// The Kueue queue in which it waits, if there is one.
        queue: Option<String>,
    },
    /// It has no pod yet.
    NoPod,
    /// A pod has failed, and there is no next one yet.
    BetweenAttempts,
    /// It has pods, and none is ready: they pull an image, run an init container, or end.
    PodNotReady,
    /// A pod runs.
    Running,
}

/// A Job in the API server's JSON.
#[derive(Deserialize)]
struct JobWire {
    #[serde(default)]
    metadata: JobMeta,
    #[serde(default)]
    spec: JobSpec,
    #[serde(default)]
    status: JobStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobMeta {
    name: String,
    uid: String,
    resource_version: String,
    creation_timestamp: Option<Timestamp>,
    deletion_timestamp: Option<Timestamp>,
    labels: Value,
    annotations: Value,
    owner_references: Value,
}

impl JobMeta {
    /// Whether a CronJob is its controller. `kubectl create job --from=cronjob/…` makes the CronJob
    /// its owner, but not its controller.
    fn is_scheduled(&self) -> bool {
        let owners = self.owner_references.as_array();
        owners.is_some_and(|owners| {
            owners
                .iter()
                .any(|owner| owner["kind"] == "CronJob" && owner["controller"] == true)
        })
    }
}

/// Kueue's label for the queue of a Job, which it keeps suspended until there is room.
/// See <https://kueue.sigs.k8s.io/docs/tasks/run/jobs/>.
const QUEUE: &str = "kueue.x-k8s.io/queue-name";

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobSpec {
    suspend: Option<bool>,
    backoff_limit: Option<u32>,
    completions: Option<u32>,
    parallelism: Option<u32>,
    template: Value,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct JobStatus {
    conditions: Option<Vec<Condition>>,
    active: Option<u32>,
    ready: Option<u32>,
    failed: Option<u32>,
    succeeded: Option<u32>,
    terminating: Option<u32>,
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

/// The API server's default for `backoffLimit`.
const DEFAULT_BACKOFF_LIMIT: u32 = 6;

/// The API server's default for `backoffLimit` if `backoffLimitPerIndex` is set.
const NO_BACKOFF_LIMIT: u32 = i32::MAX as u32;

impl From<JobWire> for Job {
    fn from(wire: JobWire) -> Self {
        let JobWire {
            metadata,
            spec,
            status,
        } = wire;
        let queue = metadata.labels.get(QUEUE).and_then(Value::as_str);
        let state = state(&spec, &status, queue);
        let scheduled = metadata.is_scheduled();
        let own = json!({"labels": metadata.labels, "annotations": metadata.annotations});
        Self {
            name: metadata.name,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            contents: Contents::of(&own, &spec.template),
            applier: Applier::of(&own),
            deleting: metadata.deletion_timestamp.is_some(),
            created: metadata.creation_timestamp,
            started: status.start_time,
            has_failed_pods: status.failed.unwrap_or_default() > 0,
            attempt: attempt(&spec, &status, &state),
            scheduled,
            state,
        }
    }
}

fn state(spec: &JobSpec, status: &JobStatus, queue: Option<&str>) -> JobState {
    let condition = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.kind == kind && condition.status == "True")
    };
    let count = |pods: Option<u32>| pods.unwrap_or_default();
    if let Some(complete) = condition("Complete") {
        if spec.completions == Some(0) {
            return JobState::Empty;
        }
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
        JobState::Suspended {
            queue: queue.map(str::to_owned),
        }
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
    } else if count(status.terminating) > 0 {
        // Its pod is evicted, and still runs. With `podReplacementPolicy: Failed`, the default with
        // a pod failure policy, the next pod is created only after this one has ended.
        JobState::PodNotReady
    } else {
        JobState::NoPod
    }
}

/// The attempt, by the number of failed pods. `None` for a Job with several pods, or whose
/// containers restart in place: there the number does not show it.
fn attempt(spec: &JobSpec, status: &JobStatus, state: &JobState) -> Option<Attempt> {
    let restarts_in_place = spec
        .template
        .get("spec")
        .and_then(|pod| pod.get("restartPolicy"))
        .is_some_and(|policy| policy == "OnFailure");
    let single = spec.completions.unwrap_or(1) == 1 && spec.parallelism.unwrap_or(1) <= 1;
    let limit = spec.backoff_limit.unwrap_or(DEFAULT_BACKOFF_LIMIT);
    let of = limit.saturating_add(1);
    let failed = status.failed.unwrap_or_default();
    let number = match state {
        // There is no further attempt.
        JobState::Failed { .. } => failed,
        _ => failed.saturating_add(1),
    };
    (single && !restarts_in_place && limit < NO_BACKOFF_LIMIT).then(|| Attempt {
        number: number.clamp(1, of),
        of,
    })
}

#[cfg(test)]
mod tests {
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
        let check = |spec: &Value, status: &Value, expect: JobState| {
            assert_eq!(job(spec, status).state, expect, "{spec} {status}");
        };
        let at: Option<Timestamp> = "2026-01-01T00:00:00Z".parse().ok();
        let with = |conditions: &[&str]| {
            let conditions: Vec<_> = conditions.iter().map(|kind| condition(kind)).collect();
            json!({"active": 1, "ready": 1, "conditions": conditions})
        };
        let (none, suspended) = (json!({}), json!({"suspend": true}));
        let empty = json!({"completions": 0});
        let failed = JobState::Failed {
            reason: "R".into(),
            message: "M".into(),
        };
        let complete = JobState::Complete { at };
        for (spec, status, expect) in [
            (&none, json!({}), JobState::NoPod),
            (&suspended, json!({}), JobState::Suspended { queue: None }),
            (&empty, with(&["Complete"]), JobState::Empty),
            (&none, json!({"active": 1}), JobState::Running),
            (&none, with(&[]), JobState::Running),
            (
                &none,
                json!({"active": 1, "ready": 0}),
                JobState::PodNotReady,
            ),
            (
                &none,
                json!({"active": 0, "terminating": 1}),
                JobState::PodNotReady,
            ),
            (&none, json!({"failed": 1}), JobState::BetweenAttempts),
            (&none, json!({"succeeded": 1}), JobState::Running),
            (&none, with(&["SuccessCriteriaMet"]), JobState::Succeeding),
            (&none, with(&["FailureTarget"]), JobState::Failing),
            (&none, with(&["SuccessCriteriaMet", "Complete"]), complete),
            (&suspended, with(&["FailureTarget", "Failed"]), failed),
        ] {
            check(spec, &status, expect);
        }
        let mut retracted = with(&["Complete"]);
        retracted["conditions"][0]["status"] = json!("False");
        check(&none, &retracted, JobState::Running);
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
        // After the last attempt, there is no next one.
        let mut over = condition("Failed");
        over["reason"] = json!("DeadlineExceeded");
        let over = json!({"failed": 2, "conditions": [over]});
        let last = job(&json!({"backoffLimit": 3}), &over).attempt;
        assert_eq!(last, Some(Attempt { number: 2, of: 4 }));
    }

    #[test]
    fn restarts_in_place_and_limits_by_index_count_no_attempts() {
        let job: Job = serde_json::from_value(json!({"spec": {"template": {
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "m", "image": "job:2"}]},
        }}}))
        .expect("a Job");
        assert_eq!(job.attempt, None);
        let by_index = super::tests::job(&json!({"backoffLimit": i32::MAX}), &json!({}));
        assert_eq!(by_index.attempt, None);
    }

    #[test]
    fn what_a_schedule_runs_is_no_migration() {
        let job = |owner: Value| -> Job {
            let metadata = json!({
                "name": "shop-clean-29410", "labels": {"app": "shop"}, "ownerReferences": [owner],
            });
            serde_json::from_value(json!({"metadata": metadata})).expect("a Job")
        };
        let found = |job: &Job, source: &str| job.is_of(&JobSource::parse(source).unwrap());
        let scheduled = job(json!({"kind": "CronJob", "controller": true}));
        let by_hand = job(json!({"kind": "CronJob"}));
        let of_a_set = job(json!({"kind": "JobSet", "controller": true}));
        for source in ["shop-*", "label:app=shop"] {
            assert!(!found(&scheduled, source), "{source}");
            assert!(found(&by_hand, source) && found(&of_a_set, source));
        }
        assert!(found(&scheduled, "shop-clean-29410"));
    }

    #[test]
    fn a_queue_is_told_from_a_hand() {
        let job: Job = serde_json::from_value(json!({
            "metadata": {"labels": {QUEUE: "batch"}}, "spec": {"suspend": true},
        }))
        .expect("a Job");
        let queue = Some("batch".to_owned());
        assert_eq!(job.state, JobState::Suspended { queue });
    }

    #[test]
    fn a_first_attempt_is_over_with_the_first_failed_pod() {
        let check = |status: Value, expect: bool| {
            let first = job(&json!({}), &status).is_first_attempt();
            assert_eq!(first, expect, "{status}");
        };
        check(json!({}), true);
        check(json!({"active": 1}), true);
        check(json!({"active": 1, "failed": 1}), false);
        check(json!({"failed": 1}), false);
        check(
            json!({"conditions": [condition("SuccessCriteriaMet")]}),
            true,
        );
        check(json!({"conditions": [condition("FailureTarget")]}), false);
        check(json!({"conditions": [condition("Complete")]}), false);
    }

    #[test]
    fn a_bare_object_is_a_job_without_a_pod() {
        let job: Job = serde_json::from_str("{}").expect("a Job");
        assert_eq!(job.state, JobState::NoPod);
        assert_eq!(job.contents, Contents::default());
    }
}
