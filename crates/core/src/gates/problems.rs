//! Impossible values in a well-formed configuration.

use std::collections::BTreeSet;

use super::{
    Config, Freshness, Gate, HeldKind, JobSource, LabelOperator, LabelSelector, Resources, Which,
};
use crate::field::FieldPath;
use crate::glob::Glob;
use crate::names;

/// A problem of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The path of the value.
    pub field: FieldPath,
    /// What is wrong with the value, and a correct one.
    pub message: String,
}

impl Config {
    /// All problems. Empty for a valid configuration.
    pub fn problems(&self) -> Vec<Problem> {
        problems(self)
            .into_iter()
            .map(|(field, message)| Problem { field, message })
            .collect()
    }
}

type Misfit = (FieldPath, String);

fn problems(config: &Config) -> Vec<Misfit> {
    let mut problems = Vec::new();
    let top = |key: &str| FieldPath::default().key(key);
    if config.gates.is_empty() {
        problems.push((
            top("gates"),
            "there is none, so nothing would ever wait; list at least one".to_owned(),
        ));
    }
    let mut names_seen = BTreeSet::new();
    for (i, gate) in config.gates.iter().enumerate() {
        let at = top("gates").index(i);
        if !names_seen.insert(&gate.name) {
            problems.push((
                at.clone().key("name"),
                format!("`{}` is used twice", gate.name),
            ));
        }
        overlaps(config, i, &at, &mut problems);
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

/// Workloads that an earlier gate names, too. For gates that overlap only by labels, admission and
/// review warn.
fn overlaps(config: &Config, gate: usize, at: &FieldPath, problems: &mut Vec<Misfit>) {
    let (earlier, gate) = (&config.gates[..gate], &config.gates[gate]);
    for (field, kind, name) in named(gate, at) {
        let other = earlier.iter().find(|other| {
            other.namespace == gate.namespace
                && named(other, &FieldPath::default())
                    .iter()
                    .any(|(_, of, others)| *of == kind && others.meets(&name))
        });
        if let Some(other) = other {
            let (kind, namespace, name) = (kind.as_str(), &gate.namespace, name.as_str());
            let cause = format!(
                "{kind} {namespace}/{name} is held by gate `{}` already",
                other.name
            );
            problems.push((field, cause));
        }
    }
}

/// The workloads that a gate names, with the paths of the names.
fn named(gate: &Gate, at: &FieldPath) -> Vec<(FieldPath, HeldKind, Glob)> {
    let short = gate.deployments.iter().filter_map(|name| {
        let name = Glob::parse(name).ok()?;
        Some((at.clone().key("deployments"), HeldKind::Deployment, name))
    });
    let workloads = gate
        .workloads
        .iter()
        .enumerate()
        .filter_map(|(i, workload)| {
            let at = at.clone().key("workloads").index(i).key("name");
            match &workload.which {
                Which::Name(name) => Some((at, workload.kind, name.clone())),
                Which::Labels(_) => None,
            }
        });
    short.chain(workloads).collect()
}

fn gate_problems(gate: &Gate, at: &FieldPath, problems: &mut Vec<Misfit>) {
    let mut check = |key: &str, result: Result<(), String>| {
        if let Err(cause) = result {
            problems.push((at.clone().key(key), cause));
        }
    };
    check("name", names::dns_label(&gate.name));
    check("namespace", names::dns_label(&gate.namespace));
    if let Some(job) = &gate.job {
        check("job", job_name(job));
    }
    check(
        "serviceAccount",
        names::dns_subdomain(&gate.service_account),
    );
    for account in &gate.extra_accounts {
        check("extraAccounts", names::dns_subdomain(account));
    }
    for name in &gate.deployments {
        check("deployments", names::dns_subdomain(name));
    }
    if let Some(container) = &gate.container {
        check("container", names::dns_label(container));
    }
    if let Some(source) = &gate.version {
        let at = at.clone().key("version");
        problems.extend(label_key(source.key()).err().map(|cause| (at, cause)));
    }
    for (i, glob) in gate.moving_tags.iter().flatten().enumerate() {
        let at = at.clone().key("movingTags").index(i);
        problems.extend(tag_pattern(glob).err().map(|cause| (at, cause)));
    }
    job_problems(gate, at, problems);
    workload_problems(gate, at, problems);
    version_problems(gate, at, problems);
}

fn job_problems(gate: &Gate, at: &FieldPath, problems: &mut Vec<Misfit>) {
    match (&gate.job, gate.jobs.as_slice()) {
        (None, []) => problems.push((
            at.clone(),
            "it waits for no Job; set `job` or `jobs`".to_owned(),
        )),
        (Some(_), [_, ..]) => problems.push((
            at.clone().key("job"),
            "it is short for one entry of `jobs`; write all of them there".to_owned(),
        )),
        _ => {}
    }
    let mut seen = BTreeSet::new();
    for (i, requirement) in gate.jobs.iter().enumerate() {
        let entry = at.clone().key("jobs").index(i);
        if !seen.insert(requirement.to_string()) {
            problems.push((entry.clone(), "it is listed twice".to_owned()));
        }
        for (j, source) in requirement.any_of.iter().enumerate() {
            let at = match requirement.any_of.len() {
                1 => entry.clone(),
                _ => entry.clone().key("anyOf").index(j),
            };
            match source {
                JobSource::Name(name) => {
                    problems.extend(job_name(name).err().map(|cause| (at.key("name"), cause)));
                }
                JobSource::Labels(selector) => {
                    selector_problems(selector, "match every Job", &at.key("selector"), problems);
                }
            }
        }
    }
}

fn workload_problems(gate: &Gate, at: &FieldPath, problems: &mut Vec<Misfit>) {
    if let Some(selector) = &gate.selector {
        let at = at.clone().key("selector");
        selector_problems(selector, "hold every Deployment", &at, problems);
    } else if gate.deployments.is_empty() && gate.workloads.is_empty() {
        problems.push((
            at.clone(),
            "it holds nothing; set `workloads`, or for Deployments `deployments` or `selector`"
                .to_owned(),
        ));
    }
    for (i, workload) in gate.workloads.iter().enumerate() {
        let at = at.clone().key("workloads").index(i);
        let kind = workload.kind.as_str();
        match &workload.which {
            Which::Name(name) => {
                let result = if name.matches_all() {
                    Err(format!("it would hold every {kind} of the namespace"))
                } else {
                    names::pattern(name)
                };
                problems.extend(result.err().map(|cause| (at.key("name"), cause)));
            }
            Which::Labels(selector) => {
                let all = format!("hold every {kind}");
                selector_problems(selector, &all, &at.key("selector"), problems);
            }
        }
    }
}

/// Keys that have no effect together with others.
fn version_problems(gate: &Gate, at: &FieldPath, problems: &mut Vec<Misfit>) {
    let without_effect = [
        (
            "container",
            gate.container.is_some(),
            gate.version.is_some(),
            "`version`",
        ),
        (
            "version",
            gate.version.is_some(),
            gate.freshness == Freshness::Any,
            "`freshness: any`",
        ),
        (
            "container",
            gate.container.is_some(),
            gate.freshness == Freshness::Any,
            "`freshness: any`",
        ),
    ];
    for (key, set, other, by) in without_effect {
        if set && other {
            let cause = format!("it has no effect beside {by}; remove one of them");
            problems.push((at.clone().key(key), cause));
        }
    }
}

fn job_name(name: &Glob) -> Result<(), String> {
    if name.matches_all() {
        return Err("it would match every Job of the namespace".to_owned());
    }
    names::pattern(name)
}

/// Checks that a pattern can match a tag. See the OCI distribution specification:
/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`.
fn tag_pattern(glob: &Glob) -> Result<(), String> {
    let text = glob.as_str();
    let in_tag = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    if text.is_empty() || text.starts_with(['.', '-']) || !glob.matches_some(in_tag, 128) {
        return Err(format!(
            "`{text}` matches no tag: a tag has at most 128 letters, digits, `_`, `.` and `-`; `*`, `?` and `[0-9]` stand for some"
        ));
    }
    Ok(())
}

fn selector_problems(
    selector: &LabelSelector,
    all: &str,
    at: &FieldPath,
    problems: &mut Vec<Misfit>,
) {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        problems.push((
            at.clone(),
            format!("it is empty and would {all} of the namespace"),
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

/// Checks a label's key: a name of at most 63 characters, which may have a DNS subdomain and a
/// slash before it.
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

/// Checks the waiter's resources. The API server would refuse every workload with invalid ones,
/// with a message about a container that its author did not write.
fn resource_problems(resources: &Resources, at: &FieldPath, problems: &mut Vec<Misfit>) {
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

/// Parses a Kubernetes quantity that is not negative, in its base unit. See
/// <https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/>.
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
    // A quantity has a suffix or an exponent, not both.
    let exponent = unit.to_bits() == 1f64.to_bits();
    let plain = number.chars().all(|c| {
        c.is_ascii_digit() || c == '.' || c == '+' || (exponent && matches!(c, 'e' | 'E' | '-'))
    });
    let value: f64 = number.parse().ok().filter(|_| plain)?;
    (value.is_finite() && value.is_sign_positive()).then_some(value * unit)
}

#[cfg(test)]
mod tests;
