//! Ejecting one gate of two, and then the whole release.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use testkit::client::await_list;
use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::process::{self, Finished, says};
use testkit::release::Release;

testkit::tests! {
    exclusive:
        ejecting_one_gate_of_a_namespace_leaves_the_other,
        an_account_that_is_needed_elsewhere_stays;
}

const APPLICATION: &str = "piefed-application";

/// Two gates in one namespace that share a ServiceAccount.
fn gates(names: &[&str]) -> Value {
    names
        .iter()
        .map(|name| {
            json!({
                "name": name, "namespace": APPLICATION, "job": format!("{name}-migrate"),
                "deployments": [name], "serviceAccount": "checker",
            })
        })
        .collect()
}

/// A held Deployment whose pods the test makes ready.
fn deployment(name: &str, account: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{selector: {{matchLabels: {{app: {name}}}}}, \
         template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 0, {account} \
         containers: [{{name: main, image: {BUSYBOX}, \
         readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1}}}}]}}}}}}}}"
    )
}

fn eject(cluster: &Cluster, config: &Path, options: &[&str]) -> Result<Finished> {
    process::run(
        &mut command(cluster, config, options),
        "",
        Duration::from_mins(4),
    )
}

/// The same with an output that no process reads, as in `| head -1`.
fn eject_unread(cluster: &Cluster, config: &Path, options: &[&str]) -> Result<()> {
    let (reader, writer) = std::io::pipe()?;
    drop(reader);
    let output = command(cluster, config, options).stdout(writer).output()?;
    ensure!(
        output.status.success(),
        "{}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn command(cluster: &Cluster, config: &Path, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
    command
        .args(["eject", "--config"])
        .arg(config)
        .args(options)
        .env("KUBECONFIG", &cluster.kubectl().kubeconfig);
    command
}

fn template(kubectl: &Kubectl, name: &str) -> Result<Value> {
    Ok(kubectl.get(&format!("deployment {name}"))?["spec"]["template"]["spec"].take())
}

/// Makes those pods of a Deployment ready that no longer have a waiter.
fn make_ready(cluster: &Cluster, application: &Namespace, name: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(cluster.client(), &application.name);
    let pod = await_list(
        &pods,
        &format!("app={name}"),
        &format!("a running pod of {name} without a waiter"),
        Duration::from_mins(3),
        |pods| {
            let mut pods = pods.iter().map(|pod| json!(**pod));
            let pod = pods.find(|pod| {
                pod["spec"].get("initContainers").is_none() && pod["status"]["phase"] == "Running"
            })?;
            pod["metadata"]["name"].as_str().map(str::to_owned)
        },
    )?;
    application
        .kubectl
        .exec(&format!("pod/{pod}"), &["touch", "/tmp/ready"])?;
    Ok(())
}

fn ejecting_one_gate_of_a_namespace_leaves_the_other(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install_with(
        cluster,
        &json!({"replicas": 1, "gates": gates(&["web", "worker"])}),
    )?;
    kubectl.apply(&deployment("web", ""))?;
    kubectl.apply(&deployment("worker", ""))?;
    // As the chart's notes describe.
    let folder = tempfile::tempdir()?;
    let saved = folder.path().join("gates.yaml");
    let config = release
        .kubectl()
        .run("get configmap migration-gate -o=jsonpath={.data.config\\.yaml}")?;
    fs::write(&saved, config)?;
    let refusal = eject(cluster, &saved, &["--yes"])?.failure()?;
    says(&refusal, &["would inject the waiters of gate web again"])?;

    // One gate is removed, and the release stays.
    release.helm(
        "upgrade",
        &format!("--wait --set-json=gates={}", gates(&["worker"])),
    )?;
    let before = kubectl.get("deployment worker")?;
    let refusal = eject(cluster, &saved, &["--gate=worker"])?.failure()?;
    ensure!(refusal.contains("gate worker"), "{refusal}");
    let shown = eject(cluster, &saved, &["--gate=web"])?.success()?;
    let parts = [
        "Deployment piefed-application/web: one roll-out",
        "ServiceAccount piefed-application/checker: kept, because Deployment piefed-application/worker names it",
        "Deployment piefed-application/worker: not changed, because its waiter belongs to gate worker",
        "Nothing was changed",
    ];
    says(&shown, &parts)?;
    let eject_web = ["--gate=web", "--yes", "--timeout=170s"];
    std::thread::scope(|scope| -> Result<()> {
        let ejecting = scope.spawn(|| eject_unread(cluster, &saved, &eject_web));
        make_ready(cluster, &application, "web")?;
        ejecting
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        Ok(())
    })?;
    ensure!(template(kubectl, "web")?.get("initContainers").is_none());
    let after = kubectl.get("deployment worker")?;
    ensure!(
        before["spec"] == after["spec"]
            && before["metadata"]["generation"] == after["metadata"]["generation"],
        "{before:#}\nbecame\n{after:#}"
    );
    let left = kubectl.run("get roles,rolebindings,serviceaccounts --output=name")?;
    let parts = [
        "role.rbac.authorization.k8s.io/migration-gate-worker-wait",
        "rolebinding.rbac.authorization.k8s.io/migration-gate-worker-wait",
        "serviceaccount/checker",
    ];
    says(&left, &parts)?;
    ensure!(!left.contains("migration-gate-web"), "{left}");

    // The release is uninstalled, and the roll-out hangs. A second run waits as long as the first.
    release.uninstall()?;
    for _ in 0..2 {
        let said = eject(cluster, &saved, &["--yes", "--timeout=1s"])?.failure()?;
        let parts = ["nothing was deleted", "Pod piefed-application/worker-"];
        says(&said, &parts)?;
        kubectl.run("get role/migration-gate-worker-wait rolebinding/migration-gate-worker-wait serviceaccount/checker")?;
    }
    make_ready(cluster, &application, "worker")?;
    let said = eject(cluster, &saved, &["--yes"])?.success()?;
    ensure!(said.contains("Done."), "{said}");
    let spec = template(kubectl, "worker")?;
    for field in [
        "initContainers",
        "volumes",
        "serviceAccountName",
        "automountServiceAccountToken",
    ] {
        ensure!(spec.get(field).is_none(), "{field}: {spec}");
    }
    let left = kubectl.run(
        "get roles,rolebindings,serviceaccounts,configmaps --selector=app.kubernetes.io/name=migration-gate --output=name",
    )?;
    ensure!(left.is_empty(), "{left}");
    let said = eject(cluster, &saved, &[])?.success()?;
    ensure!(said.contains("Nothing of migration-gate is left"), "{said}");
    Ok(())
}

fn an_account_that_is_needed_elsewhere_stays(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let folder = tempfile::tempdir()?;
    let saved = folder.path().join("gates.yaml");
    fs::write(&saved, json!({"gates": gates(&["web"])}).to_string())?;
    let release =
        Release::install_with(cluster, &json!({"replicas": 1, "gates": gates(&["web"])}))?;
    kubectl.apply(&deployment("named", "serviceAccountName: checker,"))?;
    release.uninstall()?;
    let said = eject(cluster, &saved, &["--yes"])?.success()?;
    let part = "kept, because Deployment piefed-application/named names it";
    says(&said, &[part])?;
    kubectl.run("get serviceaccount/checker")?;
    kubectl.run("delete deployment named")?;
    kubectl
        .apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: checker}}")
        .context("the application takes the account over")?;
    let said = eject(cluster, &saved, &["--yes"])?.success()?;
    says(&said, &["kept, because another client has applied it"])?;
    kubectl.run("get serviceaccount/checker")?;
    Ok(())
}
