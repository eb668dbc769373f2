//! The configuration: which gates there are, and what no pod spec may set.
//!
//! A [`Config`] that exists is valid; [`parse`] and [`load`] are the only ways to get one from text.

mod check;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Deserialize;

pub use self::read::{ConfigError, Problem, load, parse};

/// The whole configuration of one migration-gate.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// What waits for what. Names are unique, and no Deployment is named by two gates.
    pub gates: Vec<Gate>,
    /// Names of environment variables that no container may set.
    #[serde(default = "default_forbidden_env")]
    pub forbidden_env: Vec<String>,
    /// Whether violations are refused or only warned of.
    #[serde(default)]
    pub mode: Mode,
    /// How the injected init container looks.
    #[serde(default)]
    pub waiter: WaiterConfig,
}

/// What happens to an object that breaks a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is refused.
    #[default]
    Enforce,
    /// It is let through with an admission warning, for a cluster that still has offenders.
    Warn,
}

/// One rule: which Deployments, in which namespace, wait for which Job.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// Names the gate in logs, metrics and the record. A DNS label.
    pub name: String,
    /// The namespace of the Job and of the Deployments.
    pub namespace: String,
    /// The migration Job.
    pub job: String,
    /// Held Deployments, by name.
    #[serde(default)]
    pub deployments: BTreeSet<String>,
    /// Held Deployments, by label.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// The account that a held pod gets where it has none of its own.
    pub service_account: String,
    /// How long a waiter waits in all.
    #[serde(default = "default_timeout", deserialize_with = "go_duration")]
    pub timeout: Duration,
    /// Which completed Jobs open the gate.
    #[serde(default)]
    pub freshness: Freshness,
}

/// Which completed Jobs open a gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Those of the version that the pod runs.
    #[default]
    Version,
    /// Every one, for setups whose Job and Deployments bear unrelated tags.
    Any,
}

impl Freshness {
    /// The word in the configuration and in the waiter's arguments.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Any => "any",
        }
    }
}

/// A label selector, as in `metav1.LabelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements that must all hold.
    #[serde(default)]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement of a [`LabelSelector`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// How `values` relate to the label.
    pub operator: LabelOperator,
    /// Empty for `Exists` and `DoesNotExist`, at least one otherwise.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The operators of a label selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LabelOperator {
    /// The label is there and has one of the values.
    In,
    /// The label isn't there or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label isn't there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected. `label` answers a key with its value.
    ///
    /// An empty selector is refused by [`parse`], so it never silently selects everything.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| label(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = label(&requirement.key);
                let listed = value.is_some_and(|v| requirement.values.iter().any(|w| w == v));
                match requirement.operator {
                    LabelOperator::In => listed,
                    LabelOperator::NotIn => !listed,
                    LabelOperator::Exists => value.is_some(),
                    LabelOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}

/// How the injected init container looks.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WaiterConfig {
    /// The image that holds this program.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`.
    pub image_pull_policy: PullPolicy,
    /// What the init container asks for and may use. Quantities as Kubernetes writes them.
    pub resources: Resources,
    /// How its lines look.
    pub log_format: LogFormat,
}

impl Default for WaiterConfig {
    fn default() -> Self {
        Self {
            image: concat!("migration-gate/migration-gate:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: PullPolicy::IfNotPresent,
            resources: Resources::default(),
            log_format: LogFormat::default(),
        }
    }
}

/// How the waiter's lines look.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
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
    /// What the scheduler sets aside.
    #[serde(deserialize_with = "quantities")]
    pub requests: BTreeMap<String, String>,
    /// What the kubelet enforces.
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
            requests: map([("cpu", "10m"), ("memory", "16Mi")]),
            limits: map([("cpu", "100m"), ("memory", "32Mi")]),
        }
    }
}

impl Default for Config {
    /// PieFed's gate.
    fn default() -> Self {
        Self {
            gates: vec![Gate {
                name: "piefed".to_owned(),
                namespace: "piefed-application".to_owned(),
                job: "piefed-db-init".to_owned(),
                deployments: ["piefed-web", "piefed-worker"].map(str::to_owned).into(),
                selector: None,
                service_account: "piefed-init-checker".to_owned(),
                timeout: default_timeout(),
                freshness: Freshness::default(),
            }],
            forbidden_env: default_forbidden_env(),
            mode: Mode::default(),
            waiter: WaiterConfig::default(),
        }
    }
}

fn default_timeout() -> Duration {
    Duration::from_mins(10)
}

fn default_forbidden_env() -> Vec<String> {
    vec!["PIEFED_INIT_CONTAINER".to_owned()]
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

fn go_duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration(&text).map_err(serde::de::Error::custom)
}

/// Reads a duration such as `10m`, `90s` or `1h30m`: whole units, greater than zero, at most a day.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let parsed: jiff::SignedDuration = text
        .parse()
        .map_err(|_| format!("`{text}` is not a duration; write it as `10m`, `90s` or `1h30m`"))?;
    match Duration::try_from(parsed) {
        Ok(d) if d >= Duration::from_secs(1) && d <= Duration::from_hours(24) => Ok(d),
        _ => Err(format!(
            "`{text}` is out of range; a gate waits for 1s at least and 24h at most"
        )),
    }
}
