//! The remedies that are printed if Flux applies the Job, run with Flux's own command line.

use std::fs;
use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use kube::Api;
use kube::api::DynamicObject;
use serde_json::{Value, json};

use super::controllers::Controllers;
use super::{becomes, objects};
use crate::cure::Reader;
use crate::flux::Flux;
use crate::peers::stage;
use crate::waiter::application::GatedApplication;
use crate::waiter::applied::{chart, out_of_a_kustomization};
use testkit::assets::peer;
use testkit::cluster::Cluster;

/// The namespaces, each with a gate.
pub(in crate::peers) const KUSTOMIZATION: &str = "flux-kustomization";
pub(in crate::peers) const RELEASE: &str = "flux-release";

testkit::tests! {
    shared:
        the_way_out_of_a_kustomization_leads_out_by_flux_own_command,
        the_way_out_of_a_release_leads_out_by_flux_own_command;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";

/// A folder with Flux's command line.
fn commands() -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    symlink(peer("flux")?.join("bin/flux"), folder.path().join("flux"))?;
    Ok(folder)
}

fn the_way_out_of_a_kustomization_leads_out_by_flux_own_command(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, KUSTOMIZATION)?;
    let folder = commands()?;
    out_of_a_kustomization(cluster, &application, KUSTOMIZATION, folder.path())
}

/// A `HelmRelease` of the application, with this image.
fn release(image: &str) -> Value {
    json!({
        "apiVersion": "helm.toolkit.fluxcd.io/v2", "kind": "HelmRelease",
        "metadata": {"name": RELEASE, "namespace": "flux-system"},
        "spec": {
            "interval": "10m", "releaseName": "shop", "targetNamespace": RELEASE,
            "chartRef": {"kind": "ExternalArtifact", "name": RELEASE},
            // While Flux waits for health, it does not reconcile.
            "install": {"disableWait": true}, "upgrade": {"disableWait": true},
            "values": {"image": image},
        },
    })
}

fn the_way_out_of_a_release_leads_out_by_flux_own_command(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, RELEASE)?;
    let flux = Flux::of(cluster)?;
    let folder = commands()?;
    let reader = Reader::new(cluster, &application, folder.path())?;
    let source = folder.path().join("chart");
    fs::create_dir_all(&source)?;
    chart(&source)?;
    let _controller = Controllers::start_helm(cluster)?;
    let _left = LeftRelease(cluster);
    flux.artifact_of(RELEASE, &source)?;
    let releases = objects(cluster, ("helm", "v2", "HelmRelease"), "flux-system");
    let apply = |image| cluster.kubectl().apply(&release(image).to_string());
    apply(V2)?;
    application.migrates_first(V2)?;
    becomes(&releases, RELEASE, "status", "True")?;
    apply(V3)?;
    refused(&releases)?;
    application.holds(V3, "is complete, but for version 1.2.0 ")?;

    // The command that `status` prints uses kubectl.
    reader.runs(&reader.status("job-of-another-version")?)?;
    let pod = application.holds(V3, "waiting: Job piefed-db-init is running")?;
    becomes(&releases, RELEASE, "status", "True")?;
    reader.runs(&reader.after_a_failure(&pod)?)?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, V3)?;
    Ok(())
}

/// Waits until Helm has failed to change the Job.
fn refused(releases: &Api<DynamicObject>) -> Result<()> {
    let said = becomes(releases, RELEASE, "reason", "UpgradeFailed")?;
    ensure!(said.contains("field is immutable"), "{said}");
    Ok(())
}

/// The objects that the test leaves. Flux uninstalls the release.
struct LeftRelease<'c>(&'c Cluster);

impl Drop for LeftRelease<'_> {
    fn drop(&mut self) {
        let kubectl = self.0.kubectl().in_namespace("flux-system");
        // A failure cannot be reported here, and does no harm: no other test uses this name.
        let _ = kubectl.run(&format!("delete helmrelease {RELEASE} --timeout=60s"));
        let _ = kubectl.run(&format!("delete externalartifact {RELEASE}"));
    }
}
