//! What can't be, although it is well-formed.

use std::collections::{BTreeMap, BTreeSet};

use super::{Config, Gate, LabelOperator, LabelSelector, Resources};
use crate::field::FieldPath;
use crate::names;

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub field: FieldPath,
    /// What is wrong with its value, and what would be right.
    pub message: String,
}

impl Config {
    /// Everything that is wrong. Empty for a configuration that can be used.
    pub fn problems(&self) -> Vec<Problem> {
        problems(self)
            .into_iter()
            .map(|(field, message)| Problem { field, message })
            .collect()
    }
}

type Found = (FieldPath, String);

fn problems(config: &Config) -> Vec<Found> {
    let mut problems = Vec::new();
    let top = |key: &str| FieldPath::default().key(key);
    if config.gates.is_empty() {
        problems.push((
            top("gates"),
            "there is none, so nothing would ever wait; list at least one".to_owned(),
        ));
    }
    let mut names_seen = BTreeSet::new();
    let mut held = BTreeMap::new();
    for (i, gate) in config.gates.iter().enumerate() {
        let at = top("gates").index(i);
        if !names_seen.insert(&gate.name) {
            problems.push((
                at.clone().key("name"),
                format!("`{}` is used twice", gate.name),
            ));
        }
        for name in &gate.deployments {
            if let Some(other) = held.insert((&gate.namespace, name), &gate.name) {
                problems.push((
                    at.clone().key("deployments"),
                    format!(
                        "Deployment {}/{name} is held by gate `{other}` already",
                        gate.namespace
                    ),
                ));
            }
        }
        gate_problems(gate, &at, &mut problems);
    }
    for (i, name) in config.forbidden_env.iter().enumerate() {
        if name.is_empty() || name.contains(['=', '\0']) {
            problems.push((
                top("forbiddenEnv").index(i),
                format!("`{name}` cannot be the name of an environment variable"),
            ));
        }
    }
    let image = &config.waiter.image;
    if image.is_empty() || image.contains(char::is_whitespace) {
        problems.push((
            top("waiter").key("image"),
            format!("`{image}` is not an image reference"),
        ));
    }
    let at = top("waiter").key("resources");
    resource_problems(&config.waiter.resources, &at, &mut problems);
    problems
}

fn gate_problems(gate: &Gate, at: &FieldPath, problems: &mut Vec<Found>) {
    let mut check = |key: &str, result: Result<(), String>| {
        if let Err(cause) = result {
            problems.push((at.clone().key(key), cause));
        }
    };
    check("name", names::dns_label(&gate.name));
    check("namespace", names::dns_label(&gate.namespace));
    check("job", names::dns_subdomain(&gate.job));
    check(
        "serviceAccount",
        names::dns_subdomain(&gate.service_account),
    );
    for name in &gate.deployments {
        check("deployments", names::dns_subdomain(name));
    }
    if let Some(selector) = &gate.selector {
        selector_problems(selector, &at.clone().key("selector"), problems);
    } else if gate.deployments.is_empty() {
        problems.push((
            at.clone(),
            "it holds no Deployment; set `deployments`, `selector`, or both".to_owned(),
        ));
    }
}

fn selector_problems(selector: &LabelSelector, at: &FieldPath, problems: &mut Vec<Found>) {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        problems.push((
            at.clone(),
            "it is empty and would hold every Deployment of the namespace".to_owned(),
        ));
    }
    for (key, value) in &selector.match_labels {
        let at = at.clone().key("matchLabels").key(key);
        let result = label_key(key).and_then(|()| label_value(value));
        problems.extend(result.err().map(|cause| (at, cause)));
    }
    for (i, requirement) in selector.match_expressions.iter().enumerate() {
        let at = at.clone().key("matchExpressions").index(i);
        if let Err(cause) = label_key(&requirement.key) {
            problems.push((at.clone().key("key"), cause));
        }
        for (j, value) in requirement.values.iter().enumerate() {
            if let Err(cause) = label_value(value) {
                problems.push((at.clone().key("values").index(j), cause));
            }
        }
        let wanted = match requirement.operator {
            LabelOperator::In | LabelOperator::NotIn if requirement.values.is_empty() => {
                "at least one value"
            }
            LabelOperator::Exists | LabelOperator::DoesNotExist
                if !requirement.values.is_empty() =>
            {
                "no values"
            }
            _ => continue,
        };
        problems.push((
            at.key("values"),
            format!("the operator {:?} needs {wanted}", requirement.operator),
        ));
    }
}

/// A label's key: a name of at most 63 characters, perhaps with a DNS subdomain and a slash before it.
fn label_key(key: &str) -> Result<(), String> {
    let (prefix, name) = match key.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, key),
    };
    if prefix.is_none_or(|prefix| names::dns_subdomain(prefix).is_ok())
        && !name.is_empty()
        && label_value(name).is_ok()
    {
        Ok(())
    } else {
        Err(format!(
            "`{key}` is not a label's key, such as `app.kubernetes.io/part-of`"
        ))
    }
}

fn label_value(value: &str) -> Result<(), String> {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let outer = |c: char| c.is_ascii_alphanumeric();
    if value.is_empty()
        || (value.len() <= 63
            && value.chars().all(inner)
            && value.starts_with(outer)
            && value.ends_with(outer))
    {
        Ok(())
    } else {
        Err(format!(
            "`{value}` is not a label's value: at most 63 letters, digits, `-`, `_` and `.`, a letter or digit at both ends"
        ))
    }
}

/// The API server would refuse every held Deployment with words about a container that its author never wrote.
fn resource_problems(resources: &Resources, at: &FieldPath, problems: &mut Vec<Found>) {
    for (field, quantities) in [
        ("requests", &resources.requests),
        ("limits", &resources.limits),
    ] {
        for (resource, text) in quantities {
            if quantity(text).is_none() {
                problems.push((
                    at.clone().key(field).key(resource),
                    format!("`{text}` is not a quantity; write it as `100m`, `0.1` or `32Mi`"),
                ));
            }
        }
    }
    for (resource, request) in &resources.requests {
        if let Some(limit) = resources.limits.get(resource)
            && let (Some(low), Some(high)) = (quantity(request), quantity(limit))
            && low > high
        {
            problems.push((
                at.clone().key("requests").key(resource),
                format!("`{request}` is more than the limit, `{limit}`"),
            ));
        }
    }
}

/// A Kubernetes quantity that isn't negative, in its base unit.
/// See <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
fn quantity(text: &str) -> Option<f64> {
    const SUFFIXES: [(&str, f64); 15] = [
        ("Ki", 1024.0),
        ("Mi", 1_048_576.0),
        ("Gi", 1_073_741_824.0),
        ("Ti", 1_099_511_627_776.0),
        ("Pi", 1_125_899_906_842_624.0),
        ("Ei", 1_152_921_504_606_846_976.0),
        ("n", 1e-9),
        ("u", 1e-6),
        ("m", 1e-3),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("P", 1e15),
        ("E", 1e18),
    ];
    let (number, unit) = SUFFIXES
        .iter()
        .find_map(|(suffix, unit)| Some((text.strip_suffix(suffix)?, *unit)))
        .unwrap_or((text, 1.0));
    // A suffix takes the exponent's place.
    let exponent = unit.to_bits() == 1f64.to_bits();
    let plain = number.chars().all(|c| {
        c.is_ascii_digit() || c == '.' || c == '+' || (exponent && matches!(c, 'e' | 'E' | '-'))
    });
    let value: f64 = number.parse().ok().filter(|_| plain)?;
    (value.is_finite() && value.is_sign_positive()).then_some(value * unit)
}
