//! Removes the injection from workloads.

use json_patch::{PatchOperation, RemoveOperation, TestOperation};
use serde_json::Value;

use super::field::FieldPath;
use super::injection::{account, is_ours, named, waiter_of};
use super::names::TOKEN_VOLUME;
use super::podspec::list;
use crate::gates::{Gate, HeldKind};

/// The argument with the name of the waiter's gate, in every release.
const GATE_ARGUMENT: &str = "--gate=";

/// The gate whose waiter a pod spec carries. `None` without a waiter, or with a hand-written one.
pub fn gate_of(pod_spec: &Value) -> Option<&str> {
    let (_, waiter) = waiter_of(pod_spec).filter(|(_, container)| is_ours(container))?;
    list(waiter, "args")
        .iter()
        .find_map(|arg| arg.as_str()?.strip_prefix(GATE_ARGUMENT))
}

/// The patch that removes a gate's waiter, its token and its ServiceAccount from a stored workload.
/// Empty if the workload has no waiter of this gate: another gate of the namespace may hold it.
///
/// A field that a client has applied stays (`metadata.managedFields` names its owner): its applier
/// would set it again, which would cause a second roll-out.
pub fn eject(gate: &Gate, kind: HeldKind, workload: &Value) -> Vec<PatchOperation> {
    let Some(spec) = kind.pod_kind().pod_spec(workload) else {
        return Vec::new();
    };
    if gate_of(spec) != Some(gate.name.as_str()) {
        return Vec::new();
    }
    let at = kind.pod_kind().field();
    let mut patch = Vec::new();
    if let Some((waiter, _)) = waiter_of(spec) {
        patch.extend(remove_element(spec, &at, "initContainers", waiter));
    }
    if let Some((volume, _)) = named(list(spec, "volumes"), TOKEN_VOLUME) {
        patch.extend(remove_element(spec, &at, "volumes", volume));
    }
    // The injection sets account and token mount only for workloads without an account of their
    // own.
    if account(spec) == Some(gate.service_account.as_str()) {
        // The API server keeps both fields equal, so the owner of one owns both.
        let names = ["serviceAccountName", "serviceAccount"];
        if !names.iter().any(|field| is_applied(kind, workload, field)) {
            let present = names.iter().filter(|field| spec.get(**field).is_some());
            patch.extend(present.map(|field| remove(&at.clone().key(*field))));
        }
        // The injection sets `false`, so `true` is the author's.
        let automount = "automountServiceAccountToken";
        if spec.get(automount) == Some(&Value::Bool(false))
            && !is_applied(kind, workload, automount)
        {
            patch.push(remove(&at.key(automount)));
        }
    }
    patch
}

/// Removes one element of a list, or the list with its last element. A `test` operation comes
/// first, so that a patch of an older state removes nothing else.
fn remove_element(spec: &Value, at: &FieldPath, field: &str, index: usize) -> Vec<PatchOperation> {
    let elements = list(spec, field);
    let list = at.clone().key(field);
    let element = list.clone().index(index);
    let test = PatchOperation::Test(TestOperation {
        path: element.clone().key("name").pointer(),
        value: elements[index]["name"].clone(),
    });
    let path = if elements.len() == 1 { list } else { element };
    vec![test, remove(&path)]
}

fn remove(path: &FieldPath) -> PatchOperation {
    PatchOperation::Remove(RemoveOperation {
        path: path.pointer(),
    })
}

/// Whether some field manager owns a field of the pod spec. A field that a webhook has set has no
/// owner.
fn is_applied(kind: HeldKind, workload: &Value, field: &str) -> bool {
    let path = kind.pod_kind().path.iter().chain([&field]);
    let path: Vec<String> = path.map(|key| format!("f:{key}")).collect();
    list(&workload["metadata"], "managedFields")
        .iter()
        .any(|manager| {
            path.iter()
                .try_fold(&manager["fieldsV1"], |fields, key| fields.get(key))
                .is_some()
        })
}

/// Whether a pod of this spec may still wait at its gate: it has not ended, is not being deleted,
/// and has the gate's waiter. Even if the waiter has ended, a node that restarts runs it again.
pub fn still_waits(gate: &Gate, pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str();
    gate_of(&pod["spec"]) == Some(gate.name.as_str())
        && pod["metadata"].get("deletionTimestamp").is_none()
        && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Whether a `ReplicaSet` may create pods that carry the gate's waiter.
pub fn still_makes(gate: &Gate, replica_set: &Value) -> bool {
    // Every stored `ReplicaSet` has the field: the API server sets its default.
    replica_set["spec"]["replicas"].as_i64() != Some(0)
        && gate_of(&replica_set["spec"]["template"]["spec"]) == Some(gate.name.as_str())
}

/// Whether a controller owns the object, and so keeps it as in its own template.
pub fn is_controlled(object: &Value) -> bool {
    list(&object["metadata"], "ownerReferences")
        .iter()
        .any(|owner| owner["controller"] == true)
}

/// Whether another client than Helm has applied an object that Helm created, and so owns it now.
/// The chart uses the same rule (`migration-gate.owns`).
pub fn is_taken_over(object: &Value) -> bool {
    let metadata = &object["metadata"];
    let annotation = "kubectl.kubernetes.io/last-applied-configuration";
    metadata["annotations"].get(annotation).is_some()
        || list(metadata, "managedFields").iter().any(|manager| {
            manager["operation"] == "Apply"
                && !manager["manager"]
                    .as_str()
                    .is_some_and(|name| name.starts_with("helm"))
        })
}
