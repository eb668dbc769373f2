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
    let likely =
        r#"object.metadata.?name.orValue(object.metadata.?generateName.orValue("") + "xxxxx")"#;
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
            &format!(r#"{likely}.matches("^web\\x{{2d}}.*$")"#),
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
            likely,
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

/// cel-go refuses an expression of more than 100,000 characters, or with more than 250 conditionals
/// in each other. Only what spares a call is left out.
#[test]
fn conditions_of_many_gates_are_within_the_limits_of_the_api_server() {
    let most = |count: usize, held: &dyn Fn(String) -> Value| {
        let gates: Vec<Value> = (0..count)
            .map(|index| {
                let mut gate = json!({
                    "name": format!("g{index}"), "namespace": "n", "job": "j",
                    "serviceAccount": "s", "freshness": "any",
                });
                let held = held(format!("w{index}"));
                gate.as_object_mut()
                    .unwrap()
                    .extend(held.as_object().unwrap().clone());
                gate
            })
            .collect();
        let config: Config = serde_json::from_value(json!({"gates": gates})).unwrap();
        assert_eq!(config.problems(), []);
        let condition = validating()[0].clone().of(&config).match_conditions;
        let condition = condition[0]["expression"].as_str().unwrap().to_owned();
        assert!(condition.len() <= 100_000, "{}", condition.len());
        let conditionals = condition.matches(" ? ").count();
        assert!(conditionals < 230, "{conditionals}");
        conditionals
    };
    let named = |name: String| json!({"deployments": [name]});
    let selected = |name: String| json!({"selector": {"matchLabels": {"app": name}}});
    for count in [40, 160] {
        assert_eq!(most(count, &named), count);
        assert_eq!(most(count, &selected), count);
    }
    for count in (160..300).step_by(9) {
        most(count, &named);
    }
    assert_eq!(most(300, &named), 0);
    assert_eq!(most(300, &selected), 0);
}

/// A label may be written like one of the marks.
#[test]
fn a_value_is_not_taken_for_a_mark() {
    let config: Config = serde_json::from_value(json!({
        "gates": [{
            "name": "g", "namespace": "n", "job": "j", "serviceAccount": "s",
            "selector": {"matchLabels": {"FORBIDDEN_ENV": "WAITER_IMAGE", "HELD": "HAS_ARGUMENTS"}},
        }],
        "forbiddenEnv": ["HAS_ARGUMENTS", "HELD"],
    }))
    .unwrap();
    assert_eq!(config.problems(), []);
    for prefilter in mutating().into_iter().chain([validating().remove(0)]) {
        let condition = prefilter.of(&config).match_conditions.to_string();
        assert!(
            condition.contains(json!(held(&config.gates)).to_string().trim_matches('"')),
            "{condition}"
        );
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
