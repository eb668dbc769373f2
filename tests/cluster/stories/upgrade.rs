//! One tag changes and is changed back, with Flux and without.

use anyhow::{Result, ensure};

use super::application::{JOB, WAITER, WEB, WORKER};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::cluster::Cluster;

testkit::tests! {
    shared:
        upgrade_by_one_tag_under_flux_then_roll_back,
        upgrade_by_kubectl_apply_waits_for_the_job_to_be_replaced;
}

fn upgrade_by_one_tag_under_flux_then_roll_back(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let stage = Stage::enter(cluster)?;
    let application = stage.application(cluster, "story-upgrade")?;
    let kustomization = flux.kustomization(&application.namespace.name)?;
    let revision = kustomization.publish(&application.at("1.0.0")?)?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;

    let revision = kustomization.publish(&application.at("1.1.0")?)?;
    application.migration_holds("1.1.0")?;
    application.waiting(WEB, "1.1.0", 1)?;
    application.waiting(WORKER, "1.1.0", 1)?;
    // The old pods serve during the migration.
    let so_far = traffic.until("pages", |seen| !seen.pages.is_empty())?;
    traffic.until("pages of the old release", |seen| {
        seen.pages["1.0.0"] >= so_far.pages["1.0.0"] + 20
    })?;
    ensure!(
        application.pods(WEB, "1.0.0")?.len() == 2,
        "an old pod was stopped"
    );
    application.let_migrate("1.1.0")?;
    kustomization.settled(&revision)?.success()?;
    traffic.until("pages of the new release", |seen| {
        seen.pages.contains_key("1.1.0")
    })?;
    let order = application.started_after_the_migration("1.1.0", 3)?;
    eprintln!("stories: upgrade under Flux: {order}");

    // Change back to the previous tag. Its pods need no migration, because the record has that
    // version. The Job, which Flux replaces again, fails: Alembic cannot find the newer revision in
    // the older image. That keeps no pod waiting.
    application.forbid_migration("1.0.0")?;
    let revision = kustomization
        .publish(&application.patched("1.0.0", &super::application::one_attempt())?)?;
    application.migration_holds("1.0.0")?;
    application.rolled_out()?;
    traffic.until("pages of the old release", |seen| {
        seen.pages["1.0.0"] > so_far.pages["1.0.0"] + 40
    })?;
    application.let_migrate("1.0.0")?;
    let said = kustomization.settled(&revision)?.failure()?;
    ensure!(said.contains(JOB), "{said}");

    let seen = traffic.stop()?;
    eprintln!("stories: upgrade under Flux and rollback: {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()
}

fn upgrade_by_kubectl_apply_waits_for_the_job_to_be_replaced(cluster: &Cluster) -> Result<()> {
    let stage = Stage::enter(cluster)?;
    let application = stage.application(cluster, "story-upgrade-by-kubectl")?;
    let kubectl = application.kubectl();
    let folder = application.at("1.0.0")?;
    kubectl.run(&format!("apply -k {}", folder.display()))?;
    application.let_migrate("1.0.0")?;
    application.rolled_out()?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;

    // The Deployments are updated, but the Job cannot be.
    let folder = application.at("1.1.0")?;
    let refusal = kubectl.refused(&format!("apply -k {}", folder.display()))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    for deployment in [WEB, WORKER] {
        for pod in application.waiting(deployment, "1.1.0", 1)? {
            let said = application.says(&pod, "complete, but for version 1.0.0")?;
            for part in [
                "this pod needs version 1.1.0",
                &format!("kubectl delete job {JOB}"),
            ] {
                ensure!(said.contains(part), "{said}");
            }
            eprintln!(
                "stories: upgrade by kubectl: {WAITER} says: {}",
                said.trim_end()
            );
        }
    }
    let so_far = traffic.until("pages", |seen| !seen.pages.is_empty())?;
    traffic.until("pages of the old release", |seen| {
        seen.pages["1.0.0"] >= so_far.pages["1.0.0"] + 20
    })?;
    ensure!(
        application.pods(WEB, "1.0.0")?.len() == 2,
        "an old pod was stopped"
    );

    // Run the waiter's remedy.
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.run(&format!("apply -k {}", folder.display()))?;
    application.migration_holds("1.1.0")?;
    application.waiting(WEB, "1.1.0", 1)?;
    application.let_migrate("1.1.0")?;
    application.rolled_out()?;
    traffic.until("pages of the new release", |seen| {
        seen.pages.contains_key("1.1.0")
    })?;
    let order = application.started_after_the_migration("1.1.0", 3)?;
    let seen = traffic.stop()?;
    eprintln!("stories: upgrade by kubectl: {order}; {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()
}
