//! A held workload, as far as the state of its gate depends on it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::eject::gate_of;
use super::gates::{Gate, HeldKind};
use super::podspec::list;
use super::version::{NoVersion, Wanted};

/// A workload from the API server's JSON, reduced to the fields that gates need. Its containers
/// have only names and images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Value")]
pub struct GatedWorkload {
    /// Its name.
    pub name: String,
    /// Its uid, which distinguishes it from another workload of the same name.
    pub uid: String,
    /// The resourceVersion from which a watch resumes.
    pub resource_version: String,
    /// Its labels.
    pub labels: Map<String, Value>,
    template: Value,
    /// The name of the gate whose waiter its pods carry.
    waits_at: Option<String>,
    rests: bool,
    waiting_pods: u64,
}

impl From<Value> for GatedWorkload {
    fn from(mut object: Value) -> Self {
        let text = |field: &str| {
            let value = object["metadata"][field].as_str();
            value.unwrap_or_default().to_owned()
        };
        let spec = &object["spec"];
        // A CronJob's pod template is inside its Job template.
        let template = match &spec["jobTemplate"] {
            Value::Null => &spec["template"],
            of_jobs => &of_jobs["spec"]["template"],
        };
        Self {
            name: text("name"),
            uid: text("uid"),
            resource_version: text("resourceVersion"),
            template: reduced(template),
            waits_at: gate_of(&template["spec"]).map(str::to_owned),
            rests: spec["replicas"] == 0
                || spec["suspend"] == true
                || object["metadata"]["deletionTimestamp"].is_string(),
            waiting_pods: waiting_pods(&object),
            labels: match object["metadata"]["labels"].take() {
                Value::Object(labels) => labels,
                _ => Map::new(),
            },
        }
    }
}

/// A pod template with only the fields that can identify its version.
fn reduced(template: &Value) -> Value {
    let containers = |field: &str| -> Vec<Value> {
        let containers = list(&template["spec"], field).iter();
        containers
            .map(|c| json!({"name": c["name"], "image": c["image"]}))
            .collect()
    };
    json!({
        "metadata": {
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
        },
        "spec": {
            "containers": containers("containers"),
            "initContainers": containers("initContainers"),
        },
    })
}

/// The number of pods of the current template that are not ready. While the gate is closed for
/// them, these are the pods that wait.
fn waiting_pods(object: &Value) -> u64 {
    let status = &object["status"];
    let observed = status["observedGeneration"].as_u64();
    if observed.is_some_and(|seen| Some(seen) < object["metadata"]["generation"].as_u64()) {
        // The status counts the pods of an earlier template.
        return 0;
    }
    let count = |fields: [&str; 2]| fields.iter().find_map(|field| status[field].as_u64());
    let all = count(["replicas", "currentNumberScheduled"]).unwrap_or_default();
    let ready = count(["readyReplicas", "numberReady"]).unwrap_or_default();
    let updated = count(["updatedReplicas", "updatedNumberScheduled"]).unwrap_or_default();
    // A CronJob's status lists its running Jobs.
    let active = list(status, "active").len() as u64;
    all.saturating_sub(ready).min(updated) + active
}

/// A held workload, with what its gate needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependent {
    /// Its kind.
    pub kind: HeldKind,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The version that its pods need.
    pub wanted: Result<Wanted, NoVersion>,
    /// Number of its pods that wait if the gate is closed for them.
    pub waiting_pods: u64,
}

impl Dependent {
    /// The workload, if its pods must wait at the gate. `None` if it has no waiter of the gate, is
    /// scaled to zero or suspended, or is being deleted.
    pub fn of(gate: &Gate, kind: HeldKind, seen: GatedWorkload) -> Option<Self> {
        if seen.rests || seen.waits_at.as_ref() != Some(&gate.name) {
            return None;
        }
        Some(Self {
            kind,
            wanted: Wanted::of(gate, &seen.template),
            name: seen.name,
            uid: seen.uid,
            waiting_pods: seen.waiting_pods,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gates::Config;
    use crate::injection::Injection;

    /// A Deployment that waits at PieFed's gate, with a change.
    fn dependent(change: &Value) -> Option<Dependent> {
        let config = Config::default();
        let gate = &config.gates[0];
        let mut template = json!({"spec": {"containers": [{"name": "web", "image": "web:2"}]}});
        let injection = Injection::wanted(gate, &config.waiter, &template);
        template["spec"]["initContainers"] = json!([injection.container]);
        let mut object = json!({
            "metadata": {"name": "piefed-web", "uid": "u", "generation": 3},
            "spec": {"replicas": 2, "template": template},
            "status": {"observedGeneration": 3, "replicas": 3, "updatedReplicas": 1,
                       "readyReplicas": 2},
        });
        json_patch::merge(&mut object, change);
        let seen = serde_json::from_value(object).expect("a workload");
        Dependent::of(gate, HeldKind::Deployment, seen)
    }

    #[test]
    fn it_wants_what_its_template_runs() {
        let found = dependent(&json!({})).expect("it waits at the gate");
        assert_eq!(found.name, "piefed-web");
        assert_eq!(found.wanted.expect("a version").version(), "version 2");
    }

    #[test]
    fn what_rests_or_carries_no_waiter_waits_for_nothing() {
        for change in [
            json!({"spec": {"replicas": 0}}),
            json!({"spec": {"suspend": true}}),
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"spec": {"template": {"spec": {"initContainers": []}}}}),
        ] {
            assert_eq!(dependent(&change), None, "{change}");
        }
    }

    #[test]
    fn pods_of_the_present_template_that_are_not_ready_wait() {
        let check = |status: Value, expect: u64| {
            let change = json!({"status": status});
            let found = dependent(&change).expect("it waits at the gate");
            assert_eq!(found.waiting_pods, expect, "{change}");
        };
        check(json!({}), 1);
        // The other pods are of the old template, and one of them is not ready.
        check(json!({"readyReplicas": 1}), 1);
        check(json!({"readyReplicas": 3}), 0);
        check(json!({"updatedReplicas": 0}), 0);
        check(json!({"observedGeneration": 2}), 0);
        // Argo Rollouts writes it as a string.
        check(json!({"observedGeneration": "2"}), 1);
        let of_a_daemon_set = json!({
            "replicas": null, "readyReplicas": null, "updatedReplicas": null,
            "currentNumberScheduled": 3, "numberReady": 1, "updatedNumberScheduled": 3,
        });
        check(of_a_daemon_set, 2);
        let of_a_cron_job = json!({"replicas": null, "updatedReplicas": null,
                                   "readyReplicas": null, "active": [{}, {}]});
        check(of_a_cron_job, 2);
    }
}
