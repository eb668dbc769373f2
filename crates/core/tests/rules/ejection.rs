//! What was injected is taken out again, and nothing else.

use migration_gate_core::eject::{eject, gate_of, is_taken_over, still_makes, still_waits};
use migration_gate_core::gates::{Config, Gate, HeldKind};
use migration_gate_core::glob::Glob;
use serde_json::{Value, json};

use crate::fixtures::{admitted, deployment, pod_spec};

fn ejected(object: &Value) -> Value {
    ejected_by(&Config::default().gates[0], object)
}

fn ejected_by(gate: &Gate, object: &Value) -> Value {
    let mut result = object.clone();
    let patch = eject(gate, HeldKind::Deployment, object);
    json_patch::patch(&mut result, &patch).expect("the patch applies to its own object");
    result
}

fn injected(spec: Value) -> Value {
    admitted(&Config::default(), &deployment(spec), None)
}

/// A second gate of the namespace, for the same Deployment and with the same account.
fn another_gate() -> Gate {
    let mut gate = Config::default().gates.remove(0);
    gate.name = "search".into();
    gate.job = Glob::parse("search-index").ok();
    gate
}

/// Marks fields of the pod spec as someone's, as the API server does for what was applied.
fn applied(object: &mut Value, fields: &[&str]) {
    let fields: Value = fields
        .iter()
        .map(|field| (format!("f:{field}"), json!({})))
        .collect::<serde_json::Map<_, _>>()
        .into();
    object["metadata"]["managedFields"] = json!([{
        "manager": "kustomize-controller",
        "fieldsV1": {"f:spec": {"f:template": {"f:spec": fields}}},
    }]);
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
        json!({"serviceAccountName": "cloud", "automountServiceAccountToken": false}),
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
    applied(&mut object, &["serviceAccountName"]);
    let result = ejected(&object);
    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["serviceAccountName"], "piefed-init-checker");
    assert_eq!(spec.get("initContainers"), None);
    assert_eq!(spec.get("volumes"), None);
    // The author named the account, and said nothing of its token.
    assert_eq!(spec.get("automountServiceAccountToken"), None);

    applied(
        &mut object,
        &["serviceAccountName", "automountServiceAccountToken"],
    );
    let result = ejected(&object);
    let spec = &result["spec"]["template"]["spec"];
    assert_eq!(spec["automountServiceAccountToken"], false);
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
fn a_waiter_of_another_gate_stays() {
    let object = injected(json!({}));
    assert_eq!(ejected_by(&another_gate(), &object), object);
    let config = Config {
        gates: vec![another_gate()],
        ..Config::default()
    };
    let other = admitted(&config, &deployment(json!({})), None);
    assert_eq!(ejected(&other), other);
    assert_eq!(ejected_by(&another_gate(), &other), deployment(json!({})));
    let gate = |object: &Value| gate_of(&object["spec"]["template"]["spec"]).map(str::to_owned);
    assert_eq!(gate(&object).as_deref(), Some("piefed"));
    assert_eq!(gate(&other).as_deref(), Some("search"));
    assert_eq!(gate(&deployment(json!({}))), None);
}

#[test]
fn a_patch_from_an_older_state_removes_nothing_else() {
    let object = injected(json!({"initContainers": [{"name": "assets", "image": "a:1"}]}));
    let patch = eject(&Config::default().gates[0], HeldKind::Deployment, &object);
    let mut changed = object.clone();
    pod_spec(&mut changed)["initContainers"]
        .as_array_mut()
        .unwrap()
        .reverse();
    assert!(json_patch::patch(&mut changed, &patch).is_err());
}

/// Until none of these is left, nothing that a waiter needs may be deleted.
#[test]
fn a_pod_waits_until_it_is_over_or_going_away() {
    let gate = &Config::default().gates[0];
    let mut object = injected(json!({}));
    let pod = json!({"metadata": {"name": "web"}, "spec": pod_spec(&mut object)});
    let check = |change: &dyn Fn(&mut Value), expect: bool| {
        let mut pod = pod.clone();
        change(&mut pod);
        assert_eq!(still_waits(gate, &pod), expect, "{pod}");
    };
    check(&|_| {}, true);
    // A node that restarts runs the waiter of a running pod once more.
    check(&|pod| pod["status"]["phase"] = json!("Running"), true);
    check(&|pod| pod["status"]["phase"] = json!("Failed"), false);
    check(&|pod| pod["status"]["phase"] = json!("Succeeded"), false);
    check(
        &|pod| pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
        false,
    );
    check(&|pod| pod["spec"]["initContainers"] = json!([]), false);
    assert!(!still_waits(&another_gate(), &pod));

    let sets = |replicas: i64| {
        let mut set = object.clone();
        set["spec"]["replicas"] = json!(replicas);
        set
    };
    assert!(still_makes(gate, &sets(1)));
    assert!(!still_makes(gate, &sets(0)));
    assert!(!still_makes(&another_gate(), &sets(1)));
}

#[test]
fn what_somebody_else_applied_is_not_the_charts_any_more() {
    let check = |metadata: Value, expect: bool| {
        assert_eq!(
            is_taken_over(&json!({"metadata": metadata})),
            expect,
            "{metadata}"
        );
    };
    let managed = |manager: &str, operation: &str| {
        json!({"managedFields": [
            {"manager": "helm", "operation": "Apply"},
            {"manager": manager, "operation": operation},
        ]})
    };
    check(json!({}), false);
    check(managed("helm-controller", "Apply"), false);
    check(managed("kube-controller-manager", "Update"), false);
    check(managed("kustomize-controller", "Apply"), true);
    check(managed("kubectl", "Apply"), true);
    let annotation = json!({"kubectl.kubernetes.io/last-applied-configuration": "{}"});
    check(json!({"annotations": annotation}), true);
}
