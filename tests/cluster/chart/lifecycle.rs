//! The chart on a cluster: what `helm test` reports, and what `helm uninstall` leaves.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::{APPLICATION, EXAMPLE, HELD};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::process::{self, says};
use testkit::release::Release;

testkit::tests! {
    exclusive:
        helm_test_says_whether_the_webhooks_work,
        uninstalling_leaves_what_waiters_need_and_no_more;
}

/// Runs `helm test`. Returns the pod's output, which Helm prints on standard error.
pub(super) fn helm_test(kubectl: &Kubectl) -> Result<String> {
    let namespace = kubectl.namespace.as_deref().context("a namespace")?;
    let output = process::run(
        Command::new(&kubectl.helm)
            .args(["test", "migration-gate", "--timeout=170s"])
            .args(["--namespace", namespace])
            .env("KUBECONFIG", &kubectl.kubeconfig),
        "",
        Duration::from_mins(2),
    )?;
    let logs = output.stderr.clone();
    Ok(output.success()? + &logs)
}

fn helm_test_says_whether_the_webhooks_work(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let good = [
        "held Deployment piefed-application/piefed-web: waits for Job piefed-db-init",
        "held Deployment piefed-application/piefed-worker: waits for Job piefed-db-init",
        "is refused, for spec.template.spec.containers[0].env[0]",
        "All checks passed.",
    ];
    says(&helm_test(release.kubectl())?, &good)?;
    // The permissions are deleted after the test.
    for kubectl in [release.kubectl(), &application.kubectl] {
        let left = kubectl.run(
            "get pods,serviceaccounts,roles,rolebindings --selector=app.kubernetes.io/name=migration-gate-test --output=name",
        )?;
        ensure!(left.is_empty(), "{left}");
    }
    let stored = application.kubectl.run("get deployments --output=name")?;
    ensure!(stored.is_empty(), "{stored}");

    // For an existing Deployment, the test dry-runs a patch of it.
    application.kubectl.apply(HELD)?;
    let before = application.kubectl.get("deployment piefed-web")?;
    says(&helm_test(release.kubectl())?, &good)?;
    let after = application.kubectl.get("deployment piefed-web")?;
    ensure!(before["metadata"]["generation"] == after["metadata"]["generation"]);

    release.helm("upgrade", "--wait --set=mode=warn")?;
    let warned = helm_test(release.kubectl())?;
    says(&warned, &["is let through with a warning"])?;

    application.kubectl.run("delete deployment piefed-web")?;
    cluster
        .kubectl()
        .run("delete mutatingwebhookconfiguration migration-gate")?;
    let said = helm_test(release.kubectl())
        .err()
        .context("a test without a webhook succeeds")?;
    ensure!(said.to_string().contains("fail"), "{said:#}");
    let logs = release.kubectl().logs("migration-gate-test", "check")?;
    let part = "FAIL  gate piefed: held Deployment piefed-application/piefed-web: it would start without waiting for Job piefed-db-init";
    says(&logs, &[part])?;
    release.kubectl().run("delete pod migration-gate-test")?;
    // The permission to create Deployments, and so to run as any ServiceAccount of the namespace,
    // is deleted after a failure, too.
    for kubectl in [release.kubectl(), &application.kubectl] {
        let left = kubectl.run(
            "get serviceaccounts,roles,rolebindings --selector=app.kubernetes.io/name=migration-gate-test --output=name",
        )?;
        ensure!(left.is_empty(), "{left}");
    }
    Ok(())
}

/// The names of the objects of these kinds that Helm or the chart has created.
fn made(kubectl: &Kubectl, kinds: &str) -> Result<Vec<String>> {
    let found = kubectl.run(&format!(
        "get {kinds} --selector=app.kubernetes.io/name=migration-gate --output=name"
    ))?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn uninstalling_leaves_what_waiters_need_and_no_more(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let kubectl = &application.kubectl;
    kubectl.run(&format!("apply -k {EXAMPLE}"))?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    kubectl.wait("deployment/piefed-web", "condition=Available", 60)?;
    kubectl.wait("configmap/migration-gate-piefed", "create", 30)?;

    release.kubectl().helm("uninstall migration-gate --wait")?;
    let cluster_wide = "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings";
    let left = made(cluster.kubectl(), cluster_wide)?;
    ensure!(left.is_empty(), "{left:?}");
    let everything = "secrets,configmaps,services,deployments,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    let left = made(release.kubectl(), everything)?;
    ensure!(left.is_empty(), "{left:?}");
    let secrets = release.kubectl().run("get secrets --output=name")?;
    ensure!(secrets.is_empty(), "{secrets}");
    let kept = made(kubectl, "roles,rolebindings")?;
    ensure!(
        kept == [
            "role.rbac.authorization.k8s.io/migration-gate-piefed-wait",
            "rolebinding.rbac.authorization.k8s.io/migration-gate-piefed-wait"
        ],
        "{kept:?}"
    );
    kubectl.run("get serviceaccount/piefed-init-checker configmap/migration-gate-piefed")?;

    // A pod is evicted long after the Job was deleted by its TTL.
    kubectl.run("delete job piefed-db-init")?;
    kubectl.run(
        "delete pods --selector=app.kubernetes.io/name=piefed-web --wait=true --grace-period=1",
    )?;
    kubectl.run("rollout status deployment/piefed-web --timeout=170s")?;

    // A new installation adopts the kept objects.
    release.helm("install", "--wait")?;
    Ok(())
}
