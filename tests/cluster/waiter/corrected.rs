//! Workloads of every kind wait, and the command that the waiter prints corrects the record.

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::application::{GatedApplication, JOB, manifests, program};
use crate::stories::stage::EVERY_KIND;
use testkit::cluster::Cluster;

testkit::tests! {
    shared: every_kind_waits_and_its_record_is_corrected_by_hand;
}

/// The labels of the pods of a `StatefulSet`, a `DaemonSet` and a `CronJob`.
const KINDS: [&str; 3] = ["app=search", "app=agent", "app=clean"];

/// These workloads with this image. The `CronJob` runs only when the test starts it.
fn other_kinds(image: &str) -> String {
    let pods = |name: &str, command: &str| {
        json!({
            "metadata": {"labels": {"app": name}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                {"name": name, "image": image, "command": ["flask", command]},
            ]},
        })
    };
    let selector = |name: &str| json!({"matchLabels": {"app": name}});
    let search = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "piefed-search"},
        "spec": {"serviceName": "piefed-search", "selector": selector("search"),
                 "template": pods("search", "search")},
    });
    let agent = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "piefed-agent"},
        "spec": {"selector": selector("agent"), "template": pods("agent", "agent")},
    });
    let mut run = pods("clean", "clean");
    run["spec"]["restartPolicy"] = json!("Never");
    run["spec"]["containers"][0]["command"] = json!(["true"]);
    let clean = json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "piefed-clean", "labels": {"app": "clean"}},
        "spec": {"schedule": "0 0 1 1 *", "suspend": true,
                 "jobTemplate": {"spec": {"template": run}}},
    });
    format!("{search}\n---\n{agent}\n---\n{clean}")
}

/// When a pod's own container started. That of a `CronJob` has ended.
fn started(pod: &Value) -> Result<Timestamp> {
    let state = &pod["status"]["containerStatuses"][0]["state"];
    let at = [&state["running"], &state["terminated"]].map(|state| state["startedAt"].as_str());
    let at = at.iter().flatten().next();
    Ok(at
        .with_context(|| format!("not started: {state}"))?
        .parse()?)
}

fn every_kind_waits_and_its_record_is_corrected_by_hand(cluster: &Cluster) -> Result<()> {
    let application = GatedApplication::new(cluster, EVERY_KIND)?;
    let kubectl = application.kubectl();
    let [v2, v3] = ["piefed/piefed:1.2.0", "piefed/piefed:1.3.0"];
    kubectl.apply(&format!("{}\n---\n{}", manifests(v3), other_kinds(v3)))?;
    kubectl.run("create job piefed-clean-now --from=cronjob/piefed-clean")?;
    for labels in KINDS {
        let pods = application.waiting(labels, 1)?;
        application.says(&pods[0], "waiting: Job piefed-db-init is running")?;
    }
    application.holds(v3, "waiting: Job piefed-db-init is running")?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, v3)?;
    kubectl.wait("job/piefed-clean-now", "condition=Complete", 60)?;
    kubectl.run("rollout status statefulset/piefed-search --timeout=170s")?;
    kubectl.run("rollout status daemonset/piefed-agent --timeout=170s")?;
    let completed: Timestamp = completed.parse()?;
    for labels in KINDS {
        let pods = kubectl.get(&format!("pods --selector={labels}"))?;
        let started = started(&pods["items"][0])?;
        ensure!(completed <= started, "{completed}: {pods:#}");
        let seconds = started.duration_since(completed).as_secs();
        eprintln!("waiter: {labels} started {seconds} s after the Job's completion");
    }

    // Change back to a version from before the installation, which has neither a Job nor an entry
    // in the record.
    let refusal = kubectl.apply_refused(&manifests(v2))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds(v2, "is complete, but for version 1.3.0 ")?;
    let correction = correction(cluster, &application, v2)?;
    let correction: Vec<&str> = correction.split_whitespace().collect();
    let shown = program(cluster, &correction, 0)?;
    ensure!(shown.contains("Nothing was changed"), "{shown}");
    application.holds(v2, "is complete, but for version 1.3.0 ")?;
    program(cluster, &[&correction[..], &["--yes"]].concat(), 0)?;
    application.rolled_out()?;

    // The database is restored to its state before 1.3.0, whose Job still exists.
    let gate = format!("--gate={EVERY_KIND}");
    let list = || program(cluster, &["record", "list", "-n", EVERY_KIND], 0);
    ensure!(list()?.contains("1.3.0"), "{}", list()?);
    let forgotten = program(cluster, &["record", "forget", "1.3.0", &gate, "--yes"], 0)?;
    ensure!(forgotten.contains("no longer counts"), "{forgotten}");
    kubectl.apply(&manifests(v3))?;
    application.holds(v3, "its completion was forgotten; this pod needs it again")?;
    ensure!(!list()?.contains("1.3.0"), "{}", list()?);
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests(v3))?;
    application.migrates_first(v3)?;
    ensure!(list()?.contains("1.3.0"), "{}", list()?);
    Ok(())
}

/// The command that the waiter prints at its timeout, without the program's name.
fn correction(cluster: &Cluster, application: &GatedApplication, image: &str) -> Result<String> {
    let said = application.last_words(cluster, image)?;
    let (_, command) = said
        .lines()
        .rev()
        .find_map(|line| line.split_once("migration-gate record "))
        .with_context(|| format!("no command in\n{said}"))?;
    Ok(format!("record {command}"))
}
