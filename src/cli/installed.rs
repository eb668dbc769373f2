//! What the releases are configured with that are installed in a cluster.

use anyhow::Context as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::ListParams;

use super::config;
use crate::api::Objects;
use migration_gate_core::gates::Config;

/// The label that the chart gives its objects.
pub(crate) const CHART_LABEL: &str = "app.kubernetes.io/name=migration-gate";

/// The webhooks of each release. An error if they can't be listed.
pub(crate) async fn webhooks(client: &Client) -> anyhow::Result<Vec<MutatingWebhookConfiguration>> {
    Objects::cluster::<MutatingWebhookConfiguration>(client)
        .list(&ListParams::default().labels(CHART_LABEL))
        .await
        .context("cannot list mutatingwebhookconfigurations")
}

/// The configuration of a release: the chart keeps it under the name of its webhooks.
pub(crate) async fn configuration(
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
