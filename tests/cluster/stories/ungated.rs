//! The same deployments without migration-gate, for comparison.

use anyhow::{Result, ensure};

use super::application::{Application, JOB};
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::cluster::Cluster;

testkit::tests! {
    shared: without_a_gate_new_pods_meet_the_old_schema;
}

/// The duration of a migration, in visits.
const VISITS: u32 = 20;

fn without_a_gate_new_pods_meet_the_old_schema(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let application = Application::new(cluster, cluster.namespace("ungated")?)?;
    let kubectl = application.kubectl();
    let kustomization = flux.kustomization(&application.namespace.name)?;

    // The first deployment: the pods start before the Job has completed.
    let revision = kustomization.publish(&application.at("1.0.0")?)?;
    application.migration_holds("1.0.0")?;
    application.await_unmigrated()?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    let first = application.unmigrated()?.len();

    // One tag changes under Flux: the Job is replaced, and the new pods do not wait for it.
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;
    let revision = kustomization.publish(&application.at("1.1.0")?)?;
    application.migration_holds("1.1.0")?;
    traffic.until("pages on the old schema", |seen| seen.unmigrated >= VISITS)?;
    application.let_migrate("1.1.0")?;
    kustomization.settled(&revision)?.success()?;
    let seen = traffic.stop()?;
    let upgrade = application.unmigrated()?.len() - first;
    ensure!(upgrade > 0 && seen.unmigrated > 0, "{seen}");

    // The same with kubectl, which cannot replace the Job: the new pods never get their schema.
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;
    let folder = application.at("1.2.1")?;
    let refusal = kubectl.refused(&format!("apply -k {}", folder.display()))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    traffic.until("pages on the old schema", |seen| seen.unmigrated >= VISITS)?;
    let applied = kubectl.get(&format!("job {JOB}"))?;
    let image = &applied["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(image == "migration-gate.test/piefed:1.1.0", "{image}");
    let by_kubectl = traffic.stop()?;
    let stranded = application.unmigrated()?.len() - first - upgrade;
    ensure!(stranded > 0, "{by_kubectl}");
    eprintln!(
        "stories: without migration-gate: {first} UNMIGRATED lines in the first deployment; {upgrade} in an upgrade \
         under Flux ({seen}); {stranded} in one by kubectl ({by_kubectl})"
    );
    Ok(())
}
