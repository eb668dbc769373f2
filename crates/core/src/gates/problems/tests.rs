//! Wrong input, with the key that is told and what is said of it.

use serde_json::{Value, json};

use super::*;

/// A gate as it is written, with these members over a right one's; `null` takes one out.
fn gate(members: &Value) -> Value {
    let mut gate = json!({
        "name": "shop", "namespace": "shop", "serviceAccount": "waits", "job": "migrate",
        "workloads": [{"kind": "Deployment", "name": "web"}],
    });
    json_patch::merge(&mut gate, members);
    gate
}

fn read(gates: &[Value]) -> Result<Config, String> {
    serde_json::from_value(json!({ "gates": gates })).map_err(|error| error.to_string())
}

/// The problems of one gate, as `key: message`, the key within the gate.
fn told(members: &Value) -> Vec<String> {
    let config = read(&[gate(members)]).expect("well-formed");
    let problems = config.problems().into_iter();
    problems
        .map(|Problem { field, message }| {
            let field = field.to_string();
            let field = field.trim_start_matches("gates[0]").trim_start_matches('.');
            format!("{field}: {message}")
        })
        .collect()
}

#[track_caller]
fn check(members: &Value, expect: &[(&str, &str)]) {
    let told = told(members);
    assert_eq!(told.len(), expect.len(), "{members}: {told:#?}");
    for (told, (field, words)) in told.iter().zip(expect) {
        let message = told.strip_prefix(&format!("{field}: "));
        let message = message.unwrap_or_else(|| panic!("{members}: {told}"));
        assert!(message.contains(words), "{members}: {told}");
    }
}

#[test]
fn what_is_right_has_no_problem() {
    check(&json!({}), &[]);
    let all: Config = serde_json::from_value(json!({"gates": [{
        "name": "shop",
        "namespace": "shop",
        "jobs": [
            {"name": "shop-migrate"},
            {"name": "shop-search-*"},
            {"selector": {"matchLabels": {"app.kubernetes.io/component": "migrate"}}},
            {"anyOf": [{"name": "db-prepare"}, {"name": "db-pre-migrate"}]},
        ],
        "workloads": [
            {"kind": "Deployment", "name": "web"},
            {"kind": "StatefulSet", "selector": {"matchLabels": {"part-of": "shop"}}},
            {"kind": "CronJob", "name": "shop-*"},
            {"kind": "DaemonSet", "name": "*-agent"},
            {"kind": "Rollout", "name": "web"},
        ],
        "container": "web",
        "movingTags": ["latest", "main", "v[0-9]", "*"],
        "serviceAccount": "shop-waits",
        "extraAccounts": ["web"],
        "timeout": "10m",
        "freshness": "version",
        "mode": "warn",
    }]}))
    .expect("the configuration of the contract");
    assert_eq!(all.problems(), []);
    assert_eq!(Config::default().problems(), []);
    check(&json!({"version": {"annotation": "example.org/v"}}), &[]);
}

#[test]
fn a_pattern_that_no_name_can_match() {
    let named = |name: &str| json!({"job": null, "jobs": [{"name": name}]});
    for (name, words) in [
        ("Shop-*", "not a pattern for objects' names"),
        ("shop_*", "not a pattern"),
        ("-*", "not a pattern"),
        ("shop-[0-9]", "not a pattern"),
        ("shop-?", "not a pattern"),
        ("*", "every Job of the namespace"),
        ("**", "every Job of the namespace"),
        ("", "not an object's name"),
        ("Shop", "not an object's name"),
        ("a|b", "not an object's name"),
        ("label:a=b", "not an object's name"),
    ] {
        check(&named(name), &[("jobs[0].name", words)]);
        check(&json!({"job": name}), &[("job", words)]);
        let alternatives =
            json!({"job": null, "jobs": [{"anyOf": [{"name": "a"}, {"name": name}]}]});
        check(&alternatives, &[("jobs[0].anyOf[1].name", words)]);
        let words = words.replace("every Job", "every CronJob");
        let workload = json!({"workloads": [{"kind": "CronJob", "name": name}]});
        check(&workload, &[("workloads[0].name", &words)]);
    }
    for name in [
        "shop-*",
        "*-shop",
        "shop-*-migrate",
        "a*",
        "*.shop",
        "shop.*",
    ] {
        check(&named(name), &[]);
    }
}

#[test]
fn a_selector_that_selects_everything_or_nothing() {
    let jobs = |selector: &Value| json!({"job": null, "jobs": [{"selector": selector}]});
    check(
        &jobs(&json!({})),
        &[("jobs[0].selector", "empty and would match every Job")],
    );
    check(
        &json!({"workloads": [{"kind": "DaemonSet", "selector": {"matchLabels": {}}}]}),
        &[(
            "workloads[0].selector",
            "empty and would hold every DaemonSet",
        )],
    );
    check(
        &json!({"workloads": null, "selector": {}}),
        &[("selector", "empty and would hold every Deployment")],
    );
    check(
        &jobs(&json!({"matchLabels": {"a b": "c"}})),
        &[("jobs[0].selector.matchLabels.a b", "not a label's key")],
    );
    check(
        &jobs(&json!({"matchLabels": {"a": "b c"}})),
        &[("jobs[0].selector.matchLabels.a", "not a label's value")],
    );
    let expression = |operator: &str, values: &[&str]| {
        jobs(&json!({"matchExpressions": [{"key": "a", "operator": operator, "values": values}]}))
    };
    let at = "jobs[0].selector.matchExpressions[0].values";
    check(&expression("In", &[]), &[(at, "needs at least one value")]);
    check(
        &expression("NotIn", &[]),
        &[(at, "needs at least one value")],
    );
    check(&expression("Exists", &["x"]), &[(at, "needs no values")]);
    check(&expression("In", &["x"]), &[]);
}

#[test]
fn an_entry_with_two_keys_or_none_is_no_entry() {
    for (members, words) in [
        (
            json!({"jobs": [{"name": "a", "selector": {"matchLabels": {"a": "b"}}}]}),
            "set only one of `name`, `selector` and `anyOf`",
        ),
        (
            json!({"jobs": [{}]}),
            "set one of `name`, `selector` and `anyOf`",
        ),
        (json!({"jobs": [{"anyOf": []}]}), "`anyOf` is empty"),
        (
            json!({"jobs": [{"anyOf": [{"anyOf": [{"name": "a"}]}]}]}),
            "unknown field `anyOf`, expected `name` or `selector`",
        ),
        (json!({"jobs": [{"name": "[a"}]}), "`[a` is not a pattern"),
        (
            json!({"workloads": [{"kind": "CronJob"}]}),
            "set one of `name` and `selector`",
        ),
        (
            json!({"workloads": [{"kind": "CronJob", "name": "a", "selector": {}}]}),
            "set only one of `name` and `selector`",
        ),
        (
            json!({"version": {"label": "a", "annotation": "b"}}),
            "expected",
        ),
        (
            json!({"version": {"labels": "a"}}),
            "unknown variant `labels`",
        ),
        (json!({"mode": "off"}), "unknown variant `off`"),
        (json!({"movingTags": ["v[0-9"]}), "`v[0-9` is not a pattern"),
    ] {
        let error = read(&[gate(&members)]).expect_err("no configuration");
        assert!(error.contains(words), "{members}: {error}");
    }
}

#[test]
fn a_kind_that_cannot_be_held_is_told_with_those_that_can() {
    for kind in ["Pod", "Job", "ReplicaSet", "deployment"] {
        let error = read(&[gate(&json!({"workloads": [{"kind": kind, "name": "a"}]}))]);
        let error = error.expect_err("no configuration");
        let expect = format!(
            "unknown variant `{kind}`, expected one of `Deployment`, `StatefulSet`, `DaemonSet`, \
             `CronJob`, `Rollout`"
        );
        assert!(error.starts_with(&expect), "{error}");
    }
}

#[test]
fn a_pattern_that_no_tag_can_match() {
    let long = "a".repeat(129);
    for tag in ["", ".1", "-a", "a b", "a/b", "a,b", "[,]", "a!", &long] {
        check(
            &json!({"movingTags": ["main", tag]}),
            &[("movingTags[1]", "matches no tag")],
        );
    }
    for tag in ["*", "v[0-9]", "[!0-9]*", "1.*", "_a", "?"] {
        check(&json!({"movingTags": [tag]}), &[]);
    }
    check(&json!({"movingTags": []}), &[]);
}

#[test]
fn a_gate_waits_for_something_and_holds_something() {
    check(&json!({"job": null}), &[("", "it waits for no Job")]);
    check(&json!({"workloads": null}), &[("", "it holds nothing")]);
    check(
        &json!({"jobs": [{"name": "other"}]}),
        &[("job", "short for one entry of `jobs`")],
    );
    check(
        &json!({"job": null, "jobs": [{"name": "a"}, {"name": "a"}]}),
        &[("jobs[1]", "listed twice")],
    );
}

#[test]
fn a_key_that_another_one_overrules() {
    check(
        &json!({"container": "web", "version": {"label": "v"}}),
        &[("container", "no effect beside `version`")],
    );
    check(
        &json!({"freshness": "any", "version": {"label": "v"}}),
        &[("version", "no effect beside `freshness: any`")],
    );
    check(
        &json!({"freshness": "any", "container": "web"}),
        &[("container", "no effect beside `freshness: any`")],
    );
    check(
        &json!({"container": "Web"}),
        &[("container", "not a DNS label")],
    );
    check(
        &json!({"version": {"label": "a b"}}),
        &[("version", "not a label's key")],
    );
    check(
        &json!({"extraAccounts": ["Web"]}),
        &[("extraAccounts", "not an object's name")],
    );
}

#[test]
fn two_gates_that_name_one_workload() {
    let overlap = |first: &Value, second: &Value| {
        let mut second = gate(second);
        second["name"] = json!("second");
        let config = read(&[gate(first), second]).expect("well-formed");
        let problems = config.problems().into_iter();
        problems
            .map(|problem| format!("{}: {}", problem.field, problem.message))
            .collect::<Vec<_>>()
    };
    let of = |kind: &str, name: &str| json!({"workloads": [{"kind": kind, "name": name}]});
    let check = |first: &Value, second: &Value, expect: &[&str]| {
        assert_eq!(overlap(first, second), expect, "{first} {second}");
    };
    check(
        &of("Deployment", "web"),
        &of("Deployment", "web"),
        &["gates[1].workloads[0].name: Deployment shop/web is held by gate `shop` already"],
    );
    check(
        &of("CronJob", "shop-*"),
        &of("CronJob", "*-web"),
        &["gates[1].workloads[0].name: CronJob shop/*-web is held by gate `shop` already"],
    );
    check(
        &of("Deployment", "w*"),
        &json!({"workloads": null, "deployments": ["api", "web"]}),
        &["gates[1].deployments: Deployment shop/web is held by gate `shop` already"],
    );
    check(&of("Deployment", "web"), &of("StatefulSet", "web"), &[]);
    check(&of("Deployment", "web-*"), &of("Deployment", "api-*"), &[]);
    // Labels may meet, or not: that shows with the objects alone.
    let labels =
        json!({"workloads": [{"kind": "Deployment", "selector": {"matchLabels": {"a": "b"}}}]});
    check(&labels, &labels, &[]);
    let elsewhere =
        json!({"namespace": "elsewhere", "workloads": [{"kind": "Deployment", "name": "web"}]});
    check(&of("Deployment", "web"), &elsewhere, &[]);
}
