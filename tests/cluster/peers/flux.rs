//! An earlier release of Flux on an empty cluster, by the files of `examples/flux`: all its real
//! controllers, with a folder in place of the Git repository, and a local registry in place of the
//! published one.

mod controllers;
pub(super) mod cure;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use kube::Api;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;

use self::controllers::Controllers;
use crate::flux::Flux;
use crate::registry::ImageRegistry;
use testkit::assets::repository;
use testkit::client::await_object;
use testkit::cluster::Cluster;
use testkit::image::archive;
use testkit::{process, ungated};

testkit::tests! {
    exclusive: on_an_empty_cluster_the_application_comes_after_migration_gate;
}

const APPLICATION: &str = "piefed-application";
/// Time limit for all of Flux on a machine of two cores.
const PATIENCE: Duration = Duration::from_mins(6);

/// Writes a reader's repository: the folders that the two Kustomizations name.
fn repository_of(folder: &Path, host: &str) -> Result<()> {
    let copy = |from: &str, to: &str| {
        let mut cp = Command::new("cp");
        cp.args(["-rL"])
            .arg(repository().join(from))
            .arg(folder.join(to));
        process::run(&mut cp, "", Duration::from_mins(1))?.success()
    };
    copy("examples/flux/migration-gate", "migration-gate")?;
    copy("examples/piefed", "example")?;
    copy("tests/cluster/example/without-media", "without-media")?;
    let chart = folder.join("migration-gate/chart.yaml");
    let text = fs::read_to_string(&chart)?
        .replace("REGISTRY", host)
        .replace("OWNER", "owner");
    // The release workflow's signer and the log of signatures are not available here.
    let (before, _) = text.split_once("  verify:\n").context("a signature")?;
    fs::write(&chart, before)?;
    if let Some(values) = ungated::values() {
        let release = folder.join("migration-gate/release.yaml");
        let webhooks = format!("  values:\n    webhooks: {}\n", values["webhooks"]);
        let text = fs::read_to_string(&release)?.replace("  values:\n", &webhooks);
        fs::write(&release, text)?;
    }
    fs::create_dir(folder.join("piefed"))?;
    let application = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
        "resources": ["../example"], "components": ["../without-media"],
        // This test is not about notifications, whose port is open at once.
        "replicas": [{"name": "piefed-notifs", "count": 0}],
    });
    fs::write(
        folder.join("piefed/kustomization.yaml"),
        application.to_string(),
    )?;
    Ok(())
}

/// The API of Flux's objects of a kind in a namespace.
fn objects(
    cluster: &Cluster,
    (group, version, kind): (&str, &str, &str),
    namespace: &str,
) -> Api<DynamicObject> {
    let kind = GroupVersionKind::gvk(&format!("{group}.toolkit.fluxcd.io"), version, kind);
    Api::namespaced_with(cluster.client(), namespace, &ApiResource::from_gvk(&kind))
}

/// Waits until a field of the condition `Ready` has this value. Returns the condition's message.
fn becomes(objects: &Api<DynamicObject>, name: &str, field: &str, wanted: &str) -> Result<String> {
    let ready = |object: &DynamicObject| {
        let conditions = object.data["status"]["conditions"].as_array().cloned();
        let mut conditions = conditions.into_iter().flatten();
        conditions.find(|condition| condition["type"] == "Ready")
    };
    let what = format!("to be Ready with {field} {wanted}");
    let found = await_object(objects, name, &what, PATIENCE, |object| {
        ready(object).is_some_and(|ready| ready[field] == wanted)
    })?;
    let message = ready(&found).map(|ready| ready["message"].to_string());
    message.context("a condition")
}

fn on_an_empty_cluster_the_application_comes_after_migration_gate(cluster: &Cluster) -> Result<()> {
    let namespaces = cluster.kubectl().run("get namespaces --output=name")?;
    ensure!(!namespaces.contains(APPLICATION), "{namespaces}");
    let registry = ImageRegistry::start(cluster)?;
    let flux = Flux::of(cluster)?;
    let _controllers = Controllers::start(cluster, &registry)?;
    let _left = Left(cluster);
    let source = tempfile::tempdir()?;
    repository_of(source.path(), registry.host())?;
    let kubectl = cluster.kubectl().in_namespace("flux-system");
    flux.git_repository(source.path())?;
    kubectl.run(&format!(
        "apply -f {}",
        repository()
            .join("examples/flux/kustomizations.yaml")
            .display()
    ))?;

    // The chart is not published yet, so the application must wait.
    let kustomizations = objects(cluster, ("kustomize", "v1", "Kustomization"), "flux-system");
    let charts = objects(cluster, ("source", "v1", "OCIRepository"), "migration-gate");
    let releases = objects(cluster, ("helm", "v2", "HelmRelease"), "migration-gate");
    let said = becomes(&charts, "migration-gate", "status", "False")?;
    eprintln!("peers: Flux says of the chart: {said}");
    let said = becomes(&kustomizations, "piefed", "reason", "DependencyNotReady")?;
    eprintln!("peers: Flux says of the application: {said}");
    let namespaces = kubectl.run("get namespaces --output=name")?;
    ensure!(!namespaces.contains(APPLICATION), "{namespaces}");

    registry.publish(&archive()?)?;
    kubectl.run("annotate ocirepository migration-gate reconcile.fluxcd.io/requestedAt=now --namespace=migration-gate")?;
    let said = becomes(&releases, "migration-gate", "status", "True")?;
    eprintln!("peers: Flux says of the release: {said}");

    // After the chart is published, every pod waits for the migration.
    let application = cluster.kubectl().in_namespace(APPLICATION);
    application.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 170)?;
    for name in ["piefed-web", "piefed-worker"] {
        application.wait(&format!("deployment/{name}"), "create", 60)?;
        let deployment = application.get(&format!("deployment {name}"))?;
        let template = &deployment["spec"]["template"]["spec"];
        ensure!(
            deployment["metadata"]["generation"] == 1
                && template["initContainers"][0]["name"] == "wait-for-migrations"
                && deployment["status"]["readyReplicas"].is_null(),
            "{deployment:#}"
        );
    }
    application.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    becomes(&kustomizations, "piefed", "status", "True")?;
    let sets = application.get("replicasets")?;
    let sets = sets["items"].as_array().context("a list")?.len();
    ensure!(sets == 3, "{sets} ReplicaSets of web, worker and notifs");
    Ok(())
}

/// The objects that the test leaves, in the order in which Flux allows their deletion.
struct Left<'c>(&'c Cluster);

impl Drop for Left<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that installs notices it.
        for line in [
            "delete kustomization --all --namespace=flux-system --timeout=120s",
            "delete gitrepository --all --namespace=flux-system --timeout=60s",
            "delete namespace migration-gate piefed-application --ignore-not-found --timeout=120s",
        ] {
            let _ = self.0.kubectl().run(line);
        }
    }
}
