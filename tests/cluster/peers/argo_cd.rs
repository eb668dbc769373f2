//! Argo CD. Whether it runs hooks depends on the operation: a selective sync runs none, and a
//! self-heal during a sync runs none either (argoproj/argo-cd#22795). New pods are then created
//! without their migration, and only the gate holds them.

pub(super) mod chart;
pub(super) mod down;
mod instance;

use std::thread;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::{Value, json};

use self::instance::{ArgoApplication, ArgoCd, PATIENCE};
use super::stage;
use crate::cure::Reader;
use crate::waiter::application::{GatedApplication, JOB, WEB};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::process::says;

/// The namespaces, each with a gate and an Application of the same name.
pub(super) const ORDER: &str = "argo-order";
pub(super) const SELECTIVE: &str = "argo-selective";
pub(super) const RACE: &str = "argo-race";
pub(super) const HOOKS: &str = "argo-hooks";

testkit::tests! {
    shared:
        a_self_heal_that_runs_no_hooks_is_held,
        a_selective_sync_is_held_until_a_full_one,
        without_a_gate_pods_start_unmigrated,
        a_hook_runs_before_the_pods,
        a_hook_that_is_deleted_at_once_is_recorded;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";
const V4: &str = "piefed/piefed:1.4.0";

/// The waiter's line while the migration runs.
const RUNS: &str = "waiting: Job piefed-db-init is running";

/// An automated sync policy with all options.
fn automated() -> Value {
    json!({"automated": {"prune": true, "selfHeal": true}})
}

/// The Job as a hook, and the Deployment, with this image. `policy` says when Argo CD deletes the
/// Job.
fn manifests(image: &str, policy: &str) -> String {
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": JOB, "annotations": {
            "argocd.argoproj.io/hook": "PreSync",
            "argocd.argoproj.io/hook-delete-policy": policy,
        }},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "migrate", "image": image, "command": ["flask", "db", "upgrade"]}],
        }}},
    });
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": WEB},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "web", "image": image, "command": ["flask", "run"]}]},
        }},
    });
    format!("{job}\n---\n{deployment}\n")
}

/// The default deletion policy of a hook.
const BEFORE: &str = "BeforeHookCreation";
/// A deletion policy that charts often have.
const SUCCEEDED: &str = "HookSucceeded";

/// Only the Deployment, as for `argocd app sync --resource`.
fn deployment_alone() -> Value {
    json!([{"group": "apps", "kind": "Deployment", "name": WEB}])
}

/// An application with its Argo CD Application, at version 1.2.0.
struct Shop {
    // Dropped first, because it would apply deleted objects of the namespace again.
    argo: ArgoApplication,
    application: GatedApplication,
}

impl Shop {
    fn open(
        cluster: &Cluster,
        application: GatedApplication,
        annotations: &Value,
        policy: &Value,
    ) -> Result<Self> {
        cluster.tag(&full(V3), &full(V4))?;
        let namespace = application
            .kubectl()
            .namespace
            .clone()
            .context("a namespace")?;
        let argo = ArgoCd::of(cluster)?.application(&namespace, annotations, policy)?;
        Ok(Self { argo, application })
    }

    fn kubectl(&self) -> &Kubectl {
        self.application.kubectl()
    }

    /// Deploys the first version by a full sync.
    fn first(&self, policy: &str) -> Result<String> {
        let revision = self.push(V2, policy)?;
        // An automated sync begins by itself.
        if self.argo.now()?["spec"]["syncPolicy"]["automated"].is_null() {
            self.argo.sync(None)?;
        }
        migrate_once(self)?;
        self.argo.operation(&revision, "Succeeded")?;
        self.argo.stands(&revision, "Synced", "Healthy")?;
        Ok(revision)
    }

    /// Pushes a version, and waits until Argo CD has seen it.
    fn push(&self, image: &str, policy: &str) -> Result<String> {
        self.push_manifests(&manifests(image, policy))
    }

    fn push_manifests(&self, manifests: &str) -> Result<String> {
        let revision = self.argo.push(manifests)?;
        self.argo.until("to know the next version", |object| {
            object["status"]["sync"]["revision"] == revision
        })?;
        Ok(revision)
    }

    /// The uid and image of the existing Job.
    fn job(&self) -> Result<(Value, Value)> {
        let job = self.kubectl().get(&format!("job {JOB}"))?;
        let image = job["spec"]["template"]["spec"]["containers"][0]["image"].clone();
        Ok((job["metadata"]["uid"].clone(), image))
    }

    fn generation(&self) -> Result<Value> {
        let web = self.kubectl().get(&format!("deployment {WEB}"))?;
        Ok(web["metadata"]["generation"].clone())
    }

    /// Checks that the old pods serve, that the Application is synced and healthy, and that neither
    /// kind of comparison changes anything.
    fn is_at_rest(&self, revision: &str) -> Result<()> {
        let before = self.generation()?;
        for options in [json!(null), json!("ServerSideDiff=true")] {
            self.argo.patch(json!({"metadata": {"annotations": {
                "argocd.argoproj.io/compare-options": options,
            }}}))?;
            for how in ["normal", "hard"] {
                let compared = self.argo.compare(how)?;
                let sync = &compared["status"]["sync"];
                ensure!(
                    sync["status"] == "Synced" && sync["revision"] == revision,
                    "{how}, {options}: {sync}"
                );
                let health = &compared["status"]["health"]["status"];
                ensure!(health == "Progressing", "{health}");
            }
        }
        let after = self.generation()?;
        ensure!(before == after, "generation {before} became {after}");
        let pods = self.application.pods(V2)?;
        let ready = |pod: &Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        ensure!(pods.iter().any(ready), "no old pod serves: {pods:#?}");
        Ok(())
    }

    /// Checks that the printed command is a full sync, and that it opens the gate: its hook
    /// migrates.
    fn full_sync_opens(&self, reader: &Reader<'_>, command: &str, image: &str) -> Result<()> {
        let sync = format!("argocd app sync {}", self.argo.name);
        ensure!(command == sync, "{command}");
        // The command ends with the sync, which waits for the hook.
        thread::scope(|scope| {
            let synced = scope.spawn(|| reader.runs(command));
            self.application.migrates_first(image)?;
            let synced = synced.join();
            synced.map_err(|_| anyhow!("the reader panicked"))?
        })
    }
}

/// The full name of an image on the node.
fn full(image: &str) -> String {
    format!("docker.io/{image}")
}

fn a_hook_runs_before_the_pods(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, ORDER)?;
    let shop = Shop::open(cluster, application, &json!({}), &automated())?;
    for (generation, image) in [V2, V3, V4].into_iter().enumerate() {
        let revision = shop.argo.push(&manifests(image, BEFORE))?;
        shop.argo.until("to wait for its hook", |object| {
            waits_for_hook(object, &revision)
        })?;
        // Argo CD's own order creates no pods before its hook has completed.
        let pods = shop.application.pods(image)?;
        ensure!(pods.is_empty(), "{pods:#?}");
        let completed = shop.application.migrate()?;
        shop.argo.stands(&revision, "Synced", "Healthy")?;
        shop.application.rolled_out()?;
        shop.application.started_after(&completed, image)?;
        ensure!(shop.job()?.1 == image, "{:?}", shop.job()?);
        ensure!(
            shop.generation()? == generation + 1,
            "{}",
            shop.generation()?
        );
    }
    Ok(())
}

/// Whether an automated sync waits for its hook.
fn waits_for_hook(object: &Value, revision: &str) -> bool {
    let state = &object["status"]["operationState"];
    let message = state["message"].as_str().unwrap_or_default();
    state["phase"] == "Running"
        && state["operation"]["sync"]["revision"] == revision
        && message.contains("waiting for completion of hook")
}

fn a_selective_sync_is_held_until_a_full_one(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, SELECTIVE)?;
    let shop = Shop::open(cluster, application, &json!({}), &json!({}))?;
    shop.first(BEFORE)?;
    let (job, _) = shop.job()?;
    let revision = selective_sync(&shop, V3, BEFORE)?;
    ensure!(shop.job()? == (job, json!(V2)), "{:?}", shop.job()?);
    shop.application
        .holds(V3, "is complete, but for version 1.2.0 ")?;
    shop.is_at_rest(&revision)?;

    // The hook of the sync that `status` prints fails. The waiter and the Event then print it
    // again.
    let reader = Reader::new(cluster, &shop.application, shop.argo.commands())?;
    let sync = reader.status("job-of-another-version")?;
    let again = thread::scope(|scope| {
        let synced = scope.spawn(|| reader.tries(&sync)?.failure());
        let pod = shop.application.holds(V3, RUNS)?;
        let again = reader.after_a_failure(&pod)?;
        let failed = synced.join();
        failed.map_err(|_| anyhow!("the reader panicked"))??;
        anyhow::Ok(again)
    })?;
    shop.full_sync_opens(&reader, &again, V3)?;
    shop.argo.stands(&revision, "Synced", "Healthy")?;
    Ok(())
}

/// Pushes a version, and syncs only its Deployment.
fn selective_sync(shop: &Shop, image: &str, policy: &str) -> Result<String> {
    let revision = shop.push(image, policy)?;
    shop.argo.sync(Some(deployment_alone()))?;
    shop.argo.operation(&revision, "Succeeded")?;
    Ok(revision)
}

/// Reproduces the race of argoproj/argo-cd#22795, until the new image is applied without its hook.
/// Returns the revision.
///
/// With the annotation, Argo CD reuses the manifests of an old revision for a new one if no file
/// has changed, and compares before it looks.
fn race(shop: &Shop) -> Result<String> {
    let (first, _) = shop.job()?;
    let earlier = shop.argo.push(&manifests(V3, BEFORE))?;
    shop.argo.until("to wait for its hook", |object| {
        waits_for_hook(object, &earlier)
    })?;
    let later = shop.push(V4, BEFORE)?;
    shop.application.migrate()?;
    let (of_earlier, image) = shop.job()?;
    ensure!(of_earlier != first && image == V3, "{image}");
    // If this fails with a later release of Argo CD, that has fixed the race.
    let healed = shop.argo.operation(&later, "Succeeded")?;
    let operation = &healed["status"]["operationState"]["operation"];
    let resources = operation["sync"]["resources"].as_array();
    ensure!(
        resources.is_some_and(|list| !list.is_empty()),
        "{operation:#}"
    );
    let web = shop.kubectl().get(&format!("deployment {WEB}"))?;
    let applied = &web["spec"]["template"]["spec"]["containers"][0]["image"];
    ensure!(applied == V4, "{applied}");
    // A hook of the later version would have replaced the Job.
    ensure!(shop.job()? == (of_earlier, json!(V3)), "{:?}", shop.job()?);
    Ok(later)
}

/// The annotation that the race needs.
fn racing() -> Value {
    json!({"argocd.argoproj.io/manifest-generate-paths": "."})
}

fn a_self_heal_that_runs_no_hooks_is_held(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, RACE)?;
    let shop = Shop::open(cluster, application, &racing(), &automated())?;
    shop.first(BEFORE)?;
    let revision = race(&shop)?;
    shop.application
        .holds(V4, "is complete, but for version 1.3.0 ")?;
    shop.argo.stands(&revision, "Synced", "Progressing")?;
    let (_, image) = shop.job()?;
    ensure!(image == V3, "a hook came after all: {image}");
    let reader = Reader::new(cluster, &shop.application, shop.argo.commands())?;
    shop.full_sync_opens(&reader, &reader.last_words(V4)?, V4)?;
    shop.argo.stands(&revision, "Synced", "Healthy")?;
    Ok(())
}

/// Both cases without a gate, for comparison.
fn without_a_gate_pods_start_unmigrated(cluster: &Cluster) -> Result<()> {
    for (annotations, policy, image) in [(racing(), automated(), V4), (json!({}), json!({}), V3)] {
        let application = GatedApplication::of(cluster, cluster.namespace("argo-ungated")?);
        let shop = Shop::open(cluster, application, &annotations, &policy)?;
        shop.first(BEFORE)?;
        let revision = if image == V4 {
            race(&shop)?
        } else {
            selective_sync(&shop, V3, BEFORE)?
        };
        shop.application.rolled_out()?;
        shop.argo.stands(&revision, "Synced", "Healthy")?;
        let pods = shop.application.pods(image)?;
        let runs =
            |pod: &Value| pod["status"]["containerStatuses"][0]["state"]["running"].is_object();
        ensure!(!pods.is_empty() && pods.iter().all(runs), "{pods:#?}");
        let (_, migrated) = shop.job()?;
        ensure!(migrated != image, "{migrated} was migrated");
    }
    Ok(())
}

fn a_hook_that_is_deleted_at_once_is_recorded(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::on(stage(cluster)?, cluster, HOOKS)?;
    let shop = Shop::open(cluster, application, &json!({}), &automated())?;
    for image in [V2, V3] {
        let revision = shop.argo.push(&manifests(image, SUCCEEDED))?;
        migrate_once(&shop)?;
        shop.argo.stands(&revision, "Synced", "Healthy")?;
        shop.application.rolled_out()?;
        shop.kubectl().wait(&format!("job/{JOB}"), "delete", 60)?;
    }
    // The pod's waiter found no Job.
    let [(_, said)] = &shop.application.waiters(V3)?[..] else {
        anyhow::bail!("not one pod of {V3}");
    };
    says(said, &["open: the record has version 1.3.0"])
}

/// Lets the hook succeed. Argo CD then deletes it.
fn migrate_once(shop: &Shop) -> Result<()> {
    let job = format!("job/{JOB}");
    shop.kubectl()
        .wait(&job, "jsonpath={.status.ready}=1", 60)?;
    let finish = format!("exec {job} --container=migrate -- finish-migration success");
    shop.kubectl().run(&finish)?;
    Ok(())
}
