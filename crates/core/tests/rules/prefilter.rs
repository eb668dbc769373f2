//! What the API server is told to send.

#![allow(
    clippy::disallowed_methods,
    reason = "the chart's copy is a file; the core itself has none"
)]

use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::prefilter::{Prefilter, held, mutating, validating};
use serde_json::{Value, json};

/// The condition for a gate with these workloads.
fn held_by(members: Value) -> String {
    let mut gate = json!({"name": "g", "namespace": "n", "job": "j", "serviceAccount": "s"});
    gate.as_object_mut()
        .unwrap()
        .extend(members.as_object().unwrap().clone());
    let config: Config = serde_json::from_value(json!({"gates": [gate]})).unwrap();
    assert_eq!(config.problems(), []);
    held(&config.gates)
}

#[test]
fn a_gate_is_asked_for_what_it_names_or_selects() {
    let name = r#"object.metadata.?name.orValue("")"#;
    for kind in HeldKind::ALL.map(HeldKind::as_str) {
        let check = |workload: Value, expect: &str| {
            let mut workload = workload;
            workload["kind"] = json!(kind);
            assert_eq!(
                held_by(json!({"workloads": [workload]})),
                format!(
                    r#"request.namespace == "n" && (request.kind.kind == "{kind}" && ({expect}))"#
                )
            );
        };
        check(json!({"name": "web"}), &format!(r#"{name} in ["web"]"#));
        check(
            json!({"name": "web-*"}),
            &format!(r#"{name}.matches("^web\\x{{2d}}.*$")"#),
        );
        check(
            json!({"selector": {"matchLabels": {"a/b": "c"}}}),
            r#"object.metadata.?labels[?"a/b"].orValue("?") in ["c"]"#,
        );
        check(
            json!({"selector": {"matchExpressions": [
                {"key": "a", "operator": "NotIn", "values": ["b", "c"]},
                {"key": "d", "operator": "Exists"},
                {"key": "e", "operator": "DoesNotExist"},
            ]}}),
            r#"!(object.metadata.?labels[?"a"].orValue("?") in ["b","c"]) && object.metadata.?labels[?"d"].hasValue() && !object.metadata.?labels[?"e"].hasValue()"#,
        );
    }
    // The short forms are for Deployments, and all of a kind stand together.
    assert_eq!(
        held_by(json!({
            "deployments": ["api"],
            "selector": {"matchLabels": {"a": "b"}},
            "workloads": [
                {"kind": "CronJob", "name": "clean"},
                {"kind": "Deployment", "name": "web"},
                {"kind": "Deployment", "name": "w*"},
            ],
        })),
        [
            r#"request.namespace == "n" && (request.kind.kind == "Deployment" && ("#,
            name,
            r#" in ["api","web"] || object.metadata.?labels[?"a"].orValue("?") in ["b"] || "#,
            name,
            r#".matches("^w.*$")) || request.kind.kind == "CronJob" && ("#,
            name,
            r#" in ["clean"]))"#,
        ]
        .concat()
    );
}

/// Each kind that can be held is asked for, and each only with a template that differs.
#[test]
fn every_kind_that_can_be_held_is_asked_for_when_its_template_changes() {
    let [mutating] = &mutating()[..] else {
        panic!("one webhook");
    };
    let validating = &validating()[0];
    let condition = |prefilter: &Prefilter| {
        let [condition] = &prefilter.match_conditions.as_array().unwrap()[..] else {
            panic!("one condition: {prefilter:?}");
        };
        condition["expression"].as_str().unwrap().to_owned()
    };
    let listed = |prefilter: &Prefilter, group: &str, resource: &str| {
        prefilter.rules.as_array().unwrap().iter().any(|rule| {
            let has =
                |field: &str, value: &str| rule[field].as_array().unwrap().contains(&json!(value));
            has("apiGroups", group) && has("resources", resource)
        })
    };
    for kind in HeldKind::ALL {
        let path = kind.pod_kind().path;
        let template = format!("object.?{}", path[..path.len() - 1].join(".?"));
        for prefilter in [mutating, validating] {
            assert!(
                listed(prefilter, kind.group(), kind.pod_kind().resource),
                "{kind:?}"
            );
            let condition = condition(prefilter);
            assert!(condition.contains(r#"request.operation == "CREATE" || "#));
            for object in [template.clone(), template.replace("object", "oldObject")] {
                assert!(condition.contains(&object), "{condition}");
            }
        }
    }
}

const GENERATED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../charts/migration-gate/files/webhooks.json"
);

/// The chart's webhooks come from the engine's lists. `GENERATE=1 cargo test -p
/// migration-gate-core` writes it.
#[test]
fn the_chart_has_the_prefilter_of_this_release() {
    let list = |prefilters: Vec<Prefilter>| -> Value {
        prefilters
            .into_iter()
            .map(|p| {
                json!({"name": p.name, "rules": p.rules, "matchConditions": p.match_conditions})
            })
            .collect()
    };
    let wanted = json!({"mutating": list(mutating()), "validating": list(validating())});
    let wanted = format!("{wanted:#}\n");
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(GENERATED, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(GENERATED).unwrap_or_default();
    assert!(
        found == wanted,
        "{GENERATED} is out of date; run `GENERATE=1 cargo test -p migration-gate-core` and commit it"
    );
}
