//! The releases that are installed in a cluster, and their configuration.
//!
//! A release is found by its ConfigMap, which exists even if webhooks, server or certificate are
//! broken.

use anyhow::Context as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Client;
use kube::api::ListParams;
use kube::core::ApiResource;
use serde_json::Value;

use super::config;
use crate::api::{ApiError, Objects};
use migration_gate_core::gates::Config;

/// The label that the chart gives its objects.
pub(crate) const CHART_LABEL: &str = "app.kubernetes.io/name=migration-gate";

/// Namespace and name of the ConfigMap if the chart is installed as documented, for users who may
/// not list all namespaces.
const USUAL: (&str, &str) = ("migration-gate", "migration-gate");

/// The key of the ConfigMap that holds the configuration.
const KEY: &str = "config.yaml";

/// The ConfigMap of each release, as JSON. If the user may not list them, only the one of an
/// installation as documented. An error if that cannot be read either.
pub(crate) async fn releases(client: &Client) -> Result<Vec<Value>, ApiError> {
    let kind = ApiResource::erase::<ConfigMap>(&());
    let params = ListParams::default().labels(CHART_LABEL);
    let all: Result<Vec<Value>, _> = Objects::of(client, kind, None).list(&params).await;
    let mut found = match all {
        Err(error) if error.is_denied() => {
            let (namespace, name) = USUAL;
            let usual = Objects::config_maps(client, namespace).get(name).await;
            usual.map_err(|_| error)?.into_iter().collect()
        }
        all => all?,
    };
    found.retain(|release| release["data"][KEY].is_string());
    Ok(found)
}

/// Namespace and name of a release's ConfigMap.
pub(crate) fn place(release: &Value) -> String {
    let [namespace, name] =
        ["namespace", "name"].map(|field| release["metadata"][field].as_str().unwrap_or_default());
    format!("{namespace}/{name}")
}

/// The configuration of a release.
pub(crate) fn configuration(release: &Value) -> anyhow::Result<Config> {
    let place = place(release);
    let text = release["data"][KEY]
        .as_str()
        .with_context(|| format!("ConfigMap {place} has no {KEY}"))?;
    Ok(config::parse(text, &format!("{KEY} of ConfigMap {place}"))?)
}

/// The mutating webhooks of each release. An error if they can't be listed.
pub(crate) async fn webhooks(client: &Client) -> anyhow::Result<Vec<MutatingWebhookConfiguration>> {
    Objects::cluster::<MutatingWebhookConfiguration>(client)
        .list(&ListParams::default().labels(CHART_LABEL))
        .await
        .context("cannot list mutatingwebhookconfigurations")
}

/// The configuration of the release to which these webhooks belong. Its ConfigMap has the name of
/// their Service.
pub(crate) async fn configuration_of(
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
    let found: Value = Objects::config_maps(client, namespace)
        .get(name)
        .await
        .with_context(|| format!("cannot get ConfigMap {namespace}/{name}"))?
        .with_context(|| format!("there is no ConfigMap {namespace}/{name}"))?;
    configuration(&found)
}
