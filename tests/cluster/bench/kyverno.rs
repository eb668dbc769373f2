//! Kyverno with the same effect on a held Deployment: its policies have the CEL expressions of the
//! in-tree ones. It writes its webhook configurations by itself, for the kinds of its policies and
//! for the namespace that its own configuration selects.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use migration_gate_core::gates::Config;
use serde_json::json;
use testkit::process::Process;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

use super::admission::{await_effect, selector};
use super::policies::{Rules, manifest};

/// Its own namespace, where it keeps its state.
const OWN: &str = "kyverno";
const PORT: u16 = 18330;

/// Starts it for the gate's namespace, and waits until it takes effect.
pub(super) fn serve(
    sandbox: &Sandbox,
    plane: &Plane,
    program: &Path,
    config: &Config,
) -> Result<Process> {
    let kubectl = &plane.kubectl;
    kubectl.define(&program.with_file_name("kyverno-crds"))?;
    kubectl.run(&format!("create namespace {OWN}"))?;
    let namespaces = json!({"namespaceSelector": selector(&config.gates[0].namespace)});
    for (name, data) in [
        ("kyverno", json!({"webhooks": namespaces.to_string()})),
        ("kyverno-metrics", json!({})),
    ] {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": OWN}, "data": data,
        });
        kubectl.apply(&map.to_string())?;
    }
    let server = start(sandbox, plane, program)?;

    let rules = Rules::of(config)?;
    for (kind, spec) in [("Mutating", rules.to_inject), ("Validating", rules.to_deny)] {
        let policy = manifest(
            "policies.kyverno.io/v1beta1",
            &format!("{kind}Policy"),
            &spec,
        );
        // The server has a webhook for these kinds.
        server.await_ready(
            "Kyverno to take its policies",
            Duration::from_mins(2),
            || kubectl.apply(&policy),
        )?;
    }
    await_effect(plane, config)?;
    Ok(server)
}

/// By the settings with which its developers run it beside an API server.
fn start(sandbox: &Sandbox, plane: &Plane, program: &Path) -> Result<Process> {
    let mut command = Command::new(program);
    command
        .envs([
            ("KYVERNO_NAMESPACE", OWN),
            (
                "KYVERNO_SERVICEACCOUNT_NAME",
                "kyverno-admission-controller",
            ),
            ("KYVERNO_DEPLOYMENT", "kyverno"),
            ("KYVERNO_POD_NAME", "kyverno"),
            ("INIT_CONFIG", "kyverno"),
            ("METRICS_CONFIG", "kyverno-metrics"),
        ])
        .arg(format!("--kubeconfig={}", plane.server.admin().display()))
        .arg(format!("--serverIP=127.0.0.1:{PORT}"))
        .arg("--webhookServerHost=127.0.0.1")
        .arg(format!("--webhookServerPort={PORT}"))
        .args(["--caSecretName=kyverno-ca", "--tlsSecretName=kyverno-tls"])
        .arg("--backgroundServiceAccountName=system:serviceaccount:kyverno:background")
        .arg("--reportsServiceAccountName=system:serviceaccount:kyverno:reports")
        // Of what it does besides, nothing that an admission needs.
        .args(["--admissionReports=false", "--disableMetrics=true", "-v=0"])
        .arg("--controllerRuntimeMetricsAddress=0");
    Process::spawn("kyverno", &sandbox.logs("bench")?, &mut command)
}
