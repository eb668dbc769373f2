//! The configuration: the gates, and the variables that no pod spec may set.
//!
//! This is only the model: callers read files and find the lines of errors. A deserialized
//! configuration is well-formed. It is valid if [`Config::problems`] returns nothing.

mod jobs;
mod problems;
mod selector;
mod waiter;
mod workloads;

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

pub use self::jobs::{JobSource, Requirement};
pub use self::problems::Problem;
pub use self::selector::{LabelOperator, LabelRequirement, LabelSelector};
pub use self::waiter::{LogFormat, PullPolicy, Resources, WaiterConfig};
pub use self::workloads::{HeldKind, Which, Workload};
use crate::glob::Glob;
use crate::image::MovingTags;

/// The configuration of one release.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Config {
    /// The gates. Their names are unique, and no two gates name the same workload.
    pub gates: Vec<Gate>,
    /// Names of environment variables that no container may set.
    #[serde(default = "default_forbidden_env")]
    pub forbidden_env: Vec<String>,
    /// Whether violations are denied or only warned of.
    #[serde(default)]
    pub mode: Mode,
    /// The settings of the injected init container.
    #[serde(default)]
    pub waiter: WaiterConfig,
    /// The permissions that the chart grants. Only the offline review uses them.
    #[serde(default)]
    pub rbac: ChartRights,
}

/// The value `rbac` of the chart.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ChartRights {
    /// Whether the chart grants each gate's `ServiceAccount`s the waiter's permissions.
    pub gates: bool,
    /// Whether the chart creates each gate's ServiceAccount.
    pub accounts: bool,
    /// Whether waiters may list pods and read their logs.
    pub logs: bool,
    /// The image pull secrets of those `ServiceAccount`s.
    pub image_pull_secrets: Vec<Value>,
}

impl Default for ChartRights {
    fn default() -> Self {
        Self {
            gates: true,
            accounts: true,
            logs: true,
            image_pull_secrets: Vec::new(),
        }
    }
}

/// The treatment of an object that breaks a rule.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is denied.
    #[default]
    Enforce,
    /// It is allowed with an admission warning, for a cluster that still has violations.
    Warn,
}

/// One rule: which workloads, in which namespace, wait for which Jobs.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gate {
    /// The gate's name in logs, metrics and the record. A DNS label.
    pub name: String,
    /// The namespace of the Jobs and of the workloads.
    pub namespace: String,
    /// Short for one entry of `jobs`.
    #[serde(default)]
    pub job: Option<Glob>,
    /// The migration Jobs. Each entry must have completed. [`Gate::requirements`] includes `job`.
    #[serde(default)]
    pub jobs: Vec<Requirement>,
    /// Short for Deployments by name.
    #[serde(default)]
    pub deployments: BTreeSet<String>,
    /// Short for Deployments by label.
    #[serde(default)]
    pub selector: Option<LabelSelector>,
    /// Held workloads of any kind. [`Gate::holds`] includes `deployments` and `selector`.
    #[serde(default)]
    pub workloads: Vec<Workload>,
    /// The container whose image identifies the version, in the pods and in the Jobs.
    #[serde(default)]
    pub container: Option<String>,
    /// The source of the version, if it is not the images.
    #[serde(default)]
    pub version: Option<VersionSource>,
    /// Tags that move between versions; `None` for the built-in rule.
    #[serde(default)]
    pub moving_tags: Option<Vec<Glob>>,
    /// The ServiceAccount of held pods that have none of their own.
    pub service_account: String,
    /// The application's own `ServiceAccount`s that get the waiter's permissions.
    #[serde(default)]
    pub extra_accounts: BTreeSet<String>,
    /// How long a waiter waits in total.
    #[serde(default = "default_timeout", deserialize_with = "go_duration")]
    pub timeout: Duration,
    /// Which completed Jobs open the gate.
    #[serde(default)]
    pub freshness: Freshness,
    /// Whether this gate's violations are denied; `None` for the mode of the configuration.
    #[serde(default)]
    pub mode: Option<Mode>,
}

impl Gate {
    /// The label or annotation by which versions are compared, if the gate uses one.
    pub fn compared_metadata(&self) -> Option<&VersionSource> {
        let compared = self.freshness == Freshness::Version;
        self.version.as_ref().filter(|_| compared)
    }

    /// The Jobs that must have completed, including `job`.
    pub fn requirements(&self) -> Vec<Requirement> {
        let short = self.job.iter().cloned().map(Requirement::named);
        short.chain(self.jobs.iter().cloned()).collect()
    }

    /// Whether the gate names or selects a workload of its namespace.
    pub fn holds<'a>(
        &self,
        kind: HeldKind,
        name: Option<&str>,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        let short = kind == HeldKind::Deployment
            && (name.is_some_and(|name| self.deployments.contains(name))
                || self.selector.as_ref().is_some_and(|s| s.matches(&label)));
        short || self.workloads.iter().any(|w| w.matches(kind, name, &label))
    }

    /// All entries that name or select workloads, including the short forms.
    pub fn all_workloads(&self) -> Vec<Workload> {
        let deployment = |which| Workload {
            kind: HeldKind::Deployment,
            which,
        };
        let names = self.deployments.iter();
        let names = names.filter_map(|name| Some(Which::Name(Glob::parse(name).ok()?)));
        let labels = self.selector.iter().cloned().map(Which::Labels);
        let short = names.chain(labels).map(deployment);
        short.chain(self.workloads.iter().cloned()).collect()
    }

    /// Whether the gate names this Deployment, or may select it by its labels, which are not known
    /// here.
    pub fn may_hold_deployment(&self, name: &str) -> bool {
        let by_label = |workload: &Workload| {
            workload.kind == HeldKind::Deployment && matches!(workload.which, Which::Labels(_))
        };
        self.selector.is_some()
            || self.workloads.iter().any(by_label)
            || self.holds(HeldKind::Deployment, Some(name), |_| None)
    }

    /// The kinds of workloads that the gate may hold.
    pub fn kinds(&self) -> BTreeSet<HeldKind> {
        let short = !self.deployments.is_empty() || self.selector.is_some();
        let short = short.then_some(HeldKind::Deployment);
        short
            .into_iter()
            .chain(self.workloads.iter().map(|w| w.kind))
            .collect()
    }

    /// The tags that move between versions.
    pub fn moving_tags(&self) -> MovingTags {
        match &self.moving_tags {
            Some(globs) => MovingTags::Listed(globs.clone()),
            None => MovingTags::default(),
        }
    }
}

/// A label or annotation that identifies the version of a pod template and of a Job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VersionSource {
    /// The label with this key.
    Label(String),
    /// The annotation with this key.
    Annotation(String),
}

impl VersionSource {
    /// The key of the label or annotation.
    pub fn key(&self) -> &str {
        match self {
            Self::Label(key) | Self::Annotation(key) => key,
        }
    }

    /// The field of `metadata` with the key: `labels` or `annotations`.
    pub fn field(&self) -> &'static str {
        match self {
            Self::Label(_) => "labels",
            Self::Annotation(_) => "annotations",
        }
    }

    /// The word in the waiter's argument: `label` or `annotation`.
    pub fn argument(&self) -> &'static str {
        match self {
            Self::Label(_) => "label",
            Self::Annotation(_) => "annotation",
        }
    }

    /// The value in the metadata of an object or a template.
    pub fn value<'a>(&self, object: &'a Value) -> Option<&'a str> {
        let metadata = object.get("metadata")?;
        metadata.get(self.field())?.get(self.key())?.as_str()
    }
}

impl fmt::Display for VersionSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Label(key) => write!(f, "label {key}"),
            Self::Annotation(key) => write!(f, "annotation {key}"),
        }
    }
}

/// Which completed Jobs open a gate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freshness {
    /// Jobs of the pod's version.
    #[default]
    Version,
    /// Every completed Job, for Jobs and Deployments with unrelated tags.
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

impl Config {
    /// The mode for a gate's violations.
    pub fn mode_of(&self, gate: &Gate) -> Mode {
        gate.mode.unwrap_or(self.mode)
    }

    /// The forbidden variable that starts with `prefix`, as of `envFrom`, and the key that would
    /// complete it.
    pub fn completes(&self, prefix: &str) -> Option<(&str, &str)> {
        let mut forbidden = self.forbidden_env.iter();
        forbidden.find_map(|variable| {
            let key = variable.strip_prefix(prefix)?;
            (!prefix.is_empty() && !key.is_empty()).then_some((variable.as_str(), key))
        })
    }
}

impl Default for Config {
    /// PieFed's gate.
    fn default() -> Self {
        Self {
            gates: vec![Gate {
                name: "piefed".to_owned(),
                namespace: "piefed-application".to_owned(),
                job: Glob::parse("piefed-db-init").ok(),
                jobs: Vec::new(),
                deployments: ["piefed-web", "piefed-worker"].map(str::to_owned).into(),
                selector: None,
                workloads: Vec::new(),
                container: None,
                version: None,
                moving_tags: None,
                service_account: "piefed-init-checker".to_owned(),
                extra_accounts: BTreeSet::new(),
                timeout: default_timeout(),
                freshness: Freshness::default(),
                mode: None,
            }],
            forbidden_env: default_forbidden_env(),
            mode: Mode::default(),
            waiter: WaiterConfig::default(),
            rbac: ChartRights::default(),
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

/// Parses a duration such as `10m`, `90s` or `1h30m`: whole units, greater than zero, at most a
/// day.
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
