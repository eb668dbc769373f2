//! What the API server is told to call the webhooks for.
//!
//! The rules and the CEL of the webhook configurations, made from the same lists that the engine
//! goes by: an object that could not be patched or refused is never sent, costs nothing, and does
//! not depend on this service being up. The chart renders them with its own gates and variables in
//! the places that [`FORBIDDEN_ENV`], [`HELD`] and [`GATE_NAMESPACES`] mark.
//!
//! See Kubernetes' "Dynamic Admission Control", section "Matching requests: matchConditions".

use serde_json::{Value, json};

use super::podspec::{CONTAINER_LISTS, POD_KINDS};
use crate::gates::{Config, Gate, LabelOperator};

/// Stands for the CEL list of forbidden variables.
pub const FORBIDDEN_ENV: &str = "FORBIDDEN_ENV";
/// Stands for the CEL condition that a gate holds the object.
pub const HELD: &str = "HELD";
/// Stands for the CEL list of the gates' namespaces.
pub const GATE_NAMESPACES: &str = "GATE_NAMESPACES";

const NOT_BEING_DELETED: &str = "!has(object.metadata.deletionTimestamp)";

/// One webhook of a configuration, but for where it is called and what happens if it can't be.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefilter {
    /// The webhook's first name; the domain follows.
    pub name: &'static str,
    /// `rules` as in `admissionregistration.k8s.io/v1`.
    pub rules: Value,
    /// `matchConditions` as in `admissionregistration.k8s.io/v1`.
    pub match_conditions: Value,
}

/// The webhook that calls `/mutate`, with marks in place of a configuration.
pub fn mutating() -> Vec<Prefilter> {
    vec![Prefilter {
        name: "inject",
        rules: rules(&[("apps", &["deployments"])]),
        match_conditions: conditions(&[("held", HELD)]),
    }]
}

/// The webhooks that call `/validate`, with marks in place of a configuration.
pub fn validating() -> Vec<Prefilter> {
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for kind in &POD_KINDS {
        match groups.iter_mut().find(|(group, _)| *group == kind.group) {
            Some((_, resources)) => resources.push(kind.resource),
            None => groups.push((kind.group, vec![kind.resource])),
        }
    }
    if let Some((_, core)) = groups.iter_mut().find(|(group, _)| group.is_empty()) {
        core.push("pods/ephemeralcontainers");
    }
    let groups: Vec<(&str, &[&str])> = groups
        .iter()
        .map(|(group, resources)| (*group, resources.as_slice()))
        .collect();
    vec![
        Prefilter {
            name: "forbidden-env",
            rules: rules(&groups),
            match_conditions: conditions(&[("adds-forbidden-env", &adds_forbidden_env())]),
        },
        Prefilter {
            name: "forbidden-key",
            rules: rules(&[("", &["configmaps"])]),
            match_conditions: conditions(&[
                (
                    "in-a-gates-namespace",
                    &format!("request.namespace in {GATE_NAMESPACES}"),
                ),
                ("adds-forbidden-key", &adds_forbidden_key()),
            ]),
        },
        Prefilter {
            name: "held",
            rules: rules(&[("apps", &["deployments"])]),
            match_conditions: conditions(&[("held", HELD)]),
        },
    ]
}

impl Prefilter {
    /// The webhook for one configuration, with nothing left to fill in.
    #[must_use]
    pub fn of(mut self, config: &Config) -> Self {
        let namespaces: Vec<&str> = config.gates.iter().map(|g| g.namespace.as_str()).collect();
        for condition in self.match_conditions.as_array_mut().into_iter().flatten() {
            if let Some(Value::String(expression)) = condition.get_mut("expression") {
                *expression = expression
                    .replace(GATE_NAMESPACES, &json!(namespaces).to_string())
                    .replace(HELD, &held(&config.gates))
                    .replace(FORBIDDEN_ENV, &json!(config.forbidden_env).to_string());
            }
        }
        self
    }
}

/// The condition that one of these gates holds the object.
pub fn held(gates: &[Gate]) -> String {
    gates
        .iter()
        .map(|gate| {
            let mut ways = Vec::new();
            if !gate.deployments.is_empty() {
                ways.push(format!(
                    "object.metadata.?name.orValue(\"\") in {}",
                    json!(gate.deployments)
                ));
            }
            if let Some(selector) = &gate.selector {
                let labels = selector.match_labels.iter().map(|(key, value)| {
                    requirement(LabelOperator::In, key, std::slice::from_ref(value))
                });
                let expressions = selector
                    .match_expressions
                    .iter()
                    .map(|r| requirement(r.operator, &r.key, &r.values));
                let all: Vec<String> = labels.chain(expressions).collect();
                ways.push(all.join(" && "));
            }
            format!(
                "request.namespace == {} && ({})",
                json!(gate.namespace),
                ways.join(" || ")
            )
        })
        .collect::<Vec<_>>()
        .join(" || ")
}

fn requirement(operator: LabelOperator, key: &str, values: &[String]) -> String {
    let label = format!("object.metadata.?labels[?{}]", json!(key));
    let listed = format!("{label}.optMap(v, v in {}).orValue(false)", json!(values));
    match operator {
        LabelOperator::In => listed,
        LabelOperator::NotIn => format!("!{listed}"),
        LabelOperator::Exists => format!("{label}.hasValue()"),
        LabelOperator::DoesNotExist => format!("!{label}.hasValue()"),
    }
}

fn rules(groups: &[(&str, &[&str])]) -> Value {
    groups
        .iter()
        .map(|(group, resources)| {
            json!({
                "apiGroups": [group],
                "apiVersions": ["v1"],
                "operations": ["CREATE", "UPDATE"],
                "resources": resources,
                "scope": "Namespaced",
            })
        })
        .collect()
}

fn conditions(conditions: &[(&str, &str)]) -> Value {
    std::iter::once(&("not-being-deleted", NOT_BEING_DELETED))
        .chain(conditions)
        .map(|(name, expression)| json!({"name": name, "expression": expression}))
        .collect()
}

/// The pod spec of any kind in [`POD_KINDS`]. No built-in kind has two of these fields, so the
/// first that is there is the right one; the longest come first.
fn pod_spec(object: &str) -> String {
    let mut paths: Vec<&[&str]> = Vec::new();
    for kind in &POD_KINDS {
        if !paths.contains(&kind.path) {
            paths.push(kind.path);
        }
    }
    paths.sort_by_key(|path| std::cmp::Reverse(path.len()));
    let optional = |path: &[&str]| {
        path.iter()
            .fold(object.to_owned(), |text, field| format!("{text}.?{field}"))
    };
    let mut paths = paths.into_iter().map(optional);
    let first = paths.next().unwrap_or_default();
    paths.fold(first, |text, path| format!("{text}.or({path})"))
}

/// A controller owns the object, or did until now, or only the subresource is written: what is
/// there already may stay.
fn existing_counts() -> String {
    let controlled = |object: &str| {
        format!(
            "{object}.metadata.?ownerReferences.orValue([]).exists(o, o.?controller.orValue(false))"
        )
    };
    format!(
        "request.operation == \"UPDATE\" && (request.?subResource.orValue(\"\") == \"ephemeralcontainers\" || {} || {})",
        controlled("object"),
        controlled("oldObject")
    )
}

fn adds_forbidden_env() -> String {
    let lists = json!(CONTAINER_LISTS);
    let exempt = existing_counts();
    let (new, old) = (pod_spec("object"), pod_spec("oldObject"));
    format!(
        "{lists}.exists(l, {new}[?l].orValue([]).exists(c, c.?env.orValue([]).exists(e, e.name in {FORBIDDEN_ENV} && \
         !({exempt} && {old}[?l].orValue([]).exists(d, d.name == c.name && d.?env.orValue([]).exists(f, f.name == e.name))))))"
    )
}

fn adds_forbidden_key() -> String {
    let exempt = existing_counts();
    format!(
        "[\"data\", \"binaryData\"].exists(m, {FORBIDDEN_ENV}.exists(k, object[?m][?k].hasValue() && !({exempt} && oldObject[?m][?k].hasValue())))"
    )
}
