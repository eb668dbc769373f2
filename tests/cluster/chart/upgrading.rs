//! Upgrades, rollbacks and interrupted commands of the chart, while applications are being applied.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::lifecycle::helm_test;
use super::{APPLICATION, CHART, HELD, objects};
use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::release::Release;
use testkit::{image, process};

testkit::tests! {
    exclusive:
        an_upgrade_and_a_rollback_refuse_no_apply,
        an_interrupted_upgrade_is_rolled_back_under_guard,
        an_interrupted_install_can_be_run_again;
}

/// The time between two applies of an application that is applied all the time.
const PAUSE: Duration = Duration::from_millis(100);

/// Applies a held Deployment repeatedly by server-side apply, as Flux does, until `work` is done.
/// `each` gets the results.
pub(super) fn applying<T: Send>(
    application: &Api<Deployment>,
    parameters: &PatchParams,
    work: impl FnOnce() -> Result<T> + Send,
    mut each: impl FnMut(kube::Result<Deployment>) -> Result<()>,
) -> Result<T> {
    let held = held()?;
    let (over, is_over) = mpsc::channel();
    thread::scope(|scope| {
        let work = scope.spawn(move || {
            // Dropped when the work ends, also after an error.
            let _over: Sender<()> = over;
            work()
        });
        // Wait between two applies, until the work is over.
        while is_over.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
            each(apply(application, parameters, &held))?;
        }
        work.join().map_err(|_| anyhow!("the thread panicked"))?
    })
}

fn apply(
    application: &Api<Deployment>,
    parameters: &PatchParams,
    held: &Value,
) -> kube::Result<Deployment> {
    block_on(application.patch("piefed-web", parameters, &Patch::Apply(held)))
}

fn held() -> Result<Value> {
    let mut held = objects(HELD)?;
    held.pop().context("a held Deployment")
}

pub(super) fn has_waiter(deployment: &Deployment) -> bool {
    let template = deployment.spec.as_ref().map(|spec| &spec.template);
    let pod = template.and_then(|template| template.spec.as_ref());
    pod.into_iter()
        .flat_map(|pod| pod.init_containers.iter().flatten())
        .any(|container| container.name == "wait-for-migrations")
}

/// Applies a held Deployment by dry runs until `work` is done. Each result must have its waiter.
fn guarded<T: Send>(
    application: &Api<Deployment>,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    let mut applied = 0;
    let parameters = PatchParams::apply("flux").dry_run();
    let done = applying(application, &parameters, work, |deployment| {
        let deployment =
            deployment.with_context(|| format!("during {what}, after {applied} applies"))?;
        ensure!(has_waiter(&deployment), "{what}: {}", json!(deployment));
        applied += 1;
        Ok(())
    })?;
    eprintln!("chart: {applied} applies during {what}");
    ensure!(applied > 3, "{applied} applies prove nothing");
    Ok(done)
}

/// A chart that stands for the previous release: with another version, another image, the port of
/// that release, an object that the present chart no longer has, and without one that it has.
fn previous(folder: &Path) -> Result<String> {
    let chart = folder.join("migration-gate");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(CHART).arg(&chart);
    process::run(&mut copy, "", Duration::from_secs(10))?.success()?;
    let description = fs::read_to_string(chart.join("Chart.yaml"))?;
    let mut lines: Vec<&str> = description
        .lines()
        .filter(|line| !line.starts_with("version:") && !line.starts_with("appVersion:"))
        .collect();
    lines.extend(["version: 0.0.9", "appVersion: \"0.0.9\""]);
    fs::write(chart.join("Chart.yaml"), lines.join("\n"))?;
    let values = fs::read_to_string(chart.join("values.yaml"))?;
    ensure!(values.contains("port: 10250"), "{values}");
    fs::write(
        chart.join("values.yaml"),
        values.replace("port: 10250", "port: 8443"),
    )?;
    fs::remove_file(chart.join("templates/poddisruptionbudget.yaml"))?;
    fs::write(
        chart.join("templates/old.yaml"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: migration-gate-old}}",
    )?;
    Ok(chart.display().to_string())
}

fn an_upgrade_and_a_rollback_refuse_no_apply(cluster: &Cluster) -> Result<()> {
    let _namespace = cluster.namespace_named(APPLICATION)?;
    let application = Api::namespaced(cluster.client(), APPLICATION);
    let release = Release::prepare(cluster)?;
    let gate = release.kubectl();
    let folder = tempfile::tempdir()?;
    let (repository, tag) = image::MIGRATION_GATE_NEXT
        .rsplit_once(':')
        .context("the image has a tag")?;
    cluster.tag(image::MIGRATION_GATE, image::MIGRATION_GATE_NEXT)?;
    gate.helm(&format!(
        "install migration-gate {} --wait --timeout=170s --set=image.repository={repository},image.tag={tag}",
        previous(folder.path())?
    ))?;
    let gates = json!([{
        "name": "piefed", "namespace": APPLICATION, "job": "piefed-db-init",
        "deployments": ["piefed-web", "piefed-worker", "piefed-beat"], "serviceAccount": "piefed-init-checker",
    }]);
    let upgrade = format!("--wait --set-json=gates={gates} --set=mode=warn");
    for step in ["upgrade", "rollback"] {
        guarded(&application, &format!("the {step}"), || match step {
            "upgrade" => release.helm("upgrade", &upgrade),
            _ => gate.helm("rollback migration-gate 1 --wait --timeout=170s"),
        })?;
        let upgraded = step == "upgrade";
        let config = gate.get("configmap migration-gate")?["data"]["config.yaml"].to_string();
        ensure!(config.contains("piefed-beat") == upgraded, "{config}");
        let objects = gate.run("get configmaps,poddisruptionbudgets --output=name")?;
        ensure!(
            objects.contains("configmap/migration-gate-old") != upgraded
                && objects.contains("poddisruptionbudget.policy/migration-gate") == upgraded,
            "after the {step}: {objects}"
        );
        let image = gate.run(
            "get deployment migration-gate --output=jsonpath={.spec.template.spec.containers[0].image}",
        )?;
        ensure!(
            (image == image::MIGRATION_GATE_NEXT) != upgraded,
            "after the {step}: {image}"
        );
    }
    Ok(())
}

/// Starts Helm, and kills it when `condition` holds for `what`.
fn interrupt(kubectl: &Kubectl, arguments: &[&str], what: &str, condition: &str) -> Result<()> {
    let mut helm = Command::new(&kubectl.helm)
        .args(arguments)
        .args([
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--wait",
            // The preflight would end it before it changes anything.
            "--no-hooks",
        ])
        .args(["--set=image.repository=example.invalid/none"])
        .env("KUBECONFIG", &kubectl.kubeconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let begun = kubectl.wait(what, condition, 60);
    helm.kill()?;
    helm.wait()?;
    begun
}

fn an_interrupted_upgrade_is_rolled_back_under_guard(cluster: &Cluster) -> Result<()> {
    let _namespace = cluster.namespace_named(APPLICATION)?;
    let application = Api::namespaced(cluster.client(), APPLICATION);
    let release = Release::install(cluster)?;
    let gate = release.kubectl();
    guarded(&application, "an interrupted upgrade", || {
        // The new replicas wait for an image that does not exist.
        interrupt(
            gate,
            &["upgrade"],
            "deployment/migration-gate",
            "jsonpath={.status.unavailableReplicas}=1",
        )?;
        let refusal = release
            .helm("upgrade", "--wait")
            .err()
            .context("Helm takes a release that was killed for whole")?;
        let refusal = format!("{refusal:#}");
        ensure!(refusal.contains("another operation"), "{refusal}");
        gate.helm("rollback migration-gate --wait --timeout=170s")
    })?;
    helm_test(gate)?;
    release.helm("upgrade", "--wait")?;
    helm_test(gate)?;
    Ok(())
}

fn an_interrupted_install_can_be_run_again(cluster: &Cluster) -> Result<()> {
    let _namespace = cluster.namespace_named(APPLICATION)?;
    let application = Api::namespaced(cluster.client(), APPLICATION);
    let release = Release::prepare(cluster)?;
    let kubectl = release.kubectl();
    interrupt(
        kubectl,
        &["install"],
        "validatingwebhookconfiguration/migration-gate",
        "create",
    )?;
    // The remedy that Helm prints, which the chart must allow. An application that is applied all
    // the time is refused while the webhooks exist and no replica answers, and then succeeds by
    // itself.
    applied_at_last(&application, || {
        kubectl.helm("uninstall migration-gate --wait")?;
        release.helm("install", "--wait")
    })?;
    helm_test(kubectl)?;

    // A Helm command that has timed out is run again.
    kubectl.helm("uninstall migration-gate --wait")?;
    let gave_up = kubectl.helm(&format!(
        "install migration-gate {CHART} --wait --no-hooks --timeout=3s --set=image.repository=example.invalid/none"
    ));
    ensure!(gave_up.is_err(), "an image that no one has was installed");
    applied_at_last(&application, || release.helm("upgrade", "--install --wait"))?;
    helm_test(kubectl)?;
    Ok(())
}

/// Applies a held Deployment until `work` is done. It may be refused meanwhile, but the apply after
/// that must succeed, and with a waiter, because it changes the pod template.
fn applied_at_last<T: Send>(
    application: &Api<Deployment>,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<()> {
    let parameters = PatchParams::apply("flux").force();
    let (mut refused, mut applied) = (0, 0);
    applying(application, &parameters, work, |deployment| {
        match deployment {
            Ok(_) => applied += 1,
            Err(error) => {
                let error = error.to_string();
                ensure!(error.contains("failed calling webhook"), "{error}");
                refused += 1;
            }
        }
        Ok(())
    })?;
    eprintln!("chart: {applied} applied and {refused} refused meanwhile");
    let mut changed = held()?;
    changed["spec"]["template"]["metadata"]["annotations"] = json!({"changed": "after"});
    let deployment = apply(application, &parameters, &changed)?;
    ensure!(has_waiter(&deployment), "{}", json!(deployment));
    Ok(())
}
