//! The gate that holds an object, and the injection that its pod template needs.

use serde_json::Value;

use super::applier::Applier;
use super::field::FieldPath;
use super::gates::{Config, Gate, HeldKind, Mode};
use super::injection::Injection;
use super::request::{Operation, Request};

/// A workload that a gate holds.
#[derive(Debug, Clone, Copy)]
pub struct Held<'c, 'r> {
    /// The gate.
    pub gate: &'c Gate,
    /// The workload's kind.
    pub kind: HeldKind,
    request: &'r Request<'r>,
}

/// The gate that holds the request's object: the first gate of its namespace that names or selects
/// it. `None` if there is none, or if the object is being deleted.
pub fn held<'c, 'r>(config: &'c Config, request: &'r Request<'r>) -> Option<Held<'c, 'r>> {
    let (gate, kind) = holding(config, request).next()?;
    Some(Held {
        gate,
        kind,
        request,
    })
}

/// All gates that name or select the request's object.
pub fn holding<'c>(
    config: &'c Config,
    request: &Request<'_>,
) -> impl Iterator<Item = (&'c Gate, HeldKind)> {
    let kind = HeldKind::of(request.group, request.kind)
        .filter(|_| request.subresource.is_empty() && !request.is_being_deleted());
    let name = request.likely_name();
    config.gates.iter().filter_map(move |gate| {
        let kind = kind?;
        let held = gate.namespace == request.namespace
            && gate.holds(kind, name.as_deref(), |key| request.label(key));
        held.then_some((gate, kind))
    })
}

impl<'r> Held<'_, 'r> {
    /// The pod template, if there is one with a pod spec.
    pub fn template(&self) -> Option<&'r Value> {
        self.kind.pod_kind().template(self.request.object)
    }

    fn old_template(&self) -> Option<&'r Value> {
        self.kind.pod_kind().template(self.request.old?)
    }

    /// The path of the pod spec.
    pub fn spec_field(&self) -> FieldPath {
        self.kind.pod_kind().field()
    }

    /// Whether the request is an update that does not change the pod template, so that it starts no
    /// pod.
    pub fn template_stays(&self) -> bool {
        self.request.operation == Operation::Update && self.template() == self.old_template()
    }

    /// Whether its pods run on Windows, where the waiter cannot run.
    pub fn is_windows(&self) -> bool {
        let spec = |path: &[&str]| {
            let spec = self.template()?.get("spec")?;
            path.iter()
                .try_fold(spec, |value, field| value.get(*field))?
                .as_str()
        };
        spec(&["os", "name"]) == Some("windows")
            || spec(&["nodeSelector", "kubernetes.io/os"]) == Some("windows")
    }

    /// The injection that the template needs, and whether it is the existing one of another
    /// release.
    pub fn injection(&self, config: &Config, template: &Value) -> (Injection, bool) {
        let applier = Applier::of(&self.request.object["metadata"]);
        let wanted = Injection::wanted(self.gate, &config.waiter, template).applied_by(&applier);
        self.old_template()
            .and_then(|old| Injection::kept(self.gate, &wanted, old, template))
            .filter(|kept| *kept != wanted)
            .map_or((wanted, false), |kept| (kept, true))
    }
}

/// The object from which a Rollout takes its pod template (Argo Rollouts, `spec.workloadRef`).
#[derive(Debug, Clone, Copy)]
pub struct WorkloadRef<'r> {
    /// Its kind.
    pub kind: &'r str,
    /// Its name, in the Rollout's namespace.
    pub name: &'r str,
}

impl<'r> WorkloadRef<'r> {
    /// The reference in a request's object; `None` if the object has a pod template of its own, or
    /// is no Rollout.
    pub fn of(request: &Request<'r>) -> Option<Self> {
        if HeldKind::of(request.group, request.kind) != Some(HeldKind::Rollout) {
            return None;
        }
        let reference = request.object.get("spec")?.get("workloadRef")?;
        Some(Self {
            kind: reference.get("kind")?.as_str()?,
            name: reference.get("name")?.as_str()?,
        })
    }

    /// Whether a gate of the namespace names the object, or may select it by its labels, which are
    /// not known here.
    pub fn may_be_held(&self, config: &Config, namespace: &str) -> bool {
        let mut gates = config.gates.iter();
        self.is_deployment()
            && gates.any(|gate| gate.namespace == namespace && gate.may_hold_deployment(self.name))
    }

    fn is_deployment(&self) -> bool {
        self.kind == HeldKind::Deployment.as_str()
    }

    /// The warning for a held Rollout whose pods are not held.
    pub fn not_held(&self) -> String {
        let Self { kind, name } = self;
        let remedy = if self.is_deployment() {
            "add that Deployment to the gate's `workloads`"
        } else {
            "let it refer to a Deployment, and add that to the gate's `workloads`"
        };
        format!(
            "the Rollout takes its pods from {kind} `{name}`, which no gate holds, so they start without waiting; {remedy}"
        )
    }
}

/// The mode for an object's violations: of the gate that holds it, else of the gates of its
/// namespace, if they agree.
pub fn mode(config: &Config, request: &Request<'_>) -> Mode {
    if let Some((gate, _)) = holding(config, request).next() {
        return config.mode_of(gate);
    }
    let mut modes = config
        .gates
        .iter()
        .filter(|gate| gate.namespace == request.namespace)
        .map(|gate| config.mode_of(gate));
    match modes.next() {
        Some(first) if modes.all(|mode| mode == first) => first,
        Some(_) => Mode::Enforce,
        None => config.mode,
    }
}
