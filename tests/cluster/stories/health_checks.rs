//! Flux's health checks of a held Deployment, and of a Job that is deleted as soon as it has ended.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::stage::HEALTH_CHECKS;
use crate::flux::{Flux, FluxKustomization};
use crate::waiter::application::{GatedApplication, JOB, WEB, manifests};
use testkit::cluster::Cluster;
use testkit::poll::{Look, until};

testkit::tests! {
    shared: a_repair_ends_the_health_check_of_what_it_repairs;
}

const V1: &str = "piefed/piefed:1.2.0";
const V2: &str = "piefed/piefed:1.3.0";
const V3: &str = "piefed/piefed:1.3.1";

/// Writes the application with this image. Its Job has two attempts, and is deleted as soon as it
/// has ended.
fn write(folder: &Path, image: &str) -> Result<()> {
    let manifests = manifests(image);
    let (job, deployment) = manifests.split_once("\n---\n").context("two objects")?;
    let mut job: Value = serde_json::from_str(job)?;
    let force = json!({"kustomize.toolkit.fluxcd.io/force": "enabled"});
    job["metadata"]["annotations"] = force;
    job["spec"]["backoffLimit"] = json!(1);
    job["spec"]["ttlSecondsAfterFinished"] = json!(0);
    let kustomization = json!({"namespace": HEALTH_CHECKS, "resources": ["all.yaml"]});
    fs::write(folder.join("all.yaml"), format!("{job}\n---\n{deployment}"))?;
    fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?;
    Ok(())
}

/// Ends the Job's running attempt with success or failure.
fn attempt(application: &GatedApplication, how: &str) -> Result<()> {
    let kubectl = application.kubectl();
    kubectl.wait(&format!("job/{JOB}"), "jsonpath={.status.ready}=1", 60)?;
    let finish = format!("exec job/{JOB} --container=migrate -- finish-migration {how}");
    kubectl.run(&finish)?;
    Ok(())
}

/// Lets the Job succeed, after which it is deleted, and the pods of this image start.
fn migrate(application: &GatedApplication, image: &str) -> Result<()> {
    application.holds(image, &format!("waiting: Job {JOB} is running"))?;
    attempt(application, "success")?;
    application
        .kubectl()
        .wait(&format!("job/{JOB}"), "delete", 60)?;
    application.rolled_out()
}

/// Gives Flux's health checks a timeout of an hour, which no test reaches.
fn wait_for_an_hour(application: &GatedApplication) -> Result<()> {
    let check = |api: &str, kind: &str, name: &str| json!({"apiVersion": api, "kind": kind, "name": name, "namespace": HEALTH_CHECKS});
    let patch = json!({"spec": {
        "wait": false, "timeout": "1h",
        "healthChecks": [check("batch/v1", "Job", JOB), check("apps/v1", "Deployment", WEB)],
    }});
    let flux = application.kubectl().in_namespace("flux-system");
    flux.run(&format!(
        "patch kustomizations.kustomize.toolkit.fluxcd.io {HEALTH_CHECKS} --type=merge --patch={patch}"
    ))?;
    Ok(())
}

fn checks_health_of(kustomization: &FluxKustomization, revision: &str) -> Result<()> {
    let words = format!("Running health checks for revision {revision}");
    until(
        "Flux to wait for health",
        crate::flux::DEADLINE,
        || match kustomization.said() {
            Ok(said) if said.contains(&words) => Look::Done(()),
            Ok(said) => Look::Pending(said),
            Err(error) => Look::Failed(error),
        },
    )
}

fn a_repair_ends_the_health_check_of_what_it_repairs(cluster: &Cluster) -> Result<()> {
    let flux = Flux::that_cancels(cluster)?;
    let application = GatedApplication::new(cluster, HEALTH_CHECKS)?;
    cluster.tag(&format!("docker.io/{V2}"), &format!("docker.io/{V3}"))?;
    let folder = tempfile::tempdir()?;
    let kustomization = flux.kustomization(HEALTH_CHECKS)?;
    wait_for_an_hour(&application)?;

    // A deleted Job counts as successful, and the Deployment is not held forever.
    write(folder.path(), V1)?;
    let revision = kustomization.publish(folder.path())?;
    migrate(&application, V1)?;
    kustomization.settled(&revision)?.success()?;

    // This Job fails, and tries again. Flux waits for it until a fixed version is published.
    write(folder.path(), V2)?;
    let revision = kustomization.publish(folder.path())?;
    application.holds(V2, &format!("waiting: Job {JOB} is running"))?;
    attempt(&application, "failure")?;
    checks_health_of(&kustomization, &revision)?;
    write(folder.path(), V3)?;
    let revision = kustomization.publish(folder.path())?;
    migrate(&application, V3)?;
    kustomization.settled(&revision)?.success()?;
    let changes = kustomization.changes()?;
    let canceled = |change: &String| change.starts_with("Health checks canceled");
    ensure!(changes.iter().any(canceled), "{changes:?}");
    ensure!(application.pods(V2)?.is_empty(), "a pod of {V2}");

    // Flux creates the Job again, because its source still has it. The pods keep running.
    let pods = |application: &GatedApplication| -> Result<Vec<Value>> {
        let pods = application.pods(V3)?.into_iter();
        Ok(pods.map(|pod| pod["metadata"]["uid"].clone()).collect())
    };
    let before = pods(&application)?;
    let request = kustomization.request()?;
    attempt(&application, "success")?;
    kustomization.handled(&request)?.success()?;
    let after = pods(&application)?;
    ensure!(
        before == after && before.len() == 1,
        "{before:?}, {after:?}"
    );
    Ok(())
}
