//! The values: what the schema takes, the program takes, and what the program refuses never reaches
//! a cluster.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use migration_gate::cli::config::parse;
use migration_gate_core::gates::HeldKind;
use serde_json::{Value, json};

use super::{CHART, objects, template};
use testkit::process;

testkit::tests! {
    helm:
        values_that_cannot_be_are_refused,
        what_the_program_refuses_the_chart_refuses,
        an_older_kubernetes_is_refused,
        values_have_their_effect,
        the_tests_rights_are_for_the_kinds_that_are_held;
}

/// A value of its own for everything that is rendered as it was given.
pub(super) fn everything() -> Value {
    let anywhere =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]});
    json!({
        "gates": [{
            "name": "shop", "namespace": "one", "job": "shop-migrate", "deployments": ["web"],
            "serviceAccount": "shop-checker", "extraAccounts": ["web"], "timeout": "1h30m", "freshness": "any",
            "mode": "enforce",
        }, {
            "name": "forum", "namespace": "one", "jobs": [{"name": "forum-migrate-*"}],
            "workloads": [{"kind": "StatefulSet", "name": "forum"}], "serviceAccount": "forum-waits",
            "version": {"label": "app.kubernetes.io/version"}, "movingTags": ["nightly"],
        }],
        "forbiddenEnv": ["MIGRATE"],
        "mode": "warn",
        "replicas": 1,
        "image": {
            "repository": "mirror.example/migration-gate",
            "digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always",
        },
        "imagePullSecrets": [{"name": "registry"}],
        "waiter": {
            "image": "mirror.example/migration-gate:1",
            "resources": {"requests": {"cpu": 0.1}, "limits": {"memory": "64Mi"}},
            "securityContext": {"runAsUser": 1000, "seccompProfile": null},
        },
        "webhooks": {
            "failurePolicy": "Ignore", "timeoutSeconds": 30,
            "namespaceSelector": {
                "matchLabels": {"team": "x"},
                "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}],
            },
        },
        "certificates": {"lifetime": "48h"},
        "rbac": {"imagePullSecrets": [{"name": "applications"}]},
        "resources": {"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}},
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": anywhere}},
        "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
        "priorityClassName": "system-cluster-critical",
        "podAnnotations": {"a": "1"}, "podLabels": {"c": "d"}, "extraArgs": ["--log=debug"],
        "podDisruptionBudget": {"enabled": false},
        "prometheusRule": {"enabled": false},
        "networkPolicy": {
            "enabled": true, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "apiServerPorts": [8443],
        },
        "dashboard": {"enabled": true, "labels": {"team": "x"}},
    })
}

fn gate() -> Value {
    json!({
        "name": "a", "namespace": "one", "job": "j", "serviceAccount": "s", "deployments": ["web"],
    })
}

fn gate_with(key: &str, value: Value) -> Value {
    let mut gate = gate();
    gate[key] = value;
    json!({"gates": [gate]})
}

fn refused(helm: &Path, values: &Value, says: &str) -> Result<()> {
    let refusal = template(helm, values)
        .err()
        .with_context(|| format!("the chart takes {values}"))?
        .to_string();
    ensure!(refusal.contains(says), "{values}: no `{says}` in {refusal}");
    Ok(())
}

fn values_that_cannot_be_are_refused(helm: &Path) -> Result<()> {
    for (values, says) in [
        (
            gate_with("namespace", json!("migration-gate")),
            "in a namespace of its own",
        ),
        (
            gate_with("namespace", json!("kube-system")),
            "can't block a node",
        ),
        (
            gate_with("namespace", json!("kube-node-lease")),
            "can't block a node",
        ),
        (gate_with("extraAccounts", json!(["A"])), "extraAccounts"),
        (json!({"replicas": 0}), "replicas"),
        (json!({"image": {"digest": "sha256:abc"}}), "digest"),
        (
            json!({"webhooks": {"timeoutSeconds": 31}}),
            "timeoutSeconds",
        ),
        (
            json!({"certificates": {"source": "existingSecret"}}),
            "name the Secret",
        ),
        (
            json!({"networkPolicy": {"apiServerPorts": []}}),
            "apiServerPorts",
        ),
        (
            json!({"waiter": {"resources": {"claims": [{"name": "x"}]}}}),
            "claims",
        ),
        (json!({"unknown": true}), "unknown"),
    ] {
        refused(helm, &values, says)?;
    }
    Ok(())
}

fn expression(operator: &str, values: &Value) -> Value {
    gate_with(
        "selector",
        json!({"matchExpressions": [{"key": "tier", "operator": operator, "values": values}]}),
    )
}

/// A gate with these instead of `job`.
fn jobs(entries: Value) -> Value {
    let mut gate = gate();
    gate["jobs"] = entries;
    if let Some(gate) = gate.as_object_mut() {
        gate.remove("job");
    }
    json!({"gates": [gate]})
}

/// A gate with these instead of `deployments`.
fn workloads(entries: Value) -> Value {
    let mut gate = gate();
    gate["workloads"] = entries;
    if let Some(gate) = gate.as_object_mut() {
        gate.remove("deployments");
    }
    json!({"gates": [gate]})
}

/// A gate with two keys more.
fn beside(key: &str, value: Value, other: &str, by: Value) -> Value {
    let mut values = gate_with(key, value);
    values["gates"][0][other] = by;
    values
}

/// A second gate in the namespace of the first.
fn two_gates(entries: Value) -> Value {
    let mut second = workloads(entries)["gates"][0].take();
    second["name"] = json!("b");
    json!({"gates": [gate(), second]})
}

/// Two gates of one namespace that hold the `CronJob`s of these names.
fn patterns(first: &str, second: &str) -> Value {
    let gate = |name: &str, pattern: &str| {
        let mut gate = workloads(json!([{"kind": "CronJob", "name": pattern}]))["gates"][0].take();
        gate["name"] = json!(name);
        gate
    };
    json!({"gates": [gate("a", first), gate("b", second)]})
}

fn resources(requests: &Value, limits: &Value) -> Value {
    json!({"waiter": {"resources": {"requests": requests, "limits": limits}}})
}

/// Values that program and chart refuse, each with a word of what the chart says.
#[allow(clippy::too_many_lines, reason = "a table of cases")]
fn impossible() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"gates": []}), "/gates"),
        (gate_with("typo", json!("x")), "typo"),
        (gate_with("name", json!("A")), "name"),
        (gate_with("name", json!("a".repeat(64))), "name"),
        (gate_with("namespace", json!("a.b")), "namespace"),
        (gate_with("job", json!("a..b")), "job"),
        (gate_with("job", json!("a.".repeat(127) + "bc")), "job"),
        (gate_with("serviceAccount", json!("-a")), "serviceAccount"),
        (gate_with("deployments", json!([])), "gates"),
        (gate_with("deployments", json!(["Web"])), "deployments"),
        (gate_with("selector", json!({})), "selector"),
        (
            gate_with("selector", json!({"matchLabels": {}})),
            "matchLabels",
        ),
        (
            // Helm's validator names a wrong place for a wrong name.
            gate_with("selector", json!({"matchLabels": {"a b": "c"}})),
            "invalid propertyName 'a b'",
        ),
        (
            gate_with("selector", json!({"matchLabels": {"-/a": "c"}})),
            "invalid propertyName '-/a'",
        ),
        (
            gate_with("selector", json!({"matchLabels": {"a": "c d"}})),
            "matchLabels",
        ),
        (expression("In", &json!([])), "values"),
        (expression("NotIn", &json!([])), "values"),
        (expression("Exists", &json!(["x"])), "values"),
        (expression("In", &json!(["a b"])), "values"),
        (expression("Near", &json!(["x"])), "operator"),
        (gate_with("timeout", json!("soon")), "timeout"),
        (gate_with("timeout", json!("0s")), "out of range"),
        (gate_with("timeout", json!("0h0m")), "out of range"),
        (gate_with("timeout", json!("24h1s")), "out of range"),
        (gate_with("timeout", json!("1h1h")), "timeout"),
        (gate_with("timeout", json!("5")), "timeout"),
        (gate_with("freshness", json!("new")), "freshness"),
        (gate_with("mode", json!("audit")), "mode"),
        (
            gate_with("jobs", json!([{"name": "b"}])),
            "short for one entry",
        ),
        (jobs(json!([])), "job"),
        (jobs(json!([{}])), "missing property"),
        (
            jobs(json!([{"name": "a", "anyOf": [{"name": "b"}]}])),
            "/jobs/0': maxProperties",
        ),
        (jobs(json!([{"nam": "a"}])), "nam"),
        (jobs(json!([{"name": "a b"}])), "/jobs/0/name"),
        (jobs(json!([{"name": "a-[0-9]"}])), "/jobs/0/name"),
        (jobs(json!([{"name": "-*"}])), "/jobs/0/name"),
        (jobs(json!([{"name": "**"}])), "would match every Job"),
        (gate_with("job", json!("*")), "would match every Job"),
        (gate_with("job", json!("a?")), "/job"),
        (jobs(json!([{"selector": {}}])), "/jobs/0/selector"),
        (
            jobs(json!([{"selector": {"matchLabels": {"a": "b c"}}}])),
            "matchLabels",
        ),
        (jobs(json!([{"anyOf": []}])), "/jobs/0/anyOf"),
        (
            jobs(json!([{"anyOf": [{"name": "a", "selector": {"matchLabels": {"a": "b"}}}]}])),
            "/jobs/0/anyOf/0",
        ),
        (
            jobs(json!([{"anyOf": [{"anyOf": [{"name": "a"}]}]}])),
            "/jobs/0/anyOf/0",
        ),
        (
            jobs(json!([{"anyOf": [{"name": "a"}, {"name": "*"}]}])),
            "would match every Job",
        ),
        (
            jobs(json!([{"name": "a"}, {"anyOf": [{"name": "a"}]}])),
            "lists a twice",
        ),
        (
            jobs(json!([
                {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists"}]}},
                {"selector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": []}]}},
            ])),
            "lists label:a twice",
        ),
        (workloads(json!([])), "gates"),
        (workloads(json!([{"name": "web"}])), "kind"),
        (
            workloads(json!([{"kind": "Deployment"}])),
            "missing property",
        ),
        (
            workloads(json!([{"kind": "Pod", "name": "web"}])),
            "'StatefulSet'",
        ),
        (
            workloads(json!([{"kind": "deployment", "name": "web"}])),
            "'Deployment'",
        ),
        (
            workloads(json!([{"kind": "DaemonSet", "name": "*"}])),
            "would hold every DaemonSet",
        ),
        (
            workloads(json!([{"kind": "DaemonSet", "name": "a_b"}])),
            "/workloads/0/name",
        ),
        (
            workloads(json!([{"kind": "CronJob", "selector": {}}])),
            "/workloads/0/selector",
        ),
        (
            workloads(
                json!([{"kind": "CronJob", "name": "a", "selector": {"matchLabels": {"a": "b"}}}]),
            ),
            "/workloads/0': maxProperties",
        ),
        (gate_with("container", json!("Web")), "container"),
        (gate_with("version", json!({})), "version"),
        (
            gate_with("version", json!({"label": "a", "annotation": "b"})),
            "version",
        ),
        (
            gate_with("version", json!({"label": "a b"})),
            "/version/label",
        ),
        (gate_with("version", json!({"field": "a"})), "field"),
        (gate_with("movingTags", json!([""])), "/movingTags/0"),
        (gate_with("movingTags", json!(["-a"])), "/movingTags/0"),
        (gate_with("movingTags", json!(["a/b"])), "/movingTags/0"),
        (gate_with("movingTags", json!(["a[b"])), "/movingTags/0"),
        (gate_with("movingTags", json!(["[]"])), "/movingTags/0"),
        (gate_with("movingTags", json!(["[!]"])), "/movingTags/0"),
        (
            gate_with("movingTags", json!(["v[0-9][z-a]"])),
            "swap its ends",
        ),
        (gate_with("movingTags", json!(["[!9-0]"])), "swap its ends"),
        (
            beside("container", json!("web"), "version", json!({"label": "a"})),
            "no effect beside version",
        ),
        (
            beside("container", json!("web"), "freshness", json!("any")),
            "no effect beside freshness any",
        ),
        (
            beside("version", json!({"label": "a"}), "freshness", json!("any")),
            "no effect beside freshness any",
        ),
        (json!({"gates": [gate(), gate()]}), "used twice"),
        (
            two_gates(json!([{"kind": "Deployment", "name": "w*b"}])),
            "held by gate a already",
        ),
        (
            two_gates(
                json!([{"kind": "StatefulSet", "name": "x"}, {"kind": "Deployment", "name": "web"}]),
            ),
            "Deployment one/web",
        ),
        (patterns("a*", "a-b"), "CronJob one/a-b"),
        (patterns("a-b", "a*"), "CronJob one/a*"),
        (patterns("shop-*", "*-web"), "CronJob one/*-web"),
        (
            patterns("sh*x*web", "shop-*y*-web"),
            "CronJob one/shop-*y*-web",
        ),
        (
            json!({"gates": [gate(), {
                "name": "b", "namespace": "one", "job": "j", "serviceAccount": "s", "deployments": ["api", "web"],
            }]}),
            "held by gate a already",
        ),
        (json!({"mode": "audit"}), "mode"),
        (json!({"forbiddenEnv": ["A=B"]}), "forbiddenEnv"),
        (json!({"forbiddenEnv": [""]}), "forbiddenEnv"),
        (json!({"waiter": {"image": "a b"}}), "image"),
        (resources(&json!({"cpu": "much"}), &json!({})), "cpu"),
        (resources(&json!({"cpu": "-1"}), &json!({})), "cpu"),
        (resources(&json!({"cpu": -1}), &json!({})), "cpu"),
        (resources(&json!({"memory": "16MiB"}), &json!({})), "memory"),
        (resources(&json!({"memory": "1e3Mi"}), &json!({})), "memory"),
        (
            resources(&json!({"cpu": "1"}), &json!({"cpu": "100m"})),
            "more than the limit",
        ),
        (
            resources(&json!({"memory": "64Mi"}), &json!({"memory": "32Mi"})),
            "more than the limit",
        ),
        (
            resources(&json!({"memory": "40M"}), &json!({"memory": "32Mi"})),
            "more than the limit",
        ),
        (
            resources(&json!({"cpu": 2}), &json!({"cpu": "1e0"})),
            "more than the limit",
        ),
    ]
}

/// The server would start over and over.
fn what_the_program_refuses_the_chart_refuses(helm: &Path) -> Result<()> {
    for (values, says) in impossible() {
        // The values have the configuration's own keys.
        let mut config = json!({"gates": [gate()]});
        let (Some(keys), Some(given)) = (config.as_object_mut(), values.as_object()) else {
            continue;
        };
        keys.extend(given.clone());
        ensure!(
            parse(&config.to_string(), "values").is_err(),
            "the program takes {config}"
        );
        refused(helm, &values, says)?;
    }
    // What is close to those, and can be.
    for values in [
        gate_with("timeout", json!("24h")),
        gate_with("timeout", json!("1s")),
        gate_with("job", json!("a.b")),
        gate_with("job", json!("*a*.*")),
        gate_with("jobs", json!([])),
        jobs(json!([{"name": "a"}, {"anyOf": [{"name": "a"}, {"name": "b"}]}])),
        workloads(
            json!([{"kind": "Deployment", "name": "a"}, {"kind": "Deployment", "name": "a"}]),
        ),
        two_gates(
            json!([{"kind": "Deployment", "name": "we"}, {"kind": "StatefulSet", "name": "web"}]),
        ),
        two_gates(json!([{"kind": "Deployment", "selector": {"matchLabels": {"a": "b"}}}])),
        patterns("shop-*", "sho-*"),
        patterns("*-web", "*-api"),
        patterns("shop-*-web", "shop-web"),
        gate_with("movingTags", json!([])),
        gate_with(
            "movingTags",
            json!([
                "*",
                "**?",
                "[a-]",
                "[]a]",
                "[!!]",
                "[!]]",
                "[[a]",
                "[,-.]",
                "[\\a]",
                "[-,]",
                "[a-c-e]",
                "[!,]",
                "[^a]",
                format!("{}**", "[,a]".repeat(128)),
            ]),
        ),
        gate_with("version", json!({"annotation": "a.b/c"})),
        gate_with("selector", json!({"matchLabels": {"a.b/C_d": ""}})),
        expression("DoesNotExist", &json!([])),
        resources(
            &json!({"cpu": "100m", "memory": "32Mi"}),
            &json!({"cpu": 0.1, "memory": "32Mi"}),
        ),
        resources(&json!({"memory": "32M"}), &json!({"memory": "32Mi"})),
        resources(&json!({"cpu": "1e-1"}), &json!({"cpu": ".1"})),
    ] {
        let objects = objects(&template(helm, &values)?)?;
        super::render::configuration(&objects).with_context(|| values.to_string())?;
    }
    Ok(())
}

fn an_older_kubernetes_is_refused(helm: &Path) -> Result<()> {
    let render = |version: &str| {
        process::run(
            Command::new(helm).args([
                "template",
                "migration-gate",
                CHART,
                &format!("--kube-version={version}"),
            ]),
            "",
            Duration::from_mins(3),
        )
    };
    let refusal = render("1.29.15")?.failure()?;
    ensure!(refusal.contains("1.30"), "{refusal}");
    // As a vendor writes it.
    render("1.30.0-gke.1")?.success()?;
    Ok(())
}

fn values_have_their_effect(helm: &Path) -> Result<()> {
    let rendered = |values: Value| objects(&template(helm, &values)?);
    let of_kind = |objects: &[Value], kind: &str| -> Vec<Value> {
        objects
            .iter()
            .filter(|object| object["kind"] == kind)
            .cloned()
            .collect()
    };
    // Gates whose names differ at their end only keep rights of their own.
    let long = |end: &str| {
        let mut gate = gate();
        gate["name"] = json!(format!("{}{end}", "g".repeat(60)));
        gate["deployments"] = json!([format!("web-{end}")]);
        gate
    };
    let objects = rendered(json!({"gates": [long("a"), long("b")]}))?;
    let mut names: Vec<String> = of_kind(&objects, "Role")
        .iter()
        .map(|role| role["metadata"].to_string())
        .collect();
    let count = names.len();
    names.sort();
    names.dedup();
    ensure!(names.len() == count, "{names:#?}");

    rights_are_no_wider_than_the_gate(helm)?;

    // A limit that is taken away doesn't come back as the program's default.
    let objects = rendered(json!({"waiter": {"resources": {"limits": null}}}))?;
    let config = super::render::configuration(&objects)?;
    ensure!(config.waiter.resources.limits.is_empty(), "{config:?}");

    // A member that is taken away stays away.
    let context = json!({"runAsNonRoot": null, "runAsUser": 1000});
    let objects = rendered(json!({"waiter": {"securityContext": context}}))?;
    let config = super::render::configuration(&objects)?;
    ensure!(Value::from(config.waiter.security_context) == context);

    // The account carries the pull secrets that held pods lose.
    let secrets = json!([{"name": "registry"}]);
    let objects = rendered(json!({"rbac": {"imagePullSecrets": secrets}}))?;
    let accounts = of_kind(&objects, "ServiceAccount");
    let account = accounts
        .iter()
        .find(|account| account["metadata"]["name"] == "piefed-init-checker")
        .context("the gate's account")?;
    ensure!(account["imagePullSecrets"] == secrets, "{account}");

    // Without a scrape the alert for a server that is down would never end.
    for (monitored, alerts) in [(false, 0), (true, 1)] {
        let objects = rendered(json!({
            "prometheusRule": {"enabled": true}, "serviceMonitor": {"enabled": monitored},
            "certificates": {"lifetime": "48h"},
        }))?;
        let rule = of_kind(&objects, "PrometheusRule")
            .pop()
            .context("a rule")?;
        let rules = rule["spec"]["groups"][0]["rules"]
            .as_array()
            .context("rules")?;
        let of = |alert: &str| -> Vec<&Value> {
            rules.iter().filter(|rule| rule["alert"] == alert).collect()
        };
        let down = of("MigrationGateDown");
        ensure!(down.len() == alerts, "{rules:#?}");
        for rule in down {
            let expression = rule["expr"].as_str().context("an expression")?;
            ensure!(
                expression.contains("namespace=\"migration-gate\""),
                "{expression}"
            );
        }
        // A certificate of two days is renewed after 32 hours.
        let expires = of("MigrationGateCertificateExpires");
        let expression = expires[0]["expr"].as_str().context("an expression")?;
        ensure!(expression.ends_with("< 43200"), "{expression}");
        ensure!(expires[0]["for"] == "3600s", "{}", expires[0]);
    }
    Ok(())
}

/// Exact names are all that a Role names; a pattern or a selector needs every Job of the namespace.
fn rights_are_no_wider_than_the_gate(helm: &Path) -> Result<()> {
    let rendered = |values: Value| objects(&template(helm, &values)?);
    let selector = json!({"matchLabels": {"a": "b"}});
    for (entries, names) in [
        (
            json!([{"name": "b"}, {"anyOf": [{"name": "c"}, {"name": "a"}]}, {"anyOf": [{"name": "c"}, {"name": "d"}]}]),
            json!(["b", "c", "a", "d"]),
        ),
        (json!([{"name": "b"}, {"name": "c-*"}]), Value::Null),
        (json!([{"name": "b"}, {"selector": selector}]), Value::Null),
        (
            json!([{"anyOf": [{"name": "b"}, {"selector": selector}]}]),
            Value::Null,
        ),
    ] {
        let objects = rendered(jobs(entries.clone()))?;
        let mut found = 0;
        for end in ["-record", "-wait"] {
            let with_rules = objects.iter().filter(|object| {
                let name = object["metadata"]["name"].as_str();
                object["kind"] == "Role" && name.is_some_and(|name| name.ends_with(end))
            });
            for rule in with_rules.flat_map(|role| role["rules"].as_array().into_iter().flatten()) {
                if rule["resources"] == json!(["jobs"]) {
                    ensure!(rule["resourceNames"] == names, "{entries}: {rule}");
                    ensure!(rule["verbs"] == json!(["get", "list", "watch"]), "{rule}");
                    found += 1;
                }
            }
        }
        ensure!(found == 2, "{entries}: {found} rules");
    }
    Ok(())
}

/// `helm test` dry-runs what the gates hold, and a Deployment that offends.
fn the_tests_rights_are_for_the_kinds_that_are_held(helm: &Path) -> Result<()> {
    let all: Vec<HeldKind> = HeldKind::ALL.into();
    for held in all.iter().map(|kind| vec![*kind]).chain([all.clone()]) {
        let entries = held
            .iter()
            .flat_map(|kind| ["a", "b"].map(|name| json!({"kind": kind.as_str(), "name": name})));
        let objects = objects(&template(helm, &workloads(entries.collect()))?)?;
        let role = objects.iter().find(|object| {
            object["kind"] == "Role" && object["metadata"]["name"] == "migration-gate-test"
        });
        let wanted = all
            .iter()
            .filter(|kind| **kind == HeldKind::Deployment || held.contains(kind))
            .map(|kind| {
                let kind = kind.pod_kind();
                json!({"apiGroups": [kind.group], "resources": [kind.resource], "verbs": ["create", "patch"]})
            });
        let role = role.context("the test's Role")?;
        ensure!(
            role["rules"] == wanted.collect::<Value>(),
            "{held:?}: {role:#}"
        );
    }
    Ok(())
}
