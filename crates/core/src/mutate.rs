//! The mutation: held workloads get their waiter.

use json_patch::{AddOperation, MoveOperation, PatchOperation, ReplaceOperation};
use serde_json::Value;

use super::decision::{Decision, Notice, Outcome, Rule, Violation, Warning};
use super::field::FieldPath;
use super::gates::{Config, Freshness, Gate};
use super::held::{Held, WorkloadRef, held, holding};
use super::injection::{account, covers, is_ours, named, same_image, waiter_of};
use super::names::{GATE_LABEL, TOKEN_VOLUME, WAITER_CONTAINER};
use super::podspec::{CONTAINER_LISTS, DEFAULT_CONTAINER, list, name};
use super::request::Request;
use super::version::Containers;

/// The decision of the webhook `/mutate`: the patch that gives a held workload its waiter.
///
/// The patch changes only the injection, so it keeps fields that this program does not know.
/// Applying it twice is the same as applying it once. An update that does not change the pod
/// template gets no patch: it starts no pod.
pub fn mutate(config: &Config, request: &Request<'_>) -> Decision {
    let Some(held) = held(config, request) else {
        return Decision::default();
    };
    let mut decision = Decision {
        gate: Some(held.gate.name.clone()),
        ..Decision::default()
    };
    // The API server's own validation reports malformed objects better.
    let Some(template) = held.template() else {
        decision.warnings.extend(workload_ref(config, request));
        return decision;
    };
    if held.template_stays() {
        decision.outcome = match waiter_of(&template["spec"]) {
            Some(_) => Outcome::InPlace,
            None => Outcome::Untouched,
        };
        return decision;
    }
    if held.is_windows() {
        decision.warnings.push(windows(&held));
        return decision;
    }
    let spec = &template["spec"];
    let at = held.spec_field();
    let violations = reserved_names(spec, &at);
    if !violations.is_empty() {
        return decision.refused(config.mode_of(held.gate), violations);
    }
    decision.warnings.extend(two_gates(config, request));
    decision
        .warnings
        .extend(which_container(held.gate, template, &at));
    inject(&mut decision, config, &held, template);
    decision
        .warnings
        .extend(other_waiters(held.gate, spec, &at));
    decision
        .warnings
        .extend(prefixed_sources(config, spec, &at));
    service_account(&mut decision, held.gate, spec, &at);
    decision
}

fn inject(decision: &mut Decision, config: &Config, held: &Held<'_, '_>, template: &Value) {
    let spec = &template["spec"];
    let at = held.spec_field();
    let (injection, kept) = held.injection(config, template);
    let containers = at.clone().key("initContainers");
    let done = |outcome| if kept { Outcome::Kept } else { outcome };
    match waiter_of(spec) {
        None => {
            decision.outcome = done(Outcome::Injected);
            let container = injection.container;
            decision.patch.push(insert(
                spec,
                &at,
                "initContainers",
                injection.at.0,
                container,
            ));
        }
        Some((index, existing)) => {
            decision.outcome = done(Outcome::InPlace);
            if !is_ours(existing) {
                decision.warnings.push(Warning {
                    field: containers.clone().index(index),
                    notice: Notice::HandWrittenWaiter,
                    message: format!("the hand-written init container `{WAITER_CONTAINER}` is replaced by migration-gate's; remove it from the manifest"),
                });
            }
            let mut wanted = injection.container;
            if is_ours(existing) && same_image(existing, &wanted) {
                // Between two calls of this webhook, another one may have changed the waiter's
                // image to a mirror, or pinned its digest. If this webhook undid that, the two
                // would overwrite each other.
                wanted["image"] = existing["image"].clone();
            }
            if !covers(existing, &wanted) {
                decision.outcome = done(Outcome::Replaced);
                let path = containers.clone().index(index);
                decision.patch.push(replace(&path, wanted));
            }
            // An apply that merges lists puts new elements first, so move the waiter back. A kept
            // waiter of another release stays in its place.
            if index > 0 && !kept {
                decision.outcome = Outcome::Replaced;
                decision.patch.push(PatchOperation::Move(MoveOperation {
                    from: containers.clone().index(index).pointer(),
                    path: containers.index(0).pointer(),
                }));
            }
        }
    }
    match named(list(spec, "volumes"), TOKEN_VOLUME) {
        None => decision.patch.push(insert(
            spec,
            &at,
            "volumes",
            injection.at.1,
            injection.volume,
        )),
        Some((index, existing)) if !covers(existing, &injection.volume) => {
            let path = at.clone().key("volumes").index(index);
            decision.patch.push(replace(&path, injection.volume));
        }
        Some(_) => {}
    }
}

fn windows(held: &Held<'_, '_>) -> Warning {
    Warning {
        field: held.spec_field(),
        notice: Notice::Windows,
        message: format!(
            "gate `{}` holds it, but its pods run Windows, where the waiter cannot run, so they start without waiting; hold only Linux workloads",
            held.gate.name
        ),
    }
}

/// Warns of a Rollout whose pod template is in an object that no gate holds. That object's labels
/// are not known here, so a gate with a selector may hold it.
fn workload_ref(config: &Config, request: &Request<'_>) -> Option<Warning> {
    let reference = WorkloadRef::of(request)?;
    let held = reference.may_be_held(config, request.namespace);
    (request.old.is_none() && !held).then(|| Warning {
        field: FieldPath::from_iter(["spec", "workloadRef"]),
        notice: Notice::WorkloadRef,
        message: reference.not_held(),
    })
}

/// Warns of further gates that select the workload: only the first one holds it.
fn two_gates(config: &Config, request: &Request<'_>) -> Option<Warning> {
    let names: Vec<String> = holding(config, request)
        .map(|(gate, _)| format!("`{}`", gate.name))
        .collect();
    let (first, others) = names.split_first()?;
    (!others.is_empty()).then(|| Warning {
        field: FieldPath::from_iter(["metadata", "labels"]),
        notice: Notice::TwoGates,
        message: format!("it waits only for gate {first}, although {} selects it too; list the Jobs of both in one gate, or narrow the selectors", others.join(", ")),
    })
}

/// Warns of images of several versions, if nothing says which one is the application's.
fn which_container(gate: &Gate, template: &Value, at: &FieldPath) -> Option<Warning> {
    let told =
        gate.container.is_some() || gate.version.is_some() || gate.freshness == Freshness::Any;
    let containers = Containers::of(template);
    (!told && containers.are_ambiguous()).then(|| {
        let images = containers.images().map(|images| images.main().collect::<Vec<_>>().join(", "));
        Warning {
            field: at.clone().key("containers"),
            notice: Notice::WhichContainer,
            message: format!("they run several versions ({}), and the Job must match each image that it shares with them; name the application's container with `container` in gate `{}`, or with the annotation `{DEFAULT_CONTAINER}`", images.unwrap_or_default(), gate.name),
        }
    })
}

/// Warns of init containers of other names that wait for the gate's Jobs: they fail once the Jobs
/// are deleted.
fn other_waiters(gate: &Gate, spec: &Value, at: &FieldPath) -> Vec<Warning> {
    let jobs = gate.requirements();
    let jobs: Vec<&str> = jobs.iter().filter_map(|job| job.exact_name()).collect();
    let containers = list(spec, "initContainers").iter().enumerate();
    containers
        .filter(|(_, container)| name(container) != Some(WAITER_CONTAINER))
        .filter(|(_, container)| waits_for_a_job(container, &jobs))
        .map(|(index, container)| Warning {
            field: at.clone().key("initContainers").index(index),
            notice: Notice::AnotherWaiter,
            message: format!("`{}` waits for a Job too, and fails once the Job has been deleted; remove it, because migration-gate's waiter replaces it", name(container).unwrap_or_default()),
        })
        .collect()
}

/// Warns of prefixes in `envFrom` that a key could complete to a forbidden name. The keys are in
/// another object.
fn prefixed_sources(config: &Config, spec: &Value, at: &FieldPath) -> Vec<Warning> {
    let mut warnings = Vec::new();
    for containers in CONTAINER_LISTS {
        for (i, container) in list(spec, containers).iter().enumerate() {
            for (j, source) in list(container, "envFrom").iter().enumerate() {
                let prefix = source.get("prefix").and_then(Value::as_str);
                let Some((variable, key)) = prefix.and_then(|p| config.completes(p)) else {
                    continue;
                };
                warnings.push(Warning {
                    field: at.clone().key(containers).index(i).key("envFrom").index(j),
                    notice: Notice::PrefixedSource,
                    message: format!("with this prefix, a key `{key}` sets `{variable}`, which is forbidden; make sure that there is no such key, or use another prefix"),
                });
            }
        }
    }
    warnings
}

fn waits_for_a_job(container: &Value, jobs: &[&str]) -> bool {
    let image = container
        .get("image")
        .and_then(Value::as_str)
        .unwrap_or_default();
    let words: Vec<&str> = ["command", "args"]
        .into_iter()
        .flat_map(|field| list(container, field))
        .filter_map(Value::as_str)
        .flat_map(str::split_whitespace)
        .collect();
    let has = |wanted: &str| words.contains(&wanted);
    let of_job = |word: &&str| {
        let job = word.rsplit('/').next().unwrap_or(word);
        jobs.contains(&job)
    };
    image.contains("k8s-wait-for")
        || (has("wait") && words.iter().any(|word| word.ends_with("kubectl")))
        || (words.iter().any(|word| word.contains("wait")) && words.iter().any(of_job))
}

/// Other containers or volumes with names that the waiter needs. Without this violation, the API
/// server would refuse the object after the injection, with a message about a duplicate that its
/// author did not write.
pub(super) fn reserved_names(spec: &Value, at: &FieldPath) -> Vec<Violation> {
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

/// Sets the ServiceAccount, and hides its token from the application's containers.
fn service_account(decision: &mut Decision, gate: &Gate, spec: &Value, at: &FieldPath) {
    let wanted = gate.service_account.as_str();
    match account(spec) {
        Some(own) if gate.extra_accounts.contains(own) => return,
        Some(own) if own != wanted => {
            // Its token is the application's own, so the author decides where it is mounted.
            decision.warnings.push(Warning {
                field: at.clone().key("serviceAccountName"),
                notice: Notice::AccountKept,
                message: format!(
                    "the ServiceAccount `{own}` is kept, and the waiter runs as it; add it to the gate's `extraAccounts`, or bind it to the Role that `kubectl get roles -n {} -l {GATE_LABEL}={}` shows",
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

/// Inserts an element into a list that may be absent, null or empty.
fn insert(
    spec: &Value,
    at: &FieldPath,
    field: &str,
    index: usize,
    element: Value,
) -> PatchOperation {
    let path = at.clone().key(field);
    match list(spec, field).len() {
        0 => add(&path, Value::Array(vec![element])),
        len => add(&path.index(index.min(len)), element),
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
