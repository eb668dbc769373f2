//! The API server takes what the chart renders, strictly; kinds of other operators by their own definitions.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::matrix;
use super::values::everything;
use super::{APPLICATION, template};
use crate::cluster::Cluster;
use crate::harness::Test;

pub(super) const TESTS: [Test; 1] = [Test::exclusive(
    "chart::the_api_server_takes_what_is_rendered",
    the_api_server_takes_what_is_rendered,
)];

/// Everything that can be switched on, but for kinds that no API server knows by itself.
fn options() -> Vec<Value> {
    vec![
        json!({"networkPolicy": {"enabled": true, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, "dashboard": {"enabled": true}}),
        json!({"certificates": {"source": "existingSecret", "existingSecret": "tls"}, "mode": "warn"}),
        json!({"certificates": {"source": "certManager", "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "x"}}}}),
        everything(),
        json!({"rbac": {"gates": false, "accounts": false}}),
        json!({"prometheusRule": {"enabled": true}, "serviceMonitor": {"enabled": true}}),
    ]
}

fn the_api_server_takes_what_is_rendered(cluster: &Cluster) -> Result<()> {
    let _namespaces = ["migration-gate", APPLICATION, "one", "two"]
        .map(|name| cluster.namespace_named(name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // A hook's pod is admitted only once its account is there, which a dry run doesn't make.
    cluster
        .kubectl()
        .run("create serviceaccount migration-gate-test --namespace=migration-gate")?;
    for values in matrix().into_iter().chain(options()) {
        let rendered = template(&cluster.kubectl().helm, &values)?;
        // Each document by itself, since YAML that is read and written again would be another.
        let known: Vec<&str> = rendered
            .split("\n---\n")
            .filter(|document| {
                !document.contains("apiVersion: monitoring.coreos.com/")
                    && !document.contains("apiVersion: cert-manager.io/")
            })
            .collect();
        let count = known.iter().filter(|d| d.contains("kind: ")).count();
        let said = cluster
            .kubectl()
            .output(
                &[
                    "apply",
                    "--dry-run=server",
                    "--validate=strict",
                    "--output=name",
                    "-f",
                    "-",
                ],
                &known.join("\n---\n"),
                Duration::from_mins(1),
            )?
            .success()
            .with_context(|| values.to_string())?;
        ensure!(
            said.lines().count() == count,
            "{values}: {count} objects and\n{said}"
        );
    }
    Ok(())
}
