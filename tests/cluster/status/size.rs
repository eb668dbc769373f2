//! Time and memory of `status`. They are only printed, because machines are shared and noisy.

use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use testkit::client::block_on;
use testkit::image;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

/// Number of runs for each size. The median counts.
const LOOKS: usize = 7;
/// The ServiceAccount of all pods.
const ACCOUNT: &str = "waiter";
/// Number of concurrent requests that create objects.
const AT_ONCE: usize = 16;

/// The size of a cluster: its namespaces, the gates of each, the pods of each gate, and how many of
/// these run.
#[derive(Clone, Copy)]
struct Size {
    name: &'static str,
    namespaces: usize,
    gates: usize,
    pods: usize,
    running: usize,
}

/// The sizes. Each is created beside the earlier ones, with names of its own.
const SIZES: [Size; 3] = [
    Size {
        name: "five",
        namespaces: 5,
        gates: 1,
        pods: 40,
        running: 36,
    },
    Size {
        name: "many",
        namespaces: 100,
        gates: 10,
        pods: 10,
        running: 9,
    },
    Size {
        name: "all",
        namespaces: 100,
        gates: 10,
        pods: 10,
        running: 0,
    },
];

impl Size {
    fn namespaces(self) -> impl Iterator<Item = String> {
        (0..self.namespaces).map(move |number| format!("{}-{number}", self.name))
    }

    /// The gates' namespaces and names.
    fn gates(self) -> impl Iterator<Item = (String, String)> {
        let of = move |namespace: String| {
            (0..self.gates).map(move |number| (namespace.clone(), format!("app-{number}")))
        };
        self.namespaces().flat_map(of)
    }
}

pub(super) fn status_of_a_large_cluster(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "status", 8)?;
    let folder = tempfile::tempdir()?;
    println!("gates  pods    of these wait  median     least      most       peak memory");
    for size in SIZES {
        block_on(make(&plane.client, size))?;
        let gates: Vec<Value> = size
            .gates()
            .map(|(namespace, name)| {
                json!({"name": format!("{namespace}-{name}"), "namespace": namespace,
                       "job": name, "deployments": [name], "serviceAccount": ACCOUNT})
            })
            .collect();
        let config = folder.path().join(size.name);
        fs::write(&config, json!({"gates": gates}).to_string())?;
        let mut looks = Vec::new();
        for _ in 0..LOOKS {
            looks.push(look(&plane, &config, size)?);
        }
        looks.sort();
        let time = |index: usize| format!("{:.0} ms", looks[index].0.as_secs_f64() * 1000.0);
        let count = size.namespaces * size.gates;
        println!(
            "{count:<6} {:<7} {:<14} {:<10} {:<10} {:<10} {} MB",
            count * size.pods,
            count * (size.pods - size.running),
            time(LOOKS / 2),
            time(0),
            time(LOOKS - 1),
            looks.iter().map(|look| look.1).max().unwrap_or_default() / 1000,
        );
    }
    Ok(())
}

/// Runs `status`. Returns its time, and its peak memory in kB.
fn look(plane: &Plane, config: &Path, size: Size) -> Result<(Duration, u64)> {
    let output = tempfile::NamedTempFile::new()?;
    let begun = Instant::now();
    let child = Command::new(image::released_binary()?)
        .args(["status", "--output=json", "--config"])
        .arg(config)
        .env("KUBECONFIG", plane.server.admin())
        .stdout(Stdio::from(output.reopen()?))
        .spawn()?;
    let peak = peak_memory(child)?;
    let took = begun.elapsed();
    let report: Value = serde_json::from_slice(&fs::read(output.path())?)?;
    let gates = report["gates"].as_array().context("no gates")?;
    let waiting = gates
        .iter()
        .filter_map(|gate| gate["pods"].as_array())
        .map(Vec::len)
        .sum::<usize>();
    let wanted = size.namespaces * size.gates;
    ensure!(
        gates.len() == wanted && waiting == wanted * (size.pods - size.running),
        "{} gates, {waiting} pods that wait, {:#}",
        gates.len(),
        report["unread"]
    );
    Ok((took, peak))
}

/// The peak resident size of a process, in kB, as last seen before its end.
fn peak_memory(mut child: Child) -> Result<u64> {
    let path = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    while child.try_wait()?.is_none() {
        let status = fs::read_to_string(&path).unwrap_or_default();
        let found = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        peak = peak.max(found.and_then(|number| number.parse().ok()).unwrap_or(0));
        thread::sleep(Duration::from_millis(1));
    }
    Ok(peak)
}

/// Creates all objects of a cluster of this size.
async fn make(client: &kube::Client, size: Size) -> Result<()> {
    let namespaces = size.namespaces().map(|name| async move {
        let object = json!({"metadata": {"name": name}});
        create::<Namespace>(Api::all(client.clone()), object).await?;
        let accounts = Api::<ServiceAccount>::namespaced(client.clone(), &name);
        create(accounts, json!({"metadata": {"name": ACCOUNT}})).await
    });
    at_once(namespaces).await?;
    let gates = size.gates().map(|(namespace, name)| async move {
        let jobs = Api::<Job>::namespaced(client.clone(), &namespace);
        create(jobs, job(&name)).await?;
        let template = template(&namespace, &name);
        let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
        create(deployments, deployment(&name, size.pods, &template)).await?;
        let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
        for number in 0..size.pods {
            let mut pod = template.clone();
            let name = format!("{name}-5d8f9c7b6-{number:05}");
            pod["metadata"]["name"] = json!(name);
            create(pods.clone(), pod).await?;
            let status = json!({"status": status(number < size.running)});
            pods.patch_status(&name, &PatchParams::default(), &Patch::Merge(status))
                .await?;
        }
        anyhow::Ok(())
    });
    at_once(gates).await
}

async fn at_once(work: impl Iterator<Item = impl Future<Output = Result<()>>>) -> Result<()> {
    stream::iter(work)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await
}

async fn create<K>(api: Api<K>, object: Value) -> Result<()>
where
    K: Clone + DeserializeOwned + Serialize + Debug,
{
    let object: K = serde_json::from_value(object)?;
    api.create(&PostParams::default(), &object).await?;
    Ok(())
}

fn containers() -> Value {
    json!([{"name": "main", "image": "registry.example/shop:1.4.2", "env": [
        {"name": "DATABASE_URL", "value": "postgresql://db.example/shop"},
    ]}])
}

/// A gate's Job, whose migration has not begun.
fn job(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": containers(),
    }}}})
}

/// A pod template after the injection.
fn template(namespace: &str, name: &str) -> Value {
    let gate = format!("{namespace}-{name}");
    let arguments = [
        "wait",
        &format!("--gate={gate}"),
        &format!("--namespace={namespace}"),
        &format!("--job={name}"),
        &format!("--record=migration-gate-{gate}"),
        "--image=registry.example/shop:1.4.2",
        "--timeout=600s",
        "--freshness=version",
    ];
    let token = "migration-gate-token";
    json!({
        "metadata": {"labels": {"app": name}},
        "spec": {
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": false,
            "initContainers": [{
                "name": "wait-for-migrations", "image": "migration-gate:1", "args": arguments,
                "volumeMounts": [{"name": token, "mountPath": "/token"}],
            }],
            "containers": containers(),
            "volumes": [{"name": token, "emptyDir": {}}],
        },
    })
}

fn deployment(name: &str, replicas: usize, template: &Value) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "replicas": replicas, "selector": {"matchLabels": {"app": name}}, "template": template,
    }})
}

fn status(is_running: bool) -> Value {
    if is_running {
        return json!({"phase": "Running"});
    }
    let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
    json!({"phase": "Pending", "initContainerStatuses": [{
        "name": "wait-for-migrations", "image": "migration-gate:1", "imageID": "",
        "ready": false, "restartCount": 0, "state": running,
    }]})
}
