//! Pods that come after their migration, and pods that come before it, on the real node.

use anyhow::{Result, ensure};

use super::application::{Application, JOB, WEB, manifests};
use testkit::cluster::Cluster;

testkit::tests! {
    shared:
        pods_start_after_the_jobs_ttl_has_deleted_it,
        no_new_pod_starts_before_a_job_of_its_version_completes;
}

fn pods_start_after_the_jobs_ttl_has_deleted_it(cluster: &Cluster) -> Result<()> {
    let application = Application::new(cluster, "waiter-ttl")?;
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
    // The first pod was there before the Job was over.
    ensure!(recorded >= 4, "{waiters:?}");
    Ok(())
}

fn no_new_pod_starts_before_a_job_of_its_version_completes(cluster: &Cluster) -> Result<()> {
    cluster.tag(
        "docker.io/piefed/piefed:1.3.0",
        "docker.io/piefed/piefed:1.4.0",
    )?;
    let application = Application::new(cluster, "waiter-versions")?;
    let kubectl = application.kubectl();
    let [v2, v3, v4] = ["2", "3", "4"].map(|minor| format!("piefed/piefed:1.{minor}.0"));
    kubectl.apply(&manifests(&v2))?;
    application.migrates_first(&v2)?;

    // The Job is replaced, as Flux and Helm do it.
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(&v3))?;
    application.migrates_first(&v3)?;

    // The Deployment is updated and the Job can't be.
    let refusal = kubectl.apply_refused(&manifests(&v4))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(&v4, "is complete, but for version 1.3.0 ")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    application.holds(&v4, "waiting: Job piefed-db-init was deleted")?;
    kubectl.apply(&manifests(&v4))?;
    application.migrates_first(&v4)?;

    // Back to a version that has been there: nothing to wait for, although its Job can't be
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
