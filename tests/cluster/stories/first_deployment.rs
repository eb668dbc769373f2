//! The first deployment, and the time without changes after it.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::application::{Application, JOB, PATIENCE, WEB, WORKER, patch};
use super::stage::Stage;
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::cluster::Cluster;

testkit::tests! {
    shared: first_deployment_then_twenty_reconciliations_then_the_old_setup_is_refused;
}

fn first_deployment_then_twenty_reconciliations_then_the_old_setup_is_refused(
    cluster: &Cluster,
) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let stage = Stage::enter(cluster)?;
    let application = stage.application(cluster, "story-first-deployment")?;
    let kubectl = application.kubectl();
    let kustomization = flux.kustomization(&application.namespace.name)?;
    let traffic = Traffic::start(&application);

    // Everything is applied at once: ServiceAccount, Role, database, queue, Job, Deployments.
    let revision = kustomization.publish(&application.at("1.0.0")?)?;
    application.migration_holds("1.0.0")?;
    application.waiting(WEB, "1.0.0", 2)?;
    application.waiting(WORKER, "1.0.0", 1)?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    traffic.until("pages", |seen| seen.pages.contains_key("1.0.0"))?;
    let order = application.started_after_the_migration("1.0.0", 3)?;
    eprintln!("stories: first deployment: {order}");

    // Flux applies the same manifests repeatedly, which must change nothing. Before the first
    // comparison, it does so once, because controllers may still write about the deployment itself.
    kustomization.reconcile()?.success()?;
    let before = footprint(&application)?;
    let changes = kustomization.changes()?;
    for _ in 0..20 {
        kustomization.reconcile()?.success()?;
    }
    let after = footprint(&application)?;
    ensure!(before == after, "{before:#}\nbecame\n{after:#}");
    ensure!(after["Deployment"][WEB]["generation"] == 1, "{after:#}");
    let more = kustomization.changes()?;
    ensure!(more == changes, "{changes:#?}\nbecame\n{more:#?}");

    // The old switch is set again in every container.
    let switch = json!([{
        "op": "add", "path": "/spec/template/spec/containers/0/env",
        "value": [{"name": "PIEFED_INIT_CONTAINER", "value": "true"}],
    }]);
    let old = json!([
        patch("Deployment", WEB, &switch),
        patch("Deployment", WORKER, &switch),
        patch("Job", JOB, &switch),
    ]);
    let said = kustomization
        .push(&application.patched("1.1.0", &old)?)?
        .failure()?;
    for part in [
        "spec.template.spec.containers[0].env[0]",
        "PIEFED_INIT_CONTAINER",
    ] {
        ensure!(said.contains(part), "{said}");
    }
    eprintln!("stories: the old setup in the source: {said}");
    // Flux applies several objects at once. So it may have deleted the Job, whose template cannot
    // change, before the source is refused. The record outlives the Job.
    let after = without_the_job(after);
    let refused = without_the_job(footprint(&application)?);
    ensure!(refused == after, "{after:#}\nbecame\n{refused:#}");
    kustomization.push(&application.at("1.0.0")?)?.success()?;
    let healed = without_the_job(footprint(&application)?);
    ensure!(healed == after, "{after:#}\nbecame\n{healed:#}");

    the_entrypoints_do_their_tasks(&application)?;
    let seen = traffic.stop()?;
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()?;
    let pods = kubectl.run("get pods")?;
    ensure!(!pods.contains("Init"), "{pods}");
    Ok(())
}

/// Checks that the example's other processes run by its own scripts, and that the one that migrates
/// names a missing service.
fn the_entrypoints_do_their_tasks(application: &Application) -> Result<()> {
    let kubectl = application.kubectl();
    let migrated = kubectl.run(&format!("logs job/{JOB}"))?;
    for part in [
        "PostgreSQL (DATABASE_URL) answers",
        "Redis (CELERY_BROKER_URL) answers",
        "the schema is migrated",
    ] {
        ensure!(migrated.contains(part), "no `{part}` in\n{migrated}");
    }
    let missing =
        "WAIT_SECONDS=10 CELERY_BROKER_URL=redis://redis:1 python3 /app/k8s/await-services.py";
    let said = kubectl
        .output(
            &["exec", "deployment/piefed-web", "--", "sh", "-c", missing],
            "",
            PATIENCE,
        )?
        .failure()?;
    ensure!(
        said.contains("Redis (CELERY_BROKER_URL) does not answer within 10 s: "),
        "{said}"
    );

    kubectl.run("scale deployment piefed-notifs --replicas=1")?;
    let tasks = [
        ("daily", "daily-maintenance-celery 1.0.0"),
        ("send-queue", "send-queue 1.0.0"),
        ("email", "clean_up_old_activities 1.0.0"),
        ("orphans", "remove_orphan_files 1.0.0"),
    ];
    for (name, _) in tasks {
        kubectl.run(&format!("create job {name} --from=cronjob/piefed-{name}"))?;
    }
    for (name, last) in tasks {
        kubectl.wait(&format!("job/{name}"), "condition=Complete", 60)?;
        let said = kubectl.run(&format!("logs job/{name}"))?;
        ensure!(said.contains(last), "{name}: {said}");
    }
    kubectl.run("rollout status deployment/piefed-notifs --timeout=170s")?;
    Ok(())
}

/// The state that a reconciliation must not change. The resourceVersion changes with every write of
/// any client.
fn footprint(application: &Application) -> Result<Value> {
    let mut found = json!({});
    let kinds = "deployments,statefulsets,replicasets,jobs,pods,serviceaccounts,roles,rolebindings,configmaps";
    let list = application
        .kubectl()
        .get(&format!("{kinds} --show-managed-fields"))?;
    for item in list["items"].as_array().into_iter().flatten() {
        let metadata = &item["metadata"];
        let restarts = &item["status"]["containerStatuses"][0]["restartCount"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        found[text(&item["kind"])][text(&metadata["name"])] = json!({
            "uid": metadata["uid"], "generation": metadata["generation"], "restarts": restarts,
            "writes": writes(metadata),
        });
    }
    // Events show what controllers and the kubelet did, and how often.
    let events = application.kubectl().get("events")?;
    let mut said = BTreeMap::new();
    for event in events["items"].as_array().into_iter().flatten() {
        // A late answer to a probe on a busy machine is no change.
        if event["reason"] == "Unhealthy" {
            continue;
        }
        let times = event["series"]["count"]
            .as_i64()
            .or_else(|| event["count"].as_i64())
            .unwrap_or(1);
        let about = &event["involvedObject"];
        let what = format!("{}/{}: {}", about["kind"], about["name"], event["reason"]);
        *said.entry(what.replace('"', "")).or_insert(0) += times;
    }
    found["events"] = json!(said);
    Ok(found)
}

/// A footprint without the Job, its pods, its Events, and the record of its completion.
fn without_the_job(mut footprint: Value) -> Value {
    footprint["Job"] = Value::Null;
    for kind in ["Pod", "events", "ConfigMap"] {
        if let Some(objects) = footprint[kind].as_object_mut() {
            objects.retain(|name, _| !name.contains(JOB) && !name.starts_with("migration-gate-"));
        }
    }
    footprint
}

/// The last writers of an object and their times. Writes of the status do not count, because a late
/// answer to a probe causes one.
fn writes(metadata: &Value) -> Vec<Value> {
    metadata["managedFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|entry| entry["subresource"].is_null())
        .map(|entry| json!([entry["manager"], entry["operation"], entry["time"]]))
        .collect()
}
