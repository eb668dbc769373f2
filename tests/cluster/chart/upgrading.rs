//! The chart changes while applications are being applied: upgrade, rollback, and what was interrupted.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::json;

use super::lifecycle::helm_test;
use super::{APPLICATION, CHART, HELD};
use crate::cluster::Cluster;
use crate::harness::Test;
use crate::kubectl::Kubectl;
use crate::namespace::Namespace;
use crate::poll::{Look, until};
use crate::release::Release;
use crate::{image, process};

pub(super) const TESTS: [Test; 3] = [
    Test::exclusive(
        "chart::an_upgrade_and_a_rollback_refuse_no_apply",
        an_upgrade_and_a_rollback_refuse_no_apply,
    ),
    Test::exclusive(
        "chart::an_interrupted_upgrade_is_rolled_back_under_guard",
        an_interrupted_upgrade_is_rolled_back_under_guard,
    ),
    Test::exclusive(
        "chart::an_interrupted_install_can_be_run_again",
        an_interrupted_install_can_be_run_again,
    ),
];

/// Applies a held Deployment, by a dry run, over and over until `work` is done; each of them must get its waiter.
fn guarded<T: Send>(
    kubectl: &Kubectl,
    what: &str,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    thread::scope(|scope| {
        let work = scope.spawn(work);
        let mut applied = 0;
        while !work.is_finished() {
            let said = kubectl
                .output(
                    &["apply", "--dry-run=server", "--output=yaml", "-f", "-"],
                    HELD,
                    Duration::from_secs(90),
                )?
                .success()
                .with_context(|| format!("during {what}, after {applied} applies"))?;
            ensure!(said.contains("wait-for-migrations"), "{what}: {said}");
            applied += 1;
        }
        let done = work.join().map_err(|_| anyhow!("the thread panicked"))??;
        eprintln!("chart: {applied} applies during {what}");
        ensure!(applied > 3, "{applied} applies prove nothing");
        Ok(done)
    })
}

/// The chart as it was a release ago, as far as there is one: another version, another image, an object that the present
/// one has no more, and one that it doesn't have yet.
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
    fs::remove_file(chart.join("templates/poddisruptionbudget.yaml"))?;
    fs::write(
        chart.join("templates/old.yaml"),
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: migration-gate-old}}",
    )?;
    Ok(chart.display().to_string())
}

fn an_upgrade_and_a_rollback_refuse_no_apply(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
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
        guarded(
            &application.kubectl,
            &format!("the {step}"),
            || match step {
                "upgrade" => release.helm("upgrade", &upgrade),
                _ => gate.helm("rollback migration-gate 1 --wait --timeout=170s"),
            },
        )?;
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

/// Starts Helm, and kills it when `begun` has happened.
fn interrupt(kubectl: &Kubectl, arguments: &[&str], begun: &str) -> Result<()> {
    let mut helm = Command::new(&kubectl.helm)
        .args(arguments)
        .args([
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--wait",
        ])
        .args(["--set=image.repository=example.invalid/none"])
        .env("KUBECONFIG", &kubectl.kubeconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let waiting = until(begun, Duration::from_mins(3), || match kubectl.run(begun) {
        Ok(found) if found.is_empty() => Look::Pending("nothing".to_owned()),
        Ok(_) => Look::Done(()),
        Err(error) => Look::Failed(error),
    });
    helm.kill()?;
    helm.wait()?;
    waiting
}

fn an_interrupted_upgrade_is_rolled_back_under_guard(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let gate = release.kubectl();
    guarded(&application.kubectl, "an interrupted upgrade", || {
        // The new replicas wait for an image that nobody has.
        interrupt(
            gate,
            &["upgrade"],
            "get pods --field-selector=status.phase=Pending --output=name",
        )?;
        let refusal = release
            .helm("upgrade", "--wait")
            .err()
            .context("Helm takes a release that was killed for whole")?
            .to_string();
        ensure!(refusal.contains("another operation"), "{refusal}");
        gate.helm("rollback migration-gate --wait --timeout=170s")
    })?;
    helm_test(gate)?;
    release.helm("upgrade", "--wait")?;
    helm_test(gate)?;
    Ok(())
}

fn an_interrupted_install_can_be_run_again(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::prepare(cluster)?;
    let kubectl = release.kubectl();
    interrupt(
        kubectl,
        &["install"],
        "get validatingwebhookconfiguration migration-gate --ignore-not-found --output=name",
    )?;
    // What Helm tells people to do, and the chart must allow. An application that is applied all the while is refused
    // for as long as the webhooks are there and nobody answers, and then succeeds by itself.
    applied_at_last(&application, || {
        kubectl.helm("uninstall migration-gate --wait")?;
        release.helm("install", "--wait")
    })?;
    helm_test(kubectl)?;

    // One that gave up by itself is simply run again.
    kubectl.helm("uninstall migration-gate --wait")?;
    let gave_up = kubectl.helm(&format!(
        "install migration-gate {CHART} --wait --timeout=3s --set=image.repository=example.invalid/none"
    ));
    ensure!(gave_up.is_err(), "an image that nobody has was installed");
    applied_at_last(&application, || release.helm("upgrade", "--install --wait"))?;
    helm_test(kubectl)?;
    Ok(())
}

/// Applies a held Deployment over and over, as Flux does, while `work` is done. Nobody minds a refusal meanwhile, but the
/// apply after it must succeed, and with a waiter.
fn applied_at_last<T: Send>(
    application: &Namespace,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<()> {
    let apply = || {
        let arguments = ["apply", "--server-side", "--force-conflicts", "-f", "-"];
        application
            .kubectl
            .output(&arguments, HELD, Duration::from_secs(90))
    };
    let (mut refused, mut applied) = (0, 0);
    thread::scope(|scope| -> Result<()> {
        let work = scope.spawn(work);
        while !work.is_finished() {
            match apply()?.success() {
                Ok(_) => applied += 1,
                Err(error) => {
                    let error = error.to_string();
                    ensure!(error.contains("failed calling webhook"), "{error}");
                    refused += 1;
                }
            }
        }
        work.join().map_err(|_| anyhow!("the thread panicked"))??;
        Ok(())
    })?;
    apply()?.success()?;
    eprintln!("chart: {applied} applied and {refused} refused meanwhile");
    let found = application.kubectl.get("deployment piefed-web")?;
    ensure!(found.to_string().contains("wait-for-migrations"), "{found}");
    Ok(())
}
