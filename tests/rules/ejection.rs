//! What was injected is taken out again, and nothing else.

use migration_gate::config::Config;
use migration_gate::core::eject::eject;
use serde_json::{Value, json};

use crate::fixtures::{admitted, deployment, pod_spec};

fn ejected(object: &Value) -> Value {
    let mut result = object.clone();
    let patch = eject(&Config::default().gates[0], object);
    json_patch::patch(&mut result, &patch).expect("the patch applies to its own object");
    result
}

fn injected(spec: Value) -> Value {
    admitted(&Config::default(), &deployment(spec), None)
}

#[test]
fn ejecting_undoes_injecting() {
    for spec in [
        json!({}),
        json!({
            "initContainers": [{"name": "assets", "image": "a:1"}],
            "volumes": [{"name": "media", "emptyDir": {}}],
        }),
        json!({"serviceAccountName": "cloud"}),
        json!({"serviceAccountName": "cloud", "automountServiceAccountToken": true}),
    ] {
        assert_eq!(ejected(&injected(spec.clone())), deployment(spec));
    }
}

#[test]
fn the_author_keeps_an_automount_of_his_own() {
    let result = ejected(&injected(json!({"automountServiceAccountToken": true})));
    assert_eq!(
        result,
        deployment(json!({"automountServiceAccountToken": true}))
    );
}

#[test]
fn what_somebody_applied_stays() {
    let mut object = injected(json!({"serviceAccountName": "piefed-init-checker"}));
    object["metadata"]["managedFields"] = json!([{
        "manager": "kustomize-controller",
        "fieldsV1": {"f:spec": {"f:template": {"f:spec": {"f:serviceAccountName": {}}}}},
    }]);
    let result = ejected(&object);
    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "piefed-init-checker");
    assert_eq!(spec.get("initContainers"), None);
    assert_eq!(spec.get("volumes"), None);
}

#[test]
fn a_hand_written_waiter_is_not_ours_to_take() {
    let object = deployment(json!({"initContainers": [
        {"name": "wait-for-migrations", "image": "kubectl:1", "command": ["sh"]},
    ]}));
    assert_eq!(ejected(&object), object);
    assert_eq!(ejected(&deployment(json!({}))), deployment(json!({})));
}

#[test]
fn a_patch_from_an_older_state_removes_nothing_else() {
    let object = injected(json!({"initContainers": [{"name": "assets", "image": "a:1"}]}));
    let patch = eject(&Config::default().gates[0], &object);
    let mut changed = object.clone();
    pod_spec(&mut changed)["initContainers"]
        .as_array_mut()
        .unwrap()
        .reverse();
    assert!(json_patch::patch(&mut changed, &patch).is_err());
}
