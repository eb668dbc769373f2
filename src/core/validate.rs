//! The validation: no pod spec sets a forbidden variable, and no held Deployment goes without
//! its waiter.

use serde_json::Value;

use super::decision::{Decision, Outcome, Rule, Violation, Warning};
use super::injection::{blunted, waiter_of};
use super::mutate::{holding, injection, template};
use super::names::WAITER_CONTAINER;
use super::podspec::{CONTAINER_LISTS, FieldPath, list, name, pod_kind};
use super::request::{Operation, Request};
use crate::config::{Config, Mode};

/// What the webhook `/validate` answers. It never patches.
///
/// Nothing that is being deleted is held up, and neither is a controller at work on what already
/// existed: an object that a controller owns may be updated as long as the update adds no
/// forbidden variable.
pub fn validate(config: &Config, request: &Request<'_>) -> Decision {
    if request.is_being_deleted() {
        return Decision::default();
    }
    let mut decision = Decision::default();
    let mut violations = forbidden(config, request);
    if let Some(gate) = holding(config, request) {
        decision.gate = Some(gate.name.clone());
        if let Some(template) = template(request.object) {
            let (injection, _) = injection(config, gate, request, template);
            violations.extend(waiter_violation(&template["spec"], &injection.container));
        }
        decision.outcome = Outcome::InPlace;
    }
    if violations.is_empty() {
        decision
    } else {
        decision.refused(config.mode, violations)
    }
}

impl Decision {
    /// The decision with these violations, as the mode has it.
    pub(super) fn refused(mut self, mode: Mode, violations: Vec<Violation>) -> Self {
        match mode {
            Mode::Enforce => {
                self.outcome = Outcome::Denied;
                self.violations = violations;
            }
            Mode::Warn => {
                self.outcome = Outcome::Warned;
                self.warnings
                    .extend(violations.into_iter().map(Warning::from));
            }
        }
        self
    }
}

/// Every forbidden variable, or key that would become one, that the request may not bring.
fn forbidden(config: &Config, request: &Request<'_>) -> Vec<Violation> {
    let found = offences(config, request, request.object);
    if found.is_empty() {
        return Vec::new();
    }
    let existing_counts = request.operation == Operation::Update
        && (request.is_controlled() || request.subresource == "ephemeralcontainers");
    let existing = match request.old {
        Some(old) if existing_counts => offences(config, request, old),
        _ => Vec::new(),
    };
    // Offences are told apart by container and name, not by index: an update may reorder.
    let added = found
        .into_iter()
        .filter(|offence| existing.iter().all(|old| old.identity != offence.identity));
    let instead = instead(config, request.namespace);
    added
        .map(|offence| Violation {
            field: offence.field,
            rule: offence.rule,
            message: match offence.rule {
                Rule::ForbiddenKey => format!(
                    "`{}` would reach containers by envFrom and is forbidden there; {instead}",
                    offence.name
                ),
                _ => format!("`{}` is forbidden; {instead}", offence.name),
            },
        })
        .collect()
}

/// What replaced the variable.
fn instead(config: &Config, namespace: &str) -> String {
    match config.gates.iter().find(|gate| gate.namespace == namespace) {
        Some(gate) => format!(
            "remove it: migrations run in Job {}/{}, and migration-gate holds the pods until it has completed",
            gate.namespace, gate.job
        ),
        None => "remove it: migrations run in a Job of their own, and migration-gate holds the pods until it has completed".to_owned(),
    }
}

struct Offence {
    field: FieldPath,
    rule: Rule,
    name: String,
    /// The list and the container that it is in, and the variable's name.
    identity: (&'static str, Option<String>, String),
}

fn offences(config: &Config, request: &Request<'_>, object: &Value) -> Vec<Offence> {
    if request.group.is_empty() && request.kind == "ConfigMap" {
        return forbidden_keys(config, request.namespace, object);
    }
    let Some(kind) = pod_kind(request.group, request.kind) else {
        return Vec::new();
    };
    let Some(spec) = kind.pod_spec(object) else {
        return Vec::new();
    };
    let mut offences = Vec::new();
    for containers in CONTAINER_LISTS {
        for (i, container) in list(spec, containers).iter().enumerate() {
            for (j, variable) in list(container, "env").iter().enumerate() {
                let Some(variable) =
                    name(variable).filter(|name| config.forbidden_env.iter().any(|f| f == name))
                else {
                    continue;
                };
                offences.push(Offence {
                    field: kind.field().key(containers).index(i).key("env").index(j),
                    rule: Rule::ForbiddenEnv,
                    name: variable.to_owned(),
                    identity: (
                        containers,
                        name(container).map(str::to_owned),
                        variable.to_owned(),
                    ),
                });
            }
        }
    }
    offences
}

/// A ConfigMap's keys, where a gate's pods could load them with `envFrom`.
fn forbidden_keys(config: &Config, namespace: &str, object: &Value) -> Vec<Offence> {
    if !config.gates.iter().any(|gate| gate.namespace == namespace) {
        return Vec::new();
    }
    let mut offences = Vec::new();
    for field in ["data", "binaryData"] {
        for forbidden in &config.forbidden_env {
            if object
                .get(field)
                .and_then(|data| data.get(forbidden))
                .is_some()
            {
                offences.push(Offence {
                    field: FieldPath::from_iter([field, forbidden.as_str()]),
                    rule: Rule::ForbiddenKey,
                    name: forbidden.clone(),
                    identity: (field, None, forbidden.clone()),
                });
            }
        }
    }
    offences
}

fn waiter_violation(spec: &Value, wanted: &Value) -> Option<Violation> {
    let at = FieldPath::from_iter(["spec", "template", "spec", "initContainers"]);
    let Some((index, existing)) = waiter_of(spec) else {
        return Some(Violation {
            field: at,
            rule: Rule::WaiterMissing,
            message: format!(
                "`{WAITER_CONTAINER}` is missing although migration-gate injects it; another webhook removed it, or the mutating webhook of migration-gate was not called: check that it is installed and that its failurePolicy is Fail"
            ),
        });
    };
    blunted(existing, wanted).map(|(field, cause)| Violation {
        field: at.index(index).key(field),
        rule: Rule::WaiterMissing,
        message: format!(
            "`{WAITER_CONTAINER}` was changed after migration-gate injected it: {cause}; exempt the container from the webhook that changes it"
        ),
    })
}
