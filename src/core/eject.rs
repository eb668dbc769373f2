//! The way back: what was injected is taken out again.

use json_patch::{PatchOperation, RemoveOperation, TestOperation};
use serde_json::Value;

use super::injection::{account, is_ours, named, waiter_of};
use super::mutate::template;
use super::names::TOKEN_VOLUME;
use super::podspec::{FieldPath, list};
use crate::config::Gate;

/// The fields that the injection sets beside the container and its volume.
const ACCOUNT_FIELDS: [&str; 3] = [
    "serviceAccountName",
    "serviceAccount",
    "automountServiceAccountToken",
];

/// The patch that takes the waiter, its token and its account out of a Deployment, as it is
/// stored. Empty if no waiter of ours is there.
///
/// A field that somebody applied (so that `metadata.managedFields` names an owner for it) is that
/// somebody's and stays: an applier would put it back, which would be a second roll-out.
pub fn eject(gate: &Gate, deployment: &Value) -> Vec<PatchOperation> {
    let Some(spec) = template(deployment).map(|template| &template["spec"]) else {
        return Vec::new();
    };
    let Some((waiter, _)) = waiter_of(spec).filter(|(_, container)| is_ours(container)) else {
        return Vec::new();
    };
    let at = FieldPath::from_iter(["spec", "template", "spec"]);
    let mut patch = remove_element(spec, &at, "initContainers", waiter);
    if let Some((volume, _)) = named(list(spec, "volumes"), TOKEN_VOLUME) {
        patch.extend(remove_element(spec, &at, "volumes", volume));
    }
    let injected = account(spec) == Some(gate.service_account.as_str())
        && !is_applied(deployment, "serviceAccountName");
    if injected {
        for field in ACCOUNT_FIELDS {
            // An author's own `true` isn't what was injected.
            if spec
                .get(field)
                .is_some_and(|value| *value != Value::Bool(true))
                && !is_applied(deployment, field)
            {
                patch.push(remove(&at.clone().key(field)));
            }
        }
    }
    patch
}

/// Removes one element, or the whole field with its last. The element is tested first, so that a
/// patch made from an older state removes nothing else.
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

/// Whether some manager owns a field of the pod spec. What a webhook sets belongs to nobody.
fn is_applied(deployment: &Value, field: &str) -> bool {
    let path = ["f:spec", "f:template", "f:spec", &format!("f:{field}")];
    list(&deployment["metadata"], "managedFields")
        .iter()
        .any(|manager| {
            path.iter()
                .try_fold(&manager["fieldsV1"], |fields, key| fields.get(key))
                .is_some()
        })
}
