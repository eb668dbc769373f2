//! Whether an installed release would put back what is taken out.

use anyhow::{Context as _, bail};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::ListParams;
use kube::{Client, ResourceExt as _};

use super::ejection::{CHART_LABEL, Ejection};
use crate::api::Objects;
use crate::cli::config;
use migration_gate_core::gates::Config;
use migration_gate_core::held::holding;
use migration_gate_core::request::{Operation, Request};

/// Refuses if a release is installed that has one of the gates, or holds one of the Deployments.
/// A release without them does no harm: that is how one gate of several is retired.
pub(super) async fn refuse_while_held(
    client: &Client,
    ejections: &[Ejection<'_>],
) -> anyhow::Result<()> {
    let configurations = Objects::cluster::<MutatingWebhookConfiguration>(client);
    let installed = configurations
        .list::<MutatingWebhookConfiguration>(&ListParams::default().labels(CHART_LABEL))
        .await
        .context("cannot list mutatingwebhookconfigurations")?;
    for found in installed {
        let release = found
            .annotations()
            .get("meta.helm.sh/release-name")
            .map_or("of migration-gate", String::as_str);
        let config = configuration(client, &found).await.with_context(|| {
            format!(
                "MutatingWebhookConfiguration {} is installed, and what it holds can't be told; run `helm uninstall` for the release {release} first",
                found.name_any()
            )
        })?;
        if let Some(held) = held(&config, ejections) {
            bail!(
                "MutatingWebhookConfiguration {} is installed and would inject the waiters of {held} again; take the gate out of the values of the release {release}, or run `helm uninstall` for it, first",
                found.name_any()
            );
        }
    }
    Ok(())
}

/// The configuration of a release: the chart keeps it under the name of its webhooks.
async fn configuration(
    client: &Client,
    webhooks: &MutatingWebhookConfiguration,
) -> anyhow::Result<Config> {
    let service = webhooks
        .webhooks
        .iter()
        .flatten()
        .find_map(|webhook| webhook.client_config.service.as_ref())
        .context("its webhooks name no Service")?;
    let (namespace, name) = (&service.namespace, &service.name);
    let found: ConfigMap = Objects::config_maps(client, namespace)
        .get(name)
        .await
        .with_context(|| format!("cannot get ConfigMap {namespace}/{name}"))?
        .with_context(|| format!("there is no ConfigMap {namespace}/{name}"))?;
    let text = found
        .data
        .as_ref()
        .and_then(|data| data.get("config.yaml"))
        .with_context(|| format!("ConfigMap {namespace}/{name} has no config.yaml"))?;
    let file = format!("config.yaml of ConfigMap {namespace}/{name}");
    Ok(config::parse(text, &file)?)
}

/// What of the ejections an installed configuration would undo, in words.
fn held(config: &Config, ejections: &[Ejection<'_>]) -> Option<String> {
    ejections.iter().find_map(|ejection| {
        let gate = ejection.gate;
        let same = config
            .gates
            .iter()
            .any(|other| other.name == gate.name && other.namespace == gate.namespace);
        if same {
            return Some(format!("gate {}", gate.name));
        }
        ejection.workloads.iter().find_map(|ejected| {
            let pods = ejected.kind.pod_kind();
            // Objects of a list don't say their kind.
            let request = Request {
                operation: Operation::Create,
                group: pods.group,
                kind: pods.kind,
                subresource: "",
                namespace: &gate.namespace,
                object: &ejected.object,
                old: None,
            };
            let held = holding(config, &request).next().is_some();
            held.then(|| ejected.shown(&gate.namespace))
        })
    })
}
