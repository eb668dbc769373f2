//! The server and a real API server: certificates that rotate, replicas that come, go and die.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{ObjectMeta, PostParams};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::client::{block_on, spawn};
use crate::cluster::{Cluster, Namespace};
use crate::control_plane::{ControlPlane, Settings};
use crate::harness::Test;
use crate::image;
use crate::kubectl::Kubectl;
use crate::poll::{Look, until};
use crate::process::Process;
use crate::sandbox::Sandbox;

pub(crate) const TESTS: [Test; 3] = [
    Test::standalone(
        "serve::five_replicas_at_once_agree_on_one_ca",
        five_replicas_at_once_agree_on_one_ca,
    ),
    Test::exclusive(
        "serve::no_call_fails_while_certificates_rotate_and_replicas_roll",
        no_call_fails_while_certificates_rotate_and_replicas_roll,
    ),
    Test::exclusive(
        "serve::a_replica_that_is_killed_costs_few_calls",
        a_replica_that_is_killed_costs_few_calls,
    ),
];

const ROUNDS: usize = 50;
const REPLICAS: u16 = 5;
const CREATES: usize = 10_000;
/// How many creates are under way at one time.
const CALLERS: usize = 8;

/// What `serve` needs to be allowed, and nothing else, bound to `subject`; and the configurations that call it.
fn manifests(name: &str, client_config: &str, subject: &str) -> String {
    let webhook = |path: &str| {
        format!(
            "
- name: {path}.migration-gate.test
  admissionReviewVersions: [v1]
  sideEffects: None
  timeoutSeconds: 5
  namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: {name}}}}}
  clientConfig: {client_config}
  rules: [{{apiGroups: [''], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}}]
"
        )
        .replace("PATH", path)
    };
    let (mutate, validate) = (webhook("mutate"), webhook("validate"));
    format!(
        "
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {{name: {name}}}
webhooks:{mutate}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {{name: {name}}}
webhooks:{validate}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {{name: serve, namespace: {name}}}
rules:
- {{apiGroups: [''], resources: [secrets], resourceNames: [certificate], verbs: [get, list, watch, patch]}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {{name: serve, namespace: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: serve}}
subjects: [{subject}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {{name: {name}}}
rules:
- apiGroups: [admissionregistration.k8s.io]
  resources: [mutatingwebhookconfigurations, validatingwebhookconfigurations]
  resourceNames: [{name}]
  verbs: [get, list, watch, patch]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {name}}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {name}}}
subjects: [{subject}]
---
{EMPTY_SECRET}"
    )
}

/// As the chart makes it, so that the right to create Secrets isn't needed.
const EMPTY_SECRET: &str = "{apiVersion: v1, kind: Secret, metadata: {name: certificate}}";

/// The CA certificates that the API server was given, which must be the same for all webhooks.
fn bundle(kubectl: &Kubectl, name: &str) -> Result<Vec<String>> {
    let configurations = kubectl.get(&format!(
        "mutatingwebhookconfiguration/{name} validatingwebhookconfiguration/{name}"
    ))?;
    let webhooks = |item: &Value| item["webhooks"].as_array().cloned().unwrap_or_default();
    let bundles: BTreeSet<Option<String>> = configurations["items"]
        .as_array()
        .context("a list")?
        .iter()
        .flat_map(webhooks)
        .map(|webhook| {
            let bundle = webhook["clientConfig"]["caBundle"].as_str()?;
            String::from_utf8(STANDARD.decode(bundle).ok()?).ok()
        })
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
    let control_plane = ControlPlane::start(sandbox, Settings::bare("five-replicas", 3)?)?;
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
    let manifests = manifests("five", "{url: 'https://localhost:18400/PATH'}", subject);
    let logs = sandbox.logs("five-replicas")?;
    for round in 0..ROUNDS {
        kubectl.apply(&manifests)?;
        let replicas: Vec<_> = (0..REPLICAS)
            .map(|index| replica(&kubeconfig, &logs, index))
            .collect::<Result<_>>()?;
        for (index, process) in (0..REPLICAS).zip(&replicas) {
            process.await_ready("/readyz to say ok", Duration::from_mins(1), || {
                let text = block_on(get(18500 + index, "/readyz"))?;
                ensure!(text == "ok\n", "{text}");
                Ok(())
            })?;
        }
        let bundle = bundle(&kubectl, "five")?;
        ensure!(bundle.len() == 1, "round {round}: {} CAs", bundle.len());
        let secret = kubectl.get("secret certificate")?;
        let stored = STANDARD.decode(secret["data"]["ca.crt"].as_str().context("a CA")?)?;
        ensure!(String::from_utf8(stored)?.trim() == bundle[0].trim());
        // Reached by its URL, one of them answers what all of them would.
        kubectl.run("create configmap canary")?;
        drop(replicas);
        kubectl.run("delete configmap/canary secret/certificate")?;
        kubectl
            .run("delete mutatingwebhookconfiguration/five validatingwebhookconfiguration/five")?;
    }
    Ok(())
}

/// One replica as a process of its own, with the rights of `kubeconfig`.
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

/// Two replicas in a cluster, called through their Service, with certificates that live for seconds.
struct Installed {
    namespace: Namespace,
}

impl Installed {
    fn new(cluster: &Cluster) -> Result<Self> {
        let this = Self {
            namespace: cluster.namespace("serve")?,
        };
        let name = &this.namespace.name;
        let kubectl = &this.namespace.kubectl;
        let client_config = format!("{{service: {{name: serve, namespace: {name}, path: /PATH}}}}");
        let subject = format!("{{kind: ServiceAccount, name: serve, namespace: {name}}}");
        kubectl.run("create serviceaccount serve")?;
        kubectl.apply(&format!(
            "
apiVersion: v1
kind: Service
metadata: {{name: serve}}
spec: {{selector: {{app: serve}}, ports: [{{port: 443, targetPort: 8443}}]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: serve}}
spec:
  replicas: 2
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: serve}}}}
  template:
    metadata: {{labels: {{app: serve}}}}
    spec:
      serviceAccountName: serve
      containers:
      - name: serve
        image: {}
        args:
        - serve
        - --secret=certificate
        - --server-name=serve.{name}.svc
        - --mutating-webhook-configuration={name}
        - --validating-webhook-configuration={name}
        - --certificate-lifetime=12s
        - --propagation-delay=1s
        - --drain-delay=3s
        readinessProbe: {{httpGet: {{port: 8080, path: /readyz}}, periodSeconds: 1, failureThreshold: 1}}
---
{}",
            image::MIGRATION_GATE,
            manifests(name, &client_config, &subject)
        ))?;
        kubectl.wait("deployment/serve", "condition=Available", 60)?;
        kubectl.run("rollout status deployment/serve --timeout=60s")?;
        Ok(this)
    }

    fn certificate(&self) -> Result<String> {
        let secret = self.namespace.kubectl.get("secret certificate")?;
        Ok(secret["data"]["tls.crt"]
            .as_str()
            .context("a certificate")?
            .to_owned())
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        let Namespace { name, kubectl } = &self.namespace;
        // A failure has nobody to go to; the configurations concern this test's namespace alone.
        let _ = kubectl.run(&format!(
            "delete mutatingwebhookconfiguration/{name} validatingwebhookconfiguration/{name} clusterrole/{name} clusterrolebinding/{name}"
        ));
    }
}

/// Creates without pause, from several callers at once, until it is dropped.
struct Load {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    created: AtomicUsize,
    failures: Mutex<Vec<(Instant, String)>>,
}

impl Load {
    fn start(cluster: &Cluster, namespace: &str) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
        let shared = Arc::<Shared>::default();
        for _ in 0..CALLERS {
            let (maps, shared) = (maps.clone(), Arc::clone(&shared));
            spawn(async move { shared.call(&maps).await });
        }
        Self { shared }
    }

    fn created(&self) -> usize {
        self.shared.created.load(Ordering::Relaxed)
    }

    fn failures(&self) -> Vec<(Instant, String)> {
        let failures = self.shared.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn reaches(&self, count: usize) -> Result<()> {
        until(
            &format!("{count} creates"),
            Duration::from_mins(5),
            || match self.created() {
                created if created >= count => Look::Done(()),
                created => Look::Pending(format!("{created} creates")),
            },
        )
    }
}

impl Shared {
    async fn call(&self, maps: &Api<ConfigMap>) {
        let map = ConfigMap {
            metadata: ObjectMeta {
                generate_name: Some("load-".to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        while !self.over.load(Ordering::Relaxed) {
            match maps.create(&PostParams::default(), &map).await {
                Ok(_) => {
                    self.created.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let failures = self.failures.lock();
                    let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
                    failures.push((Instant::now(), error.to_string()));
                }
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}

fn no_call_fails_while_certificates_rotate_and_replicas_roll(cluster: &Cluster) -> Result<()> {
    let installed = Installed::new(cluster)?;
    let kubectl = &installed.namespace.kubectl;
    let load = Load::start(cluster, &installed.namespace.name);
    let mut certificates = BTreeSet::from([installed.certificate()?]);
    let mut rolls = 0;
    while rolls < 2 || certificates.len() < 4 || load.created() < CREATES {
        if rolls < 2 {
            kubectl.run("rollout restart deployment/serve")?;
            kubectl.run("rollout status deployment/serve --timeout=90s")?;
            rolls += 1;
        }
        certificates.insert(installed.certificate()?);
        let failures = load.failures();
        ensure!(
            failures.is_empty(),
            "{} of {} creates failed, the first with {}",
            failures.len(),
            load.created() + failures.len(),
            failures[0].1
        );
        load.reaches(load.created() + 100)?;
    }
    eprintln!(
        "serve: {} creates, {} certificates, {rolls} roll-outs, no failure",
        load.created(),
        certificates.len()
    );
    Ok(())
}

fn a_replica_that_is_killed_costs_few_calls(cluster: &Cluster) -> Result<()> {
    let installed = Installed::new(cluster)?;
    let load = Load::start(cluster, &installed.namespace.name);
    load.reaches(500)?;
    let victim = processes_of("serve")?
        .into_iter()
        .find(|(_, arguments)| arguments.contains(&installed.namespace.name))
        .context("no process of a replica")?
        .0;
    let before = load.created();
    let killed = Instant::now();
    kill_process(victim, Signal::KILL)?;
    load.reaches(before + 2000)?;
    let failures = load.failures();
    let last = failures
        .last()
        .map_or(Duration::ZERO, |(at, _)| at.duration_since(killed));
    eprintln!(
        "serve: one of two replicas killed: {} of {} creates failed, the last after {} ms",
        failures.len(),
        load.created() - before + failures.len(),
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
        // It may have ended since.
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
