//! The values: the program accepts everything that the schema accepts, and the chart refuses
//! everything that the program refuses.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use migration_gate::cli::config::parse;
use migration_gate_core::gates::HeldKind;
use serde_json::{Value, json};

use super::{CHART, objects, template};
use testkit::process::{self, says};

testkit::tests! {
    helm:
        values_that_cannot_be_are_refused,
        what_the_program_refuses_the_chart_refuses,
        an_older_kubernetes_is_refused,
        an_image_is_put_together,
        a_user_is_named_only_where_the_values_name_one,
        values_have_their_effect,
        the_servers_rights_are_for_what_is_held,
        alerts_are_as_the_values_say_and_each_is_explained,
        the_tests_rights_are_for_the_kinds_that_are_held;
}

/// A distinct value for every field that is rendered unchanged.
pub(super) fn everything() -> Result<Value> {
    let mut values = objects(include_str!("everything.yaml"))?;
    values.pop().context("values")
}

fn gate() -> Value {
    json!({
        "name": "a", "namespace": "one", "job": "j", "serviceAccount": "s", "deployments": ["web"],
    })
}

/// Values at the border of validity: the lists `refused`, `refused-by-the-chart` and `taken`.
fn border(list: &str) -> Result<Vec<Value>> {
    let mut lists = objects(include_str!("values.yaml"))?.remove(0);
    match lists[list].take() {
        Value::Array(entries) => Ok(entries),
        _ => bail!("values.yaml has no {list}"),
    }
}

/// Completes values in which each gate has only its differences from a valid one.
fn filled(mut values: Value) -> Value {
    let gates = values.get_mut("gates").and_then(Value::as_array_mut);
    for given in gates.into_iter().flatten() {
        let mut gate = gate();
        json_patch::merge(&mut gate, given);
        *given = gate;
    }
    values
}

/// Checks that the chart refuses each of these values with its message.
fn refuses(helm: &Path, rows: Vec<Value>, config: impl Fn(&Value) -> Result<()>) -> Result<()> {
    for row in rows {
        let (says, values) = (row[0].as_str().context("words")?, filled(row[1].clone()));
        config(&values)?;
        let refusal = template(helm, &values)
            .err()
            .with_context(|| format!("the chart takes {values}"))?
            .to_string();
        ensure!(refusal.contains(says), "{values}: no `{says}` in {refusal}");
    }
    Ok(())
}

fn values_that_cannot_be_are_refused(helm: &Path) -> Result<()> {
    refuses(helm, border("refused-by-the-chart")?, |_| Ok(()))
}

/// With such a configuration, the server would exit at each start.
fn what_the_program_refuses_the_chart_refuses(helm: &Path) -> Result<()> {
    refuses(helm, border("refused")?, |values| {
        // The values have the configuration's own keys.
        let mut config = json!({"gates": [gate()]});
        json_patch::merge(&mut config, values);
        let taken = parse(&config.to_string(), "values").is_ok();
        ensure!(!taken, "the program takes {config}");
        Ok(())
    })?;
    for values in border("taken")?.into_iter().map(filled) {
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
    // A vendor's version.
    render("1.30.0-gke.1")?.success()?;
    Ok(())
}

/// The server's and the waiter's image, from `image`, `waiter.image` and the mirror in `global`.
fn an_image_is_put_together(helm: &Path) -> Result<()> {
    let digest = format!("sha256:{}", "0".repeat(64));
    let pinned = format!("a/b@{digest}");
    let both = format!("a/b:2@{digest}");
    let mirrored = format!("mirror:5000/a/b@{digest}");
    for (image, waiter, registry, server, injected) in [
        (
            json!({}),
            json!({}),
            "",
            "migration-gate/migration-gate:0.1.0",
            "migration-gate/migration-gate:0.1.0",
        ),
        (
            json!({"registry": "r.example", "repository": "a/b", "tag": "2"}),
            json!({}),
            "",
            "r.example/a/b:2",
            "r.example/a/b:2",
        ),
        // A waiter with its own repository still has the chart's version, and its own digest.
        (
            json!({"repository": "a/b"}),
            json!({"repository": "c"}),
            "",
            "a/b:0.1.0",
            "c:0.1.0",
        ),
        (
            json!({"repository": "a/b", "digest": digest}),
            json!({"tag": "3"}),
            "",
            &pinned,
            "a/b:3",
        ),
        (
            json!({"repository": "a/b", "digest": digest, "tag": "2"}),
            json!({}),
            "",
            &both,
            &both,
        ),
        (
            json!({"repository": "a/b", "digest": digest}),
            json!({}),
            "mirror:5000",
            &mirrored,
            &mirrored,
        ),
        // A repository with its own registry, and a complete reference.
        (
            json!({"repository": "r.example/a/b"}),
            json!("s.example/c:4"),
            "mirror:5000",
            "r.example/a/b:0.1.0",
            "s.example/c:4",
        ),
    ] {
        let values = json!({"image": image, "waiter": {"image": waiter}, "global": {"imageRegistry": registry}});
        let objects = objects(&template(helm, &values)?)?;
        let found = super::render::configuration(&objects)?.waiter.image;
        ensure!(found == injected, "{values}: {found}, not {injected}");
        let images = objects.iter().flat_map(|object| {
            let pod = object.pointer("/spec/template/spec").or(object.get("spec"));
            pod.and_then(|pod| pod["containers"].as_array())
                .into_iter()
                .flatten()
        });
        let images: Vec<&Value> = images.map(|container| &container["image"]).collect();
        ensure!(images == [server; 3], "{values}: {images:?}, not {server}");
    }
    Ok(())
}

/// By default, the image or the platform decides a pod's user.
fn a_user_is_named_only_where_the_values_name_one(helm: &Path) -> Result<()> {
    let users = |values: Value| -> Result<Vec<String>> {
        let rendered = template(helm, &values)?;
        let named = rendered.lines().map(str::trim).filter(|line| {
            line.contains("runAsUser") || line.contains("runAsGroup") || line.contains("fsGroup")
        });
        Ok(named.map(str::to_owned).collect())
    };
    let found = users(json!({"certificates": {"source": "certManager"}}))?;
    ensure!(found.is_empty(), "{found:?}");
    let found = users(json!({"podSecurityContext": {"runAsUser": 7}}))?;
    // The server's pod and those of both hooks.
    ensure!(found == ["runAsUser: 7"; 3], "{found:?}");
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
    // Gates whose long names differ only at their end have separate permissions.
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

    // A removed limit does not come back as the program's default.
    let objects = rendered(json!({"waiter": {"resources": {"limits": null}}}))?;
    let config = super::render::configuration(&objects)?;
    ensure!(config.waiter.resources.limits.is_empty(), "{config:?}");

    // A removed member stays removed.
    let context = json!({"runAsNonRoot": null, "runAsUser": 1000});
    let objects = rendered(json!({"waiter": {"securityContext": context}}))?;
    let config = super::render::configuration(&objects)?;
    ensure!(Value::from(config.waiter.security_context) == context);

    // The ServiceAccount has the pull secrets that held pods would lose.
    let secrets = json!([{"name": "registry"}]);
    let objects = rendered(json!({"rbac": {"imagePullSecrets": secrets}}))?;
    let accounts = of_kind(&objects, "ServiceAccount");
    let account = accounts
        .iter()
        .find(|account| account["metadata"]["name"] == "piefed-init-checker")
        .context("the gate's account")?;
    ensure!(account["imagePullSecrets"] == secrets, "{account}");

    // Kubernetes itself creates this ServiceAccount in every namespace.
    let objects = rendered(filled(json!({"gates": [{"serviceAccount": "default"}]})))?;
    let accounts = of_kind(&objects, "ServiceAccount");
    ensure!(
        accounts
            .iter()
            .all(|account| account["metadata"]["name"] != "default"),
        "{accounts:#?}"
    );

    // Without scrapes, the alert for a server that is down would never end.
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
            says(expression, &["namespace=\"migration-gate\""])?;
        }
        // A certificate of two days is renewed after 32 hours.
        let expires = of("MigrationGateCertificateExpires");
        let expression = expires[0]["expr"].as_str().context("an expression")?;
        ensure!(expression.ends_with("< 43200"), "{expression}");
        ensure!(expires[0]["for"] == "3600s", "{}", expires[0]);
    }
    Ok(())
}

/// A Role can only have exact names, so a pattern or a selector needs permission for every Job of
/// the namespace.
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
        let objects = rendered(filled(json!({"gates": [{"job": null, "jobs": entries}]})))?;
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

/// Checks the default alerts, and those that the values change. Each `runbook_url` must lead to an
/// existing heading.
fn alerts_are_as_the_values_say_and_each_is_explained(helm: &Path) -> Result<()> {
    let alerts = |more: &Value| -> Result<Vec<Value>> {
        let mut values =
            json!({"prometheusRule": {"enabled": true}, "serviceMonitor": {"enabled": true}});
        json_patch::merge(&mut values["prometheusRule"], more);
        let objects = objects(&template(helm, &values)?)?;
        let rule = objects
            .iter()
            .find(|object| object["kind"] == "PrometheusRule");
        let rules = rule.context("a rule")?["spec"]["groups"][0]["rules"].as_array();
        Ok(rules.context("rules")?.clone())
    };
    let all = alerts(&json!({}))?;
    ensure!(all.len() == 7, "{all:#?}");
    for alert in &all {
        let url = alert["annotations"]["runbook_url"]
            .as_str()
            .context("a runbook")?;
        let (_, place) = url
            .split_once("/blob/main/")
            .context("a page of the repository")?;
        let (page, heading) = place.split_once('#').context("a heading")?;
        let page = fs::read_to_string(format!("{}/{page}", env!("CARGO_MANIFEST_DIR")))?;
        let name = alert["alert"].as_str().context("a name")?;
        ensure!(heading == name.to_lowercase(), "{alert:#}");
        ensure!(
            page.lines().any(|line| line == format!("### {name}")),
            "{url}"
        );
        ensure!(
            alert["labels"]
                .as_object()
                .is_some_and(|labels| labels.len() == 1),
            "{alert:#}"
        );
    }
    let changed = alerts(&json!({
        "alertLabels": {"team": "platform", "severity": "none"},
        "runbooks": "https://example.com/runbooks",
        "alerts": {
            "MigrationFailed": {"severity": "critical", "for": "5m"},
            "MigrationPodsWait": {"enabled": false},
            "MigrationGateDown": {"for": "1h", "enabled": true},
        },
    }))?;
    let find = |name: &str| changed.iter().find(|alert| alert["alert"] == name);
    ensure!(
        changed.len() == 6 && find("MigrationPodsWait").is_none(),
        "{changed:#?}"
    );
    let failed = find("MigrationFailed").context("the alert")?;
    ensure!(failed["for"] == "5m", "{failed:#}");
    ensure!(
        failed["labels"] == json!({"severity": "critical", "team": "platform"}),
        "{failed:#}"
    );
    let runbook = &failed["annotations"]["runbook_url"];
    ensure!(
        runbook == "https://example.com/runbooks#migrationfailed",
        "{failed:#}"
    );
    let down = find("MigrationGateDown").context("the alert")?;
    ensure!(
        down["for"] == "1h" && down["labels"]["severity"] == "none",
        "{down:#}"
    );
    Ok(())
}

/// The server may read only what its gates hold, and create Events only if the values say so.
fn the_servers_rights_are_for_what_is_held(helm: &Path) -> Result<()> {
    let rules = |values: &Value| -> Result<Vec<Value>> {
        let objects = objects(&template(helm, values)?)?;
        let role = objects.iter().find(|object| {
            object["kind"] == "Role" && object["metadata"]["name"] == "migration-gate-a-record"
        });
        let rules = role.and_then(|role| role["rules"].as_array());
        Ok(rules.context("the server's Role")?.clone())
    };
    let selector = json!({"matchLabels": {"a": "b"}});
    for (entries, group, resource, names) in [
        (
            json!([{"kind": "StatefulSet", "name": "b"}, {"kind": "StatefulSet", "name": "a"}]),
            "apps",
            "statefulsets",
            json!(["b", "a"]),
        ),
        (
            json!([{"kind": "CronJob", "name": "b"}, {"kind": "CronJob", "name": "a-*"}]),
            "batch",
            "cronjobs",
            Value::Null,
        ),
        (
            json!([{"kind": "Rollout", "name": "b"}, {"kind": "Rollout", "selector": selector}]),
            "argoproj.io",
            "rollouts",
            Value::Null,
        ),
    ] {
        let given = json!({"gates": [{"deployments": null, "workloads": entries}]});
        let all = rules(&filled(given))?;
        let of_held = |rule: &&Value| rule["verbs"] == json!(["list", "watch"]);
        let found: Vec<&Value> = all.iter().filter(of_held).collect();
        let mut wanted =
            json!({"apiGroups": [group], "resources": [resource], "verbs": ["list", "watch"]});
        if names.is_array() {
            wanted["resourceNames"] = names;
        }
        ensure!(found == [&wanted], "{entries}: {found:?}");
    }
    for enabled in [true, false] {
        let mut values = json!({"gates": [gate()]});
        values["events"] = json!({"enabled": enabled});
        let may = rules(&values)?
            .iter()
            .any(|rule| rule["resources"] == json!(["events"]));
        ensure!(may == enabled, "events are {enabled}, the right {may}");
        let told = template(helm, &values)?.contains("- --no-events\n");
        ensure!(told != enabled, "events are {enabled}");
    }
    Ok(())
}

/// `helm test` dry-runs the kinds that the gates hold, and a Deployment with a forbidden variable.
fn the_tests_rights_are_for_the_kinds_that_are_held(helm: &Path) -> Result<()> {
    let all: Vec<HeldKind> = HeldKind::ALL.into();
    for held in all.iter().map(|kind| vec![*kind]).chain([all.clone()]) {
        let entries = held
            .iter()
            .flat_map(|kind| ["a", "b"].map(|name| json!({"kind": kind.as_str(), "name": name})));
        let gate = json!({"deployments": null, "workloads": entries.collect::<Value>()});
        let values = filled(json!({"gates": [gate]}));
        let objects = objects(&template(helm, &values)?)?;
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
