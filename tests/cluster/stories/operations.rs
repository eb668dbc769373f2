//! migration-gate itself is upgraded, uninstalled and ejected while an application runs.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::api::{EvictParams, ResourceExt};
use serde_json::{Value, json};

use super::application::{Application, JOB, WAITER, WEB, WORKER};
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::poll::until_is;
use testkit::release::Release;
use testkit::{image, process};

testkit::tests! {
    exclusive: migration_gate_is_upgraded_then_uninstalled_then_ejected;
}

/// The namespace of the built-in gate.
pub(super) const NAMESPACE: &str = "piefed-application";

fn migration_gate_is_upgraded_then_uninstalled_then_ejected(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let application = Application::new(cluster, cluster.namespace_named(NAMESPACE)?)?;
    let kubectl = application.kubectl();
    let release = Release::install(cluster)?;
    let kustomization = flux.kustomization(NAMESPACE)?;
    // Only the chart has the ServiceAccount and the Role, so the test sees what deletes them.
    let chart_owns_rbac: Vec<_> = ["ServiceAccount", "Role", "RoleBinding"]
        .map(|kind| json!({"target": {"kind": kind}, "patch": format!("{{\"$patch\": \"delete\", \"kind\": \"{kind}\", \"metadata\": {{\"name\": \"piefed-init-checker\"}}}}")}))
        .into();
    let folder = application.patched("1.0.0", &json!(chart_owns_rbac))?;
    let revision = kustomization.publish(&folder)?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;
    let before = running(&application)?;

    // Another release of migration-gate would inject another waiter.
    let (_, tag) = image::MIGRATION_GATE_NEXT
        .rsplit_once(':')
        .context("a tag")?;
    cluster.tag(image::MIGRATION_GATE, image::MIGRATION_GATE_NEXT)?;
    release.helm("upgrade", &format!("--wait --set=image.tag={tag}"))?;
    kustomization.reconcile()?.success()?;
    ensure!(
        running(&application)? == before,
        "upgrading migration-gate restarted a pod"
    );
    let waiter = waiter_image(&application)?;
    ensure!(waiter == image::MIGRATION_GATE, "{waiter}");
    is_another_release(cluster, kubectl)?;

    release.uninstall()?;
    let left = kubectl.run(
        "get mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings \
         --selector=app.kubernetes.io/name=migration-gate --output=name",
    )?;
    ensure!(left.is_empty(), "helm uninstall left {left}");
    let gate = cluster.kubectl().in_namespace("migration-gate");
    let left = gate.run("get secrets,deployments --output=name")?;
    ensure!(left.is_empty(), "helm uninstall left {left}");
    let pods = gate.run("get pods --output=name")?;
    if !pods.is_empty() {
        gate.run("wait pods --all --for=delete --timeout=170s")?;
    }
    kustomization.reconcile()?.success()?;
    ensure!(
        running(&application)? == before,
        "uninstalling migration-gate restarted a pod"
    );

    // A day later, the Job is deleted, and a node is drained.
    day_passes(&application)?;
    let drained: Vec<_> = application
        .pods(WEB, "1.0.0")?
        .iter()
        .map(ResourceExt::name_any)
        .collect();
    evict(&application)?;
    let mut pods = application.pods(WEB, "1.0.0")?;
    pods.retain(|pod| !drained.contains(&pod.name_any()));
    ensure!(
        pods.len() == 1,
        "one pod was evicted, {} are new",
        pods.len()
    );
    for pod in pods {
        application.says(&pod.name_any(), "open: the record has version 1.0.0")?;
    }

    // Eject the waiters, in one roll-out.
    let shown = eject(cluster, &[])?;
    ensure!(shown.contains("Nothing was changed"), "{shown}");
    let generation = |deployment: &str| -> Result<i64> {
        let found = kubectl.get(&format!("deployment {deployment}"))?;
        found["metadata"]["generation"]
            .as_i64()
            .context("a generation")
    };
    let generations = (generation(WEB)?, generation(WORKER)?);
    let said = eject(cluster, &["--yes"])?;
    ensure!(
        (generation(WEB)?, generation(WORKER)?) == (generations.0 + 1, generations.1 + 1),
        "{said}"
    );
    application.rolled_out()?;
    let left = kubectl.run(
        "get serviceaccounts,roles,rolebindings,configmaps,secrets,deployments,jobs --output=yaml",
    )?;
    for trace in [
        WAITER,
        "migration-gate.io",
        "piefed-init-checker",
        "migration-gate-piefed",
    ] {
        ensure!(!left.contains(trace), "eject left `{trace}` in\n{left}");
    }
    kustomization.reconcile()?.success()?;
    ensure!((generation(WEB)?, generation(WORKER)?) == (generations.0 + 1, generations.1 + 1));

    let seen = traffic.stop()?;
    eprintln!("stories: migration-gate upgraded, uninstalled and ejected: {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()
}

/// Checks that the server is of the other release, and that it would inject the other waiter.
fn is_another_release(cluster: &Cluster, kubectl: &Kubectl) -> Result<()> {
    let gate = cluster.kubectl().in_namespace("migration-gate");
    let serving = gate.run(
        "get deployment migration-gate --output=jsonpath={.spec.template.spec.containers[0].image}",
    )?;
    ensure!(serving == image::MIGRATION_GATE_NEXT, "{serving}");
    // A replica of the last release may still answer while it drains.
    let change = r#"{"spec":{"template":{"metadata":{"annotations":{"a":"b"}}}}}"#;
    let changed = || {
        kubectl.run(&format!(
            "patch deployment/{WEB} --dry-run=server --output=yaml --patch={change}"
        ))
    };
    let wait = Duration::from_secs(30);
    until_is("the next release's waiter", wait, changed, |changed| {
        changed.contains(image::MIGRATION_GATE_NEXT)
    })
}

/// Lets the Job's TTL end.
fn day_passes(application: &Application) -> Result<()> {
    let kubectl = application.kubectl();
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"ttlSecondsAfterFinished":1}}}}"#
    ))?;
    kubectl.wait(&format!("job/{JOB}"), "delete", 60)
}

/// Evicts a pod of each held Deployment, and waits until there are as many as before.
pub(super) fn evict(application: &Application) -> Result<()> {
    let pods = application.api::<k8s_openapi::api::core::v1::Pod>();
    for deployment in [WEB, WORKER] {
        let pod = application
            .pods(deployment, "1.0.0")?
            .first()
            .map(ResourceExt::name_any);
        let pod = pod.with_context(|| format!("{deployment} has no pod"))?;
        block_on(pods.evict(&pod, &EvictParams::default()))?;
        application
            .kubectl()
            .wait(&format!("pod/{pod}"), "delete", 60)?;
    }
    application.rolled_out()
}

/// The application's pods, and how often each has restarted.
fn running(application: &Application) -> Result<Vec<Value>> {
    Ok([
        application.pods(WEB, "1.0.0")?,
        application.pods(WORKER, "1.0.0")?,
    ]
    .concat()
    .iter()
    .map(|pod| {
        let pod = json!(pod);
        json!([
            pod["metadata"]["uid"],
            pod["status"]["containerStatuses"][0]["restartCount"]
        ])
    })
    .collect())
}

fn waiter_image(application: &Application) -> Result<String> {
    let found = application.kubectl().get(&format!("deployment {WEB}"))?;
    let waiter = &found["spec"]["template"]["spec"]["initContainers"][0];
    Ok(waiter["image"].as_str().unwrap_or_default().to_owned())
}

/// Runs `migration-gate eject` as the cluster's administrator.
fn eject(cluster: &Cluster, options: &[&str]) -> Result<String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
    command
        .arg("eject")
        .args(options)
        .env("KUBECONFIG", &cluster.kubectl().kubeconfig);
    process::run(&mut command, "", Duration::from_mins(4))?.success()
}
