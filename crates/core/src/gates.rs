//! The configuration: which gates there are, and what no pod spec may set.
//!
//! The model alone: files are read, and their errors placed, by whoever needs one. What is
//! deserialized is well-formed; it can be used if [`Config::problems`] finds nothing.

mod problems;
mod selector;
mod waiter;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;

pub use self::problems::Problem;
pub use self::selector::{LabelOperator, LabelRequirement, LabelSelector};
pub use self::waiter::{LogFormat, PullPolicy, Resources, WaiterConfig};

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
