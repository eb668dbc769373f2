//! The API server accepts everything that the chart renders, with strict validation. Kinds of other
//! operators are validated by their own definitions.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::platforms::platforms;
use super::render::{matrix, page};
use super::values::everything;
use super::{APPLICATION, template};
use testkit::assets;
use testkit::cluster::Cluster;
use testkit::process::Finished;

testkit::tests! {
    exclusive: the_api_server_takes_what_is_rendered;
}

/// Values that switch on every option.
fn options() -> Vec<Value> {
    vec![
        json!({"networkPolicy": {"enabled": true, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, "dashboard": {"enabled": true}}),
        json!({"certificates": {"source": "existingSecret", "existingSecret": "tls"}, "mode": "warn"}),
        json!({"certificates": {"source": "certManager", "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "x"}}}}),
        json!({"certificates": {"source": "certManager"}}),
        json!({"rbac": {"gates": false, "accounts": false}}),
        json!({
            "prometheusRule": {
                "enabled": true, "namespace": "default", "annotations": {"a": "b"}, "labels": {"c": "d"},
                "alertLabels": {"team": "x"}, "alertAnnotations": {"runbook_url": "https://example.org"},
            },
            "serviceMonitor": {
                "enabled": true, "namespace": "default", "annotations": {"a": "b"}, "scrapeTimeout": "10s",
                "relabelings": [{"targetLabel": "cluster", "replacement": "x"}],
                "metricRelabelings": [{"action": "drop", "sourceLabels": ["code"], "regex": "400"}],
            },
            "certificates": {
                "source": "certManager", "certManager": {"duration": "720h", "renewBefore": "240h"},
            },
        }),
        json!({"certificates": {"source": "existingSecret", "existingSecret": "tls", "injectCaFrom": "a/b"}}),
    ]
}

fn the_api_server_takes_what_is_rendered(cluster: &Cluster) -> Result<()> {
    let all: Vec<Value> = matrix()
        .into_iter()
        .chain(options())
        .chain([page()?, everything()?])
        .chain(platforms()?.into_iter().map(|platform| platform.values))
        .collect();
    let _namespaces = namespaces(&all)
        .iter()
        .map(|name| cluster.namespace_named(name))
        .collect::<Result<Vec<_>>>()?;
    // A hook's pod is admitted only if its ServiceAccount exists, which a dry run does not create.
    for name in ["migration-gate", "migration-gate-door"] {
        cluster.kubectl().run(&format!(
            "create serviceaccount {name}-test --namespace=migration-gate"
        ))?;
    }
    define_other_operators_kinds(cluster)?;
    let mut kinds = BTreeSet::new();
    for values in all {
        let rendered = template(&cluster.kubectl().helm, &values)?;
        let documents = rendered.split("\n---\n");
        let count = documents.filter(|d| d.contains("\nkind: ")).count();
        let said = dry_run(cluster, &rendered)?
            .success()
            .with_context(|| values.to_string())?;
        kinds.extend(
            said.lines()
                .filter_map(|line| Some(line.split_once('/')?.0.to_owned())),
        );
        ensure!(
            said.lines().count() == count,
            "{values}: {count} objects and\n{said}"
        );
    }
    for kind in [
        "certificate.cert-manager.io",
        "issuer.cert-manager.io",
        "servicemonitor.monitoring.coreos.com",
        "prometheusrule.monitoring.coreos.com",
    ] {
        ensure!(kinds.contains(kind), "no {kind} among {kinds:?}");
    }
    // Check that an invalid object would be refused.
    let rendered = template(
        &cluster.kubectl().helm,
        &json!({"serviceMonitor": {"enabled": true}}),
    )?;
    let refusal = dry_run(
        cluster,
        &rendered.replace("    interval: ", "    intervall: "),
    )?
    .failure()?;
    ensure!(refusal.contains("intervall"), "{refusal}");
    Ok(())
}

/// The namespaces of the release and of all gates.
fn namespaces(values: &[Value]) -> BTreeSet<&str> {
    let gates = values
        .iter()
        .filter_map(|values| values.get("gates")?.as_array());
    let namespaces = gates
        .flatten()
        .filter_map(|gate| gate["namespace"].as_str());
    namespaces.chain(["migration-gate", APPLICATION]).collect()
}

fn dry_run(cluster: &Cluster, manifests: &str) -> Result<Finished> {
    let arguments = [
        "apply",
        "--dry-run=server",
        "--validate=strict",
        "--output=name",
        "-f",
        "-",
    ];
    let kubectl = cluster.kubectl();
    kubectl.output(&arguments, manifests, Duration::from_mins(3))
}

/// Creates the CRDs of cert-manager, the Prometheus operator and Argo Rollouts, once. None of these
/// operators runs.
pub(crate) fn define_other_operators_kinds(cluster: &Cluster) -> Result<()> {
    static DEFINED: Mutex<bool> = Mutex::new(false);
    let mut defined = DEFINED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*defined {
        let folder = assets::definitions()?;
        let kubectl = cluster.kubectl();
        kubectl.run(&format!("apply --server-side -f {}", folder.display()))?;
        kubectl.run(
            "wait --for=condition=Established --timeout=170s customresourcedefinitions --all",
        )?;
        *defined = true;
    }
    Ok(())
}
