//! The configuration: which gates there are, and what no pod spec may set.
//!
//! A [`Config`] that exists is valid; [`parse`] and [`load`] are the only ways to get one from text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::core::names;

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
}

impl Default for WaiterConfig {
    fn default() -> Self {
        Self {
            image: concat!("migration-gate/migration-gate:", env!("CARGO_PKG_VERSION")).to_owned(),
            image_pull_policy: PullPolicy::IfNotPresent,
            resources: Resources::default(),
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
    pub requests: BTreeMap<String, String>,
    /// What the kubelet enforces.
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

/// Why a configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not YAML, an unknown key, a wrong type.
    #[error("{origin}: {message}")]
    Syntax {
        /// The file.
        origin: String,
        /// What is wrong, with line and column.
        message: String,
    },
    /// Well-formed, but a value is impossible.
    #[error("{origin}: {}", .problems.join("\n"))]
    Impossible {
        /// The file.
        origin: String,
        /// Each wrong key with its cause.
        problems: Vec<String>,
    },
}

/// Reads and validates a configuration file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
        path: path.to_owned(),
        source,
    })?;
    parse(&text, &path.display().to_string())
}

/// Reads and validates a configuration. `origin` names the text in errors.
pub fn parse(text: &str, origin: &str) -> Result<Config, ConfigError> {
    let config: Config = serde_saphyr::from_str(text).map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        message: error.to_string(),
    })?;
    let problems = problems(&config);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(ConfigError::Impossible {
            origin: origin.to_owned(),
            problems,
        })
    }
}

/// What can't be, although it is well-formed. Empty for a configuration that can be used.
fn problems(config: &Config) -> Vec<String> {
    let mut problems = Vec::new();
    if config.gates.is_empty() {
        problems.push("gates: there is none, so nothing would ever wait; list at least one".into());
    }
    let mut names_seen = BTreeSet::new();
    let mut held = BTreeMap::new();
    for (i, gate) in config.gates.iter().enumerate() {
        let at = |field: &str| format!("gates[{i}].{field}");
        let mut check = |field: &str, result: Result<(), String>| {
            if let Err(cause) = result {
                problems.push(format!("{}: {cause}", at(field)));
            }
        };
        check("name", names::dns_label(&gate.name));
        check("namespace", names::dns_label(&gate.namespace));
        check("job", names::dns_subdomain(&gate.job));
        check(
            "serviceAccount",
            names::dns_subdomain(&gate.service_account),
        );
        for name in &gate.deployments {
            check("deployments", names::dns_subdomain(name));
        }
        if let Some(selector) = &gate.selector {
            check("selector", selector_problem(selector));
        }
        if gate.deployments.is_empty() && gate.selector.is_none() {
            problems.push(format!(
                "gates[{i}]: it holds no Deployment; set `deployments`, `selector`, or both"
            ));
        }
        if !names_seen.insert(&gate.name) {
            problems.push(format!("{}: `{}` is used twice", at("name"), gate.name));
        }
        for name in &gate.deployments {
            if let Some(other) = held.insert((&gate.namespace, name), &gate.name) {
                problems.push(format!(
                    "{}: Deployment {}/{name} is held by gate `{other}` already",
                    at("deployments"),
                    gate.namespace
                ));
            }
        }
    }
    for (i, name) in config.forbidden_env.iter().enumerate() {
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.push(format!(
                "forbiddenEnv[{i}]: `{name}` cannot be the name of an environment variable"
            ));
        }
    }
    if config.waiter.image.is_empty() || config.waiter.image.contains(char::is_whitespace) {
        problems.push(format!(
            "waiter.image: `{}` is not an image reference",
            config.waiter.image
        ));
    }
    problems
}

fn selector_problem(selector: &LabelSelector) -> Result<(), String> {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        return Err("it is empty and would hold every Deployment of the namespace".into());
    }
    for requirement in &selector.match_expressions {
        let wants_values = matches!(
            requirement.operator,
            LabelOperator::In | LabelOperator::NotIn
        );
        if wants_values == requirement.values.is_empty() {
            return Err(format!(
                "`{}` with {:?} needs {} values",
                requirement.key,
                requirement.operator,
                if wants_values {
                    "at least one of"
                } else {
                    "no"
                }
            ));
        }
    }
    Ok(())
}
