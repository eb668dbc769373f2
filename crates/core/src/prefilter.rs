//! The conditions under which the API server calls the webhooks.
//!
//! These are the `rules` and the CEL of the webhook configurations, made from the same lists that
//! the engine uses. An object that no rule could patch or deny is never sent: it costs nothing, and
//! does not depend on this server. The chart puts its own gates and variables in place of the
//! marks, such as [`FORBIDDEN_ENV`], [`HELD`] and [`GATE_NAMESPACES`].
//!
//! A mark has a `=`, which no name, label, image or variable has, so that no value is taken for a
//! mark. Only a waiter's arguments may have one; they are put in last.
//!
//! See Kubernetes' "Dynamic Admission Control", section "Matching requests: matchConditions".

use serde_json::{Value, json};

use super::injection::{WaiterArguments, waiter_arguments};
use super::names::{TOKEN_VOLUME, WAITER_CONTAINER};
use super::podspec::{CONTAINER_LISTS, DEFAULT_CONTAINER, POD_KINDS, PodKind};
use super::request::GENERATED_END;
use crate::gates::{
    Config, Freshness, Gate, HeldKind, LabelOperator, LabelSelector, WaiterConfig, Which,
};

/// Stands for the CEL list of forbidden variables.
pub const FORBIDDEN_ENV: &str = "{=FORBIDDEN_ENV=}";
/// Stands for the CEL condition that a gate holds the object.
pub const HELD: &str = "{=HELD=}";
/// Stands for the CEL condition that the waiter `w` of the template `t` has its gate's arguments.
pub const HAS_ARGUMENTS: &str = "{=HAS_ARGUMENTS=}";
/// Stands for the CEL string of the waiter's image.
pub const WAITER_IMAGE: &str = "{=WAITER_IMAGE=}";
/// Stands for the CEL list of the gates' namespaces.
pub const GATE_NAMESPACES: &str = "{=GATE_NAMESPACES=}";

const NOT_BEING_DELETED: &str = "!has(object.metadata.deletionTimestamp)";

/// Maximum number of containers in a template for which CEL compares the waiter's arguments. A
/// larger template could exceed the API server's cost budget for conditions, and the request would
/// fail.
const MOST_CONTAINERS: usize = 16;

/// Maximum length of an expression that compares the waiter's arguments; of a longer one, that part
/// is `false`, so that a correct waiter costs a call. The API server refuses an expression of more
/// than 100,000 characters, and one with more than 250 conditionals in each other. Of the shortest
/// gates, 220 fit into this length.
const MOST_CHARACTERS: usize = 90_000;

/// One webhook of a configuration, without `clientConfig` and `failurePolicy`.
#[derive(Debug, Clone, PartialEq)]
pub struct Prefilter {
    /// The webhook's first name; the domain follows.
    pub name: &'static str,
    /// `rules` as in `admissionregistration.k8s.io/v1`.
    pub rules: Value,
    /// `matchConditions` as in `admissionregistration.k8s.io/v1`.
    ///
    /// Each webhook has a single condition: the API server evaluates all conditions of a webhook
    /// even if the first is false, but evaluates one expression only until its result is known.
    pub match_conditions: Value,
}

/// The webhook that calls `/mutate`, with marks in place of a configuration.
pub fn mutating() -> Vec<Prefilter> {
    vec![Prefilter {
        name: "inject",
        rules: rules(held_kinds()),
        match_conditions: condition("held-and-changed", &held_and_changed()),
    }]
}

/// The kinds that can be held, without subresources.
fn held_kinds() -> impl Iterator<Item = (&'static PodKind, Option<&'static str>)> {
    let kinds = HeldKind::ALL.map(HeldKind::pod_kind);
    kinds.into_iter().map(|kind| (kind, None))
}

/// The condition that a gate holds the object, and that the request changes its pod template.
/// Nearly all updates of workloads do not change it, and so cost no call.
fn held_and_changed() -> String {
    let changed = format!(
        "request.operation == \"CREATE\" || {} != {}",
        template("object"),
        template("oldObject")
    );
    format!("({HELD}) && {NOT_BEING_DELETED} && ({changed})")
}

/// The webhooks that call `/validate`, with marks in place of a configuration.
///
/// One webhook covers all kinds with pod specs, because the API server converts an object again for
/// each webhook with conditions.
pub fn validating() -> Vec<Prefilter> {
    let kinds = POD_KINDS.iter().map(|kind| {
        // Containers are added to a running pod through a subresource.
        let subresource = (kind.kind == "Pod").then_some("pods/ephemeralcontainers");
        (kind, subresource)
    });
    let only_held = held_kinds().filter(|(kind, _)| !POD_KINDS.contains(kind));
    vec![
        Prefilter {
            name: "pod-specs",
            rules: rules(kinds.chain(only_held)),
            match_conditions: condition(
                "can-be-refused",
                &format!(
                    "({}) && !{} || {NOT_BEING_DELETED} && {}",
                    held_and_changed(),
                    waiter_in_place(),
                    adds_forbidden_env()
                ),
            ),
        },
        Prefilter {
            name: "forbidden-key",
            rules: rules_of_config_maps(),
            match_conditions: condition(
                "adds-forbidden-key",
                &format!(
                    "request.namespace in {GATE_NAMESPACES} && {NOT_BEING_DELETED} && {}",
                    adds_forbidden_key()
                ),
            ),
        },
    ]
}

fn rules_of_config_maps() -> Value {
    json!([rule("", "v1", &["configmaps"])])
}

impl Prefilter {
    /// Replaces all marks by the values of a configuration.
    #[must_use]
    pub fn of(mut self, config: &Config) -> Self {
        for condition in self.match_conditions.as_array_mut().into_iter().flatten() {
            if let Some(Value::String(expression)) = condition.get_mut("expression") {
                *expression = filled(expression, config);
            }
        }
        self
    }
}

/// An expression with values in place of all marks.
fn filled(expression: &str, config: &Config) -> String {
    let namespaces: Vec<&str> = config.gates.iter().map(|g| g.namespace.as_str()).collect();
    let expression = expression
        .replace(GATE_NAMESPACES, &json!(namespaces).to_string())
        .replace(HELD, &held(&config.gates))
        .replace(WAITER_IMAGE, &json!(config.waiter.image).to_string())
        .replace(FORBIDDEN_ENV, &json!(config.forbidden_env).to_string());
    let whole = expression.replace(HAS_ARGUMENTS, &has_arguments(&config.gates, &config.waiter));
    if whole.len() > MOST_CHARACTERS {
        return expression.replace(HAS_ARGUMENTS, "false");
    }
    whole
}

/// The condition that one of these gates holds the object.
pub fn held(gates: &[Gate]) -> String {
    let gates: Vec<String> = gates.iter().map(held_by).collect();
    gates.join(" || ")
}

fn held_by(gate: &Gate) -> String {
    let kinds: Vec<String> = gate
        .kinds()
        .into_iter()
        .map(|kind| of_kind(gate, kind))
        .collect();
    format!(
        "request.namespace == {} && ({})",
        json!(gate.namespace),
        kinds.join(" || ")
    )
}

/// The condition that the waiter `w` of the template `t` has the arguments of the gate that holds
/// the object. If several gates hold it, the first counts.
pub fn has_arguments(gates: &[Gate], waiter: &WaiterConfig) -> String {
    gates.iter().rev().fold("false".to_owned(), |others, gate| {
        format!(
            "{} ? w.args == {} : {others}",
            held_by(gate),
            arguments(gate, waiter)
        )
    })
}

/// The waiter's arguments for the template `t`, as a CEL list. They are wrong for a template that
/// names a default container, or has the same image twice; then the webhook is called.
fn arguments(gate: &Gate, waiter: &WaiterConfig) -> String {
    let WaiterArguments { before, after } = waiter_arguments(gate, waiter);
    let image = |argument: &str| format!("c, \"{argument}=\" + c.?image.orValue(\"\")");
    let version = if let Some(source) = gate.compared_metadata() {
        format!(
            "[{} + t.?metadata.?{}[?{}].orValue(\"\")]",
            json!(format!("--version={}:{}=", source.argument(), source.key())),
            source.field(),
            json!(source.key()),
        )
    } else if gate.freshness == Freshness::Any {
        "[\"--image=\" + t.spec.containers[?0].?image.orValue(\"\")]".to_owned()
    } else if let Some(container) = &gate.container {
        format!(
            "t.spec.containers.filter(c, c.?name.orValue(\"\") == {}).map({})",
            json!(container),
            image("--image")
        )
    } else {
        format!(
            "t.spec.containers.map({}) + t.spec.initContainers.filter(c, c.?name.orValue(\"\") != {} && \
             !t.spec.containers.exists(m, m.?image == c.?image)).map({})",
            image("--image"),
            json!(WAITER_CONTAINER),
            image("--init-image")
        )
    };
    format!("{} + {version} + {}", json!(before), json!(after))
}

/// The condition that a gate holds the object, if the object is of this kind.
fn of_kind(gate: &Gate, kind: HeldKind) -> String {
    let workloads = gate
        .workloads
        .iter()
        .filter(|workload| workload.kind == kind);
    let (mut names, mut ways) = (Vec::new(), Vec::new());
    if kind == HeldKind::Deployment {
        names.extend(gate.deployments.iter().map(String::as_str));
        ways.extend(gate.selector.as_ref().map(selector));
    }
    for workload in workloads {
        match &workload.which {
            Which::Labels(labels) => ways.push(selector(labels)),
            Which::Name(name) => match name.literal() {
                Some(name) => names.push(name),
                None => ways.push(format!(
                    "{}.matches({})",
                    likely_name(),
                    json!(name.regex())
                )),
            },
        }
    }
    if !names.is_empty() {
        ways.insert(0, format!("{NAME} in {}", json!(names)));
    }
    let kind = json!(kind.as_str());
    format!("request.kind.kind == {kind} && ({})", ways.join(" || "))
}

/// The object's name, which may not be generated yet.
const NAME: &str = "object.metadata.?name.orValue(\"\")";

/// The object's name, or one that the API server could generate.
fn likely_name() -> String {
    format!(
        "object.metadata.?name.orValue(object.metadata.?generateName.orValue(\"\") + {})",
        json!(GENERATED_END)
    )
}

fn selector(selector: &LabelSelector) -> String {
    let labels = selector
        .match_labels
        .iter()
        .map(|(key, value)| requirement(LabelOperator::In, key, std::slice::from_ref(value)));
    let expressions = selector
        .match_expressions
        .iter()
        .map(|r| requirement(r.operator, &r.key, &r.values));
    let all: Vec<String> = labels.chain(expressions).collect();
    all.join(" && ")
}

fn requirement(operator: LabelOperator, key: &str, values: &[String]) -> String {
    let label = format!("object.metadata.?labels[?{}]", json!(key));
    // No label has the value `?`. With `optMap`, Kubernetes 1.30 cannot infer the type of a label
    // that may be missing, and refuses the configuration.
    let listed = format!("{label}.orValue(\"?\") in {}", json!(values));
    match operator {
        LabelOperator::In => listed,
        LabelOperator::NotIn => format!("!({listed})"),
        LabelOperator::Exists => format!("{label}.hasValue()"),
        LabelOperator::DoesNotExist => format!("!{label}.hasValue()"),
    }
}

/// One rule for each group and version, in the order of the kinds. A kind may come with a
/// subresource.
fn rules<'k>(kinds: impl Iterator<Item = (&'k PodKind, Option<&'k str>)>) -> Value {
    let mut groups: Vec<((&str, &str), Vec<&str>)> = Vec::new();
    for (kind, subresource) in kinds {
        let group = (kind.group, kind.version);
        let resources = [Some(kind.resource), subresource].into_iter().flatten();
        match groups.iter_mut().find(|(known, _)| *known == group) {
            Some((_, known)) => known.extend(resources),
            None => groups.push((group, resources.collect())),
        }
    }
    groups
        .iter()
        .map(|((group, version), resources)| rule(group, version, resources))
        .collect()
}

fn rule(group: &str, version: &str, resources: &[&str]) -> Value {
    json!({
        "apiGroups": [group],
        "apiVersions": [version],
        "operations": ["CREATE", "UPDATE"],
        "resources": resources,
        "scope": "Namespaced",
    })
}

fn condition(name: &str, expression: &str) -> Value {
    json!([{"name": name, "expression": expression}])
}

/// The condition that the waiter is the first init container and waits for what it should. It may
/// be false for a correct waiter, too: then the webhook is called, and decides.
fn waiter_in_place() -> String {
    format!(
        "{}.optMap(t, t.?spec.?containers.hasValue() && t.?spec.?initContainers[?0].optMap(w, \
         w.?name.orValue(\"\") == {} && w.?image.orValue(\"\") == {WAITER_IMAGE} && !has(w.command) && !has(w.restartPolicy) && \
         w.?volumeMounts.orValue([]).exists(m, m.?name.orValue(\"\") == {}) && \
         t.spec.containers.size() + t.spec.initContainers.size() <= {MOST_CONTAINERS} && \
         !t.?metadata.?annotations[?{}].hasValue() && has(w.args) && ({HAS_ARGUMENTS})\
         ).orValue(false)).orValue(false)",
        template("object"),
        json!(WAITER_CONTAINER),
        json!(TOKEN_VOLUME),
        json!(DEFAULT_CONTAINER),
    )
}

/// The pod template of any kind that can be held.
fn template(object: &str) -> String {
    let template = either(object, HeldKind::ALL.map(HeldKind::pod_kind), |path| {
        &path[..path.len() - 1]
    });
    format!("({template})")
}

/// The pod spec of any kind in [`POD_KINDS`]. No built-in kind has two of these fields, so the
/// first one that exists is the right one. The longest come first.
fn pod_spec(object: &str) -> String {
    either(object, &POD_KINDS, |path| path)
}

/// The first field that exists, of the paths of `kinds`.
fn either<'k>(
    object: &str,
    kinds: impl IntoIterator<Item = &'k PodKind>,
    of: impl Fn(&'static [&'static str]) -> &'static [&'static str],
) -> String {
    let mut paths: Vec<&[&str]> = Vec::new();
    for kind in kinds {
        let path = of(kind.path);
        if !paths.contains(&path) {
            paths.push(path);
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

/// The condition that existing violations may stay: a controller owns the object, or did until now,
/// or the request only writes the subresource.
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

/// The condition that a container sets a forbidden variable: in `env`, or in a word of its command.
/// It also accepts words that only look so; the rules decide about them.
fn adds_forbidden_env() -> String {
    let lists = json!(CONTAINER_LISTS);
    let exempt = existing_counts();
    let (new, old) = (pod_spec("object"), pod_spec("oldObject"));
    let there = |condition: &str| {
        format!("!({exempt} && {old}[?l].orValue([]).exists(d, d.name == c.name && {condition}))")
    };
    let words = |container: &str| {
        format!("({container}.?command.orValue([]) + {container}.?args.orValue([]))")
    };
    let variable = there("d.?env.orValue([]).exists(f, f.name == e.name)");
    let word = there(&format!("{}.exists(b, b.contains(k + \"=\"))", words("d")));
    format!(
        "{lists}.exists(l, {new}[?l].orValue([]).exists(c, \
         c.?env.orValue([]).exists(e, e.name in {FORBIDDEN_ENV} && {variable}) || \
         {}.exists(a, {FORBIDDEN_ENV}.exists(k, a.contains(k + \"=\") && {word}))))",
        words("c")
    )
}

fn adds_forbidden_key() -> String {
    let exempt = existing_counts();
    format!(
        "[\"data\", \"binaryData\"].exists(m, {FORBIDDEN_ENV}.exists(k, object[?m][?k].hasValue() && !({exempt} && oldObject[?m][?k].hasValue())))"
    )
}
