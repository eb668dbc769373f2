//! The cost of a request with these webhooks, without any, with the API server's own policies, and
//! with policy engines that have the same patch and the same rule.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::future::join_all;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use migration_gate_core::gates::Config;
use migration_gate_core::mutate::mutate;
use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use migration_gate_core::request::Request;
use serde_json::{Value, json};
use testkit::client::block_on;
use testkit::poll::{Look, until};
use testkit::process::Process;
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

use super::figures::{OTHER, OURS, Part, programs, tool};
use super::server::resident;
use super::{Sample, gatekeeper, kyverno, milliseconds, policies};

testkit::tests! {
    standalone: admission;
}

/// Number of rounds of each contender, in turns: the machine's speed changes, so only neighbouring
/// rounds can be compared.
const ROUNDS: usize = 7;
/// Number of callers, and of requests in each round.
const REQUESTS: [(usize, usize); 2] = [(1, 60), (8, 240)];

/// The requests, which are dry runs.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    HeldCreate,
    UnchangedUpdate,
    UnchangedApply,
    Unconcerned,
}

pub(super) const KINDS: [(Kind, &str); 4] = [
    (Kind::HeldCreate, "a held Deployment, create"),
    (Kind::UnchangedUpdate, "the same, unchanged update"),
    (
        Kind::UnchangedApply,
        "the same, unchanged server-side apply",
    ),
    (Kind::Unconcerned, "a Pod of 10 variables, create"),
];

/// The contender without admission.
pub(super) const NONE: &str = "none";
/// The API server's own policies.
pub(super) const POLICIES: &str = "in-tree policies";
/// Starts a policy engine for the gate's namespace, and waits until it takes effect.
pub(super) type Start = fn(&Sandbox, &Plane, &Path, &Config) -> Result<Process>;
pub(super) const ENGINES: [(&str, Start); 2] =
    [(GATEKEEPER, gatekeeper::serve), (KYVERNO, kyverno::serve)];
const GATEKEEPER: &str = "Gatekeeper";
const KYVERNO: &str = "Kyverno";

/// The memory of a webhook's process, when all is measured.
pub(super) const MEMORY: &str = "memory of the webhook's process";

/// The namespace of a contender, in which no other contender is active.
fn namespace(who: &str) -> &'static str {
    match who {
        OURS => "gate",
        OTHER => "other",
        POLICIES => "policies",
        GATEKEEPER => "gatekept",
        KYVERNO => "kyverned",
        _ => NONE,
    }
}

fn admission(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::start(sandbox, "bench-admission", 7)?;
    let mut part = Part::default();
    let mut servers = Vec::new();
    for who in [NONE, POLICIES] {
        make_namespace(&plane, who)?;
    }
    policies::install(&plane, &config(namespace(POLICIES)))?;
    for (who, serve) in ENGINES {
        let Some(program) = tool(&who.to_lowercase()) else {
            part.note(format!("{who} could not be built here."));
            continue;
        };
        make_namespace(&plane, who)?;
        let server = serve(sandbox, &plane, &program, &config(namespace(who)))?;
        servers.push((who, server));
    }
    for ((who, program), port) in programs()?.into_iter().zip([18300, 18310]) {
        make_namespace(&plane, who)?;
        servers.push((who, serve(sandbox, &plane, who, &program, port)?));
    }
    let contenders = [NONE, POLICIES].into_iter();
    let contenders = contenders.chain(servers.iter().map(|(who, _)| *who));
    let mut calls = Vec::new();
    for who in contenders {
        calls.push((who, block_on(Calls::prepare(&plane.client, who))?));
    }
    // Without admission, update an object of the same size as with it.
    let injected = calls.last().map(|(_, calls)| json!(calls.stored.spec));
    if let (Some((_, none)), Some(spec)) = (calls.first_mut(), injected) {
        let template = json!({"spec": {"template": spec["template"]}});
        none.stored = block_on(none.deployments.patch(
            STORED,
            &PatchParams::default(),
            &Patch::Merge(template),
        ))?;
    }
    for (callers, requests) in REQUESTS {
        for (kind, name) in KINDS {
            let mut medians = vec![Vec::new(); calls.len()];
            for _ in 0..ROUNDS {
                for ((_, calls), medians) in calls.iter().zip(&mut medians) {
                    let mut sample = block_on(times(calls, kind, callers, requests))?;
                    medians.push(milliseconds(sample.median()));
                }
            }
            let what = format!("{name}, {callers} at a time");
            // Compared within a round, so that changes of the machine's speed do not count.
            let added: Vec<Vec<f64>> = medians
                .iter()
                .map(|own| own.iter().zip(&medians[0]).map(|(a, b)| a - b).collect())
                .collect();
            for (((who, _), medians), own) in calls.iter().zip(&medians).zip(&added) {
                part.add(&what, who, "ms", medians);
                if *who != NONE {
                    part.add(&format!("{what}: added"), who, "ms", own);
                }
                if matches!(*who, OURS | OTHER) {
                    let of = |others: &[&Vec<f64>]| shares(own, others);
                    part.add(&format!("{what}: share"), who, "x", &of(&[&added[1]]));
                    let engines = calls.iter().zip(&added);
                    let engines: Vec<&Vec<f64>> = engines
                        .filter(|((who, _), _)| ENGINES.iter().any(|(engine, _)| engine == who))
                        .map(|(_, added)| added)
                        .collect();
                    part.add(
                        &format!("{what}: of the best engine's"),
                        who,
                        "x",
                        &of(&engines),
                    );
                }
            }
        }
    }
    for (who, server) in &servers {
        part.add(MEMORY, who, "MB", &[resident(server.pid(), "VmRSS")?]);
    }
    part.keep("admission")
}

/// What is added, of the least that any of the others adds in the same round.
fn shares(own: &[f64], others: &[&Vec<f64>]) -> Vec<f64> {
    let least = |round: usize| others.iter().map(|other| other[round]).reduce(f64::min);
    let rounds = own.iter().enumerate();
    rounds
        .filter_map(|(round, added)| Some(added / least(round)?))
        .collect()
}

fn make_namespace(plane: &Plane, who: &str) -> Result<()> {
    let name = namespace(who);
    plane.kubectl.run(&format!("create namespace {name}"))?;
    let account = format!("create serviceaccount default --namespace={name}");
    plane.kubectl.run(&account).map(|_| ())
}

/// A configuration with one gate, in this namespace.
fn config(namespace: &str) -> Config {
    let mut config = Config::default();
    namespace.clone_into(&mut config.gates[0].namespace);
    config
}

/// Starts the release build of the server as a process, and installs webhook configurations as the
/// chart has them.
fn serve(
    sandbox: &Sandbox,
    plane: &Plane,
    who: &str,
    program: &Path,
    port: u16,
) -> Result<Process> {
    let name = namespace(who);
    let folder = sandbox.state(&format!("bench-serve-{name}"))?;
    let authority = plane.server.authority();
    let certificate = authority.server("bench-serve", &["localhost"], &[])?;
    let config = config(name);
    let file = folder.join("config.yaml");
    let gate = &config.gates[0];
    let text = json!({"gates": [{
        "name": gate.name, "namespace": gate.namespace, "job": "piefed-db-init",
        "serviceAccount": gate.service_account, "deployments": [CREATED, STORED],
    }]});
    fs::write(&file, text.to_string())?;
    let mut command = std::process::Command::new(program);
    command
        .env("KUBECONFIG", plane.server.admin())
        .arg("serve")
        .arg(format!("--config={}", file.display()))
        .arg(format!("--tls-cert={}", certificate.certificate.display()))
        .arg(format!("--tls-key={}", certificate.key.display()))
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(format!("--health-listen=127.0.0.1:{}", port + 1));
    let server = Process::spawn(name, &sandbox.logs("bench")?, &mut command)?;
    let authority = STANDARD.encode(fs::read(authority.pair().certificate)?);
    for (kind, path, filters) in [
        ("Mutating", "mutate", mutating()),
        ("Validating", "validate", validating()),
    ] {
        let webhooks: Vec<Value> = filters
            .into_iter()
            .map(|filter| {
                webhook(
                    filter,
                    &config,
                    &format!("https://localhost:{port}/{path}"),
                    &authority,
                )
            })
            .collect();
        let configuration = json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": format!("{kind}WebhookConfiguration"),
            "metadata": {"name": format!("bench-{name}")},
            "webhooks": webhooks,
        });
        plane.kubectl.apply(&configuration.to_string())?;
    }
    // Held Deployments are refused until the API server can call it.
    server.await_ready(
        "a held Deployment to be injected",
        Duration::from_mins(3),
        || block_on(is_injected(&plane.client, name)),
    )?;
    Ok(server)
}

fn webhook(filter: Prefilter, config: &Config, url: &str, authority: &str) -> Value {
    let filter = filter.of(config);
    json!({
        "name": format!("{}.migration-gate.io", filter.name),
        "admissionReviewVersions": ["v1"], "sideEffects": "None", "failurePolicy": "Fail",
        "clientConfig": {"url": url, "caBundle": authority},
        "namespaceSelector": selector(&config.gates[0].namespace),
        "rules": filter.rules, "matchConditions": filter.match_conditions,
    })
}

/// Selects one namespace.
pub(super) fn selector(namespace: &str) -> Value {
    json!({"matchLabels": {"kubernetes.io/metadata.name": namespace}})
}

/// Waits until a held Deployment is injected in the gate's namespace, and a forbidden variable
/// denied.
pub(super) fn await_effect(plane: &Plane, config: &Config) -> Result<()> {
    let namespace = &config.gates[0].namespace;
    until(
        &format!("a held Deployment to be injected in {namespace}"),
        Duration::from_mins(1),
        || match block_on(is_injected(&plane.client, namespace)) {
            Ok(()) => Look::Done(()),
            Err(error) => Look::Pending(format!("{error:#}")),
        },
    )?;
    let mut forbidden = deployment(CREATED);
    forbidden["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{"name": config.forbidden_env.first(), "value": "true"}]);
    let create = format!("create --dry-run=server --namespace={namespace} -f -");
    let create: Vec<&str> = create.split(' ').collect();
    until(
        &format!("a forbidden variable to be denied in {namespace}"),
        Duration::from_mins(1),
        || match plane
            .kubectl
            .output(&create, &forbidden.to_string(), Duration::from_secs(30))
        {
            Ok(done) if !done.status.success() && done.stderr.contains("denied") => Look::Done(()),
            Ok(done) => Look::Pending(done.stderr),
            Err(error) => Look::Failed(error),
        },
    )
}

/// What the rules change in the pod spec of a held Deployment: fields, and their new values.
pub(super) fn injected(config: &Config) -> Result<Vec<(String, Value)>> {
    let deployment = deployment(CREATED);
    let request = Request::create(&deployment, &config.gates[0].namespace).context("an object")?;
    let mut patched = deployment.clone();
    json_patch::patch(&mut patched, &mutate(config, &request).patch)?;
    let before = &deployment["spec"]["template"]["spec"];
    let after = &patched["spec"]["template"]["spec"];
    let after = after.as_object().context("a pod spec")?.clone();
    let mut changed = Vec::new();
    for (field, value) in after {
        match before.get(&field) {
            None => changed.push((field, value)),
            Some(same) if *same == value => {}
            Some(_) => bail!("the patch changes {field}, which is not foreseen here: {value}"),
        }
    }
    Ok(changed)
}

/// Fails unless a held Deployment gets its waiter in this namespace.
async fn is_injected(client: &kube::Client, namespace: &str) -> Result<()> {
    let api = Api::<Deployment>::namespaced(client.clone(), namespace);
    let created = api
        .create(&dry_run(), &serde_json::from_value(deployment(CREATED))?)
        .await?;
    let spec = created.spec.and_then(|spec| spec.template.spec);
    let containers = spec
        .and_then(|spec| spec.init_containers)
        .unwrap_or_default();
    ensure!(
        containers.len() == 1,
        "there are {} init containers",
        containers.len()
    );
    Ok(())
}

/// The two held Deployments: one is created, the other is stored.
const CREATED: &str = "piefed-web";
const STORED: &str = "piefed-worker";

/// One of the two Deployments.
fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "piefed:1.2.0"}]},
            },
        },
    })
}

fn pod() -> Value {
    let env: Vec<Value> = (0..10)
        .map(|i| json!({"name": format!("V{i}"), "value": "1"}))
        .collect();
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shell"},
        "spec": {"containers": [{"name": "shell", "image": "piefed:1.2.0", "env": env}]},
    })
}

fn dry_run() -> PostParams {
    PostParams {
        dry_run: true,
        ..PostParams::default()
    }
}

/// One contender's requests.
struct Calls {
    deployments: Api<Deployment>,
    pods: Api<Pod>,
    pod: Pod,
    /// The Deployment to create, with another name than the stored one.
    created: Deployment,
    /// The object to apply.
    applied: Value,
    /// The stored Deployment.
    stored: Deployment,
    injects: bool,
}

impl Calls {
    /// Stores the Deployment by a server-side apply.
    async fn prepare(client: &kube::Client, who: &str) -> Result<Self> {
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace(who));
        let apply = PatchParams::apply("bench").force();
        let stored = deployments
            .patch(STORED, &apply, &Patch::Apply(deployment(STORED)))
            .await?;
        Ok(Self {
            pods: Api::namespaced(client.clone(), namespace(who)),
            pod: serde_json::from_value(pod())?,
            created: serde_json::from_value(deployment(CREATED))?,
            applied: deployment(STORED),
            stored,
            deployments,
            injects: who != NONE,
        })
    }

    async fn call(&self, kind: Kind) -> Result<()> {
        match kind {
            Kind::HeldCreate => {
                let created = self.deployments.create(&dry_run(), &self.created).await?;
                let spec = created
                    .spec
                    .and_then(|spec| spec.template.spec)
                    .context("no spec")?;
                ensure!(spec.init_containers.is_some() == self.injects);
            }
            Kind::UnchangedUpdate => {
                self.deployments
                    .replace(STORED, &dry_run(), &self.stored)
                    .await?;
            }
            Kind::UnchangedApply => {
                let apply = PatchParams {
                    dry_run: true,
                    ..PatchParams::apply("bench")
                };
                self.deployments
                    .patch(STORED, &apply, &Patch::Apply(&self.applied))
                    .await?;
            }
            Kind::Unconcerned => {
                self.pods.create(&dry_run(), &self.pod).await?;
            }
        }
        Ok(())
    }
}

/// The times of `requests` requests from `callers` callers at once.
async fn times(calls: &Calls, kind: Kind, callers: usize, requests: usize) -> Result<Sample> {
    let left = Arc::new(AtomicUsize::new(requests));
    let times = Arc::<Mutex<Sample>>::default();
    let callers = (0..callers).map(|_| async {
        while left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                left.checked_sub(1)
            })
            .is_ok()
        {
            let begun = Instant::now();
            calls.call(kind).await?;
            let took = begun.elapsed();
            times
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(took);
        }
        anyhow::Ok(())
    });
    join_all(callers)
        .await
        .into_iter()
        .collect::<Result<()>>()?;
    let mut times = times.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(std::mem::take(&mut *times))
}
