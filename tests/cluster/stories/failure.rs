//! A migration that fails, and the release that fixes it.

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::Pod;

use super::application::{JOB, PATIENCE, WEB, WORKER, of, one_attempt};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::client::await_list;
use testkit::cluster::Cluster;

testkit::tests! {
    shared: a_failed_migration_is_explained_and_healed_by_the_next_revision;
}

/// The end of the failed migration's output. The password in the URL is masked.
const CAUSE: &str =
    "MissingExtension: the extension rum is missing from postgresql+psycopg://piefed:";
const PASSWORD: &str = "s3cr3t-p4ssw0rd";

fn a_failed_migration_is_explained_and_healed_by_the_next_revision(
    cluster: &Cluster,
) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let stage = Stage::enter(cluster)?;
    let application = stage.application(cluster, "story-failure")?;
    let kubectl = application.kubectl();
    let kustomization = flux.kustomization(&application.namespace.name)?;
    let revision = kustomization.publish(&application.at("1.1.0")?)?;
    application.let_migrate("1.1.0")?;
    kustomization.settled(&revision)?.success()?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;

    application.let_migrate("1.2.0")?;
    let said = kustomization
        .push(&application.patched("1.2.0", &one_attempt())?)?
        .failure()?;
    ensure!(said.contains(JOB) && said.contains("Failed"), "{said}");
    eprintln!("stories: failure: Flux says: {said}");
    for deployment in [WEB, WORKER] {
        for name in application.await_pods(deployment, "1.2.0", 1)? {
            let pod = application.await_pod(&name, "to have failed in its waiter", |pod| {
                let waiter = &pod["status"]["initContainerStatuses"][0];
                waiter["lastState"]["terminated"]["exitCode"] == 3
            })?;
            ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
            let main = &pod["status"]["containerStatuses"][0];
            ensure!(
                main["restartCount"] == 0 && main["state"].get("waiting").is_some(),
                "{main}"
            );
            let logs = application.says(&name, CAUSE)?;
            ensure!(
                logs.contains("Running upgrade 7c6d5e4f3a2b -> 9b8a7c6d5e4f"),
                "{logs}"
            );
            let described = kubectl.run(&format!("describe pod {name}"))?;
            ensure!(described.contains(CAUSE), "{described}");
            for shown in [logs, described] {
                ensure!(!shown.contains(PASSWORD), "{shown}");
            }
        }
    }
    let so_far = traffic.until("pages", |seen| !seen.pages.is_empty())?;
    traffic.until("pages of the old release", |seen| {
        seen.pages["1.1.0"] >= so_far.pages["1.1.0"] + 10
    })?;

    // Push the corrected release, and change nothing else.
    application.let_migrate("1.2.1")?;
    kustomization.push(&application.at("1.2.1")?)?.success()?;
    traffic.until("pages of the corrected release", |seen| {
        seen.pages.contains_key("1.2.1")
    })?;
    ensure!(application.revision()? == "9b8a7c6d5e4f");
    let order = application.started_after_the_migration("1.2.1", 3)?;
    let seen = traffic.stop()?;
    eprintln!("stories: failure, and the corrected release: {order}; {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()?;
    // The pods whose waiter has failed are deleted, and so are those of the old release.
    await_list(
        &application.api::<Pod>(),
        &of(WEB),
        "two running pods, and no other",
        PATIENCE,
        |pods| {
            let phases = pods.iter().map(|pod| pod.status.as_ref()?.phase.as_deref());
            phases.eq([Some("Running"); 2]).then_some(())
        },
    )
}
