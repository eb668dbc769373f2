//! Pods that are created before and after their migration, on the real node.

use anyhow::{Result, ensure};

use super::application::{GatedApplication, JOB, WEB, manifests, manifests_with, waiter};
use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;

testkit::tests! {
    shared:
        pods_start_after_the_jobs_ttl_has_deleted_it,
        no_new_pod_starts_before_a_job_of_its_version_completes,
        an_upgrade_under_an_unchanged_tag_waits_for_its_own_migration,
        a_proxy_that_is_listed_first_does_not_decide,
        a_digest_under_a_constant_tag_decides,
        a_repaired_job_of_the_same_version_opens_without_a_back_off;
}

fn pods_start_after_the_jobs_ttl_has_deleted_it(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, "waiter-ttl")?;
    let kubectl = application.kubectl();
    kubectl.apply(&manifests("piefed/piefed:1.2.0"))?;
    application.migrate()?;
    application.rolled_out()?;
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"ttlSecondsAfterFinished":1}}}}"#
    ))?;
    kubectl.wait(&format!("job/{JOB}"), "delete", 60)?;

    kubectl.run(&format!("scale deployment/{WEB} --replicas=5"))?;
    application.rolled_out()?;
    let jobs = kubectl.run("get jobs --output=name")?;
    ensure!(jobs.is_empty(), "{jobs}");
    let waiters = application.waiters("piefed/piefed:1.2.0")?;
    ensure!(waiters.len() == 5, "{waiters:?}");
    let recorded = waiters
        .iter()
        .filter(|(_, said)| {
            said.starts_with("open: the record has version 1.2.0, completed ")
                && said.lines().count() == 1
        })
        .count();
    // The first pod was created before the Job had completed.
    ensure!(recorded >= 4, "{waiters:?}");
    Ok(())
}

fn no_new_pod_starts_before_a_job_of_its_version_completes(cluster: &Cluster) -> Result<()> {
    cluster.tag(
        "docker.io/piefed/piefed:1.3.0",
        "docker.io/piefed/piefed:1.4.0",
    )?;
    let application = GatedApplication::new(cluster, "waiter-versions")?;
    let kubectl = application.kubectl();
    let [v2, v3, v4] = ["2", "3", "4"].map(|minor| format!("piefed/piefed:1.{minor}.0"));
    kubectl.apply(&manifests(&v2))?;
    application.migrates_first(&v2)?;

    // The Job is replaced, as by Flux and Helm.
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(&v3))?;
    application.migrates_first(&v3)?;

    // The Deployment is updated, but the Job cannot be.
    let refusal = kubectl.apply_refused(&manifests(&v4))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(&v4, "is complete, but for version 1.3.0 ")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    application.holds(&v4, "waiting: Job piefed-db-init was deleted")?;
    kubectl.apply(&manifests(&v4))?;
    application.migrates_first(&v4)?;

    // Change back to an earlier version: its pods need not wait, although its Job cannot be
    // applied.
    let refusal = kubectl.apply_refused(&manifests(&v2))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.rolled_out()?;
    let waiters = application.waiters(&v2)?;
    ensure!(
        waiters.len() == 1
            && waiters[0]
                .1
                .starts_with("open: the record has version 1.2.0, "),
        "{waiters:?}"
    );
    Ok(())
}

/// An upgrade with the same tag: the image is pushed, the Job is deleted and applied, and the
/// Deployment is restarted.
fn an_upgrade_under_an_unchanged_tag_waits_for_its_own_migration(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, "waiter-moving-tag")?;
    let kubectl = application.kubectl();
    let image = "piefed/piefed:main";
    let push = |version: &str| {
        let released = format!("docker.io/piefed/piefed:{version}");
        cluster.tag(&released, "docker.io/piefed/piefed:main")
    };
    push("1.2.0")?;
    kubectl.apply(&manifests(image))?;
    application.migrates_first(image)?;
    let upgrade = || {
        push("1.3.0")?;
        kubectl.run(&format!("delete job {JOB}"))?;
        kubectl.apply(&manifests(image))?;
        kubectl.run(&format!("rollout restart deployment/{WEB}"))
    };
    upgrade()?;
    application.migrates_first(image)?;

    // The entries of earlier migrations do not count if the new one fails.
    upgrade()?;
    application.holds(image, "waiting: Job piefed-db-init is running")?;
    application.fails()?;
    application.holds(image, "Job piefed-db-init has failed")?;
    Ok(())
}

fn a_proxy_that_is_listed_first_does_not_decide(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, "waiter-proxy")?;
    let kubectl = application.kubectl();
    let [v2, v3] = ["piefed/piefed:1.2.0", "piefed/piefed:1.3.0"];
    let manifests = |image| manifests_with(image, Some(BUSYBOX));
    kubectl.apply(&manifests(v2))?;
    application.migrates_first(v2)?;
    let refusal = kubectl.apply_refused(&manifests(v3))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(v3, "is complete, but for version 1.2.0 ")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(v3))?;
    application.migrates_first(v3)
}

fn a_digest_under_a_constant_tag_decides(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, "waiter-digest")?;
    let kubectl = application.kubectl();
    let image = |version: &str| -> Result<String> {
        let name = format!("docker.io/piefed/piefed:{version}");
        let digest = cluster.digest(&name)?;
        cluster.tag(&name, &format!("docker.io/piefed/piefed@{digest}"))?;
        Ok(format!("piefed/piefed:1.0-stable@{digest}"))
    };
    let (old, new) = (image("1.2.0")?, image("1.3.0")?);
    kubectl.apply(&manifests(&old))?;
    application.migrates_first(&old)?;
    let refusal = kubectl.apply_refused(&manifests(&new))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(&new, "is complete, but for version ")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(&new))?;
    application.migrates_first(&new)
}

/// The kubelet's back-off between two starts of a container is up to five minutes.
fn a_repaired_job_of_the_same_version_opens_without_a_back_off(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, "waiter-repaired")?;
    let kubectl = application.kubectl();
    let image = "piefed/piefed:1.2.0";
    kubectl.apply(&manifests(image))?;
    let pod = application.holds(image, "waiting: Job piefed-db-init is running")?;
    application.fails()?;
    // It fails once, so that operators notice it. After the pod's status shows its restart, it
    // waits until its timeout. The kubelet may restart it twice before that status is written.
    kubectl.wait(
        &format!("pod/{pod}"),
        "jsonpath={.status.initContainerStatuses[0].restartCount}=1",
        60,
    )?;
    application.holds(image, "Job piefed-db-init has failed")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(image))?;
    application.holds(image, "waiting: Job piefed-db-init is running")?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    let seconds = application.started_after(&completed, image)?;
    eprintln!("waiter: a repaired Job: started {seconds} s after its completion");
    let pod = kubectl.get(&format!("pod {pod}"))?;
    let restarts = waiter(&pod)["restartCount"].as_u64();
    ensure!(restarts.is_some_and(|n| n <= 2), "{}", waiter(&pod));
    Ok(())
}
