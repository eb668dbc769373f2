//! A hook that Argo CD deletes after its success, while no replica of the server runs that could
//! record it.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{Shop, V3, V4, deployment_alone, manifests, migrate_once};
use crate::stories::stage::gate;
use crate::waiter::application::{GatedApplication, JOB, program};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::process::says;
use testkit::release::Release;

testkit::tests! {
    exclusive: what_completes_while_every_replica_is_down_is_said_by_hand;
}

const DOWN: &str = "argo-down";

/// Argo CD also replaces a Job that a failed sync has left.
const POLICY: &str = "BeforeHookCreation,HookSucceeded";

/// A Job that is deleted by its TTL, as in many charts.
fn short_lived(image: &str) -> String {
    let limit = r#""backoffLimit":0"#;
    let gone = format!(r#"{limit},"ttlSecondsAfterFinished":1"#);
    manifests(image, POLICY).replace(limit, &gone)
}

fn what_completes_while_every_replica_is_down_is_said_by_hand(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace_named(DOWN)?;
    let release = Release::install_with(cluster, &json!({"gates": [gate(DOWN)]}))?;
    let application = GatedApplication::of(cluster, namespace);
    let shop = Shop::open(cluster, application, &json!({}), &json!({}))?;
    shop.first(POLICY)?;
    let list = || program(cluster, &["record", "list", "-n", DOWN], 0);

    // Argo CD deletes the Job only after the whole sync has succeeded, which needs the webhooks. So
    // the Job still exists when a replica is back.
    let manifests = manifests(V3, POLICY);
    let revision = completes_while_down(&shop, release.kubectl(), &manifests, V3)?;
    until(
        "the completion to be recorded",
        super::PATIENCE,
        || match list() {
            Err(error) => Look::Failed(error),
            Ok(said) if said.contains("1.3.0") => Look::Done(()),
            Ok(said) => Look::Pending(said),
        },
    )?;
    shop.argo.sync(Some(deployment_alone()))?;
    shop.argo.operation(&revision, "Succeeded")?;
    shop.application.rolled_out()?;
    ensure!(!shop.application.pods(V3)?.is_empty(), "no pod of {V3}");

    // The completion of a Job that was deleted by its TTL is lost.
    let revision = completes_while_down(&shop, release.kubectl(), &short_lived(V4), V4)?;
    ensure!(!list()?.contains("1.4.0"), "{}", list()?);
    shop.argo.sync(Some(deployment_alone()))?;
    shop.argo.operation(&revision, "Succeeded")?;
    shop.application.holds(V4, "no record of version 1.4.0")?;

    // Both remedies are printed: to run the migration again, and to record it by hand.
    let words = shop.application.last_words(cluster, V4)?;
    let done = format!("record done 1.4.0 --gate {DOWN}");
    says(&words, &[&format!("argocd app sync {DOWN}"), &done])?;
    let done: Vec<&str> = done.split(' ').chain(["--yes"]).collect();
    program(cluster, &done, 0)?;
    shop.application.rolled_out()?;
    shop.argo.stands(&revision, "Synced", "Healthy")?;
    Ok(())
}

/// A full sync whose hook completes while no replica runs. Returns its revision when the replicas
/// are back. No new pod is created meanwhile, because the API server cannot call the webhooks.
fn completes_while_down(
    shop: &Shop,
    server: &Kubectl,
    manifests: &str,
    image: &str,
) -> Result<String> {
    let kubectl = shop.kubectl();
    let revision = shop.push_manifests(manifests)?;
    shop.argo.sync(None)?;
    kubectl.wait(&format!("job/{JOB}"), "jsonpath={.status.ready}=1", 60)?;
    let replicas = server.get("deployment migration-gate")?["spec"]["replicas"].clone();
    server.run("scale deployment/migration-gate --replicas=0")?;
    let pods = "pods --selector=app.kubernetes.io/name=migration-gate";
    server.run(&format!("wait {pods} --for=delete --timeout=170s"))?;
    migrate_once(shop)?;
    let failed = shop.argo.operation(&revision, "Failed")?;
    let state = failed["status"]["operationState"].to_string();
    says(&state, &["failed calling webhook"])?;
    ensure!(shop.application.pods(image)?.is_empty(), "a pod of {image}");
    if manifests.contains("ttlSecondsAfterFinished") {
        kubectl.wait(&format!("job/{JOB}"), "delete", 60)?;
    }
    server.run(&format!(
        "scale deployment/migration-gate --replicas={replicas}"
    ))?;
    server.wait("deployment/migration-gate", "condition=Available", 60)?;
    Ok(revision)
}
