//! The API server's own policies with the same effect on a held Deployment as the webhooks: the
//! same patch under the same condition, and the same rule for forbidden variables.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use migration_gate_core::gates::Config;
use migration_gate_core::mutate::mutate;
use migration_gate_core::prefilter::{mutating, validating};
use migration_gate_core::request::Request;
use serde_json::{Value, json};
use testkit::client::block_on;
use testkit::poll::{Look, until};
use testkit::scene::Plane;

use super::admission::{CREATED, deployment, is_injected, selector};

/// Installs the policies for one namespace, and waits until they are active.
pub(super) fn install(plane: &Plane, config: &Config, namespace: &str) -> Result<()> {
    let inject = mutating().remove(0).of(config);
    let refuse = validating().remove(0).of(config);
    let condition = refuse.match_conditions[0]["expression"]
        .as_str()
        .context("a condition")?;
    let constraints = |rules: &Value| json!({"resourceRules": rules});
    plane.kubectl.apply(&policy(
        "Mutating",
        &json!({
            "matchConstraints": constraints(&inject.rules), "failurePolicy": "Fail",
            "reinvocationPolicy": "IfNeeded", "matchConditions": inject.match_conditions,
            "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": patch(config)?}}],
        }),
    ))?;
    plane.kubectl.apply(&policy(
        "Validating",
        &json!({
            "matchConstraints": constraints(&refuse.rules), "failurePolicy": "Fail",
            "validations": [{"expression": format!("!({condition})")}],
        }),
    ))?;
    let actions = json!(["Deny"]);
    for (kind, actions) in [("Mutating", None), ("Validating", Some(actions))] {
        let mut spec = json!({
            "policyName": "bench", "matchResources": {"namespaceSelector": selector(namespace)},
        });
        if let Some(actions) = actions {
            spec["validationActions"] = actions;
        }
        plane.kubectl.apply(
            &json!({
                "apiVersion": "admissionregistration.k8s.io/v1",
                "kind": format!("{kind}AdmissionPolicyBinding"),
                "metadata": {"name": "bench"}, "spec": spec,
            })
            .to_string(),
        )?;
    }
    until(
        "a held Deployment to be injected by policies",
        Duration::from_mins(1),
        || match block_on(is_injected(&plane.client, namespace)) {
            Ok(()) => Look::Done(()),
            Err(error) => Look::Pending(format!("{error:#}")),
        },
    )?;
    let mut forbidden = deployment(CREATED);
    forbidden["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": config.forbidden_env.first(), "value": "true"}]);
    let create = format!("create --dry-run=server --namespace={namespace} -f -");
    let create: Vec<&str> = create.split(' ').collect();
    until(
        "a forbidden variable to be refused by policies",
        Duration::from_mins(1),
        || match plane
            .kubectl
            .output(&create, &forbidden.to_string(), Duration::from_secs(30))
        {
            Ok(done) if !done.status.success() && done.stderr.contains("denied") => Look::Done(()),
            Ok(done) => Look::Pending(done.stderr),
            Err(error) => Look::Failed(error),
        },
    )
}

fn policy(kind: &str, spec: &Value) -> String {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}AdmissionPolicy"),
        "metadata": {"name": "bench"}, "spec": spec,
    })
    .to_string()
}

/// The patch of the webhook, as CEL.
fn patch(config: &Config) -> Result<String> {
    let deployment = deployment(CREATED);
    let request = Request::create(&deployment, &config.gates[0].namespace).context("an object")?;
    let mut patched = deployment.clone();
    json_patch::patch(&mut patched, &mutate(config, &request).patch)?;
    let (before, after) = (
        &deployment["spec"]["template"]["spec"],
        &patched["spec"]["template"]["spec"],
    );
    let mut operations = Vec::new();
    for (field, value) in after.as_object().context("a pod spec")? {
        if before.get(field) == Some(value) {
            continue;
        }
        let path = format!("/spec/template/spec/{field}");
        let kind = format!("Object.spec.template.spec.{field}");
        match value {
            // The API server panics on a list of typed objects as one value, so add its elements
            // one by one.
            Value::Array(elements) if before.get(field).is_none() => {
                operations.push(operation(&path, "[]"));
                for element in elements {
                    operations.push(operation(&format!("{path}/-"), &literal(&kind, element)));
                }
            }
            Value::String(_) | Value::Bool(_) => {
                operations.push(operation(&path, &literal(&kind, value)));
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
