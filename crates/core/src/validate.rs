//! The validation: no pod spec sets a forbidden variable, and each held workload has its waiter.

use std::collections::HashSet;

use serde_json::Value;

use super::decision::{Decision, MOST_LISTED, Outcome, Rule, Violation};
use super::field::FieldPath;
use super::held::{Held, held, mode};
use super::injection::{waiter_of, weakness};
use super::mutate::reserved_names;
use super::names::WAITER_CONTAINER;
use super::podspec::{CONTAINER_LISTS, PodKind, list, name, pod_kind};
use super::request::{Operation, Request};
use crate::gates::{Config, Gate};

/// The decision of the webhook `/validate`. It never patches.
///
/// An object that is being deleted is always allowed. An object that a controller owns may be
/// updated if the update adds no forbidden variable: a controller must be able to work on existing
/// objects.
pub fn validate(config: &Config, request: &Request<'_>) -> Decision {
    if request.is_being_deleted() {
        return Decision::default();
    }
    let mut decision = Decision::default();
    let (mut violations, unlisted) = forbidden(config, request);
    decision.unlisted = unlisted;
    if let Some(held) = held(config, request) {
        decision.gate = Some(held.gate.name.clone());
        decision.outcome = Outcome::InPlace;
        // In front, so that many other violations do not hide it.
        let waiter = waiter_violations(config, &held);
        if !waiter.is_empty() {
            violations.splice(0..0, waiter);
            decision.unlisted += violations.len().saturating_sub(MOST_LISTED);
            violations.truncate(MOST_LISTED);
        }
    }
    if violations.is_empty() {
        decision
    } else {
        decision.refused(mode(config, request), violations)
    }
}

/// The forbidden variables, and the keys that would become one, that the request may not add: the
/// first [`MOST_LISTED`], and the number of the others.
fn forbidden(config: &Config, request: &Request<'_>) -> (Vec<Violation>, usize) {
    let existing_counts = request.operation == Operation::Update
        && (request.is_controlled() || request.subresource == "ephemeralcontainers");
    let mut existing = HashSet::new();
    if let Some(old) = request.old.filter(|_| existing_counts) {
        each_offence(config, request, old, |offence| {
            existing.insert(offence.identity());
        });
    }
    let mut violations = Vec::new();
    let mut unlisted = 0;
    let mut instead = None;
    each_offence(config, request, request.object, |offence| {
        if existing.contains(&offence.identity()) {
            return;
        }
        if violations.len() == MOST_LISTED {
            unlisted += 1;
            return;
        }
        let instead: &String =
            instead.get_or_insert_with(|| self::instead(config, request.namespace));
        violations.push(offence.violation(instead));
    });
    (violations, unlisted)
}

/// What to use instead of the variable.
fn instead(config: &Config, namespace: &str) -> String {
    let gate = config.gates.iter().find(|gate| gate.namespace == namespace);
    let jobs = gate.map(Gate::requirements).unwrap_or_default();
    match jobs.as_slice() {
        [job] => format!(
            "remove it: migrations run in Job {namespace}/{job}, and migration-gate holds the pods until it has completed"
        ),
        [_, ..] => format!(
            "remove it: migrations run in Jobs of their own in namespace {namespace}, and migration-gate holds the pods until these have completed"
        ),
        [] => "remove it: migrations run in a Job of their own, and migration-gate holds the pods until it has completed".to_owned(),
    }
}

/// A forbidden name and its place, borrowed from the object.
enum Offence<'a> {
    /// In `env`, or in a word of `command` or `args` that sets it.
    Variable {
        kind: &'static PodKind,
        list: &'static str,
        container: (usize, Option<&'a str>),
        member: &'static str,
        variable: (usize, &'a str),
    },
    Key {
        field: &'static str,
        key: &'a str,
    },
}

impl<'a> Offence<'a> {
    /// The identity of a violation: its list and container, how it is set, and its name. It has no
    /// index, because an update may change the order.
    fn identity(&self) -> (&'static str, Option<&'a str>, bool, &'a str) {
        match *self {
            Self::Variable {
                list,
                container: (_, container),
                member,
                variable: (_, variable),
                ..
            } => (list, container, member == "env", variable),
            Self::Key { field, key } => (field, None, false, key),
        }
    }

    fn violation(&self, instead: &str) -> Violation {
        match *self {
            Self::Variable {
                kind,
                list,
                container: (i, _),
                member,
                variable: (j, variable),
            } => Violation {
                field: kind.field().key(list).index(i).key(member).index(j),
                rule: Rule::ForbiddenEnv,
                message: match member {
                    "env" => format!("`{variable}` is forbidden; {instead}"),
                    _ => format!("it sets `{variable}`, which is forbidden; {instead}"),
                },
            },
            Self::Key { field, key } => Violation {
                field: FieldPath::from_iter([field, key]),
                rule: Rule::ForbiddenKey,
                message: format!(
                    "`{key}` would reach containers by envFrom and is forbidden there; {instead}"
                ),
            },
        }
    }
}

/// Calls `tell` with every offence in an object, in the order of its fields.
fn each_offence<'a>(
    config: &'a Config,
    request: &Request<'_>,
    object: &'a Value,
    mut tell: impl FnMut(Offence<'a>),
) {
    if request.group.is_empty() && request.kind == "ConfigMap" {
        return each_forbidden_key(config, request.namespace, object, tell);
    }
    let Some(kind) = pod_kind(request.group, request.kind) else {
        return;
    };
    let Some(spec) = kind.pod_spec(object) else {
        return;
    };
    for containers in CONTAINER_LISTS {
        for (i, container) in list(spec, containers).iter().enumerate() {
            let mut offence = |member, variable| {
                tell(Offence::Variable {
                    kind,
                    list: containers,
                    container: (i, name(container)),
                    member,
                    variable,
                });
            };
            for (j, variable) in list(container, "env").iter().enumerate() {
                let forbidden = |name: &&str| config.forbidden_env.iter().any(|f| f == name);
                if let Some(variable) = name(variable).filter(forbidden) {
                    offence("env", (j, variable));
                }
            }
            for member in ["command", "args"] {
                for (j, word) in list(container, member).iter().enumerate() {
                    let word = word.as_str().unwrap_or_default();
                    for variable in config.forbidden_env.iter().filter(|f| sets(word, f)) {
                        offence(member, (j, variable));
                    }
                }
            }
        }
    }
}

/// Whether a word of a command sets a variable, as for `env`, a shell and many options: it contains
/// `NAME=` that is not the end of another name, and not the use of a variable (`$NAME=`).
fn sets(word: &str, variable: &str) -> bool {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '$');
    word.match_indices(variable).any(|(at, _)| {
        word[at + variable.len()..].starts_with('=') && !word[..at].ends_with(is_name)
    })
}

/// Calls `tell` with every forbidden key of a ConfigMap in a gate's namespace, where pods could
/// load it with `envFrom`.
fn each_forbidden_key<'a>(
    config: &'a Config,
    namespace: &str,
    object: &'a Value,
    mut tell: impl FnMut(Offence<'a>),
) {
    if !config.gates.iter().any(|gate| gate.namespace == namespace) {
        return;
    }
    for field in ["data", "binaryData"] {
        for key in &config.forbidden_env {
            if object.get(field).and_then(|data| data.get(key)).is_some() {
                tell(Offence::Key { field, key });
            }
        }
    }
}

/// The violations of a held workload's waiter. There are none for an update that does not change
/// the pod template: it starts no pod. If reserved names prevent the injection, only they are
/// reported, because they are the cause.
fn waiter_violations(config: &Config, held: &Held<'_, '_>) -> Vec<Violation> {
    let Some(template) = held.template() else {
        return Vec::new();
    };
    if held.template_stays() || held.is_windows() {
        return Vec::new();
    }
    let spec = &template["spec"];
    if waiter_of(spec).is_none() {
        let reserved = reserved_names(spec, &held.spec_field());
        if !reserved.is_empty() {
            return reserved;
        }
    }
    waiter_violation(config, held, template)
        .into_iter()
        .collect()
}

fn waiter_violation(config: &Config, held: &Held<'_, '_>, template: &Value) -> Option<Violation> {
    let at = held.spec_field().key("initContainers");
    let Some((index, existing)) = waiter_of(&template["spec"]) else {
        return Some(Violation {
            field: at,
            rule: Rule::WaiterMissing,
            message: format!(
                "`{WAITER_CONTAINER}` is missing although migration-gate injects it; apply again if a new configuration of it is being rolled out; else another webhook removed the container, or the mutating webhook of migration-gate was not called: check that it is installed and that its failurePolicy is Fail"
            ),
        });
    };
    let (injection, kept) = held.injection(config, template);
    if let Some((field, cause)) = weakness(existing, &injection.container) {
        return Some(Violation {
            field: at.index(index).key(field),
            rule: Rule::WaiterMissing,
            message: format!(
                "`{WAITER_CONTAINER}` was changed after migration-gate injected it: {cause}; exempt the container from the webhook that changes it, or apply again if a new configuration of migration-gate is being rolled out"
            ),
        });
    }
    (index > 0 && !kept).then(|| Violation {
        field: at.index(index),
        rule: Rule::WaiterMissing,
        message: format!(
            "`{WAITER_CONTAINER}` is not the first init container, so others run before the migration has completed; set reinvocationPolicy: IfNeeded for the webhook that put one in front, or exempt this workload from it"
        ),
    })
}
