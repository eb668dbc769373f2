//! The objects of a cluster, reduced to the parts that a report needs. They are reduced as they are
//! read, because a cluster may have thousands of pods.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::commands::Flags;
use super::grants::{Grants, Right};
use crate::applier::Applier;
use crate::decision::Rule;
use crate::eject::gate_of;
use crate::gates::{Config, Gate, HeldKind, Mode, parse_duration};
use crate::image::Reference;
use crate::injection::{Injection, account, is_ours, named, waiter_of, weakness};
use crate::job::Job;
use crate::names::{TOKEN_VOLUME, WAITER_CONTAINER};
use crate::podspec::list;
use crate::record::Record;
use crate::request::{Operation, Request};
use crate::validate::validate;
use crate::version::{NoVersion, Wanted};

/// Everything that was read. `None` stands for objects that could not be read.
pub struct Snapshot<'c> {
    /// The configuration.
    pub config: &'c Config,
    /// The gates to report on.
    pub gates: Vec<&'c Gate>,
    /// The options of printed commands.
    pub flags: Flags,
    /// The release, if one is installed.
    pub release: Option<Installation>,
    /// The gates' namespaces by their names.
    pub namespaces: BTreeMap<String, NamespaceSeen>,
    /// The API server's answers about permissions that no read Role grants.
    pub answers: BTreeMap<Right, bool>,
}

/// A namespace of some gates.
#[derive(Debug, Default)]
pub struct NamespaceSeen {
    /// Whether it does not exist.
    pub absent: bool,
    /// When it was created, if that could be read.
    pub created: Option<Timestamp>,
    /// Its Jobs.
    pub jobs: Option<Vec<JobSeen>>,
    /// Its workloads that a gate holds, that carry a waiter, or that set a forbidden variable.
    pub workloads: Option<Vec<WorkloadSeen>>,
    /// Its pods that have not started: those that wait, and those of Jobs.
    pub pods: Option<Vec<PodSeen>>,
    /// The names of its `ServiceAccount`s.
    pub accounts: Option<BTreeSet<String>>,
    /// The permissions that its Roles grant.
    pub grants: Grants,
    /// The records by the names of their gates: `None` if a record does not exist, no entry if it
    /// could not be read.
    pub records: BTreeMap<String, Option<Record>>,
}

/// An object from the API server's JSON, without `managedFields`, which are large and not used
/// here.
#[derive(Debug, Deserialize)]
#[serde(from = "LeanWire")]
pub struct Lean(pub Value);

#[derive(Deserialize)]
struct LeanWire {
    #[serde(default)]
    metadata: LeanMeta,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeanMeta {
    name: String,
    namespace: String,
    uid: String,
    generation: Value,
    creation_timestamp: Value,
    deletion_timestamp: Value,
    labels: Value,
    annotations: Value,
    owner_references: Value,
}

impl From<LeanWire> for Lean {
    fn from(wire: LeanWire) -> Self {
        let of = wire.metadata;
        let mut metadata = json!({
            "name": of.name, "namespace": of.namespace, "uid": of.uid,
            "generation": of.generation, "creationTimestamp": of.creation_timestamp,
            "labels": of.labels, "annotations": of.annotations,
            "ownerReferences": of.owner_references,
        });
        if !of.deletion_timestamp.is_null() {
            metadata["deletionTimestamp"] = of.deletion_timestamp;
        }
        let mut object = wire.rest;
        object.insert("metadata".to_owned(), metadata);
        Self(Value::Object(object))
    }
}

/// A Job.
#[derive(Debug)]
pub struct JobSeen {
    /// The waiter's view of it.
    pub job: Job,
    /// Its namespace.
    pub namespace: String,
    /// When its deletion was requested.
    pub deleted: Option<Timestamp>,
    /// When it ended, or else when its condition last changed.
    pub ended: Option<Timestamp>,
    /// The end of its last pod's log, if that was read.
    pub log: Vec<String>,
    /// The controller's message about pods that it cannot create.
    pub refusal: Option<String>,
    /// How a restarting container of its pod last ended, if that was read.
    pub crash: Option<String>,
}

impl JobSeen {
    /// Reduces a Job; `None` if `object` is not a Job.
    pub fn of(object: &Value) -> Option<Self> {
        let metadata = &object["metadata"];
        let time = |value: &Value| value.as_str()?.parse().ok();
        let conditions = list(&object["status"], "conditions").iter();
        let last = conditions.filter_map(|c| time(&c["lastTransitionTime"]));
        Some(Self {
            job: Job::deserialize(object).ok()?,
            namespace: text(&metadata["namespace"]),
            deleted: time(&metadata["deletionTimestamp"]),
            ended: time(&object["status"]["completionTime"]).or(last.max()),
            log: Vec::new(),
            refusal: None,
            crash: None,
        })
    }
}

/// A workload that a gate holds, that carries a waiter, or that sets a forbidden variable.
#[derive(Debug)]
pub struct WorkloadSeen {
    /// Its kind.
    pub kind: HeldKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The tool that applies it.
    pub applier: Applier,
    /// The gates that hold it; it waits for the first.
    pub gates: Vec<String>,
    /// The version that its pod template wants, by the first gate.
    pub wanted: Option<Result<Wanted, NoVersion>>,
    /// The waiter in its pod template.
    pub waiter: WaiterPlace,
    /// The gate of the waiter in its pod template.
    pub waiter_gate: Option<String>,
    /// The ServiceAccount of its pods, unless it is `default`.
    pub account: Option<String>,
    /// The fields that set a forbidden variable, and the variables.
    pub offences: Vec<(String, String)>,
    /// Number of wanted pods.
    pub replicas: u64,
    /// Number of ready pods.
    pub ready: u64,
    /// Whether all its pods are of its current template.
    pub rolled_out: bool,
    /// The versions that its ready pods run, if they are known.
    pub runs: Vec<String>,
    /// The controller's message about a roll-out that takes too long.
    pub overdue: Option<String>,
    /// The controller's message about pods that it cannot create.
    pub refusal: Option<String>,
    /// Its `progressDeadlineSeconds`.
    pub deadline: Option<u64>,
    /// The JSON Patch that removes its waiter, if it has one and no gate holds it.
    pub removal: Option<String>,
    /// Whether its roll-outs are paused.
    pub paused: bool,
}

/// The state of the waiter in a pod template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WaiterPlace {
    /// The pods run on Windows, where the waiter cannot run.
    Windows,
    /// There is no waiter.
    Missing,
    /// The waiter is hand-written.
    HandWritten,
    /// The waiter does not wait for what the gate wants, for this reason.
    Stale(String),
    /// Other init containers are before it.
    NotFirst,
    /// The waiter is as wanted.
    InPlace,
}

impl WaiterPlace {
    /// The word in text and in JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Windows => "windows",
            Self::Missing => "missing",
            Self::HandWritten => "hand-written",
            Self::Stale(_) => "stale",
            Self::NotFirst => "not-first",
            Self::InPlace => "in-place",
        }
    }
}

/// Reduces objects to the parts that concern the gates of a configuration.
pub struct Reduction<'c> {
    config: &'c Config,
    /// The configuration without gates and in mode `Enforce`, so that violations are found in the
    /// same way everywhere.
    bare: Config,
    /// The gates by namespace and name.
    gates: BTreeMap<(&'c str, &'c str), &'c Gate>,
}

impl<'c> Reduction<'c> {
    /// A reduction for the gates of `config`.
    pub fn new(config: &'c Config) -> Self {
        let key = |gate: &'c Gate| ((gate.namespace.as_str(), gate.name.as_str()), gate);
        Self {
            config,
            bare: Config {
                gates: Vec::new(),
                mode: Mode::Enforce,
                ..config.clone()
            },
            gates: config.gates.iter().map(key).collect(),
        }
    }

    /// Reduces a workload; `None` if it does not concern this program, or is being deleted.
    pub fn workload(&self, kind: HeldKind, object: &Value) -> Option<WorkloadSeen> {
        let config = self.config;
        let pods = kind.pod_kind();
        let metadata = &object["metadata"];
        if metadata["deletionTimestamp"].is_string() {
            return None;
        }
        let namespace = text(&metadata["namespace"]);
        let template = pods.template(object)?;
        let spec = &template["spec"];
        let request = Request {
            operation: Operation::Create,
            group: pods.group,
            kind: pods.kind,
            subresource: "",
            namespace: &namespace,
            object,
            old: None,
        };
        let holding: Vec<&Gate> = crate::held::holding(config, &request)
            .map(|(gate, _)| gate)
            .collect();
        let gate = holding.first().copied();
        let waiter_gate = gate_of(spec).map(str::to_owned);
        let offences = self.offences(&request);
        if gate.is_none() && waiter_gate.is_none() && offences.is_empty() {
            return None;
        }
        let status = &object["status"];
        let replicas = replicas(kind, object);
        let ready = match kind {
            HeldKind::DaemonSet => &status["numberReady"],
            _ => &status["readyReplicas"],
        };
        let held = crate::held::held(config, &request);
        Some(WorkloadSeen {
            kind,
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            applier: Applier::of(metadata),
            gates: holding.iter().map(|gate| gate.name.clone()).collect(),
            wanted: gate.map(|gate| Wanted::of(gate, template)),
            waiter: match gate {
                Some(_) if held.is_some_and(|held| held.is_windows()) => WaiterPlace::Windows,
                Some(gate) => place(config, gate, template),
                None => WaiterPlace::Missing,
            },
            removal: (gate.is_none() && waiter_gate.is_some()).then(|| removal(kind, spec)),
            waiter_gate,
            account: account(spec).map(str::to_owned),
            offences,
            replicas,
            ready: ready.as_u64().unwrap_or_default(),
            rolled_out: is_rolled_out(kind, object, replicas),
            runs: Vec::new(),
            overdue: condition(
                status,
                "Progressing",
                "False",
                Some("ProgressDeadlineExceeded"),
            ),
            refusal: condition(status, "ReplicaFailure", "True", None),
            deadline: object["spec"]["progressDeadlineSeconds"].as_u64(),
            paused: object["spec"]["paused"] == true,
            namespace,
        })
    }

    /// The fields that set a forbidden variable, and the variables.
    fn offences(&self, request: &Request<'_>) -> Vec<(String, String)> {
        let found = validate(&self.bare, request).violations;
        let found = found.iter().filter(|v| v.rule == Rule::ForbiddenEnv);
        found
            .map(|violation| {
                let pointer = violation.field.pointer();
                let variable = request.object.pointer(pointer.as_str());
                let name = variable.map(|variable| text(&variable["name"]));
                (violation.field.to_string(), name.unwrap_or_default())
            })
            .collect()
    }

    /// Reduces a pod that has not started; `None` if it has, or if it neither waits at a gate nor
    /// is of a Job.
    pub fn pod(&self, object: &Value) -> Option<PodSeen> {
        let (metadata, spec, status) = (&object["metadata"], &object["spec"], &object["status"]);
        let namespace = text(&metadata["namespace"]);
        let job = &metadata["labels"]["batch.kubernetes.io/job-name"];
        let waiters = list(status, "initContainerStatuses");
        let waiter = named(waiters, WAITER_CONTAINER).map(|(_, waiter)| waiter);
        if status["phase"] != "Pending" {
            return None;
        }
        let over = waiter.is_some_and(|waiter| waiter["state"]["terminated"]["exitCode"] == 0);
        let gate = gate_of(spec)
            .filter(|_| !over)
            .and_then(|name| self.gates.get(&(namespace.as_str(), name)).copied());
        if (gate.is_none() && job.is_null()) || metadata.get("deletionTimestamp").is_some() {
            return None;
        }
        let state = |field: &str| waiter.map_or(&Value::Null, |waiter| &waiter["state"][field]);
        let last = waiter.map_or(&Value::Null, |waiter| &waiter["lastState"]["terminated"]);
        let ended = [last, state("terminated")]
            .into_iter()
            .find_map(|ended| Some((ended["exitCode"].as_i64()?, text(&ended["message"]))));
        let since = state("running")["startedAt"].as_str();
        let since = since.or_else(|| metadata["creationTimestamp"].as_str());
        let backs_off = state("waiting")["reason"] == "CrashLoopBackOff";
        let owner = list(metadata, "ownerReferences").first();
        Some(PodSeen {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            gate: gate.map(|gate| gate.name.clone()),
            job: job.as_str().map(str::to_owned),
            wanted: gate.and_then(|gate| Wanted::of(gate, object).ok()),
            since: since.and_then(|since| since.parse().ok()),
            timeout: gate.and_then(|_| timeout(spec)),
            restarts: waiter
                .and_then(|waiter| waiter["restartCount"].as_u64())
                .unwrap_or_default(),
            backs_off,
            runs: state("running").is_object(),
            crash: crash(last).filter(|_| backs_off),
            owner: owner.map(|owner| (text(&owner["kind"]), text(&owner["name"]))),
            ended,
            blocked: blocked(status, gate.is_some()),
            prepares: prepares(spec, status),
            namespace,
        })
    }

    /// The version of a pod template by a gate's settings, as one word.
    pub fn version(&self, namespace: &str, gate: &str, template: &Value) -> Option<String> {
        let gate = self.gates.get(&(namespace, gate))?;
        Some(word(&Wanted::of(gate, template).ok()?))
    }
}

impl WorkloadSeen {
    /// The version that its pod template wants, if a gate holds it and the template has one.
    pub fn version(&self) -> Option<&Wanted> {
        self.wanted.as_ref()?.as_ref().ok()
    }

    /// Whether its pod template has no waiter, or one that waits for what the gate wants.
    pub(super) fn goes_by_the_gate(&self) -> bool {
        !matches!(
            self.waiter,
            WaiterPlace::Stale(_) | WaiterPlace::HandWritten
        )
    }

    /// Its kind and name: `Deployment web`.
    pub fn shown(&self) -> String {
        format!("{} {}", self.kind.as_str(), self.name)
    }

    /// Its name for kubectl: `deployment/web`.
    pub fn resource(&self) -> String {
        let kind = match self.kind {
            HeldKind::Rollout => "rollouts.argoproj.io".to_owned(),
            kind => kind.as_str().to_lowercase(),
        };
        format!("{kind}/{}", self.name)
    }
}

fn place(config: &Config, gate: &Gate, template: &Value) -> WaiterPlace {
    let Some((index, container)) = waiter_of(&template["spec"]) else {
        return WaiterPlace::Missing;
    };
    if !is_ours(container) {
        return WaiterPlace::HandWritten;
    }
    let wanted = Injection::wanted(gate, &config.waiter, template);
    // The image is not compared: a waiter of another release may come from another repository, and
    // works all the same.
    let mut wanted = wanted.container;
    wanted["image"] = container["image"].clone();
    match weakness(container, &wanted) {
        Some((field, cause)) => WaiterPlace::Stale(format!("its {field}: {cause}")),
        None if index > 0 => WaiterPlace::NotFirst,
        None => WaiterPlace::InPlace,
    }
}

/// The JSON Patch that removes a waiter. It leaves the ServiceAccount, which the pods still use.
fn removal(kind: HeldKind, spec: &Value) -> String {
    let at = kind.pod_kind().field();
    let remove = |field: &str, found: Option<(usize, &Value)>| {
        let (index, _) = found?;
        let path = at.clone().key(field);
        let path = match list(spec, field).len() {
            1 => path,
            _ => path.index(index),
        };
        Some(json!({"op": "remove", "path": path.pointer().to_string()}))
    };
    let volume = named(list(spec, "volumes"), TOKEN_VOLUME);
    let patch: Vec<Value> = [
        remove("initContainers", waiter_of(spec)),
        remove("volumes", volume),
    ]
    .into_iter()
    .flatten()
    .collect();
    Value::from(patch).to_string()
}

fn replicas(kind: HeldKind, object: &Value) -> u64 {
    let wanted = match kind {
        HeldKind::DaemonSet => &object["status"]["desiredNumberScheduled"],
        _ => &object["spec"]["replicas"],
    };
    match kind {
        HeldKind::CronJob => 0,
        _ => wanted.as_u64().unwrap_or(1),
    }
}

fn is_rolled_out(kind: HeldKind, object: &Value, replicas: u64) -> bool {
    let status = &object["status"];
    let count = |field: &str| status[field].as_u64().unwrap_or_default();
    match kind {
        HeldKind::Deployment | HeldKind::Rollout => {
            count("updatedReplicas") >= replicas && count("replicas") <= count("updatedReplicas")
        }
        HeldKind::StatefulSet => status["currentRevision"] == status["updateRevision"],
        HeldKind::DaemonSet => count("updatedNumberScheduled") >= replicas,
        HeldKind::CronJob => true,
    }
}

/// The message of the condition `kind` if it has the status `is`, and the reason `reason` if one is
/// given.
fn condition(status: &Value, kind: &str, is: &str, reason: Option<&str>) -> Option<String> {
    list(status, "conditions")
        .iter()
        .find(|c| {
            c["type"] == kind
                && c["status"] == is
                && reason.is_none_or(|reason| c["reason"] == reason)
        })
        .map(|c| text(&c["message"]))
}

/// A version as one word.
pub fn word(wanted: &Wanted) -> String {
    match wanted {
        Wanted::Any => "any".to_owned(),
        Wanted::Metadata { value, .. } => value.clone(),
        Wanted::Images { images, .. } => Reference::of(&images.default).version().to_owned(),
    }
}

/// A pod that has not started: one that waits at a gate, or one of a Job.
#[derive(Debug)]
pub struct PodSeen {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// The gate whose waiter it carries.
    pub gate: Option<String>,
    /// The Job that owns it.
    pub job: Option<String>,
    /// The version that its waiter waits for.
    pub wanted: Option<Wanted>,
    /// When its waiter was started, or else when the pod was created.
    pub since: Option<Timestamp>,
    /// The waiter's timeout.
    pub timeout: Option<Duration>,
    /// Number of the waiter's restarts.
    pub restarts: u64,
    /// Whether its waiter is in the kubelet's back-off before the next start.
    pub backs_off: bool,
    /// Whether its waiter is running.
    pub runs: bool,
    /// How its waiter ended, if it is in back-off because it cannot work.
    pub crash: Option<String>,
    /// The kind and name of its owner.
    pub owner: Option<(String, String)>,
    /// The exit code and message of the waiter's last end.
    pub ended: Option<(i64, String)>,
    /// The reason why it cannot start.
    pub blocked: Option<String>,
    /// Whether it has a node, and none of its containers has started: the node pulls images and
    /// mounts volumes.
    pub prepares: bool,
}

/// The prefix of [`PodSeen::blocked`] if a volume cannot be mounted.
pub(super) const FAILED_MOUNT: &str = "FailedMount: ";

/// How a waiter ended, unless it ended with one of its own results: open, failed Job, timeout, or
/// missing permission.
fn crash(ended: &Value) -> Option<String> {
    let code = ended["exitCode"].as_i64()?;
    let (reason, message) = (text(&ended["reason"]), text(&ended["message"]));
    let parts = [reason.as_str(), message.as_str()].map(str::trim);
    let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    (![0, 3, 4, 5].contains(&code)).then(|| format!("exit code {code}: {}", parts.join(": ")))
}

fn timeout(spec: &Value) -> Option<Duration> {
    let (_, waiter) = waiter_of(spec)?;
    let mut args = list(waiter, "args").iter().filter_map(Value::as_str);
    parse_duration(args.find_map(|arg| arg.strip_prefix("--timeout="))?).ok()
}

/// Why a pod cannot start: no node has room for it, or an image, volume or setting of a container
/// is missing.
fn blocked(status: &Value, of_waiter: bool) -> Option<String> {
    if let Some(message) = condition(status, "PodScheduled", "False", None) {
        return Some(message);
    }
    let ordinary = ["PodInitializing", "ContainerCreating", "CrashLoopBackOff"];
    let statuses = ["initContainerStatuses", "containerStatuses"];
    let mut containers = statuses.iter().flat_map(|field| list(status, field));
    containers.find_map(|container| {
        let waiting = &container["state"]["waiting"];
        let reason = waiting["reason"].as_str()?;
        let counts =
            !ordinary.contains(&reason) && (!of_waiter || container["name"] == WAITER_CONTAINER);
        counts.then(|| match waiting["message"].as_str() {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        })
    })
}

fn prepares(spec: &Value, status: &Value) -> bool {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let mut containers = lists.iter().flat_map(|field| list(status, field));
    let has_begun = |container: &Value| {
        let restarts = container["restartCount"].as_u64().unwrap_or_default();
        restarts > 0 || container["state"].get("waiting").is_none()
    };
    spec["nodeName"].is_string() && !containers.any(has_begun)
}

/// An installed release.
#[derive(Debug, Default)]
pub struct Installation {
    /// The name of the release's objects.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// The name of its Helm release, if Helm has installed it.
    pub helm: Option<String>,
    /// Its version.
    pub version: Option<String>,
    /// When its configuration was created.
    pub created: Option<Timestamp>,
    /// The server, if that could be read.
    pub server: Option<Server>,
    /// The webhook configurations that could be read, by kind; `None` if one does not exist.
    pub webhooks: BTreeMap<String, Option<Webhooks>>,
    /// The certificate, if it could be read.
    pub certificate: Option<Certificate>,
    /// The result of calling the webhooks, if that was tried.
    pub answer: Option<Calling>,
}

/// The server's Deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// It does not exist.
    Missing,
    /// It exists.
    Present {
        /// Number of wanted replicas.
        replicas: u64,
        /// Number of ready replicas.
        ready: u64,
        /// The ServiceAccount.
        account: String,
    },
}

/// A webhook configuration.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Webhooks {
    /// The `caBundle` of each of its webhooks, PEM; empty for one that has none.
    pub bundles: Vec<String>,
}

/// The serving certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certificate {
    /// The Secret's name.
    pub secret: String,
    /// The source of the certificate.
    pub source: CertificateMaker,
    /// The start of its validity.
    pub not_before: Option<Timestamp>,
    /// The end of its validity.
    pub not_after: Option<Timestamp>,
    /// The CA certificates in the Secret, PEM; empty if there are none.
    pub authorities: String,
}

/// The sources of the serving certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CertificateMaker {
    /// The server itself.
    #[default]
    SelfManaged,
    /// cert-manager.
    CertManager,
    /// Another source.
    Files,
}

/// The result of a dry run of a held workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Calling {
    /// The webhooks were called, and answered.
    Good,
    /// The webhooks were not called for this workload.
    NotCalled(String),
    /// The API server could not call the webhooks, for this reason.
    Failed(String),
}

pub(super) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
