//! Tests of the server with a real API server: rotated certificates, and replicas that start, stop
//! and are killed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Resource};
use rustix::process::Pid;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use testkit::client::{block_on, client};
use testkit::cluster::Cluster;
use testkit::control_plane::{ControlPlane, PlaneSettings};
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::process::Process;
use testkit::sandbox::Sandbox;

mod faults;
mod installed;
mod load;

use self::faults::of_100_000_calls_only_killed_replicas_lose_some;
use self::installed::Installed;
use self::load::Load;

testkit::tests! {
    standalone: five_replicas_at_once_agree_on_one_ca;
    exclusive:
        no_call_fails_while_certificates_rotate_and_replicas_roll,
        no_call_fails_while_the_files_of_a_certificate_change,
        a_replica_that_is_killed_costs_few_calls;
}

testkit::soaks! {
    standalone: five_replicas_agree_on_one_ca_in_50_rounds;
    exclusive: of_100_000_calls_only_killed_replicas_lose_some;
}

const REPLICAS: u16 = 5;
const CREATES: usize = 4_000;

/// Exactly the permissions that `serve` needs, bound to `subject`, and the configurations that call
/// it.
fn manifests(name: &str, client_config: &str, subject: &str) -> String {
    let client = |path| client_config.replace("PATH", path);
    include_str!("serve/manifests.yaml")
        .replace("NAME", name)
        .replace("SUBJECT", subject)
        .replace("CLIENT-mutate", &client("mutate"))
        .replace("CLIENT-validate", &client("validate"))
}

/// The `caBundle`, which must be the same in both configurations.
fn bundle(
    mutating: &Api<MutatingWebhookConfiguration>,
    validating: &Api<ValidatingWebhookConfiguration>,
    name: &str,
) -> Result<Vec<String>> {
    let (mutating, validating) =
        block_on(async { anyhow::Ok((mutating.get(name).await?, validating.get(name).await?)) })?;
    let mutating = mutating.webhooks.into_iter().flatten();
    let validating = validating.webhooks.into_iter().flatten();
    let bundles: BTreeSet<Option<String>> = mutating
        .map(|webhook| webhook.client_config)
        .chain(validating.map(|webhook| webhook.client_config))
        .map(|config| String::from_utf8(config.ca_bundle?.0).ok())
        .collect();
    ensure!(bundles.len() == 1, "the caBundles differ: {bundles:?}");
    let bundle = bundles
        .into_iter()
        .next()
        .flatten()
        .context("no caBundle")?;
    let end = "-----END CERTIFICATE-----";
    Ok(bundle
        .split_inclusive(end)
        .filter(|block| block.contains(end))
        .map(str::to_owned)
        .collect())
}

fn five_replicas_at_once_agree_on_one_ca(sandbox: &Sandbox) -> Result<()> {
    five_replicas(sandbox, 8)
}

fn five_replicas_agree_on_one_ca_in_50_rounds(sandbox: &Sandbox) -> Result<()> {
    five_replicas(sandbox, 50)
}

fn five_replicas(sandbox: &Sandbox, rounds: usize) -> Result<()> {
    let control_plane = ControlPlane::start(sandbox, PlaneSettings::bare("five-replicas", 3)?)?;
    let folder = sandbox.state("five-replicas-kubectl")?;
    let kubectl = Kubectl {
        program: sandbox.assets.program("kubectl"),
        helm: sandbox.assets.program("helm"),
        kubeconfig: control_plane.admin().to_owned(),
        namespace: Some("five".to_owned()),
        cache: folder.join("cache"),
    };
    kubectl.run("create namespace five")?;
    let kubeconfig = control_plane.user("serve", "serve", None)?;
    let subject = "{apiGroup: rbac.authorization.k8s.io, kind: User, name: serve}";
    let client_config = "{url: 'https://localhost:18400/PATH'}";
    kubectl.apply(&manifests("five", client_config, subject))?;
    let client = client(control_plane.admin())?;
    let secrets: Afresh<Secret> =
        Afresh::of(Api::namespaced(client.clone(), "five"), "certificate")?;
    let mutating: Afresh<MutatingWebhookConfiguration> =
        Afresh::of(Api::all(client.clone()), "five")?;
    let validating: Afresh<ValidatingWebhookConfiguration> =
        Afresh::of(Api::all(client.clone()), "five")?;
    let maps: Api<ConfigMap> = Api::namespaced(client, "five");
    let logs = sandbox.logs("five-replicas")?;
    for round in 0..rounds {
        secrets.make()?;
        mutating.make()?;
        validating.make()?;
        let replicas: Vec<_> = (0..REPLICAS)
            .map(|index| replica(&kubeconfig, &logs, index))
            .collect::<Result<_>>()?;
        for (index, process) in (0..REPLICAS).zip(&replicas) {
            process.await_ready("/readyz to say ok", Duration::from_mins(3), || {
                let text = block_on(get(18500 + index, "/readyz"))?;
                ensure!(text == "ok\n", "{text}");
                Ok(())
            })?;
        }
        let bundle = bundle(&mutating.api, &validating.api, "five")?;
        ensure!(bundle.len() == 1, "round {round}: {} CAs", bundle.len());
        let secret = block_on(secrets.api.get("certificate"))?;
        let stored = secret.data.and_then(|mut data| data.remove("ca.crt"));
        let stored = String::from_utf8(stored.context("a CA")?.0)?;
        ensure!(stored.trim() == bundle[0].trim());
        // The configurations have the URL of one replica. All replicas serve the same certificate,
        // so one call checks it for all.
        let mut canary = ConfigMap::default();
        canary.metadata.name = Some("canary".to_owned());
        block_on(async {
            maps.create(&PostParams::default(), &canary).await?;
            maps.delete("canary", &DeleteParams::default()).await
        })?;
    }
    Ok(())
}

/// An object in its first state, to be created again.
struct Afresh<K> {
    api: Api<K>,
    first: K,
}

impl<K> Afresh<K>
where
    K: Resource + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
{
    fn of(api: Api<K>, name: &str) -> Result<Self> {
        let mut first = block_on(api.get(name))?;
        first.meta_mut().resource_version = None;
        first.meta_mut().uid = None;
        first.meta_mut().managed_fields = None;
        Ok(Self { api, first })
    }

    fn make(&self) -> Result<()> {
        let name = self.first.meta().name.as_deref().context("a name")?;
        block_on(async {
            self.api.delete(name, &DeleteParams::default()).await?;
            self.api.create(&PostParams::default(), &self.first).await
        })?;
        Ok(())
    }
}

/// Starts a replica as a process, with the permissions of `kubeconfig`.
fn replica(kubeconfig: &Path, logs: &Path, index: u16) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
    command
        .env("KUBECONFIG", kubeconfig)
        .args([
            "serve",
            "--secret=five/certificate",
            "--server-name=localhost",
            "--mutating-webhook-configuration=five",
            "--validating-webhook-configuration=five",
            "--propagation-delay=50ms",
        ])
        .arg(format!("--listen=127.0.0.1:{}", 18400 + index))
        .arg(format!("--health-listen=127.0.0.1:{}", 18500 + index));
    Process::spawn(&format!("serve-{index}"), logs, &mut command)
}

async fn get(port: u16, path: &str) -> Result<String> {
    use http_body_util::{BodyExt as _, Empty};
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut client, connection) = hyper::client::conn::http1::handshake(stream).await?;
    tokio::spawn(connection);
    let request = hyper::Request::get(path).header("host", "localhost");
    let response = client
        .send_request(request.body(Empty::<hyper::body::Bytes>::new())?)
        .await?;
    let body = response.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}

fn no_call_fails_while_certificates_rotate_and_replicas_roll(cluster: &Cluster) -> Result<()> {
    let installed = Installed::self_managed(cluster)?;
    let kubectl = &installed.namespace.kubectl;
    let load = Load::start(cluster, &installed.namespace.name);
    let mut certificates = BTreeSet::from([installed.certificate()?]);
    let mut rolls = 0;
    while rolls < 2 || certificates.len() < 4 || load.created() < CREATES {
        kubectl.run("rollout restart deployment/serve")?;
        kubectl.run("rollout status deployment/serve --timeout=170s")?;
        rolls += 1;
        certificates.insert(installed.certificate()?);
        load.without_failure()?;
    }
    let created = load.finish()?;
    were_called(cluster, &installed.namespace.name, created)?;
    eprintln!(
        "serve: {created} creates, {} certificates, {rolls} roll-outs, no failure",
        certificates.len()
    );
    Ok(())
}

/// A certificate from elsewhere, mounted as files, such as cert-manager's Secret or
/// `existingSecret`.
fn no_call_fails_while_the_files_of_a_certificate_change(cluster: &Cluster) -> Result<()> {
    let installed = Installed::from_files(cluster)?;
    let Namespace { name, kubectl, .. } = &installed.namespace;
    let load = Load::start(cluster, name);
    for round in 1..=3 {
        let since = load.created();
        installed.renew(round)?;
        // The kubelet updates a volume when it has to sync the pod.
        kubectl.run(&format!(
            "annotate pods --selector=app=serve --overwrite round={round}"
        ))?;
        until("both replicas to serve it", Duration::from_mins(2), || {
            let logs = kubectl.run("logs --selector=app=serve --tail=-1 --prefix");
            let loaded = |text: &str| text.matches("certificate loaded").count();
            match logs {
                Ok(text) if loaded(&text) == 2 * (round + 1) => Look::Done(()),
                Ok(text) => Look::Pending(format!("{} loads", loaded(&text))),
                Err(error) => Look::Failed(error),
            }
        })?;
        load.without_failure()?;
        load.reaches(load.created().max(since) + 200)?;
    }
    let created = load.finish()?;
    were_called(cluster, name, created)?;
    eprintln!("serve: {created} creates, 3 changes of the certificate's files, no failure");
    Ok(())
}

/// Checks that the API server has called both webhooks for each create. Otherwise the creates would
/// prove nothing.
fn were_called(cluster: &Cluster, namespace: &str, created: usize) -> Result<()> {
    let created_one = |event: &&Value| {
        event["verb"] == "create"
            && event["objectRef"]["resource"] == "configmaps"
            && event["objectRef"]["namespace"] == namespace
            && event["responseStatus"]["code"] == 201
            && event["userAgent"]
                .as_str()
                .is_none_or(|agent| !agent.starts_with("kube-"))
    };
    let was_asked = |event: &Value| {
        ["mutate", "validate"].iter().all(|webhook| {
            event["annotations"][format!("{webhook}.migration-gate.test/decision")] == "untouched"
        })
    };
    let counts = || -> Result<(usize, usize)> {
        let events = cluster.audit_events_with(namespace)?;
        let all: Vec<&Value> = events.iter().filter(created_one).collect();
        Ok((
            all.iter().filter(|event| was_asked(event)).count(),
            all.len(),
        ))
    };
    until(
        "the creates in the audit log",
        Duration::from_secs(90),
        || match counts() {
            Ok((asked, _)) if asked == created => Look::Done(()),
            Ok((asked, all)) => Look::Pending(format!(
                "{asked} of {all} were asked about, {created} created"
            )),
            Err(error) => Look::Failed(error),
        },
    )
}

fn a_replica_that_is_killed_costs_few_calls(cluster: &Cluster) -> Result<()> {
    // The processes must be on this machine.
    cluster.sandbox()?;
    let installed = Installed::self_managed(cluster)?;
    let load = Load::start(cluster, &installed.namespace.name);
    load.reaches(500)?;
    let before = load.created();
    let killed = installed.kills_a_replica()?;
    load.reaches(before + 2000)?;
    let failures = load.failures();
    let last = failures
        .last()
        .map_or(Duration::ZERO, |(at, _)| at.duration_since(killed));
    // A call was lost with its connection, or the address of the dead replica has refused a new
    // connection.
    let refused = |(_, failure): &&(_, String)| failure.contains("connection refused");
    eprintln!(
        "serve: one of two replicas killed: {} of {} creates failed, {} of them at a new connection, the last after {} ms",
        failures.len(),
        load.created() - before + failures.len(),
        failures.iter().filter(refused).count(),
        last.as_millis()
    );
    let rest = load.failures().len();
    load.reaches(load.created() + 1000)?;
    ensure!(load.failures().len() == rest, "calls still fail");
    for (_, failure) in failures {
        ensure!(failure.contains("failed calling webhook"), "{failure}");
    }
    Ok(())
}

/// The processes on the node that run a subcommand of migration-gate, with their arguments.
fn processes_of(subcommand: &str) -> Result<Vec<(Pid, String)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(id) = path
            .file_name()
            .and_then(|name| name.to_str()?.parse().ok())
        else {
            continue;
        };
        // It may have ended meanwhile.
        let arguments = fs::read_to_string(path.join("cmdline")).unwrap_or_default();
        if arguments.starts_with(&format!("/migration-gate\0{subcommand}\0")) {
            found.push((
                Pid::from_raw(id).ok_or_else(|| anyhow!("no PID"))?,
                arguments,
            ));
        }
    }
    Ok(found)
}
