//! Objects that the chart shares with the application: its namespace and the ServiceAccount.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::lifecycle::helm_test;
use super::{APPLICATION, EXAMPLE};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::release::Release;

testkit::tests! {
    exclusive:
        a_gate_may_come_before_its_application,
        an_account_of_the_application_stays_its_own,
        an_account_that_the_chart_made_is_the_charts,
        an_account_of_a_deployments_own_may_see_the_job,
        a_release_can_move_to_another_namespace;
}

/// A namespace that the chart creates. It is deleted when the test is over.
struct Made<'c>(&'c Cluster);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that uses the name notices it.
        let _ = self
            .0
            .kubectl()
            .run(&format!("delete namespace {APPLICATION} --wait=false"));
    }
}

fn a_gate_may_come_before_its_application(cluster: &Cluster) -> Result<()> {
    // An earlier test's namespace may still be being deleted.
    cluster
        .kubectl()
        .wait(&format!("namespace/{APPLICATION}"), "delete", 120)?;
    let _made = Made(cluster);
    let release = Release::install_one(cluster)?;
    helm_test(release.kubectl())?;
    release.helm("upgrade", "--wait --set=podAnnotations.a=b")?;
    let kubectl = cluster.kubectl().in_namespace(APPLICATION);
    // The application's manifests also have the namespace, and its own permissions for the waiter.
    kubectl.run(&format!("apply -k {EXAMPLE}"))?;
    release.helm("upgrade", "--wait --set=podAnnotations.a=c")?;
    release.kubectl().helm("uninstall migration-gate --wait")?;
    kubectl.run("get deployment/piefed-web serviceaccount/piefed-init-checker")?;
    Ok(())
}

const ACCOUNT: &str = "serviceaccount piefed-init-checker";

/// Upgrades the release so that a ServiceAccount of the chart would get a pull secret.
fn upgrade_the_account(release: &Release, secret: &str) -> Result<()> {
    release.helm(
        "upgrade",
        &format!("--wait --set=rbac.imagePullSecrets[0].name={secret}"),
    )?;
    Ok(())
}

fn pull_secrets(kubectl: &Kubectl) -> Result<Value> {
    Ok(kubectl.get(ACCOUNT)?["imagePullSecrets"].take())
}

/// The repository's manifests of the permissions for the waiter, including the ServiceAccount.
fn rights() -> Result<String> {
    Ok(fs::read_to_string(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/examples/piefed/rbac-init-checker.yaml"
    ))?)
}

fn an_account_of_the_application_stays_its_own(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    // The application's ServiceAccount exists before the release.
    kubectl.apply(&rights()?)?;
    let release = Release::install_one(cluster)?;
    upgrade_the_account(&release, "registry")?;
    let its_own = |what: &str| -> Result<()> {
        let found = kubectl.get(ACCOUNT)?;
        ensure!(
            found["imagePullSecrets"].is_null()
                && found["metadata"]["labels"]["app.kubernetes.io/part-of"] == "piefed",
            "{what}: {found}"
        );
        Ok(())
    };
    its_own("there first")?;
    let found = kubectl.get(ACCOUNT)?;
    let owner = "/annotations/meta.helm.sh~1release-name";
    ensure!(found["metadata"].pointer(owner).is_none(), "{found}");
    release.uninstall()?;
    its_own("uninstalled")?;

    // The application's ServiceAccount is applied later, as Flux and as kubectl do it.
    for applier in [
        "apply --server-side --force-conflicts --field-manager=kustomize-controller -f -",
        "apply -f -",
    ] {
        let words: Vec<&str> = applier.split(' ').collect();
        kubectl.run("delete serviceaccount piefed-init-checker")?;
        release.helm("install", "--wait")?;
        let applied = kubectl.output(&words, &rights()?, Duration::from_secs(90));
        applied?.success()?;
        for secret in ["one", "two"] {
            upgrade_the_account(&release, secret)?;
            its_own(applier)?;
        }
        release.uninstall()?;
        its_own(applier)?;
    }
    Ok(())
}

fn an_account_that_the_chart_made_is_the_charts(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install_one(cluster)?;
    for secret in ["one", "two"] {
        upgrade_the_account(&release, secret)?;
        let found = pull_secrets(kubectl)?;
        ensure!(found == json!([{"name": secret}]), "{found}");
    }
    release.uninstall()?;
    // The same release adopts it when it is installed again.
    release.helm(
        "install",
        "--wait --set=rbac.imagePullSecrets[0].name=three",
    )?;
    let found = pull_secrets(kubectl)?;
    ensure!(found == json!([{"name": "three"}]), "{found}");
    Ok(())
}

fn an_account_of_a_deployments_own_may_see_the_job(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install_one(cluster)?;
    let may = |account: &str| {
        let account = (APPLICATION, account);
        cluster.may(account, "watch", "jobs.batch/piefed-db-init", APPLICATION)
    };
    ensure!(may("piefed-init-checker")? && !may("web")? && !may("worker")?);
    let gates = json!([{
        "name": "piefed", "namespace": APPLICATION, "job": "piefed-db-init", "deployments": ["piefed-web"],
        "serviceAccount": "piefed-init-checker", "extraAccounts": ["web", "piefed-init-checker"],
    }]);
    release.helm("upgrade", &format!("--wait --set-json=gates={gates}"))?;
    ensure!(may("piefed-init-checker")? && may("web")? && !may("worker")?);

    // Bind it by hand to the Role that the command in the admission warning finds.
    let role = kubectl.run(
        "get roles -l migration-gate.io/gate=piefed --output=jsonpath={.items[*].metadata.name}",
    )?;
    ensure!(role == "migration-gate-piefed-wait", "{role}");
    kubectl.run(&format!(
        "create rolebinding worker-waits --role={role} --serviceaccount={APPLICATION}:worker"
    ))?;
    release.helm("upgrade", "--wait")?;
    ensure!(may("worker")? && !may("web")?);
    Ok(())
}

fn a_release_can_move_to_another_namespace(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install_one(cluster)?;
    release.uninstall()?;
    let elsewhere = cluster.namespace("elsewhere")?;
    let moved = Release::of(&elsewhere.kubectl);
    let refusal = moved
        .helm("install", "--wait")
        .err()
        .context("Helm took what another release had made")?;
    let refusal = format!("{refusal:#}");
    ensure!(refusal.contains("invalid ownership metadata"), "{refusal}");
    // Remove what the failed installation has left.
    elsewhere
        .kubectl
        .helm("uninstall migration-gate --wait --ignore-not-found")?;
    moved.helm(
        "install",
        "--wait --take-ownership --set=rbac.imagePullSecrets[0].name=x",
    )?;
    helm_test(&elsewhere.kubectl)?;
    let owner = kubectl.run(
        "get role migration-gate-piefed-wait --output=jsonpath={.metadata.annotations.meta\\.helm\\.sh/release-namespace}",
    )?;
    ensure!(owner == elsewhere.name, "{owner}");
    // The account is still as the other release left it.
    let found = pull_secrets(kubectl)?;
    ensure!(found.is_null(), "{found}");
    moved.uninstall()?;
    Ok(())
}
