//! The record, written by replicas of `serve` that are killed at any time.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, PostParams, ResourceExt as _};
use migration_gate::cli::config::parse;
use migration_gate_core::injection::Injection;
use serde_json::{Value, json};

use testkit::client::block_on;
use testkit::gate::{COMPLETED, JOB, RECORD, V2, complete, entry, failed, manifest};
use testkit::pki::Pair;
use testkit::poll::until_is;
use testkit::process::Process;
use testkit::random::Random;
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene, set_status};

testkit::tests! {
    standalone:
        two_replicas_killed_at_random_miss_none_of_200_completions,
        a_corrupt_record_is_reported_and_replaced_and_not_obeyed,
        what_completed_while_serve_was_down_is_recorded_when_it_is_back,
        an_immutable_record_is_told_with_the_command_that_mends_it,
        a_namespace_that_is_created_again_has_nothing_of_the_old_one_recorded,
        two_replicas_tell_of_a_failure_and_its_end_where_kubectl_shows_it;
}

testkit::soaks! {
    standalone: two_replicas_killed_at_random_miss_none_of_2_000_completions;
}

/// Time limit for recording on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);
const GATES: usize = 20;
const ROUNDS: usize = 10;

/// Replicas of `serve` as processes that only record, without calls from the API server.
struct Replicas<'a> {
    plane: &'a Plane,
    logs: PathBuf,
    config: tempfile::TempDir,
    /// Created once, so that a starting replica never reads an incomplete file.
    certificate: Pair,
    /// The first port. Each replica has two.
    port: u16,
    running: Vec<Option<Process>>,
    kills: usize,
}

impl<'a> Replicas<'a> {
    /// Replicas that do not run yet.
    fn new(
        sandbox: &Sandbox,
        plane: &'a Plane,
        name: &str,
        port: u16,
        count: usize,
        gates: &[Value],
    ) -> Result<Self> {
        let config = tempfile::tempdir()?;
        let text = json!({ "gates": gates }).to_string();
        fs::write(config.path().join("config.yaml"), text)?;
        Ok(Self {
            plane,
            logs: sandbox.logs(name)?,
            config,
            certificate: plane.server.authority().server(name, &["localhost"], &[])?,
            port,
            running: (0..count).map(|_| None).collect(),
            kills: 0,
        })
    }

    /// Starts the replicas that do not run.
    fn revive(&mut self) -> Result<()> {
        for index in 0..self.running.len() {
            if self.running[index].is_some() {
                continue;
            }
            let port = self.port + 2 * u16::try_from(index)?;
            let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
            command
                .env("KUBECONFIG", self.plane.server.admin())
                .arg("serve")
                .arg("--config")
                .arg(self.config.path().join("config.yaml"))
                .arg("--tls-cert")
                .arg(&self.certificate.certificate)
                .arg("--tls-key")
                .arg(&self.certificate.key)
                .arg(format!("--listen=127.0.0.1:{port}"))
                .arg(format!("--health-listen=127.0.0.1:{}", port + 1));
            self.running[index] = Some(Process::spawn(&log(index), &self.logs, &mut command)?);
        }
        Ok(())
    }

    /// Kills a replica by SIGKILL.
    fn kill(&mut self, index: usize) {
        self.kills += usize::from(self.running[index].take().is_some());
    }

    fn log(&self, index: usize) -> Result<String> {
        let path = self.logs.join(format!("{}.log", log(index)));
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn check(&self) -> Result<()> {
        self.running.iter().flatten().try_for_each(Process::check)
    }
}

fn log(index: usize) -> String {
    format!("serve-{index}")
}

fn gate(name: &str, namespace: &str, job: &str) -> Value {
    json!({
        "name": name, "namespace": namespace, "job": job, "deployments": [format!("web-{name}")],
        "serviceAccount": "waiter",
    })
}

/// The expected records: for each key of a record, the uid of the completed Job.
type Completions = BTreeMap<(String, String), String>;

/// The completions that the records lack.
fn missing(records: &Api<ConfigMap>, completions: &Completions) -> Result<Vec<String>> {
    let records: BTreeMap<String, BTreeMap<String, String>> =
        block_on(records.list(&ListParams::default()))?
            .into_iter()
            .map(|record| (record.name_any(), record.data.unwrap_or_default()))
            .collect();
    Ok(completions
        .iter()
        .filter(|((record, version), uid)| {
            let entry = records.get(record).and_then(|data| data.get(version));
            let entry = entry.and_then(|text| serde_json::from_str::<Value>(text).ok());
            entry.is_none_or(|entry| entry["uid"] != json!(uid))
        })
        .map(|((record, version), _)| format!("{record} lacks {version}"))
        .collect())
}

fn await_all(
    replicas: &Replicas<'_>,
    records: &Api<ConfigMap>,
    completions: &Completions,
) -> Result<()> {
    let missing = || {
        replicas.check()?;
        missing(records, completions)
    };
    let what = format!("{} completions to be recorded", completions.len());
    until_is(&what, PATIENCE, missing, Vec::is_empty)
}

fn two_replicas_killed_at_random_miss_none_of_200_completions(sandbox: &Sandbox) -> Result<()> {
    killed_at_random(sandbox, "recorder", ROUNDS)
}

fn two_replicas_killed_at_random_miss_none_of_2_000_completions(sandbox: &Sandbox) -> Result<()> {
    killed_at_random(sandbox, "recorder-soak", 10 * ROUNDS)
}

/// A Job is replaced only after a replica has run while it was complete. Completions of Jobs that
/// exist only while no replica runs are lost by design.
fn killed_at_random(sandbox: &Sandbox, namespace: &str, rounds: usize) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    plane
        .kubectl
        .run(&format!("create namespace {namespace}"))?;
    let jobs: Api<Job> = Api::namespaced(plane.client.clone(), namespace);
    let records: Api<ConfigMap> = Api::namespaced(plane.client.clone(), namespace);
    let names: Vec<String> = (0..GATES).map(|gate| format!("g{gate}")).collect();
    let gates: Vec<Value> = names
        .iter()
        .map(|name| gate(name, namespace, name))
        .collect();
    let mut replicas = Replicas::new(sandbox, plane, "waiter-recorder", 18600, 2, &gates)?;
    let mut random = Random::seeded("replicas are killed")?;
    let mut completions = Completions::new();
    for round in 0..rounds {
        for name in &names {
            let version = format!("1.{round}");
            if round > 0 {
                block_on(jobs.delete(name, &DeleteParams::background()))?;
            }
            let object = serde_json::from_value(manifest(name, &version))?;
            let created = block_on(jobs.create(&PostParams::default(), &object))?;
            set_status(&jobs, name, &complete())?;
            completions.insert(
                (format!("migration-gate-{name}"), version),
                created.metadata.uid.context("a uid")?,
            );
            if random.one_in(3) {
                replicas.kill(usize::from(random.one_in(2)));
            }
            if random.one_in(3) {
                replicas.revive()?;
            }
            // Otherwise they would be killed before they have done anything.
            if random.one_in(8) {
                replicas.revive()?;
                await_all(&replicas, &records, &completions)?;
            }
        }
        replicas.revive()?;
        await_all(&replicas, &records, &completions)?;
    }
    ensure!(
        replicas.kills > 0,
        "no replica was killed, so this shows nothing"
    );
    eprintln!(
        "waiter: {} completions, {} replicas killed, none missed",
        completions.len(),
        replicas.kills
    );
    Ok(())
}

fn a_corrupt_record_is_reported_and_replaced_and_not_obeyed(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "corrupt")?;
    let gates = [gate("g", &scene.namespace, JOB)];
    let mut replicas = Replicas::new(sandbox, plane, "waiter-corrupt", 18610, 1, &gates)?;
    let garbage = [
        // Its version is not that of its key.
        ("2".to_owned(), entry("1")),
        ("3".to_owned(), "{\"image\":\"init:3\"".to_owned()),
        ("1".to_owned(), entry("1")),
    ];
    scene.record_as(garbage.into())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("ConfigMap migration-gate-g: the entry 2 is corrupt and ignored: ");
    waiter.says("ConfigMap migration-gate-g: the entry 3 is corrupt and ignored: ");

    replicas.revive()?;
    await_record(&replicas, &scene, &["1"])?;
    let log = replicas.log(0)?;
    for part in [
        r#""record":"corrupt/migration-gate-g","key":"2","cause":"its image `init:1` is of version `1`""#,
        r#""record":"corrupt/migration-gate-g","key":"3","cause":"EOF while parsing"#,
    ] {
        let told = |line: &str| line.contains(part) && line.contains(r#""level":"ERROR""#);
        ensure!(log.lines().any(told), "no {part} in\n{log}");
    }

    scene.create("2")?;
    scene.status(&complete())?;
    waiter.ends_with(0);
    await_record(&replicas, &scene, &["1", "2"])?;
    // A corrupted entry is written again while its Job exists, even if there is no room for it at
    // first.
    let garbage = "x".repeat(ROOM - 2);
    scene.record_as(
        [
            ("2".to_owned(), String::new()),
            ("junk".to_owned(), garbage),
        ]
        .into(),
    )?;
    let is_new = |data: &BTreeMap<String, String>| {
        let entry = data.get("2");
        entry.is_some_and(|text| text.contains(COMPLETED))
    };
    until_is("a new entry", PATIENCE, || scene.recorded(), is_new)
}

/// Maximum size of a ConfigMap's data in the API server, in bytes.
const ROOM: usize = 1024 * 1024;

fn what_completed_while_serve_was_down_is_recorded_when_it_is_back(
    sandbox: &Sandbox,
) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "down")?;
    let gates = [gate("g", &scene.namespace, JOB)];
    let mut replicas = Replicas::new(sandbox, plane, "waiter-down", 18620, 1, &gates)?;
    let completes = |version: &str| -> Result<()> {
        scene.create(version)?;
        scene.status(&complete())
    };
    completes("1")?;
    replicas.revive()?;
    await_record(&replicas, &scene, &["1"])?;
    replicas.kill(0);
    scene.delete()?;
    completes("2")?;
    replicas.revive()?;
    await_record(&replicas, &scene, &["1", "2"])
}

fn an_immutable_record_is_told_with_the_command_that_mends_it(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "immutable")?;
    let gates = [gate("g", &scene.namespace, JOB)];
    let mut replicas = Replicas::new(sandbox, plane, "waiter-immutable", 18630, 1, &gates)?;
    scene.record(&["1"])?;
    let kubectl = plane.kubectl.in_namespace(&scene.namespace);
    kubectl.run(&format!(
        r#"patch configmap {RECORD} --type=merge --patch={{"immutable":true}}"#
    ))?;
    scene.create("2")?;
    scene.status(&complete())?;
    replicas.revive()?;
    let command = "kubectl delete configmap migration-gate-g -n immutable";
    let log = || {
        replicas.check()?;
        replicas.log(0)
    };
    until_is("the command", PATIENCE, log, |log| log.contains(command))?;
    kubectl.run(command.trim_start_matches("kubectl "))?;
    // The new record has the old one's entries.
    await_record(&replicas, &scene, &["1", "2"])
}

/// The namespace's objects are deleted one by one, and the record may be deleted before the Job.
fn a_namespace_that_is_created_again_has_nothing_of_the_old_one_recorded(
    sandbox: &Sandbox,
) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "again")?;
    let gates = [gate("g", &scene.namespace, JOB)];
    let mut replicas = Replicas::new(sandbox, plane, "waiter-again", 18640, 1, &gates)?;
    scene.create("1")?;
    scene.status(&complete())?;
    replicas.revive()?;
    await_record(&replicas, &scene, &["1"])?;

    let kubectl = plane.kubectl.in_namespace(&scene.namespace);
    kubectl.run("delete namespace again --wait=false")?;
    kubectl.run(&format!("delete configmap {RECORD}"))?;
    let log = || {
        replicas.check()?;
        replicas.log(0)
    };
    let refusal = |log: &String| log.contains("because it is being terminated");
    until_is("a refusal", PATIENCE, log, refusal)?;
    scene.delete()?;
    // No controller runs here that would finish the deletion.
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "again"}, "spec": {},
    });
    let finalize = [
        "replace",
        "--raw=/api/v1/namespaces/again/finalize",
        "-f",
        "-",
    ];
    kubectl
        .output(&finalize, &namespace.to_string(), PATIENCE)?
        .success()?;
    kubectl.run("create namespace again")?;

    scene.create("2")?;
    scene.status(&complete())?;
    await_record(&replicas, &scene, &["2"])
}

/// Waits until the record has exactly these versions.
fn await_record(replicas: &Replicas<'_>, scene: &Scene, versions: &[&str]) -> Result<()> {
    let recorded = || {
        replicas.check()?;
        scene.recorded()
    };
    let what = format!("a record of {versions:?}");
    until_is(&what, PATIENCE, recorded, |data| data.keys().eq(versions))
}

/// Only one of the replicas creates each Event.
fn two_replicas_tell_of_a_failure_and_its_end_where_kubectl_shows_it(
    sandbox: &Sandbox,
) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "events")?;
    let gate = gate("g", &scene.namespace, JOB);
    let kubectl = plane.kubectl.in_namespace(&scene.namespace);
    kubectl.apply(&held("web-g", &gate)?.to_string())?;
    let mut replicas = Replicas::new(sandbox, plane, "waiter-events", 18680, 2, &[gate])?;
    replicas.revive()?;
    scene.create("2")?;
    scene.status(&failed())?;
    let events = || -> Result<Vec<String>> {
        replicas.check()?;
        let listed = kubectl.get("events.events.k8s.io")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let told = |event: &Value| {
            let about = &event["regarding"];
            let (kind, name) = (text(&about["kind"]), text(&about["name"]));
            format!("{} {kind}/{name}", text(&event["reason"]))
        };
        let listed = listed["items"].as_array().context("a list")?;
        let mut events: Vec<String> = listed.iter().map(told).collect();
        events.sort();
        Ok(events)
    };
    let mut expect = vec![
        "MigrationFailed Deployment/web-g",
        "MigrationFailed Job/db-init",
    ];
    let are = |expect: Vec<&'static str>| move |events: &Vec<String>| *events == expect;
    until_is(
        "the failure's Events",
        PATIENCE,
        events,
        are(expect.clone()),
    )?;
    let fix =
        "Fix the cause, delete the Job and apply it again: kubectl delete job db-init -n events";
    for command in [
        "describe job db-init",
        "describe deployment web-g",
        "events",
    ] {
        let shown = kubectl.run(command)?;
        let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(shown.contains("MigrationFailed"), "{command}: {shown}");
        ensure!(shown.contains(fix), "{command}: {shown}");
    }
    // Run the remedy in the Event.
    kubectl.run("delete job db-init")?;
    scene.create("2")?;
    scene.status(&complete())?;
    expect.extend([
        "MigrationCompleted Deployment/web-g",
        "MigrationCompleted Job/db-init",
    ]);
    expect.sort_unstable();
    until_is(
        "the completion's Events",
        PATIENCE,
        events,
        are(expect.clone()),
    )?;
    let created = || -> Result<usize> {
        let logs = [replicas.log(0)?, replicas.log(1)?];
        Ok(logs.concat().matches("created an Event").count())
    };
    until_is(
        "each Event to be one replica's",
        PATIENCE,
        created,
        |count| *count == 4,
    )
}

/// A Deployment of version 2 that waits at a gate, after the injection.
fn held(name: &str, gate: &Value) -> Result<Value> {
    let config = parse(&json!({"gates": [gate]}).to_string(), "gates")
        .map_err(|error| anyhow!("{error}"))?;
    let mut template = json!({
        "metadata": {"labels": {"app": name}},
        "spec": {"containers": [{"name": "web", "image": "web:2"}]},
    });
    let injection = Injection::wanted(&config.gates[0], &config.waiter, &template);
    template["spec"]["initContainers"] = json!([injection.container]);
    template["spec"]["volumes"] = json!([injection.volume]);
    Ok(json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }))
}
