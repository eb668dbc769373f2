//! The settings of the injected init container.
//!
//! Quantities stay text. `problems` compares a request with its limit in a few lines; the crate
//! `kube_quantity` would add `k8s-openapi`, and with it every type of Kubernetes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The settings of the injected init container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WaiterConfig {
    /// The image with this program.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: PullPolicy,
    /// The init container's resources, as Kubernetes quantities.
    pub resources: Resources,
    /// The format of its lines.
    pub log_format: LogFormat,
    /// Fields of the container's `securityContext` that override the built-in ones. `null` removes
    /// a field.
    pub security_context: Map<String, Value>,
}

impl Default for WaiterConfig {
    fn default() -> Self {
        Self {
            image: concat!("migration-gate/migration-gate:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: PullPolicy::IfNotPresent,
            resources: Resources::default(),
            log_format: LogFormat::default(),
            security_context: Map::new(),
        }
    }
}

/// The format of the waiter's lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Plain text, for people.
    #[default]
    Human,
    /// One JSON object a line, with `time`, `level`, `gate` and `message`.
    Json,
}

impl LogFormat {
    /// The value of the waiter's argument.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::Json => "json",
        }
    }
}

/// When the kubelet pulls an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[allow(missing_docs, reason = "the names are Kubernetes' own")]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

impl PullPolicy {
    /// The value of a container's `imagePullPolicy`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Always => "Always",
            Self::IfNotPresent => "IfNotPresent",
            Self::Never => "Never",
        }
    }
}

/// A container's `resources`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// The resource requests.
    #[serde(deserialize_with = "quantities")]
    pub requests: BTreeMap<String, String>,
    /// The resource limits.
    #[serde(deserialize_with = "quantities")]
    pub limits: BTreeMap<String, String>,
}

impl Default for Resources {
    fn default() -> Self {
        let map = |pairs: [(&str, &str); 2]| {
            pairs
                .into_iter()
                .map(|(k, v)| (k.to_owned(), v.to_owned()))
                .collect()
        };
        Self {
            // Requests and limits are equal, so that a pod of the QoS class Guaranteed keeps it.
            requests: map([("cpu", "100m"), ("memory", "32Mi")]),
            limits: map([("cpu", "100m"), ("memory", "32Mi")]),
        }
    }
}

/// Deserializes quantities. As in Kubernetes, they may be numbers.
fn quantities<'de, D>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error>
where
    D: serde::Deserializer<'de>,
{
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "expected a quantity such as `100m` or `32Mi`")]
    enum Quantity {
        Text(String),
        Number(serde_json::Number),
    }
    let quantities = BTreeMap::<String, Quantity>::deserialize(deserializer)?;
    Ok(quantities
        .into_iter()
        .map(|(resource, quantity)| match quantity {
            Quantity::Text(text) => (resource, text),
            Quantity::Number(number) => (resource, number.to_string()),
        })
        .collect())
}
