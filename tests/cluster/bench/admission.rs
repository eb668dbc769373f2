//! What a create costs with these webhooks, next to what it costs without.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PostParams;
use migration_gate_core::gates::Config;
use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use serde_json::{Value, json};

use super::{Sample, milliseconds};
use testkit::client::block_on;
use testkit::image;
use testkit::process::Process;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

testkit::tests! {
    standalone: admission;
}

/// Rounds of each, in turns: the machine drifts, and only neighbours compare.
const ROUNDS: usize = 6;
const CREATES: usize = 300;
const PORT: u16 = 18300;

/// Namespaces, by what happens to a Deployment `piefed-web` there.
const NAMESPACES: [(&str, &str); 3] = [
    ("unwatched", "no webhook"),
    ("spared", "spared by matchConditions"),
    ("held", "injected and validated"),
];

fn admission(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "bench-admission", 7)?;
    for (name, _) in NAMESPACES {
        plane.kubectl.run(&format!("create namespace {name}"))?;
    }
    let _server = serve(sandbox, &plane)?;
    for callers in [1, 8] {
        let mut samples = NAMESPACES.map(|_| Sample::default());
        for _ in 0..ROUNDS {
            for (index, (namespace, _)) in NAMESPACES.into_iter().enumerate() {
                let times = block_on(creates(&plane.client, namespace, callers))?;
                samples[index].0.extend(times);
            }
        }
        println!(
            "\ncreates of a Deployment, dry run, {callers} at a time, {} of each",
            ROUNDS * CREATES
        );
        let bare = samples[0].median();
        for ((_, what), sample) in NAMESPACES.iter().zip(&samples) {
            println!(
                "{what:<28} median {:>6.2} ms   99 % {:>6.2} ms   {:>5.2} x",
                milliseconds(sample.median()),
                milliseconds(sample.quantile(0.99)),
                sample.median().as_secs_f64() / bare.as_secs_f64()
            );
        }
    }
    Ok(())
}

/// The released server as a process, and the API server told to call it as the chart would have it.
fn serve(sandbox: &Sandbox, plane: &Plane) -> Result<Process> {
    let folder = sandbox.state("bench-serve")?;
    let authority = plane.server.authority();
    let certificate = authority.server("bench-serve", &["localhost"], &[])?;
    let mut config = Config::default();
    "held".clone_into(&mut config.gates[0].namespace);
    let file = folder.join("config.yaml");
    let gate = &config.gates[0];
    let text = json!({"gates": [{
        "name": gate.name, "namespace": gate.namespace, "job": "piefed-db-init",
        "serviceAccount": gate.service_account, "deployments": ["piefed-web"],
    }]});
    fs::write(&file, text.to_string())?;
    let mut command = std::process::Command::new(image::released_binary()?);
    command
        .env("KUBECONFIG", plane.server.admin())
        .arg("serve")
        .arg(format!("--config={}", file.display()))
        .arg(format!("--tls-cert={}", certificate.certificate.display()))
        .arg(format!("--tls-key={}", certificate.key.display()))
        .arg(format!("--listen=127.0.0.1:{PORT}"))
        .arg(format!("--health-listen=127.0.0.1:{}", PORT + 1));
    let server = Process::spawn("serve", &sandbox.logs("bench")?, &mut command)?;
    let authority = STANDARD.encode(fs::read(authority.pair().certificate)?);
    for (kind, path, filters) in [
        ("Mutating", "mutate", mutating()),
        ("Validating", "validate", validating()),
    ] {
        plane
            .kubectl
            .apply(&configuration(kind, path, &authority, filters, &config))?;
    }
    // Held Deployments are refused while it can't be called, so one that isn't shows that it can.
    server.await_ready(
        "a held Deployment to be accepted",
        Duration::from_mins(3),
        || block_on(create(&plane.client, "held")),
    )?;
    Ok(server)
}

fn configuration(
    kind: &str,
    path: &str,
    authority: &str,
    filters: Vec<Prefilter>,
    config: &Config,
) -> String {
    let webhooks: Vec<Value> = filters
        .into_iter()
        .map(|filter| {
            let filter = filter.of(config);
            json!({
                "name": format!("{}.migration-gate.io", filter.name),
                "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
                "clientConfig": {"url": format!("https://localhost:{PORT}/{path}"), "caBundle": authority},
                "namespaceSelector": {"matchExpressions": [{
                    "key": "kubernetes.io/metadata.name", "operator": "In", "values": ["spared", "held"],
                }]},
                "rules": filter.rules, "matchConditions": filter.match_conditions,
            })
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": format!("{kind}WebhookConfiguration"),
        "metadata": {"name": "bench"},
        "webhooks": webhooks,
    })
    .to_string()
}

/// The times of so many creates, by so many callers at once.
async fn creates(client: &kube::Client, namespace: &str, callers: usize) -> Result<Vec<Duration>> {
    let left = Arc::new(AtomicUsize::new(CREATES));
    let times = Arc::<Mutex<Vec<Duration>>>::default();
    let callers = (0..callers).map(|_| async {
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let begun = Instant::now();
            create(client, namespace).await?;
            times
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(begun.elapsed());
        }
        anyhow::Ok(())
    });
    join_all(callers)
        .await
        .into_iter()
        .collect::<Result<()>>()?;
    let times = times.lock().unwrap_or_else(PoisonError::into_inner);
    ensure!(times.len() == CREATES);
    Ok(times.clone())
}

async fn create(client: &kube::Client, namespace: &str) -> Result<()> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "piefed-web"},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "piefed:1.2.0"}]},
            },
        },
    }))?;
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let created = api.create(&params, &deployment).await?;
    let injected = created
        .spec
        .and_then(|spec| spec.template.spec)
        .is_some_and(|spec| spec.init_containers.is_some());
    ensure!(
        injected == (namespace == "held"),
        "the Deployment in {namespace} isn't as it should be"
    );
    Ok(())
}
