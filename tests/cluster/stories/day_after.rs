//! The day after a deployment: the Job is deleted, and pods are created and deleted.

use anyhow::{Result, ensure};
use kube::api::{EvictParams, ResourceExt};
use serde_json::json;

use super::application::{JOB, WAITER, WEB, WORKER, patch};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::client::block_on;
use testkit::cluster::Cluster;

testkit::tests! {
    shared: the_day_after_pods_start_without_a_job;
}

fn the_day_after_pods_start_without_a_job(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let stage = Stage::enter(cluster)?;
    let application = stage.application(cluster, "story-day-after")?;
    let kubectl = application.kubectl();
    let kustomization = flux.kustomization(&application.namespace.name)?;
    // The autoscaler decides the number of web pods.
    let scaled = json!([{"op": "remove", "path": "/spec/replicas"}]);
    let folder = application.patched("1.0.0", &json!([patch("Deployment", WEB, &scaled)]))?;
    let revision = kustomization.publish(&folder)?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    // Flux may be reconciling a second time, because the source did not exist at first. If the Job
    // were deleted meanwhile, Flux would wait for it until its timeout.
    kustomization.reconcile()?.success()?;
    // A day passes.
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"ttlSecondsAfterFinished":1}}}}"#
    ))?;
    kubectl.wait(&format!("job/{JOB}"), "delete", 60)?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;

    // A node is drained: its pods are evicted.
    let pods = application.api::<k8s_openapi::api::core::v1::Pod>();
    let evicted: Vec<String> = [
        application.pods(WEB, "1.0.0")?,
        application.pods(WORKER, "1.0.0")?,
    ]
    .concat()
    .iter()
    .map(kube::ResourceExt::name_any)
    .collect();
    for name in &evicted {
        block_on(pods.evict(name, &EvictParams::default()))?;
        kubectl.wait(&format!("pod/{name}"), "delete", 60)?;
    }
    application.rolled_out()?;

    // The load is too high for two pods.
    kubectl.run(&format!(
        "autoscale deployment/{WEB} --min=4 --max=6 --cpu=80%"
    ))?;
    kubectl.wait(
        &format!("deployment/{WEB}"),
        "jsonpath={.status.readyReplicas}=4",
        60,
    )?;
    let gone = kubectl.run(&format!("get job {JOB} --ignore-not-found"))?;
    ensure!(gone.is_empty(), "{gone}");
    for deployment in [WEB, WORKER] {
        for pod in application.pods(deployment, "1.0.0")? {
            let said = application.says(&pod.name_any(), "open: the record has version 1.0.0")?;
            ensure!(
                said.lines().count() == 1,
                "{WAITER} waited for something: {said}"
            );
        }
    }

    // Flux creates the Job again, because the source still has it.
    let running = |deployment| -> Result<Vec<(Option<String>, String)>> {
        let pods = application.pods(deployment, "1.0.0")?;
        Ok(pods
            .into_iter()
            .map(|pod| {
                let restarts =
                    json!(pod)["status"]["containerStatuses"][0]["restartCount"].to_string();
                (pod.metadata.uid, restarts)
            })
            .collect())
    };
    let before = (running(WEB)?, running(WORKER)?);
    application.forbid_migration("1.0.0")?;
    let annotated = kustomization.request()?;
    application.migration_holds("1.0.0")?;
    ensure!(
        (running(WEB)?, running(WORKER)?) == before,
        "a pod was restarted"
    );
    application.let_migrate("1.0.0")?;
    kustomization.handled(&annotated)?.success()?;
    ensure!(
        (running(WEB)?, running(WORKER)?) == before,
        "a pod was restarted"
    );

    let seen = traffic.stop()?;
    eprintln!(
        "stories: the day after: {} pods evicted, 2 added: {seen}",
        evicted.len()
    );
    ensure!(seen.unmigrated == 0, "{seen}");
    application.met_no_unmigrated_schema()
}
