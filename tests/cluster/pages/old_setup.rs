//! The page's commands that lead from images that migrate by themselves to one Job.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::page;
use crate::stories::application::{Application, WEB, patch};
use crate::stories::traffic::Traffic;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image::MIGRATION_GATE;
use testkit::poll::{Look, until};
use testkit::process::says;
use testkit::shell::Shell;

const PAGE: &str = "docs/old-setup.md";
const NAMESPACE: &str = "piefed-application";
/// The variable that makes a pod of the old setup migrate.
const SWITCH: &str = "PIEFED_INIT_CONTAINER";
const PATIENCE: Duration = Duration::from_mins(4);

/// `examples/piefed-old` with an image that migrates in its entrypoint, and a database and a queue.
fn old_setup(folder: &Path) -> Result<()> {
    for (from, names) in [
        (
            "examples/piefed-old",
            &[
                "configmap",
                "deployment-web",
                "pod-shell",
                "cronjob-maintenance",
            ][..],
        ),
        (
            "tests/cluster/apps/manifests",
            &["secret", "postgres", "redis"],
        ),
    ] {
        for name in names {
            let file = format!("{name}.yaml");
            fs::copy(repository().join(from).join(&file), folder.join(file))?;
        }
    }
    let environment = |name: &str, value: &str| json!({"op": "add", "path": "/spec/template/spec/containers/0/env/-", "value": {"name": name, "value": value}});
    let web = json!([
        // The image's own entrypoint migrates, and then starts its process.
        {"op": "remove", "path": "/spec/template/spec/containers/0/command"},
        environment("DATABASE_URL", "postgresql+psycopg://piefed:s3cr3t-p4ssw0rd@piefed-db:5432/piefed"),
        environment("CELERY_BROKER_URL", "redis://redis:6379/0"),
    ]);
    // The CronJob runs only when the test starts it.
    let maintenance = json!([{"op": "add", "path": "/spec/suspend", "value": true}]);
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "namespace": NAMESPACE,
        "resources": [
            "configmap.yaml", "deployment-web.yaml", "pod-shell.yaml", "cronjob-maintenance.yaml",
            "secret.yaml", "postgres.yaml", "redis.yaml",
        ],
        "images": [{"name": "piefed/piefed", "newName": "migration-gate.test/piefed-old", "newTag": "1.0.0"}],
        "patches": [patch("Deployment", WEB, &web), patch("CronJob", "piefed-maintenance", &maintenance)],
    });
    fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?;
    Ok(())
}

/// A reader of the page, in a folder with `old` and `new`.
struct Follower {
    shell: Shell,
}

impl Follower {
    /// Runs the commands of a section. Each must print what the page shows, and fail if the page
    /// says so.
    fn follows(&self, section: &str) -> Result<String> {
        let mut all = String::new();
        for shown in page::commands(PAGE)? {
            if shown.section == section {
                let ran = self.shell.run(&shown.command, PATIENCE)?;
                let failed = !ran.status.success();
                let said = format!("$ {}\n{}{}", shown.command, ran.stdout, ran.stderr);
                ensure!(
                    failed == FAIL.contains(&(section, &*shown.command)),
                    "{said}"
                );
                says(&said, &[&shown.printed])?;
                all.push_str(&said);
            }
        }
        ensure!(!all.is_empty(), "{PAGE} has no section {section}");
        Ok(all)
    }
}

/// The commands that fail according to the page.
const FAIL: &[(&str, &str)] = &[
    ("1. Find offenders", REVIEW),
    ("4. Find the rest", REVIEW),
    ("5. Enforce", "kubectl apply -k old"),
];
const REVIEW: &str = "migration-gate review --live -n piefed-application";

/// Three pods that migrate are replaced by one Job.
pub(super) fn the_old_setup_is_left_step_by_step_and_nobody_notices(
    cluster: &Cluster,
) -> Result<()> {
    let namespace = cluster.namespace_named(NAMESPACE)?;
    cluster.tag(
        MIGRATION_GATE,
        "docker.io/migration-gate/migration-gate:0.1.0",
    )?;
    let application = Application::new(cluster, namespace)?;
    let _release = Uninstalled(cluster);
    let kubectl = application.kubectl();
    let folder = tempfile::tempdir()?;
    let old = folder.path().join("old");
    fs::create_dir(&old)?;
    old_setup(&old)?;
    std::os::unix::fs::symlink(application.at("1.1.0")?, folder.path().join("new"))?;
    std::os::unix::fs::symlink(repository().join("charts"), folder.path().join("charts"))?;
    let follower = Follower {
        shell: Shell::new(cluster.kubectl(), folder.path())?,
    };

    // Three pods race. One migrates; the others fail and try again, or find the schema migrated.
    kubectl.run(&format!("apply -k {}", old.display()))?;
    kubectl.run("rollout status deployment/piefed-web --timeout=170s")?;
    let migrated = until("a pod that has migrated", PATIENCE, || {
        match kubectl.run("logs --selector=app.kubernetes.io/name=piefed-web --tail=-1 --prefix") {
            Ok(logs) if logs.contains("migrating, as the old setup does") => Look::Done(logs),
            Ok(logs) => Look::Pending(logs),
            Err(error) => Look::Pending(error.to_string()),
        }
    })?;
    eprintln!(
        "stories: of the old setup's pods {} migrated",
        migrated.matches("migrating, as the old setup does").count()
    );
    let traffic = Traffic::start(&application);
    traffic.until("a page of the old setup", |seen| {
        seen.pages.contains_key("1.0.0")
    })?;

    let said = follower.follows("1. Find offenders")?;
    says(
        &said,
        &[SWITCH, "piefed-web", "piefed-shell", "piefed-maintenance"],
    )?;
    let before = kubectl.get("deployment piefed-web")?;
    let said = follower.follows("2. Warn")?;
    says(&said, &["Warning: ", SWITCH])?;
    let after = kubectl.get("deployment piefed-web")?;
    ensure!(
        before["metadata"]["generation"] == after["metadata"]["generation"],
        "installing has changed {after:#}"
    );

    application.let_migrate("1.1.0")?;
    let said = follower.follows("3. Correct")?;
    ensure!(!said.contains(SWITCH), "{said}");
    traffic.until("a page of the corrected setup", |seen| {
        seen.pages.contains_key("1.1.0")
    })?;
    application.started_after_the_migration("1.1.0", 3)?;
    let said = follower.follows("4. Find the rest")?;
    says(&said, &["piefed-shell", "piefed-maintenance"])?;
    follower.follows("5. Enforce")?;
    let refused: Vec<Value> = vec![kubectl.get("deployment piefed-web")?];
    let image = &refused[0]["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(image == "migration-gate.test/piefed:1.1.0", "{image}");

    let seen = traffic.stop()?;
    eprintln!("stories: out of the old setup: {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()
}

/// Uninstalls the release when the test is over.
struct Uninstalled<'c>(&'c Cluster);

impl Drop for Uninstalled<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that installs notices it.
        let release = self.0.kubectl().in_namespace("migration-gate");
        let _ = release.helm("uninstall migration-gate --wait --ignore-not-found");
        let _ = release.run("delete namespace migration-gate --ignore-not-found --wait=false");
    }
}
