//! Reads the chart's values as a configuration: `gates` and the keys beside it have the same syntax
//! in both.
//!
//! This does what the chart's `migration-gate.config` template does, so that a review with the
//! values injects what the installed release injects.

use migration_gate_core::gates::Resources;
use serde_json::{Map, Value, json};

/// The values that only the chart uses: settings of the server and of the objects beside it.
pub const CHART_ONLY: [&str; 34] = [
    "affinity",
    "certificates",
    "commonLabels",
    "dashboard",
    "dnsPolicy",
    "events",
    "extraArgs",
    "extraEnv",
    "extraObjects",
    "extraVolumeMounts",
    "extraVolumes",
    "fullnameOverride",
    "global",
    "health",
    "hostNetwork",
    "image",
    "imagePullSecrets",
    "nameOverride",
    "networkPolicy",
    "nodeSelector",
    "podAnnotations",
    "podDisruptionBudget",
    "podLabels",
    "podSecurityContext",
    "preflight",
    "priorityClassName",
    "prometheusRule",
    "replicas",
    "resources",
    "securityContext",
    "serviceMonitor",
    "tolerations",
    "topologySpreadConstraints",
    "webhooks",
];

/// Removes the values that only the chart uses, and fills in the chart's defaults. Leaves a
/// configuration that is not a values file as it is.
pub(super) fn to_configuration(value: &mut Value, of_release: bool) {
    let Some(values) = value.as_object_mut() else {
        return;
    };
    if !of_release && !is_values(values) {
        return;
    }
    let image = values.get("image").cloned().unwrap_or_default();
    let registry = values
        .get("global")
        .and_then(|global| text(global, "imageRegistry"));
    let registry = registry.map(str::to_owned);
    for key in CHART_ONLY {
        values.shift_remove(key);
    }
    // Helm treats a key without a value as missing.
    values.retain(|_, value| !value.is_null());
    if !values.contains_key("gates") {
        values.insert("gates".to_owned(), built_in());
    }
    let waiter = values.entry("waiter").or_insert_with(|| json!({}));
    if let Some(waiter) = waiter.as_object_mut() {
        fill_image(waiter, &image, registry.as_deref());
        fill_resources(waiter);
    }
}

fn is_values(values: &Map<String, Value>) -> bool {
    let image = values.get("waiter").and_then(|waiter| waiter.get("image"));
    let of_chart = image.is_some_and(|image| image.is_object() || image == "");
    of_chart || CHART_ONLY.iter().any(|key| values.contains_key(*key))
}

/// The gates in the chart's default values.
fn built_in() -> Value {
    json!([{
        "name": "piefed",
        "namespace": "piefed-application",
        "job": "piefed-db-init",
        "deployments": ["piefed-web", "piefed-worker"],
        "serviceAccount": "piefed-init-checker",
    }])
}

/// Fills in the waiter's image: the server's, except for the parts that the waiter's own value
/// sets.
fn fill_image(waiter: &mut Map<String, Value>, image: &Value, registry: Option<&str>) {
    let own = waiter.get("image").cloned().unwrap_or_default();
    if own.as_str().is_none_or(str::is_empty) {
        let of_own = text(&own, "tag").is_some() || text(&own, "digest").is_some();
        let version = |field: &str| {
            let from = if of_own { &own } else { image };
            text(from, field)
        };
        let name = |field: &str| text(&own, field).or_else(|| text(image, field));
        let repository = name("repository").unwrap_or("migration-gate/migration-gate");
        let mut reference = repository.to_owned();
        if let Some(registry) = registry.or_else(|| name("registry"))
            && !names_registry(repository)
        {
            reference = format!("{registry}/{repository}");
        }
        let (tag, digest) = (version("tag"), version("digest"));
        if let Some(tag) = tag.or_else(|| digest.is_none().then_some(env!("CARGO_PKG_VERSION"))) {
            reference = format!("{reference}:{tag}");
        }
        if let Some(digest) = digest {
            reference = format!("{reference}@{digest}");
        }
        waiter.insert("image".to_owned(), Value::from(reference));
    }
    if let Some(policy) = text(image, "pullPolicy") {
        waiter.insert("imagePullPolicy".to_owned(), Value::from(policy));
    }
}

fn text<'v>(value: &'v Value, field: &str) -> Option<&'v str> {
    let text = value.get(field)?.as_str()?;
    (!text.is_empty()).then_some(text)
}

/// Whether a repository's first part is a host.
fn names_registry(repository: &str) -> bool {
    let host = repository.split_once('/').map(|(host, _)| host);
    host.is_some_and(|host| host == "localhost" || host.contains(['.', ':']))
}

/// Fills in the waiter's resources. Helm merges maps, so a missing quantity has the chart's
/// default, and `null` removes a default.
fn fill_resources(waiter: &mut Map<String, Value>) {
    let given = waiter.shift_remove("resources").unwrap_or_default();
    let defaults = Resources::default();
    let mut merged = Map::new();
    for (list, defaults) in [
        ("requests", &defaults.requests),
        ("limits", &defaults.limits),
    ] {
        let given = given.get(list);
        let mut quantities = Map::new();
        if given.is_none_or(|given| !given.is_null()) {
            let default = defaults.iter();
            quantities.extend(default.map(|(k, v)| (k.clone(), v.as_str().into())));
        }
        for (resource, quantity) in given.and_then(Value::as_object).into_iter().flatten() {
            if quantity.is_null() {
                quantities.shift_remove(resource);
            } else {
                quantities.insert(resource.clone(), quantity.clone());
            }
        }
        merged.insert(list.to_owned(), quantities.into());
    }
    waiter.insert("resources".to_owned(), merged.into());
}
