//! How long `status` takes, and how much memory, where there are a thousand gates.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::api::{ApiResource, DynamicObject, PostParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use testkit::client::block_on;
use testkit::image::released_binary;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

testkit::soaks! {
    standalone: a_thousand_gates_and_ten_thousand_pods;
}

const GATES: usize = 1000;
const PODS: usize = 10;

fn a_thousand_gates_and_ten_thousand_pods(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "many", 6)?;
    let begun = Instant::now();
    let mut objects = Vec::new();
    for n in 0..GATES {
        objects.push((
            "v1",
            "Namespace",
            None,
            json!({"metadata": {"name": name(n)}}),
        ));
    }
    create(&plane.client, objects)?;
    let objects = (0..GATES).flat_map(|n| of_gate(&name(n))).collect();
    create(&plane.client, objects)?;
    eprintln!(
        "status: {} objects after {} s",
        GATES * (PODS + 3),
        begun.elapsed().as_secs()
    );

    let gates: Value = (0..GATES)
        .map(|n| {
            json!({"name": name(n), "namespace": name(n), "job": "migrate",
                   "deployments": ["web"], "serviceAccount": "waiter"})
        })
        .collect();
    let config = sandbox.state("many")?.join("gates.yaml");
    fs::write(&config, json!({"gates": gates}).to_string())?;
    for _ in 0..3 {
        let begun = Instant::now();
        let mut status = Command::new(released_binary()?)
            .args(["status", "--output=json", "--config"])
            .arg(&config)
            .env("KUBECONFIG", plane.server.admin())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = status.stdout.take().context("its output")?;
        let reader = std::thread::spawn(move || serde_json::from_reader::<_, Value>(output));
        let mut peak = 0;
        let ended = loop {
            if let Some(ended) = status.try_wait()? {
                break ended;
            }
            peak = peak.max(high_water(status.id()));
            std::thread::sleep(Duration::from_millis(5));
        };
        let took = begun.elapsed();
        let report = reader
            .join()
            .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        ensure!(ended.code() == Some(1), "{ended}");
        let pods = report["gates"].as_array().into_iter().flatten();
        let pods: usize = pods
            .map(|gate| gate["pods"].as_array().map_or(0, Vec::len))
            .sum();
        ensure!(pods == GATES * PODS, "{pods} pods wait");
        eprintln!(
            "status: {GATES} gates, {pods} pods: {} ms, at most {} MiB",
            took.as_millis(),
            peak / 1024
        );
    }
    Ok(())
}

fn name(n: usize) -> String {
    format!("shop-{n}")
}

/// The most memory that a process has had so far, in KiB.
fn high_water(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_default()
}

type Object = (&'static str, &'static str, Option<String>, Value);

/// A Deployment that wants version 2, its pods that wait, and a Job that has no pod.
fn of_gate(name: &str) -> Vec<Object> {
    let spec = json!({
        "serviceAccountName": "waiter", "automountServiceAccountToken": false,
        "initContainers": [{
            "name": "wait-for-migrations", "image": "gate:1",
            "args": ["wait", format!("--gate={name}"), format!("--namespace={name}"), "--job=migrate",
                     format!("--record=migration-gate-{name}"), "--image=shop:2", "--timeout=600s",
                     "--freshness=version"],
            "volumeMounts": [{"name": "migration-gate-token", "mountPath": "/t"}],
        }],
        "containers": [{"name": "web", "image": "shop:2", "env": [
            {"name": "DATABASE_URL", "value": "postgres://shop@db/shop"},
        ], "readinessProbe": {"httpGet": {"path": "/", "port": 80}}}],
        "volumes": [{"name": "migration-gate-token", "emptyDir": {}}],
    });
    let labels = json!({"app": "web"});
    let place = Some(name.to_owned());
    let mut objects = vec![
        (
            "v1",
            "ServiceAccount",
            place.clone(),
            json!({"metadata": {"name": "waiter"}}),
        ),
        (
            "apps/v1",
            "Deployment",
            place.clone(),
            json!({
                "metadata": {"name": "web"},
                "spec": {"replicas": PODS, "selector": {"matchLabels": labels},
                         "template": {"metadata": {"labels": labels}, "spec": spec}},
            }),
        ),
        (
            "batch/v1",
            "Job",
            place.clone(),
            json!({
                "metadata": {"name": "migrate"},
                "spec": {"template": {"spec": {
                    "restartPolicy": "Never", "containers": [{"name": "m", "image": "shop:2"}],
                }}},
            }),
        ),
    ];
    for n in 0..PODS {
        let pod = json!({"metadata": {"name": format!("web-{n}"), "labels": labels}, "spec": spec});
        objects.push(("v1", "Pod", place.clone(), pod));
    }
    objects
}

fn create(client: &Client, objects: Vec<Object>) -> Result<()> {
    let create = |(version, kind, namespace, object): Object| {
        let client = client.clone();
        async move {
            let (group, version) = version.split_once('/').unwrap_or(("", version));
            let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
            let api: Api<DynamicObject> = match &namespace {
                Some(namespace) => Api::namespaced_with(client, namespace, &resource),
                None => Api::all_with(client, &resource),
            };
            let mut object = object;
            object["apiVersion"] = json!(resource.api_version);
            object["kind"] = json!(kind);
            let object: DynamicObject = serde_json::from_value(object)?;
            api.create(&PostParams::default(), &object).await?;
            anyhow::Ok(())
        }
    };
    block_on(
        stream::iter(objects.into_iter().map(create))
            .buffer_unordered(32)
            .try_collect::<()>(),
    )
}
