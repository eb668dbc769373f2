//! The remedy that the waiter, the Events and `status` print is right for the tool that applies the
//! Job. These tests run the printed commands unchanged, and they open the gate.
//!
//! `tests/cluster/peers/` tests those for Argo CD and for Flux's Helm releases, and Flux's own
//! command line.

use std::fs;
use std::path::Path;

use anyhow::{Result, ensure};
use serde_json::json;

use super::application::{GatedApplication, manifests};
use crate::cure::{Reader, script};
use crate::flux::Flux;
use crate::stories::stage::{BY_FLUX, BY_HELM, BY_KUBECTL};
use testkit::cluster::Cluster;

testkit::tests! {
    shared:
        the_way_out_of_a_helm_release_leads_out,
        the_way_out_of_a_kustomization_leads_out,
        the_way_out_with_kubectl_leads_out;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";

/// A Job of an earlier version is complete.
const OTHER: &str = "is complete, but for version 1.2.0 ";
/// The Job's migration runs.
const RUNS: &str = "waiting: Job piefed-db-init is running";

/// Completes the running Job, and checks that the pods of this image start after it.
fn migrates(application: &GatedApplication, image: &str) -> Result<()> {
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, image).map(drop)
}

fn the_way_out_with_kubectl_leads_out(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, BY_KUBECTL)?;
    let kubectl = application.kubectl();
    let folder = tempfile::tempdir()?;
    let reader = Reader::new(cluster, &application, folder.path())?;
    kubectl.apply(&manifests(V2))?;
    application.migrates_first(V2)?;
    let refusal = kubectl.apply_refused(&manifests(V3))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(V3, OTHER)?;
    let delete = reader.last_words(V3)?;
    reader.runs(&reader.status("job-of-another-version")?)?;
    // This remedy needs the manifests, so it has no command.
    kubectl.apply(&manifests(V3))?;

    let pod = application.holds(V3, RUNS)?;
    let said = reader.after_a_failure(&pod)?;
    ensure!(said == delete, "`{said}` is not `{delete}`");
    reader.runs(&delete)?;
    kubectl.apply(&manifests(V3))?;

    // To run the same Job again needs no manifest.
    application.fails()?;
    reader.runs(&reader.status("job-failed")?)?;
    migrates(&application, V3)
}

/// A chart whose Job is not a hook, as in many charts: Helm cannot change the Job, but applies the
/// Deployment.
pub(crate) fn chart(folder: &Path) -> Result<()> {
    let templates = folder.join("templates");
    fs::create_dir_all(&templates)?;
    let about = json!({"apiVersion": "v2", "name": "shop", "version": "1.0.0"});
    fs::write(folder.join("Chart.yaml"), about.to_string())?;
    fs::write(templates.join("all.yaml"), manifests("{{ .Values.image }}"))?;
    Ok(())
}

fn the_way_out_of_a_helm_release_leads_out(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, BY_HELM)?;
    let folder = tempfile::tempdir()?;
    chart(&folder.path().join("chart"))?;
    let reader = Reader::new(cluster, &application, folder.path())?;
    let values = |image: &str| {
        let values = json!({"image": image}).to_string();
        fs::write(folder.path().join("values.yaml"), values)
    };
    // The reader knows the paths of the chart and its values.
    let filled = |command: String| {
        let command = command.replace("CHART", "chart");
        command.replace("VALUES", "values.yaml")
    };
    values(V2)?;
    reader.runs(&format!(
        "helm install shop chart -n {BY_HELM} --values values.yaml"
    ))?;
    application.migrates_first(V2)?;
    values(V3)?;
    let refusal = reader.tries(&format!(
        "helm upgrade shop chart -n {BY_HELM} --values values.yaml"
    ))?;
    let refusal = refusal.failure()?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(V3, OTHER)?;
    reader.runs(&reader.status("job-of-another-version")?)?;
    application.holds(V3, "was deleted, and there is no record of version 1.3.0")?;
    reader.runs(&filled(reader.last_words(V3)?))?;

    let pod = application.holds(V3, RUNS)?;
    reader.runs(&filled(reader.after_a_failure(&pod)?))?;
    migrates(&application, V3)
}

/// The part of Flux's command line that the waiter prints: it requests a reconciliation by an
/// annotation.
const FLUX: &str = "[ \"$1 $2 $4\" = 'reconcile kustomization -n' ] || exit 2
exec kubectl -n \"$5\" annotate kustomizations.kustomize.toolkit.fluxcd.io \"$3\" --overwrite \
    reconcile.fluxcd.io/requestedAt=\"$(date +%s%N)\"";

fn the_way_out_of_a_kustomization_leads_out(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, BY_FLUX)?;
    let folder = tempfile::tempdir()?;
    script(folder.path(), "flux", FLUX)?;
    out_of_a_kustomization(cluster, &application, BY_FLUX, folder.path())
}

/// Tests the remedies for an application that Flux applies to this namespace, with the `flux` in
/// this folder.
pub(crate) fn out_of_a_kustomization(
    cluster: &Cluster,
    application: &GatedApplication,
    namespace: &str,
    folder: &Path,
) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let reader = Reader::new(cluster, application, folder)?;
    let source = folder.join("source");
    fs::create_dir_all(&source)?;
    fs::write(source.join("all.yaml"), manifests(V2))?;
    let kustomization = json!({"namespace": namespace, "resources": ["all.yaml"]});
    fs::write(source.join("kustomization.yaml"), kustomization.to_string())?;

    let kustomization = flux.kustomization(namespace)?;
    // While Flux waits for health, it does not reconcile.
    application
        .kubectl()
        .in_namespace("flux-system")
        .run(&format!(
            r#"patch kustomization {namespace} --type=merge --patch={{"spec":{{"wait":false}}}}"#
        ))?;
    kustomization.publish(&source)?;
    let pod = application.holds(V2, RUNS)?;
    reader.runs(&reader.after_a_failure(&pod)?)?;
    application.fails()?;
    reader.runs(&reader.status("job-failed")?)?;
    migrates(application, V2)
}
