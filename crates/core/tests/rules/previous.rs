//! Release 0.1 is upgraded to this one: what it left in the API server is in `previous/`, as a real
//! one has stored it. The story of `tests/cluster/waiter/previous.rs` runs both releases.

use migration_gate_core::gates::Config;
use serde_json::{Value, json};

use crate::fixtures::{admitted, mutated, pod_spec};

/// Held by its name, and by its label with an account of its own.
const STORED: [&str; 2] = [
    include_str!("previous/piefed-web.json"),
    include_str!("previous/background.json"),
];

/// The configuration of 0.1, read by this release.
fn config() -> Config {
    let gate = json!({
        "name": "piefed", "namespace": "piefed-application", "job": "piefed-db-init",
        "deployments": ["piefed-web"], "selector": {"matchLabels": {"app": "worker"}},
        "serviceAccount": "piefed-init-checker", "extraAccounts": ["worker"],
        "timeout": "10m", "freshness": "version",
    });
    serde_json::from_value(json!({"gates": [gate]})).unwrap()
}

fn stored() -> impl Iterator<Item = Value> {
    STORED
        .iter()
        .map(|text| serde_json::from_str(text).unwrap())
}

/// As an applier sends it that owns what was injected, and doesn't know of it.
fn applied_anew(stored: &Value) -> Value {
    let mut object = stored.clone();
    let spec = pod_spec(&mut object).as_object_mut().unwrap();
    spec.remove("initContainers");
    spec.remove("volumes");
    if spec["serviceAccountName"] == "piefed-init-checker" {
        for injected in [
            "serviceAccountName",
            "serviceAccount",
            "automountServiceAccountToken",
        ] {
            spec.remove(injected);
        }
    }
    object
}

#[test]
fn what_0_1_holds_is_not_rolled_out() {
    let config = config();
    assert_eq!(config.problems(), []);
    for stored in stored() {
        let template = &stored["spec"]["template"];
        let mut annotated = stored.clone();
        annotated["metadata"]["annotations"] = json!({"example.org/seen": "upgraded"});
        annotated["spec"]["replicas"] = json!(3);
        let (result, decision) = mutated(&config, &annotated, Some(&stored));
        assert!(decision.patch.is_empty() && result == annotated);
        let result = admitted(&config, &applied_anew(&stored), Some(&stored));
        assert_eq!(result["spec"]["template"], *template);
    }
}

#[test]
fn the_next_version_brings_this_releases_waiter() {
    let config = config();
    for stored in stored() {
        let mut next = stored.clone();
        pod_spec(&mut next)["containers"][0]["image"] = json!("piefed/piefed:1.3.0");
        let result = admitted(&config, &next, Some(&stored));
        let waiter = &result["spec"]["template"]["spec"]["initContainers"][0];
        assert_eq!(waiter["image"], config.waiter.image);
        assert_eq!(waiter["args"][5], "--image=piefed/piefed:1.3.0");
    }
}
