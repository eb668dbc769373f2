//! Gatekeeper with the same effect on a held Deployment: mutators that make the same patch, and a
//! constraint with the rule for forbidden variables. It gets requests of the same kinds, and a call
//! that fails rejects the request. As shipped, it gets requests of every kind, and a failed call is
//! ignored.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use migration_gate_core::gates::Config;
use migration_gate_core::prefilter::{mutating, validating};
use serde_json::{Value, json};
use testkit::process::Process;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

use super::admission::{await_effect, injected, selector};

/// Its own namespace, where it keeps its state.
const OWN: &str = "gatekeeper-system";
const PORT: u16 = 18320;

/// A rule like one of ours: no container sets the variable.
pub(super) const TEMPLATE: &str = r#"
apiVersion: templates.gatekeeper.sh/v1
kind: ConstraintTemplate
metadata: {name: forbiddenenv}
spec:
  crd: {spec: {names: {kind: ForbiddenEnv}}}
  targets:
  - target: admission.k8s.gatekeeper.sh
    rego: |
      package forbiddenenv
      violation[{"msg": msg}] {
        forbidden(input.review.object.spec.template.spec.containers[_].env[_])
        msg := "PIEFED_INIT_CONTAINER is set"
      }
      violation[{"msg": msg}] {
        forbidden(input.review.object.spec.containers[_].env[_])
        msg := "PIEFED_INIT_CONTAINER is set"
      }
      forbidden(variable) {
        variable.name == "PIEFED_INIT_CONTAINER"
      }
"#;

/// Starts it for the gate's namespace, and waits until it takes effect.
pub(super) fn serve(
    sandbox: &Sandbox,
    plane: &Plane,
    program: &Path,
    config: &Config,
) -> Result<Process> {
    let kubectl = &plane.kubectl;
    kubectl.define(&program.with_file_name("gatekeeper-crds"))?;
    kubectl.run(&format!("create namespace {OWN}"))?;
    let server = start(sandbox, plane, program)?;

    kubectl.apply(TEMPLATE)?;
    let namespace = &config.gates[0].namespace;
    let constraint = constraint(&json!({
        "namespaces": [namespace],
        "kinds": [
            {"apiGroups": ["apps"], "kinds": ["Deployment"]},
            {"apiGroups": [""], "kinds": ["Pod"]},
        ],
    }));
    // The server makes this kind from the template.
    server.await_ready(
        "Gatekeeper to take the constraint",
        Duration::from_mins(1),
        || kubectl.apply(&constraint),
    )?;
    for (field, value) in injected(config)? {
        for assign in assigns(namespace, &field, &value)? {
            kubectl.apply(&assign.to_string())?;
        }
    }
    let authority = STANDARD.encode(fs::read(plane.server.authority().pair().certificate)?);
    for (kind, path, rules) in [
        ("Mutating", "mutate", mutating().remove(0).of(config).rules),
        (
            "Validating",
            "admit",
            validating().remove(0).of(config).rules,
        ),
    ] {
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": format!("{kind}WebhookConfiguration"),
            "metadata": {"name": "bench-gatekeeper"},
            "webhooks": [{
                "name": format!("{path}.gatekeeper.sh"),
                "admissionReviewVersions": ["v1"], "sideEffects": "None",
                "failurePolicy": "Fail", "timeoutSeconds": 5,
                "clientConfig": {
                    "url": format!("https://localhost:{PORT}/v1/{path}"), "caBundle": authority,
                },
                "namespaceSelector": selector(namespace), "rules": rules,
            }],
        });
        kubectl.apply(&configuration.to_string())?;
    }
    await_effect(plane, config)?;
    Ok(server)
}

fn start(sandbox: &Sandbox, plane: &Plane, program: &Path) -> Result<Process> {
    let certificates = sandbox.state("bench-gatekeeper")?;
    let pair = plane
        .server
        .authority()
        .server("bench-gatekeeper", &["localhost"], &[])?;
    fs::copy(pair.certificate, certificates.join("tls.crt"))?;
    fs::copy(pair.key, certificates.join("tls.key"))?;
    let mut command = Command::new(program);
    command
        .env("POD_NAMESPACE", OWN)
        .env("POD_NAME", "gatekeeper")
        .arg(format!("--kubeconfig={}", plane.server.admin().display()))
        .arg(format!("--cert-dir={}", certificates.display()))
        .arg(format!("--port={PORT}"))
        .arg(format!("--health-addr=127.0.0.1:{}", PORT + 1))
        .arg(format!("--prometheus-port={}", PORT + 2))
        .args(["--host=127.0.0.1", "--log-level=WARNING"])
        .args(["--operation=webhook", "--operation=mutation-webhook"])
        // It makes the constraint's kind.
        .arg("--operation=generate")
        // Of what it does besides, nothing that an admission needs.
        .args(["--disable-cert-rotation", "--debug-use-fake-pod"])
        .args([
            "--enable-external-data=false",
            "--default-create-vap-for-templates=false",
        ])
        .arg("--default-create-vap-binding-for-constraints=false");
    Process::spawn("gatekeeper", &sandbox.logs("bench")?, &mut command)
}

/// The rule, active where this matches.
pub(super) fn constraint(matches: &Value) -> String {
    json!({
        "apiVersion": "constraints.gatekeeper.sh/v1beta1", "kind": "ForbiddenEnv",
        "metadata": {"name": "forbidden-env"}, "spec": {"match": matches},
    })
    .to_string()
}

/// The mutators that give a field of the pod spec this value: one for a scalar, and one for each
/// element of a list.
fn assigns(namespace: &str, field: &str, value: &Value) -> Result<Vec<Value>> {
    let assign = |name: &str, location: String, value: &Value| {
        json!({
            "apiVersion": "mutations.gatekeeper.sh/v1", "kind": "Assign",
            "metadata": {"name": name},
            "spec": {
                "applyTo": [{"groups": ["apps"], "versions": ["v1"], "kinds": ["Deployment"]}],
                "match": {"scope": "Namespaced", "namespaces": [namespace]},
                "location": location, "parameters": {"assign": {"value": value}},
            },
        })
    };
    let location = format!("spec.template.spec.{field}");
    let Some(elements) = value.as_array() else {
        return Ok(vec![assign(&field.to_lowercase(), location, value)]);
    };
    let of = |element: &Value| {
        let name = element["name"].as_str().context("a name")?;
        let location = format!(r#"{location}[name: "{name}"]"#);
        Ok(assign(name, location, element))
    };
    elements.iter().map(of).collect()
}
