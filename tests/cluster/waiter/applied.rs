//! The way out that the waiter names is that of who applies the Job, and it leads out.
//!
//! `tests/cluster/peers/argo_cd.rs` has that of Argo CD.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::application::{GatedApplication, JOB, manifests};
use crate::flux::Flux;
use crate::stories::stage::{BY_FLUX, BY_HELM};
use testkit::cluster::Cluster;
use testkit::process::says;
use testkit::shell::Shell;

testkit::tests! {
    shared: the_way_out_of_a_helm_release_leads_out, the_way_out_of_a_kustomization_leads_out;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";

/// A chart whose Job isn't a hook, as many are: Helm can't change it, and applies the Deployment all
/// the same.
fn chart(folder: &Path) -> Result<()> {
    let templates = folder.join("templates");
    fs::create_dir_all(&templates)?;
    let about = json!({"apiVersion": "v2", "name": "shop", "version": "1.0.0"});
    fs::write(folder.join("Chart.yaml"), about.to_string())?;
    fs::write(templates.join("all.yaml"), manifests("{{ .Values.image }}"))?;
    Ok(())
}

fn the_way_out_of_a_helm_release_leads_out(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, BY_HELM)?;
    let kubectl = application.kubectl();
    let folder = tempfile::tempdir()?;
    chart(&folder.path().join("chart"))?;
    let shell = Shell::new(kubectl, folder.path())?;
    let run = |line: &str| shell.run(line, Duration::from_mins(5));
    let values = |image: &str| {
        fs::write(
            folder.path().join("values.yaml"),
            json!({"image": image}).to_string(),
        )
    };
    values(V2)?;
    run(&format!(
        "helm install shop chart -n {BY_HELM} --values values.yaml"
    ))?
    .success()?;
    application.migrates_first(V2)?;
    values(V3)?;
    let refusal = run(&format!(
        "helm upgrade shop chart -n {BY_HELM} --values values.yaml"
    ))?
    .failure()?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(V3, "is complete, but for version 1.2.0 ")?;
    let words = application.last_words(cluster, V3)?;
    let mut lines = words.lines();
    let words = lines
        .find(|line| line.starts_with("gave up"))
        .unwrap_or_default();
    let (_, command) = words
        .split_once("with its values: ")
        .with_context(|| words.to_owned())?;
    let (command, _) = command
        .split_once(". If ")
        .with_context(|| words.to_owned())?;
    let command = command
        .replace("CHART", "chart")
        .replace("VALUES", "values.yaml");
    run(&command)?.success()?;
    application.migrates_first(V3)
}

/// Flux' command line, as far as the waiter names it: it asks for a reconciliation by an annotation.
const FLUX: &str = "#!/bin/sh
[ \"$1 $2 $4\" = 'reconcile kustomization -n' ] || exit 2
exec kubectl -n \"$5\" annotate kustomizations.kustomize.toolkit.fluxcd.io \"$3\" --overwrite \
    reconcile.fluxcd.io/requestedAt=\"$(date +%s)\"
";

fn the_way_out_of_a_kustomization_leads_out(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let application = GatedApplication::new(cluster, BY_FLUX)?;
    let kubectl = application.kubectl();
    let folder = tempfile::tempdir()?;
    let source = folder.path().join("source");
    fs::create_dir_all(&source)?;
    fs::write(source.join("all.yaml"), manifests(V2))?;
    let kustomization = json!({"namespace": BY_FLUX, "resources": ["all.yaml"]});
    fs::write(source.join("kustomization.yaml"), kustomization.to_string())?;
    let program = folder.path().join("flux");
    fs::write(&program, FLUX)?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;

    let kustomization = flux.kustomization(BY_FLUX)?;
    // While Flux waits for health, it does nothing else.
    kubectl.in_namespace("flux-system").run(&format!(
        r#"patch kustomization {BY_FLUX} --type=merge --patch={{"spec":{{"wait":false}}}}"#
    ))?;
    kustomization.publish(&source)?;
    let pod = application.holds(V2, "waiting: Job piefed-db-init is running")?;
    application.fails()?;
    let command = format!(
        "kubectl delete job {JOB} -n {BY_FLUX} && flux reconcile kustomization {BY_FLUX} -n flux-system"
    );
    let said = kubectl.get(&format!("pod {pod}"));
    let said = application.says(&said?, &command)?;
    says(&said, &["mend the cause", "let Flux apply it"])?;
    let shell = Shell::new(kubectl, folder.path())?;
    shell.run(&command, Duration::from_mins(5))?.success()?;
    application.migrate()?;
    application.rolled_out()
}
