//! The mutation: held Deployments get their waiter.

use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use serde_json::{Value, json};

use super::decision::{Decision, Notice, Outcome, Rule, Violation, Warning};
use super::field::FieldPath;
use super::held::{holding, injection, template};
use super::injection::{account, covers, is_current, is_ours, named, take_over_images, waiter_of};
use super::names::{GATE_LABEL, TOKEN_VOLUME, WAITER_CONTAINER};
use super::podspec::list;
use super::request::Request;
use crate::gates::{Config, Gate};

/// What the webhook `/mutate` answers: the patch that gives a held Deployment its waiter.
///
/// The patch touches nothing but the injection, so fields that this program doesn't know survive,
/// and applying it once is the same as applying it twice.
pub fn mutate(config: &Config, request: &Request<'_>) -> Decision {
    let Some(gate) = holding(config, request) else {
        return Decision::default();
    };
    let mut decision = Decision {
        gate: Some(gate.name.clone()),
        ..Decision::default()
    };
    let Some(template) = template(request.object) else {
        // The API server says better than this program could what is wrong with such an object.
        return decision;
    };
    let spec = &template["spec"];
    let at = FieldPath::from_iter(["spec", "template", "spec"]);

    let violations = reserved_names(spec, &at);
    if !violations.is_empty() {
        return decision.refused(config.mode, violations);
    }

    let (injection, kept) = injection(config, gate, request, template);
    decision.outcome = if kept {
        Outcome::Kept
    } else {
        Outcome::InPlace
    };

    match waiter_of(spec) {
        None => {
            decision.outcome = if kept {
                Outcome::Kept
            } else {
                Outcome::Injected
            };
            decision
                .patch
                .push(prepend(spec, &at, "initContainers", injection.container));
        }
        Some((index, existing)) => {
            if !is_ours(existing) {
                decision.warnings.push(Warning {
                    field: at.clone().key("initContainers").index(index),
                    notice: Notice::HandWrittenWaiter,
                    message: format!("the hand-written init container `{WAITER_CONTAINER}` is replaced by migration-gate's; remove it from the manifest"),
                });
            }
            let current = is_current(existing, &injection.container);
            let mut wanted = injection.container;
            if current {
                // Another webhook may have sent the image through a mirror, or pinned a digest,
                // between two calls of this one. To undo that would be to quarrel with it.
                take_over_images(&mut wanted, existing);
            }
            if !current || !covers(existing, &wanted) {
                if !kept {
                    decision.outcome = Outcome::Replaced;
                }
                let path = at.clone().key("initContainers").index(index);
                decision.patch.push(replace(&path, wanted));
            }
        }
    }
    match named(list(spec, "volumes"), TOKEN_VOLUME) {
        None => decision
            .patch
            .push(prepend(spec, &at, "volumes", injection.volume)),
        Some((index, existing)) if !covers(existing, &injection.volume) => {
            let path = at.clone().key("volumes").index(index);
            decision.patch.push(replace(&path, injection.volume));
        }
        Some(_) => {}
    }
    service_account(&mut decision, gate, spec, &at);
    decision
}

/// Names that the waiter needs and something else has. The API server would refuse the injected
/// object with words about a duplicate that its author never wrote.
fn reserved_names(spec: &Value, at: &FieldPath) -> Vec<Violation> {
    let container = named(list(spec, "containers"), WAITER_CONTAINER).map(|(index, _)| Violation {
        field: at.clone().key("containers").index(index).key("name"),
        rule: Rule::ReservedName,
        message: format!(
            "`{WAITER_CONTAINER}` is the name of the init container that migration-gate injects; rename this container"
        ),
    });
    let volume = named(list(spec, "volumes"), TOKEN_VOLUME)
        .filter(|(_, volume)| volume.get("projected").is_none())
        .map(|(index, _)| Violation {
            field: at.clone().key("volumes").index(index).key("name"),
            rule: Rule::ReservedName,
            message: format!(
                "`{TOKEN_VOLUME}` is the name of the volume that migration-gate injects; rename this volume"
            ),
        });
    container.into_iter().chain(volume).collect()
}

/// The account and who sees its token.
fn service_account(decision: &mut Decision, gate: &Gate, spec: &Value, at: &FieldPath) {
    let wanted = gate.service_account.as_str();
    match account(spec) {
        Some(own) if own != wanted => {
            // Its token is the application's own, so who mounts it stays the author's decision.
            decision.warnings.push(Warning {
                field: at.clone().key("serviceAccountName"),
                notice: Notice::AccountKept,
                message: format!(
                    "the ServiceAccount `{own}` is kept, and the waiter runs as it; add it to the gate's `extraAccounts` in the chart's values, or bind it to the Role that `kubectl get roles -n {} -l {GATE_LABEL}={}` shows",
                    gate.namespace, gate.name
                ),
            });
            return;
        }
        Some(_) => {}
        None => {
            for field in ["serviceAccountName", "serviceAccount"] {
                decision
                    .patch
                    .push(add(&at.clone().key(field), wanted.into()));
            }
        }
    }
    let automount = at.clone().key("automountServiceAccountToken");
    match spec.get("automountServiceAccountToken") {
        None | Some(Value::Null) => decision.patch.push(add(&automount, false.into())),
        Some(Value::Bool(true)) => decision.warnings.push(Warning {
            field: automount,
            notice: Notice::TokenVisible,
            message: format!("it is true, so the application's containers see the token of `{wanted}`; remove the field unless they need it"),
        }),
        Some(_) => {}
    }
}

/// Puts an element in front of a list that may be absent, null or empty.
fn prepend(spec: &Value, at: &FieldPath, field: &str, element: Value) -> PatchOperation {
    let path = at.clone().key(field);
    if list(spec, field).is_empty() {
        add(&path, json!([element]))
    } else {
        add(&path.index(0), element)
    }
}

fn add(path: &FieldPath, value: Value) -> PatchOperation {
    PatchOperation::Add(AddOperation {
        path: path.pointer(),
        value,
    })
}

fn replace(path: &FieldPath, value: Value) -> PatchOperation {
    PatchOperation::Replace(ReplaceOperation {
        path: path.pointer(),
        value,
    })
}
