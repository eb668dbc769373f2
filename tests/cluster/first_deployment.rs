//! PieFed's manifests on a cluster with migration-gate.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::stories::stage::Stage;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::release::Release;

const APPLICATION: &str = "piefed-application";

testkit::tests! {
    exclusive: pods_start_after_the_job_completes;
    shared: a_failed_job_keeps_pods_in_init_and_is_explained;
    exclusive: the_old_setup_is_refused;
    shared:
        a_dry_run_shows_the_injection_and_changes_nothing,
        the_waiter_is_restricted_and_keeps_its_token_to_itself;
}

fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name)
        .display()
        .to_string()
}

/// PieFed's Job and two of its Deployments, with an image in place of PieFed's. The stories run all
/// of `examples/piefed`.
fn piefed() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = root.join("tests/cluster/first_deployment/piefed");
    folder.display().to_string()
}

/// PieFed's manifests, moved to another namespace.
fn moved_to(kubectl: &Kubectl, namespace: &str) -> Result<String> {
    let manifests = kubectl.run(&format!("kustomize {}", piefed()))?;
    ensure!(manifests.contains(APPLICATION), "{manifests}");
    Ok(manifests.replace(APPLICATION, namespace))
}

/// The pods of the two Deployments, when all exist and run their first init container.
fn waiting_pods(kubectl: &Kubectl) -> Result<Vec<String>> {
    let mut pods = Vec::new();
    for (deployment, replicas) in [("piefed-web", 2), ("piefed-worker", 1)] {
        kubectl.wait(
            &format!("deployment/{deployment}"),
            &format!("jsonpath={{.status.replicas}}={replicas}"),
            30,
        )?;
        let selector = format!("--selector=app.kubernetes.io/name={deployment}");
        let found = kubectl.get(&format!("pods {selector}"))?;
        for pod in found["items"].as_array().context("a list of pods")? {
            let name = pod["metadata"]["name"].as_str().context("a name")?;
            pods.push(name.to_owned());
        }
    }
    ensure!(pods.len() == 3, "{pods:?}");
    for pod in &pods {
        kubectl.wait(
            &format!("pod/{pod}"),
            "jsonpath={.status.initContainerStatuses[0].started}=true",
            60,
        )?;
    }
    Ok(pods)
}

/// The status of the injected container, and of the application's own.
fn statuses(pod: &Value) -> (&Value, &Value) {
    (
        &pod["status"]["initContainerStatuses"][0],
        &pod["status"]["containerStatuses"][0],
    )
}

fn pods_start_after_the_job_completes(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let _release = Release::install(cluster)?;
    let kubectl = &application.kubectl;
    kubectl.run(&format!("apply -k {}", piefed()))?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    let pods = waiting_pods(kubectl)?;
    for name in &pods {
        let pod = kubectl.get(&format!("pod {name}"))?;
        let (waiter, main) = statuses(&pod);
        ensure!(waiter["name"] == "wait-for-migrations", "{waiter}");
        ensure!(waiter["state"].get("running").is_some(), "{waiter}");
        ensure!(main["state"].get("waiting").is_some(), "{main}");
    }

    kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    for deployment in ["piefed-web", "piefed-worker"] {
        kubectl.wait(
            &format!("deployment/{deployment}"),
            "condition=Available",
            60,
        )?;
    }
    let job = kubectl.get("job piefed-db-init")?;
    // RFC 3339 in UTC with whole seconds, so texts can be compared.
    let completed = job["status"]["completionTime"]
        .as_str()
        .context("completed")?;
    for name in &pods {
        let pod = kubectl.get(&format!("pod {name}"))?;
        let (waiter, main) = statuses(&pod);
        let ended = &waiter["state"]["terminated"];
        let time = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        ensure!(ended["exitCode"] == 0, "{waiter}");
        ensure!(waiter["restartCount"] == 0, "{waiter}");
        ensure!(
            time(&ended["startedAt"]).as_str() <= completed
                && completed <= time(&ended["finishedAt"]).as_str(),
            "the Job completed at {completed}, and {ended}"
        );
        let started = time(&main["state"]["running"]["startedAt"]);
        ensure!(completed <= started.as_str(), "{completed} and {main}");
    }
    Ok(())
}

fn a_failed_job_keeps_pods_in_init_and_is_explained(cluster: &Cluster) -> Result<()> {
    let stage = Stage::enter(cluster)?;
    let application = stage.namespace("piefed-failed-job")?;
    let kubectl = &application.kubectl;
    // With one attempt only: Kubernetes' back-off between attempts takes minutes.
    let manifests =
        moved_to(kubectl, &application.name)?.replace("backoffLimit: 3", "backoffLimit: 0");
    ensure!(manifests.contains("backoffLimit: 0"), "{manifests}");
    kubectl.apply(&manifests)?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    let pods = waiting_pods(kubectl)?;
    kubectl.exec("job/piefed-db-init", &["finish-migration", "failure"])?;
    kubectl.wait("job/piefed-db-init", "condition=Failed", 60)?;
    for name in &pods {
        kubectl.wait(
            &format!("pod/{name}"),
            "jsonpath={.status.initContainerStatuses[0].lastState.terminated.exitCode}=3",
            60,
        )?;
        let pod = kubectl.get(&format!("pod {name}"))?;
        let (waiter, main) = statuses(&pod);
        ensure!(pod["status"]["phase"] == "Pending", "{}", pod["status"]);
        ensure!(main["state"].get("waiting").is_some(), "{main}");
        ensure!(main["restartCount"] == 0, "{main}");
        // The next attempt may have started, and not failed yet.
        let parts = [
            "Running upgrade 4a3f2c1b0d9e -> 7c6d5e4f3a2b",
            "could not connect with postgresql://piefed:",
        ];
        let logs = application.says(name, "wait-for-migrations", &parts)?;
        let described = kubectl.run(&format!("describe pod {name}"))?;
        ensure!(described.contains("could not connect with"), "{described}");
        for shown in [logs, described, waiter.to_string()] {
            ensure!(!shown.contains("s3cr3t-p4ssw0rd"), "{shown}");
        }
    }
    Ok(())
}

fn the_old_setup_is_refused(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let _release = Release::install_with_certificate(cluster)?;
    let kubectl = &application.kubectl;
    let manifests = include_str!("first_deployment/offenders.yaml");
    for (manifest, (kind, spec)) in manifests.split("---\n").zip([
        ("Deployment", "spec.template.spec"),
        ("Pod", "spec"),
        ("CronJob", "spec.jobTemplate.spec.template.spec"),
    ]) {
        let refusal = kubectl.apply_refused(manifest)?;
        let field = format!("{spec}.containers[0].env[1]:");
        let named = refusal.contains(&field) && refusal.contains("PIEFED_INIT_CONTAINER");
        ensure!(named, "{kind}: {refusal}");
        let stored = kubectl.run(&format!("get {kind} x --ignore-not-found"))?;
        ensure!(stored.is_empty(), "{kind} was stored");
    }
    let refusal = kubectl.refused(&format!("apply -k {}", example("piefed-old")))?;
    ensure!(refusal.contains("PIEFED_INIT_CONTAINER"), "{refusal}");
    Ok(())
}

fn a_dry_run_shows_the_injection_and_changes_nothing(cluster: &Cluster) -> Result<()> {
    let stage = Stage::enter(cluster)?;
    let application = stage.namespace("piefed-dry-run")?;
    let kubectl = &application.kubectl;
    let manifests = moved_to(kubectl, &application.name)?;
    let shown = kubectl
        .output(
            &["apply", "--dry-run=server", "--output=yaml", "-f", "-"],
            &manifests,
            Duration::from_secs(90),
        )?
        .success()?;
    for part in [
        "name: wait-for-migrations",
        "serviceAccountName: piefed-init-checker",
    ] {
        ensure!(shown.matches(part).count() == 2, "{shown}");
    }
    let stored = kubectl.run("get deployments,jobs,pods --output=name")?;
    ensure!(stored.is_empty(), "{stored}");
    Ok(())
}

/// A Job and a Deployment whose own containers also meet the `restricted` standard. The
/// Deployment's pod has the quality-of-service class `Guaranteed`.
const RESTRICTED: &str = include_str!("first_deployment/restricted.yaml");

fn the_waiter_is_restricted_and_keeps_its_token_to_itself(cluster: &Cluster) -> Result<()> {
    let stage = Stage::enter(cluster)?;
    let application = stage.namespace("piefed-restricted")?;
    let kubectl = &application.kubectl;
    kubectl.run(&format!(
        "label namespace {} pod-security.kubernetes.io/enforce=restricted pod-security.kubernetes.io/warn=restricted",
        application.name
    ))?;
    let said = kubectl.output(&["apply", "-f", "-"], RESTRICTED, Duration::from_secs(90))?;
    ensure!(!said.stderr.contains("PodSecurity"), "{}", said.stderr);
    said.success()?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    kubectl.wait("deployment/piefed-web", "condition=Available", 60)?;
    // The waiter's resources do not lower the pod's QoS class.
    let classes = "get pods --selector=app=web --output=jsonpath={.items[*].status.qosClass}";
    let class = kubectl.run(classes)?;
    ensure!(class == "Guaranteed", "{class}");
    let look = "ls -d /var/run/secrets/kubernetes.io/* 2>/dev/null; echo looked";
    let found = kubectl.exec("deployment/piefed-web", &["sh", "-c", look])?;
    ensure!(found.trim() == "looked", "{found}");
    Ok(())
}
