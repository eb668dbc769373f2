//! Wrong input, with the key and the message of its problem.

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

/// Rows `key: words, of members`, the members as JSON.
#[track_caller]
fn check_all(rows: &str) {
    for row in rows.lines().map(str::trim).filter(|row| !row.is_empty()) {
        let (told, members) = row.split_once(", of ").expect(row);
        let (key, words) = told.split_once(": ").expect(row);
        check(&members.parse().expect(row), &[(key, words)]);
    }
}

#[test]
fn a_selector_that_selects_everything_or_nothing() {
    check_all(
        r#"
        workloads[0].selector: empty and would hold every DaemonSet, of {"workloads": [{"kind": "DaemonSet", "selector": {"matchLabels": {}}}]}
        selector: empty and would hold every Deployment, of {"workloads": null, "selector": {}}
        "#,
    );
    let jobs = |selector: &str| {
        let selector: Value = selector.parse().expect(selector);
        json!({"job": null, "jobs": [{"selector": selector}]})
    };
    for (key, words, selector) in [
        ("", "empty and would match every Job", "{}"),
        (
            ".matchLabels.a b",
            "not a label's key",
            r#"{"matchLabels": {"a b": "c"}}"#,
        ),
        (
            ".matchLabels.a",
            "not a label's value",
            r#"{"matchLabels": {"a": "b c"}}"#,
        ),
    ] {
        check(
            &jobs(selector),
            &[(&format!("jobs[0].selector{key}"), words)],
        );
    }
    let at = "jobs[0].selector.matchExpressions[0].values";
    for (operator, values, words) in [
        ("In", "[]", Some("needs at least one value")),
        ("NotIn", "[]", Some("needs at least one value")),
        ("Exists", r#"["x"]"#, Some("needs no values")),
        ("In", r#"["x"]"#, None),
    ] {
        let expression = format!(
            r#"{{"matchExpressions": [{{"key": "a", "operator": "{operator}", "values": {values}}}]}}"#
        );
        let expect: Vec<_> = words.map(|words| (at, words)).into_iter().collect();
        check(&jobs(&expression), &expect);
    }
}

#[test]
fn an_entry_with_two_keys_or_none_is_no_entry() {
    let rows = r#"
        {"jobs": [{"name": "a", "selector": {"matchLabels": {"a": "b"}}}]}: set only one of `name`, `selector` and `anyOf`
        {"jobs": [{}]}: set one of `name`, `selector` and `anyOf`
        {"jobs": [{"anyOf": []}]}: `anyOf` is empty
        {"jobs": [{"anyOf": [{"anyOf": [{"name": "a"}]}]}]}: unknown field `anyOf`, expected `name` or `selector`
        {"jobs": [{"name": "[a"}]}: `[a` is not a pattern
        {"workloads": [{"kind": "CronJob"}]}: set one of `name` and `selector`
        {"workloads": [{"kind": "CronJob", "name": "a", "selector": {}}]}: set only one of `name` and `selector`
        {"version": {"label": "a", "annotation": "b"}}: expected
        {"version": {"labels": "a"}}: unknown variant `labels`
        {"mode": "off"}: unknown variant `off`
        {"movingTags": ["v[0-9"]}: `v[0-9` is not a pattern
    "#;
    for row in rows.trim().lines().map(str::trim) {
        let (members, words) = row.rsplit_once("}: ").expect(row);
        let members = format!("{members}}}").parse().expect(row);
        let error = read(&[gate(&members)]).expect_err("no configuration");
        assert!(error.contains(words), "{row}: {error}");
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
    check_all(
        r#"
        job: short for one entry of `jobs`, of {"jobs": [{"name": "other"}]}
        jobs[1]: listed twice, of {"job": null, "jobs": [{"name": "a"}, {"name": "a"}]}
        "#,
    );
}

#[test]
fn a_key_that_another_one_overrules() {
    check_all(
        r#"
        container: no effect beside `version`, of {"container": "web", "version": {"label": "v"}}
        version: no effect beside `freshness: any`, of {"freshness": "any", "version": {"label": "v"}}
        container: no effect beside `freshness: any`, of {"freshness": "any", "container": "web"}
        container: not a DNS label, of {"container": "Web"}
        version: not a label's key, of {"version": {"label": "a b"}}
        extraAccounts: not an object's name, of {"extraAccounts": ["Web"]}
        "#,
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
    let check = |first: &Value, second: &Value, expect: Option<(&str, &str)>| {
        let expect = expect
            .map(|(key, held)| format!("gates[1].{key}: {held} is held by gate `shop` already"));
        let expect: Vec<_> = expect.into_iter().collect();
        assert_eq!(overlap(first, second), expect, "{first} {second}");
    };
    let name = "workloads[0].name";
    let web = of("Deployment", "web");
    check(&web, &web, Some((name, "Deployment shop/web")));
    let (first, second) = (of("CronJob", "shop-*"), of("CronJob", "*-web"));
    check(&first, &second, Some((name, "CronJob shop/*-web")));
    let listed = json!({"workloads": null, "deployments": ["api", "web"]});
    let held = Some(("deployments", "Deployment shop/web"));
    check(&of("Deployment", "w*"), &listed, held);
    check(&web, &of("StatefulSet", "web"), None);
    check(&of("Deployment", "web-*"), &of("Deployment", "api-*"), None);
    // Labels may meet, or not: that shows with the objects alone.
    let labels =
        json!({"workloads": [{"kind": "Deployment", "selector": {"matchLabels": {"a": "b"}}}]});
    check(&labels, &labels, None);
    let elsewhere =
        json!({"namespace": "elsewhere", "workloads": [{"kind": "Deployment", "name": "web"}]});
    check(&web, &elsewhere, None);
}
