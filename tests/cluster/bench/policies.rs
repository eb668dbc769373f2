//! The API server's own policies with the same effect on a held Deployment as the webhooks: the
//! same patch under the same condition, and the same rule for forbidden variables.

use anyhow::{Context as _, Result, bail};
use migration_gate_core::gates::Config;
use migration_gate_core::prefilter::{mutating, validating};
use serde_json::{Value, json};
use testkit::scene::Plane;

use super::admission::{await_effect, injected, selector};

const GROUP: &str = "admissionregistration.k8s.io/v1";

/// The specs of the two policies, without what binds them to a namespace.
pub(super) struct Rules {
    pub(super) to_inject: Value,
    pub(super) to_deny: Value,
}

impl Rules {
    pub(super) fn of(config: &Config) -> Result<Self> {
        let inject = mutating().remove(0).of(config);
        let deny = validating().remove(0).of(config);
        let condition = deny.match_conditions[0]["expression"]
            .as_str()
            .context("a condition")?;
        let constraints = |rules: &Value| json!({"resourceRules": rules});
        Ok(Self {
            to_inject: json!({
                "matchConstraints": constraints(&inject.rules), "failurePolicy": "Fail",
                "reinvocationPolicy": "IfNeeded", "matchConditions": inject.match_conditions,
                "mutations": [
                    {"patchType": "JSONPatch", "jsonPatch": {"expression": patch(config)?}},
                ],
            }),
            to_deny: json!({
                "matchConstraints": constraints(&deny.rules), "failurePolicy": "Fail",
                "validations": [{"expression": format!("!({condition})")}],
            }),
        })
    }
}

/// Installs them for the gate's namespace, and waits until they take effect.
pub(super) fn install(plane: &Plane, config: &Config) -> Result<()> {
    let rules = Rules::of(config)?;
    let namespace = &config.gates[0].namespace;
    let actions = json!(["Deny"]);
    for (kind, spec, actions) in [
        ("Mutating", rules.to_inject, None),
        ("Validating", rules.to_deny, Some(actions)),
    ] {
        let policy = manifest(GROUP, &format!("{kind}AdmissionPolicy"), &spec);
        plane.kubectl.apply(&policy)?;
        let mut spec = json!({
            "policyName": "bench", "matchResources": {"namespaceSelector": selector(namespace)},
        });
        if let Some(actions) = actions {
            spec["validationActions"] = actions;
        }
        let binding = manifest(GROUP, &format!("{kind}AdmissionPolicyBinding"), &spec);
        plane.kubectl.apply(&binding)?;
    }
    await_effect(plane, config)
}

/// A policy, or what belongs to one.
pub(super) fn manifest(api_version: &str, kind: &str, spec: &Value) -> String {
    json!({
        "apiVersion": api_version, "kind": kind,
        "metadata": {"name": "bench"}, "spec": spec,
    })
    .to_string()
}

/// The patch of the webhook, as CEL.
fn patch(config: &Config) -> Result<String> {
    let mut operations = Vec::new();
    for (field, value) in injected(config)? {
        let path = format!("/spec/template/spec/{field}");
        let kind = format!("Object.spec.template.spec.{field}");
        match value {
            // A list of typed objects as one value is a panic of the API server.
            Value::Array(elements) => {
                operations.push(operation(&path, "[]"));
                for element in &elements {
                    operations.push(operation(&format!("{path}/-"), &literal(&kind, element)));
                }
            }
            Value::String(_) | Value::Bool(_) => {
                operations.push(operation(&path, &literal(&kind, &value)));
            }
            _ => bail!("the patch changes {field} in a way that is not foreseen here: {value}"),
        }
    }
    Ok(format!("[{}]", operations.join(", ")))
}

fn operation(path: &str, value: &str) -> String {
    format!(r#"JSONPatch{{op: "add", path: "{path}", value: {value}}}"#)
}

/// A value in CEL, with the type that the API server knows by its path.
fn literal(kind: &str, value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let maps = kind.ends_with(".requests") || kind.ends_with(".limits");
            let members: Vec<String> = members
                .iter()
                .map(|(key, value)| {
                    let name = if maps {
                        json!(key).to_string()
                    } else {
                        key.clone()
                    };
                    format!("{name}: {}", literal(&format!("{kind}.{key}"), value))
                })
                .collect();
            let kind = if maps { "" } else { kind };
            format!("{kind}{{{}}}", members.join(", "))
        }
        Value::Array(elements) => {
            let elements: Vec<String> = elements.iter().map(|one| literal(kind, one)).collect();
            format!("[{}]", elements.join(", "))
        }
        scalar => scalar.to_string(),
    }
}
