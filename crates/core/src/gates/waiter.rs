//! The settings of the injected init container.
//!
//! Quantities stay the text that they are; `problems` compares a request with its limit in a few
//! lines. The crate `kube_quantity` would bring `k8s-openapi`, and with it every type of
//! Kubernetes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

/// The settings of the injected init container.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WaiterConfig {
    /// The image that holds this program.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: PullPolicy,
    /// Resources of the init container. Quantities as Kubernetes writes them.
    pub resources: Resources,
    /// The format of its lines.
    pub log_format: LogFormat,
    /// Fields of the container's `securityContext` that override the built-in ones; `null` removes
    /// one.
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

/// How the waiter's lines look.
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
    /// The requests, for the scheduler.
    #[serde(deserialize_with = "quantities")]
    pub requests: BTreeMap<String, String>,
    /// The limits, for the kubelet.
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
            // Equal, so that a Guaranteed pod stays Guaranteed.
            requests: map([("cpu", "100m"), ("memory", "32Mi")]),
            limits: map([("cpu", "100m"), ("memory", "32Mi")]),
        }
    }
}

/// Quantities, which Kubernetes takes as numbers too.
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
