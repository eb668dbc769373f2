//! This program's own chart, installed by Argo CD as in `examples/argo-cd`.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::instance::{ArgoApplication, ArgoCd};
use super::{V2, V3};
use crate::stories::stage::gate;
use crate::waiter::application::{GatedApplication, JOB, manifests};
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::{image, process, ungated};

testkit::tests! {
    exclusive: the_chart_is_installed_upgraded_and_a_gate_retired;
}

const NAME: &str = "migration-gate";
/// A gate that stays, and one that is removed.
const STAYS: &str = "argo-stays";
const RETIRES: &str = "argo-retires";

/// The values in an Application.
fn values(image: &str, gates: &[&str]) -> Result<Value> {
    let (repository, tag) = image.rsplit_once(':').context("a tag")?;
    let gates: Vec<Value> = gates.iter().copied().map(gate).collect();
    let mut values = json!({
        "image": {"repository": repository, "tag": tag}, "gates": gates,
        // Argo CD renders without a cluster, so the chart cannot see whether the ServiceAccount
        // exists.
        "rbac": {"accounts": false},
    });
    if let Some(ungated) = ungated::values() {
        json_patch::merge(&mut values, &ungated);
    }
    Ok(values)
}

/// A commit with the chart, and the Application that renders it.
fn install(cluster: &Cluster, values: &Value) -> Result<ArgoApplication> {
    let argo_cd = ArgoCd::of(cluster)?;
    let application = argo_cd.application_with(
        NAME,
        &json!({}),
        &json!({
            "source": {"path": "chart", "helm": {"valuesObject": values}},
            "syncPolicy": {
                "automated": {"prune": true, "selfHeal": true},
                "syncOptions": ["CreateNamespace=true", "ServerSideApply=true"],
            },
        }),
    )?;
    let mut copy = Command::new("cp");
    copy.arg("-r")
        .arg(repository().join("charts/migration-gate"));
    copy.arg(application.repository.join("chart"));
    process::run(&mut copy, "", Duration::from_secs(10))?.success()?;
    application.push("")?;
    Ok(application)
}

fn the_chart_is_installed_upgraded_and_a_gate_retired(cluster: &Cluster) -> Result<()> {
    cluster.tag(image::MIGRATION_GATE, image::MIGRATION_GATE_NEXT)?;
    let gated = |name| -> Result<GatedApplication> {
        let namespace = cluster.namespace_named(name)?;
        namespace
            .kubectl
            .run("create serviceaccount piefed-init-checker")?;
        Ok(GatedApplication::of(cluster, namespace))
    };
    let (stays, retires) = (gated(STAYS)?, gated(RETIRES)?);
    let both = [STAYS, RETIRES];
    let release = install(cluster, &values(image::MIGRATION_GATE, &both)?)?;
    release.until("to be installed", |object| {
        is_well(object, image::MIGRATION_GATE)
    })?;
    for application in [&stays, &retires] {
        application.kubectl().apply(&manifests(V2))?;
        application.migrates_first(V2)?;
    }
    // The server's writes to the webhook configurations do not count as drift.
    let compared = release.compare("hard")?;
    ensure!(
        compared["status"]["sync"]["status"] == "Synced",
        "{}",
        compared["status"]["sync"]
    );

    let upgrade = |values: Value| {
        release.patch(json!({"spec": {"source": {"helm": {"valuesObject": values}}}}))
    };
    let pods = || Ok::<_, anyhow::Error>((uids(&stays.pods(V2)?), uids(&retires.pods(V2)?)));
    let before = pods()?;
    upgrade(values(image::MIGRATION_GATE_NEXT, &both)?)?;
    release.until("to be upgraded", |object| {
        is_well(object, image::MIGRATION_GATE_NEXT)
    })?;
    ensure!(pods()? == before, "a pod of an application was replaced");

    // The list of gates is replaced, not merged.
    upgrade(values(image::MIGRATION_GATE_NEXT, &[STAYS])?)?;
    let server = cluster.kubectl().in_namespace(NAME);
    release.until("to have taken the gate out", |_| {
        let configuration = server.get(&format!("configmap {NAME}"));
        configuration.is_ok_and(|map| !map["data"].to_string().contains(RETIRES))
    })?;
    // Objects that a restarting pod still needs are not pruned.
    let kubectl = retires.kubectl();
    for kind in ["roles", "rolebindings"] {
        let left = kubectl.get(&format!("{kind} -l migration-gate.io/gate={RETIRES}"))?;
        ensure!(
            left["items"]
                .as_array()
                .is_some_and(|items| !items.is_empty()),
            "no {kind}"
        );
    }
    kubectl.run("delete pods --selector=app=web")?;
    retires.rolled_out()?;
    // The other gate still holds its pods.
    stays.kubectl().run(&format!("delete job {JOB}"))?;
    stays.kubectl().apply(&manifests(V3))?;
    stays.migrates_first(V3)?;

    // Without the Application, nothing is held any more, and waiters still have their permissions.
    release.delete()?;
    let webhooks = server.get("mutatingwebhookconfigurations")?;
    ensure!(!webhooks.to_string().contains(STAYS), "{webhooks:#}");
    stays.kubectl().run("delete pods --selector=app=web")?;
    stays.rolled_out()
}

/// Whether the Application is synced and healthy, with a server of this image.
fn is_well(object: &Value, image: &str) -> bool {
    let status = &object["status"];
    status["sync"]["status"] == "Synced"
        && status["health"]["status"] == "Healthy"
        && status["operationState"]["phase"] == "Succeeded"
        && status["summary"]["images"]
            .to_string()
            .contains(&format!("\"{image}\""))
}

fn uids(pods: &[Value]) -> Vec<String> {
    pods.iter()
        .map(|pod| pod["metadata"]["uid"].to_string())
        .collect()
}
