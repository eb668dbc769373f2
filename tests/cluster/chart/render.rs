//! What the chart renders, without a cluster.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use migration_gate::cli::config::parse;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use serde_json::{Value, json};

use super::values::everything;
use super::{CHART, objects, template};
use testkit::process;

testkit::tests! {
    helm:
        the_webhooks_are_the_programs_own,
        the_program_reads_the_configuration_as_the_values_say_it,
        conditions_that_the_api_server_would_refuse_are_refused,
        the_defaults_are_as_they_were,
        the_examples_for_cert_manager_fit,
        helm_has_nothing_to_remark;
}

/// Sets of gates and variables that together have every form of each value.
pub(super) fn matrix() -> Vec<Value> {
    let gate = |name: &str, namespace: &str, holds: Value| {
        let mut gate = json!({
            "name": name, "namespace": namespace, "job": format!("{name}-migrate"),
            "serviceAccount": format!("{name}-checker"),
        });
        if let (Some(gate), Some(holds)) = (gate.as_object_mut(), holds.as_object()) {
            gate.extend(holds.clone());
        }
        gate
    };
    let labels = |expressions: Value| json!({"selector": {"matchExpressions": expressions}});
    let part_of = "app.kubernetes.io/part-of";
    vec![
        json!({}),
        // Unsorted and with a duplicate: the program has a set.
        json!({"gates": [gate("a", "one", json!({"deployments": ["web", "api", "web", "a.b"]}))]}),
        json!({"gates": [gate("a", "one", json!({"selector": {"matchLabels": {"tier": "web", part_of: "shop", "b": ""}}}))]}),
        json!({"gates": [gate("a", "one", labels(json!([{"key": part_of, "operator": "In", "values": ["z", "a"]}])))]}),
        json!({"gates": [gate("a", "one", labels(json!([{"key": "tier", "operator": "NotIn", "values": ["cache"]}])))]}),
        json!({"gates": [gate("a", "one", labels(json!([{"key": "tier", "operator": "Exists"}])))]}),
        json!({"gates": [gate("a", "one", labels(json!([{"key": "tier", "operator": "DoesNotExist"}])))]}),
        // Gates by name and by label, in several namespaces, with two gates in one of them.
        json!({"gates": [
            gate("a", "one", json!({
                "deployments": ["web"],
                "selector": {
                    "matchLabels": {"app": "x", "tier": "web"},
                    "matchExpressions": [
                        {"key": "canary", "operator": "DoesNotExist"},
                        {"key": "region", "operator": "NotIn", "values": ["eu", "us"]},
                    ],
                },
            })),
            gate("b", "two", json!({"deployments": ["worker"], "timeout": "1h30m", "freshness": "any"})),
            gate("c", "one", json!({"deployments": ["worker"], "timeout": "90s"})),
        ]}),
        // Every kind, every way to select workloads, and the short forms.
        json!({"gates": [gate("a", "one", json!({"workloads": [
            {"kind": "Rollout", "name": "web-*"},
            {"kind": "CronJob", "name": "clean.up"},
            {"kind": "DaemonSet", "selector": {"matchLabels": {"tier": "node"}}},
            {"kind": "StatefulSet", "name": "db"},
            {"kind": "StatefulSet", "selector": {"matchExpressions": [{"key": "tier", "operator": "Exists"}]}},
            {"kind": "StatefulSet", "name": "**que*-ue.v*"},
            {"kind": "StatefulSet", "name": "cache"},
            {"kind": "Deployment", "name": "z"},
            {"kind": "Deployment", "name": "a"},
            {"kind": "Deployment", "selector": {"matchLabels": {"tier": "web"}}},
        ], "deployments": ["web", "api"], "selector": {"matchLabels": {"app": "x"}}}))]}),
        json!({"gates": [gate("a", "one", json!({
            "workloads": HeldKind::ALL.map(|kind| json!({"kind": kind.as_str(), "name": "web"})),
        }))]}),
        // An object of another kind with the same name is another workload.
        json!({"gates": [
            gate("a", "one", json!({"workloads": [{"kind": "StatefulSet", "name": "web"}]})),
            gate("b", "one", json!({"workloads": [{"kind": "Deployment", "name": "web"}]})),
            gate("c", "two", json!({"workloads": [{"kind": "Deployment", "name": "web"}]})),
        ]}),
        json!({"gates": [{
            "name": "a", "namespace": "123", "deployments": ["web"], "serviceAccount": "456", "extraAccounts": ["true"],
            "jobs": [
                {"name": "789"}, {"name": "migrate-*"}, {"selector": {"matchLabels": {"tier": "migrate"}}},
                {"anyOf": [{"name": "install"}, {"selector": {"matchExpressions": [{"key": "up", "operator": "Exists"}]}}]},
            ],
            "container": "web", "movingTags": ["latest", "v[0-9]", "[!a-z]?", "[]a]*", "[!]-_]"], "mode": "warn",
        }]}),
        json!({"gates": [gate("a", "one", json!({"deployments": ["web"], "version": {"label": "a.b/version"}}))]}),
        json!({"gates": [gate("a", "one", json!({"deployments": ["web"], "version": {"annotation": "commit"}}))]}),
        json!({"forbiddenEnv": ["PIEFED_INIT_CONTAINER", "MIGRATE", "with.dots", "a-b", "<a&'b>\"\\c"], "mode": "warn"}),
        json!({"forbiddenEnv": []}),
        // Values that are written like the marks in the chart's conditions.
        json!({"gates": [gate("a", "one", json!({"selector": {
            "matchLabels": {"FORBIDDEN_ENV": "WAITER_IMAGE", "HELD": "HAS_ARGUMENTS"},
        }}))], "forbiddenEnv": ["HAS_ARGUMENTS", "HELD", "GATE_NAMESPACES"]}),
        // With the waiter's arguments compared, and without.
        many(40, &gate),
        many(100, &gate),
    ]
}

/// As many gates in one namespace, each with a selector.
fn many(count: usize, gate: &impl Fn(&str, &str, Value) -> Value) -> Value {
    let gates = (0..count).map(|index| {
        let name = format!("service-{index}");
        let labels =
            json!({"app.kubernetes.io/instance": name, "app.kubernetes.io/part-of": "shop"});
        gate(&name, "one", json!({"selector": {"matchLabels": labels}}))
    });
    json!({"gates": gates.collect::<Vec<_>>()})
}

/// All gates in `docs/gates.md`, as values.
pub(super) fn page() -> Result<Value> {
    let page = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/gates.md"))?;
    let mut gates = Vec::new();
    for block in page.split("```yaml\n").skip(1) {
        let text = block.split_once("```\n").map_or(block, |(text, _)| text);
        let values = objects(text)?.pop().context("gates")?;
        gates.extend(values["gates"].as_array().context("gates")?.clone());
    }
    Ok(json!({"gates": gates}))
}

/// The program's configuration in the rendered chart.
pub(super) fn configuration(objects: &[Value]) -> Result<Config> {
    let text = objects
        .iter()
        .filter(|object| object["kind"] == "ConfigMap")
        .find_map(|object| object["data"]["config.yaml"].as_str())
        .context("a ConfigMap with config.yaml")?;
    parse(text, "config.yaml").map_err(|error| anyhow!("{error}\n{text}"))
}

fn the_webhooks_are_the_programs_own(helm: &Path) -> Result<()> {
    for values in matrix().into_iter().chain([page()?]) {
        let objects = objects(&template(helm, &values)?)?;
        let config = configuration(&objects)?;
        for (kind, prefilters) in [
            ("MutatingWebhookConfiguration", mutating()),
            ("ValidatingWebhookConfiguration", validating()),
        ] {
            let rendered = objects
                .iter()
                .find(|object| object["kind"] == kind)
                .with_context(|| format!("a {kind}"))?;
            let found: Vec<Value> = rendered["webhooks"]
                .as_array()
                .context("webhooks")?
                .iter()
                .map(|webhook| {
                    json!([
                        webhook["name"],
                        webhook["rules"],
                        webhook["matchConditions"]
                    ])
                })
                .collect();
            let wanted: Vec<Value> = prefilters
                .into_iter()
                .map(|prefilter| prefilter.of(&config))
                .map(
                    |Prefilter {
                         name,
                         rules,
                         match_conditions,
                     }| {
                        json!([format!("{name}.migration-gate.io"), rules, match_conditions])
                    },
                )
                .collect();
            ensure!(
                found == wanted,
                "{values}\nthe chart renders\n{:#}\nand the program has\n{:#}",
                json!(found),
                json!(wanted)
            );
        }
    }
    Ok(())
}

fn conditions_that_the_api_server_would_refuse_are_refused(helm: &Path) -> Result<()> {
    let names: Vec<String> = (0..500)
        .map(|index| format!("{index:0>60}.{index:0>60}.{index:0>60}.{index:0>60}"))
        .collect();
    let gate = json!({
        "name": "a", "namespace": "one", "job": "migrate", "serviceAccount": "waits",
        "deployments": names,
    });
    let refusal = template(helm, &json!({"gates": [gate]}))
        .err()
        .context("more than 100,000 characters")?;
    let refusal = format!("{refusal:#}");
    ensure!(
        refusal.contains("the API server takes at most 100000"),
        "{refusal}"
    );
    Ok(())
}

fn the_program_reads_the_configuration_as_the_values_say_it(helm: &Path) -> Result<()> {
    for values in matrix().into_iter().chain([page()?]) {
        let found = configuration(&objects(&template(helm, &values)?)?)?;
        let mut wanted = Config::default();
        // The values have the configuration's own keys.
        if let Some(gates) = values.get("gates") {
            let text = json!({"gates": gates}).to_string();
            wanted.gates = parse(&text, "values")?.gates;
        }
        if let Some(names) = values.get("forbiddenEnv") {
            wanted.forbidden_env = serde_json::from_value(names.clone())?;
        }
        if let Some(mode) = values.get("mode") {
            wanted.mode = serde_json::from_value(mode.clone())?;
        }
        ensure!(found == wanted, "{values}\n{found:#?}\n{wanted:#?}");
    }
    Ok(())
}

/// The output for the default values. It is in the repository, so that a change shows its effect on
/// a cluster.
const GOLDEN: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/cluster/chart/golden.yaml"
);

/// The objects of other operators' kinds.
const GOLDEN_OPERATORS: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/cluster/chart/golden-operators.yaml"
);

/// Values that all differ from the defaults, so that a template without one of them is noticed.
const GOLDEN_VALUES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/cluster/chart/golden-values.yaml"
);

/// Compares the output with the files. `GENERATE=1` writes them.
fn the_defaults_are_as_they_were(helm: &Path) -> Result<()> {
    let operators = json!({
        "certificates": {
            "source": "certManager", "certManager": {"duration": "720h", "renewBefore": "240h"},
        },
        "serviceMonitor": {
            "enabled": true, "labels": {"release": "prometheus"}, "namespace": "monitoring",
            "annotations": {"a": "b"}, "scrapeTimeout": "10s",
            "relabelings": [{"targetLabel": "cluster", "replacement": "x"}],
            "metricRelabelings": [{"action": "drop", "sourceLabels": ["code"], "regex": "400"}],
        },
        "prometheusRule": {
            "enabled": true, "namespace": "monitoring", "annotations": {"a": "b"},
            "alertLabels": {"team": "x"}, "alertAnnotations": {"runbook_url": "https://example.org"},
        },
        "dashboard": {"enabled": true},
        "networkPolicy": {"enabled": true},
    });
    for (path, values) in [
        (GOLDEN, json!({})),
        (GOLDEN_OPERATORS, operators),
        (GOLDEN_VALUES, everything()?),
    ] {
        let rendered = template(helm, &values)?;
        if std::env::var_os("GENERATE").is_some() {
            fs::write(path, &rendered)?;
        }
        let golden = fs::read_to_string(path).unwrap_or_default();
        let differs = rendered
            .lines()
            .zip(golden.lines().chain(std::iter::repeat("(the end)")))
            .position(|(new, old)| new != old);
        ensure!(
            rendered == golden,
            "the chart no longer renders {path}; they differ from line {} on. If that is meant, run the test with GENERATE=1 and commit the file",
            differs.unwrap_or_else(|| rendered.lines().count()) + 1
        );
    }
    Ok(())
}

fn helm_has_nothing_to_remark(helm: &Path) -> Result<()> {
    process::run(
        Command::new(helm).args(["lint", "--strict", CHART]),
        "",
        Duration::from_mins(3),
    )?
    .success()
    .map(drop)
}

/// Checks the chart's Certificate and those in `certs/`: their issuer exists, they have the name
/// that the API server calls, their CA outlives them, and the configurations name the CA of the
/// same Certificate.
fn the_examples_for_cert_manager_fit(helm: &Path) -> Result<()> {
    let example = |name: &str| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/certs/cert-manager/");
        objects(&fs::read_to_string(format!("{path}{name}"))?)
    };
    let issuers = example("issuer.yaml")?;
    let values = example("values.yaml")?.pop().context("values")?;
    let rendered = objects(&template(helm, &values)?)?;
    let own = example("certificate.yaml")?;
    // Without an issuer in the values, the chart has all objects itself.
    let alone = json!({"certificates": {"source": "certManager"}});
    let alone = objects(&template(helm, &alone)?)?;
    for (certificates, issuers) in [(&rendered, &issuers), (&own, &issuers), (&alone, &alone)] {
        let certificate = serving(certificates).context("a serving Certificate")?;
        let made = |kind: &Value, name: &Value| {
            issuers
                .iter()
                .find(|object| {
                    object["kind"] == *kind
                        && object["metadata"]["name"] == *name
                        && object["metadata"]["namespace"] == certificate["metadata"]["namespace"]
                })
                .with_context(|| format!("no one makes the {kind} {name}"))
        };
        let wanted = &certificate["spec"]["issuerRef"];
        let issuer = made(&wanted["kind"], &wanted["name"])?;
        // A self-signed certificate would be another CA after each renewal.
        let secret = &issuer["spec"]["ca"]["secretName"];
        let ca = issuers
            .iter()
            .find(|object| {
                object["kind"] == "Certificate" && object["spec"]["secretName"] == *secret
            })
            .with_context(|| format!("no one makes the CA of {issuer}"))?;
        ensure!(ca["spec"]["isCA"] == true, "{ca}");
        let policy = &ca["spec"]["privateKey"]["rotationPolicy"];
        ensure!(policy == "Never", "{ca}");
        made(
            &ca["spec"]["issuerRef"]["kind"],
            &ca["spec"]["issuerRef"]["name"],
        )?;
        ensure!(
            certificate["spec"]["dnsNames"] == json!(["migration-gate.migration-gate.svc"]),
            "{certificate}"
        );
    }
    let certificate = serving(&rendered).context("a serving Certificate")?;
    let source = format!(
        "migration-gate/{}",
        certificate["metadata"]["name"].as_str().context("a name")?
    );
    let configurations = rendered.iter().filter(|object| {
        object["kind"]
            .as_str()
            .is_some_and(|kind| kind.ends_with("WebhookConfiguration"))
    });
    let mut count = 0;
    for configuration in configurations {
        let found = &configuration["metadata"]["annotations"]["cert-manager.io/inject-ca-from"];
        ensure!(*found == json!(source), "{found}");
        count += 1;
    }
    ensure!(count == 2, "{count} configurations");
    Ok(())
}

fn serving(objects: &[Value]) -> Option<&Value> {
    objects
        .iter()
        .find(|object| object["kind"] == "Certificate" && object["spec"]["isCA"] != true)
}
