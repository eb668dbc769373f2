//! Tests of what Prometheus sees of a release: a migration that succeeds, one that fails, and its
//! repair. The alerts fire and end, and the dashboard's queries give its picture in the
//! documentation.

mod picture;
mod prometheus;

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use self::picture::Picture;
use self::prometheus::Prometheus;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::release::Release;

testkit::soaks! {
    exclusive: the_alerts_are_true_and_the_dashboard_shows_it;
}

const PATIENCE: Duration = Duration::from_mins(3);
const APPLICATION: &str = "piefed-application";
const PICTURE: &str = "docs/dashboard.svg";

fn the_alerts_are_true_and_the_dashboard_shows_it(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let alerts = json!({"MigrationFailed": {"for": "2s"}, "MigrationPodsWait": {"for": "2s"}});
    let values = json!({"prometheusRule": {"enabled": true, "alerts": alerts}});
    let release = Release::install(cluster)?;
    let prometheus = Prometheus::start(cluster, &release, &values)?;

    // Nothing is held yet, so nothing waits.
    prometheus.gate_is("open")?;
    apply(kubectl, "1.2.0")?;
    prometheus.gate_is("waiting")?;
    prometheus.fires("MigrationPodsWait", true)?;
    finish(kubectl, "success")?;
    prometheus.gate_is("open")?;
    prometheus.fires("MigrationPodsWait", false)?;

    upgrade(kubectl, "1.3.0")?;
    prometheus.gate_is("waiting")?;
    finish(kubectl, "failure")?;
    prometheus.gate_is("failed")?;
    prometheus.fires("MigrationFailed", true)?;
    prometheus.fires("MigrationPodsWait", false)?;

    // A failed Job of a version that no workload wants any more keeps no gate closed.
    kubectl.run("set image deployment --all *=piefed/piefed:1.2.0")?;
    prometheus.gate_is("open")?;
    prometheus.fires("MigrationFailed", false)?;

    upgrade(kubectl, "1.3.0")?;
    prometheus.gate_is("waiting")?;
    refused(kubectl)?;
    prometheus.no_review_is_answered()?;
    finish(kubectl, "success")?;
    prometheus.gate_is("open")?;
    prometheus.fires("MigrationFailed", false)?;
    for deployment in ["piefed-web", "piefed-worker"] {
        let what = format!("deployment/{deployment}");
        kubectl.wait(&what, "condition=Available", 170)?;
    }
    prometheus.value_is("max(migration_gate_gate_waiting_pods)", "0")?;
    // Long enough to be visible in the picture.
    let stays = "min(min_over_time(migration_gate_gate_state{state=\"open\"}[4s]))";
    prometheus.value_is(stays, "1")?;

    let path = repository().join("charts/migration-gate/files/dashboard.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(path)?)?;
    let picture = draw(&prometheus, &dashboard)?;
    if std::env::var_os("GENERATE").is_some() {
        fs::write(repository().join(PICTURE), picture)?;
    }
    Ok(())
}

fn draw(prometheus: &Prometheus, dashboard: &Value) -> Result<String> {
    let mut picture = Picture::default();
    let panels = dashboard["panels"].as_array().context("no panels")?;
    for panel in panels {
        let mut series = Vec::new();
        for target in panel["targets"].as_array().into_iter().flatten() {
            let query = target["expr"].as_str().context("no expression")?;
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            series.extend(prometheus.range(query, legend)?);
        }
        ensure!(
            !series.is_empty(),
            "the panel {} shows nothing",
            panel["title"]
        );
        picture.panel(panel, &series);
    }
    Ok(picture.svg())
}

/// Applies the example at a version. Its Job has one attempt only, because Kubernetes' back-off
/// takes minutes.
fn apply(kubectl: &Kubectl, version: &str) -> Result<()> {
    let manifests = kubectl.run(&format!(
        "kustomize {}",
        repository().join("tests/cluster/example").display()
    ))?;
    let manifests = manifests
        .replace(":1.2.0", &format!(":{version}"))
        .replace("backoffLimit: 3", "backoffLimit: 0");
    kubectl.apply(&manifests)?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 170)
}

fn upgrade(kubectl: &Kubectl, version: &str) -> Result<()> {
    kubectl.run("delete job piefed-db-init --wait")?;
    apply(kubectl, version)
}

fn finish(kubectl: &Kubectl, verdict: &str) -> Result<()> {
    kubectl
        .exec("job/piefed-db-init", &["finish-migration", verdict])
        .map(drop)
}

/// Applies objects that must be refused.
fn refused(kubectl: &Kubectl) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"},
        "spec": {"containers": [{"name": "shell", "image": "piefed/piefed:1.2.0",
                                 "env": [{"name": "PIEFED_INIT_CONTAINER", "value": "1"}]}]},
    });
    until("the refusal", PATIENCE, || {
        match kubectl.apply_refused(&pod.to_string()) {
            Ok(said) if said.contains("PIEFED_INIT_CONTAINER") => Look::Done(()),
            Ok(said) => Look::Pending(said),
            Err(error) => Look::Failed(error),
        }
    })
}
