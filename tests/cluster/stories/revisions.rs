//! A chart whose Job has another name in each revision, as in many charts.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, LogParams};
use serde_json::{Value, json};

use super::application::WAITER;
use super::stage::{REVISIONS, Stage};
use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;

testkit::tests! {
    shared: a_job_named_per_revision_is_waited_for_through_three_upgrades;
}

testkit::soaks! {
    shared: a_job_named_per_revision_is_waited_for_through_ten_upgrades;
}

/// The chart's template. The migration takes longer than a second, the resolution of Kubernetes'
/// times.
const TEMPLATE: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: "{{ .Release.Name }}-migrate-{{ .Release.Revision }}"}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: migrate, image: "{{ .Values.image }}", command: [sleep, "2"]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: "{{ .Release.Name }}-web"}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: web, image: "{{ .Values.image }}"}
"#;

fn write_chart(folder: &Path) -> Result<()> {
    fs::create_dir(folder.join("templates"))?;
    fs::write(folder.join("templates/all.yaml"), TEMPLATE)?;
    let description = "{apiVersion: v2, name: shop, version: 1.0.0}";
    Ok(fs::write(folder.join("Chart.yaml"), description)?)
}

fn a_job_named_per_revision_is_waited_for_through_three_upgrades(cluster: &Cluster) -> Result<()> {
    upgrades(cluster, 3)
}

fn a_job_named_per_revision_is_waited_for_through_ten_upgrades(cluster: &Cluster) -> Result<()> {
    upgrades(cluster, 10)
}

/// Installs the chart, and upgrades it so many times.
fn upgrades(cluster: &Cluster, upgrades: usize) -> Result<()> {
    let stage = Stage::enter(cluster)?;
    let namespace = stage.namespace(REVISIONS)?;
    let chart = tempfile::tempdir()?;
    write_chart(chart.path())?;
    let pods: Api<Pod> = Api::namespaced(cluster.client(), REVISIONS);
    let jobs: Api<Job> = Api::namespaced(cluster.client(), REVISIONS);
    let mut seconds = Vec::new();
    for revision in 1..=upgrades + 1 {
        let image = format!("migration-gate.test/shop:1.{revision}.0");
        cluster.tag(BUSYBOX, &image)?;
        // The usual command. Helm waits for both the Job and the Deployment.
        namespace.kubectl.helm(&format!(
            "upgrade --install shop {} --set=image={image} --wait --wait-for-jobs --timeout=170s",
            chart.path().display()
        ))?;
        let name = format!("shop-migrate-{revision}");
        let job = json!(block_on(jobs.get(&name))?);
        let completed = time(&job["status"]["completionTime"])?;
        let found = block_on(pods.list(&ListParams::default().labels("app=web")))?;
        let new = found.items.iter().map(|pod| json!(pod));
        let new: Vec<Value> = new
            .filter(|pod| pod["spec"]["containers"][0]["image"] == image)
            .collect();
        let [pod] = new.as_slice() else {
            anyhow::bail!("{} pods of {image}", new.len());
        };
        let status = &pod["status"];
        let started = time(&status["containerStatuses"][0]["state"]["running"]["startedAt"])?;
        ensure!(
            completed <= started,
            "{name} completed at {completed}: {status}"
        );
        seconds.push(started.duration_since(completed).as_secs());
        let parameters = LogParams {
            container: Some(WAITER.to_owned()),
            ..LogParams::default()
        };
        let pod = pod["metadata"]["name"].as_str().context("a name")?;
        let said = block_on(pods.logs(pod, &parameters))?;
        let opened = format!("open: Job {name} is complete, of version 1.{revision}.0");
        ensure!(
            said.lines()
                .last()
                .is_some_and(|line| line.starts_with(&opened)),
            "{said}"
        );
    }
    eprintln!("stories: a Job for each revision: pods started {seconds:?} s after its completion");
    Ok(())
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value
        .as_str()
        .with_context(|| format!("a time, not {value}"))?;
    Ok(text.parse()?)
}
