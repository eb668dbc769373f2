//! cert-manager's controllers, cainjector and webhook: the chart's issuer and certificates are
//! allowed and issued, the CA is injected, and both are renewed under load.

use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};

use crate::chart::{APPLICATION, HELD};
use crate::waiter::application::WAITER;
use testkit::assets;
use testkit::client::{block_on, spawn};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::process::Process;
use testkit::release::Release;

testkit::tests! {
    exclusive: certificates_are_issued_injected_and_renewed_under_load;
}

const PATIENCE: Duration = Duration::from_mins(5);
/// The chart's Certificates: the server's, and the CA that signs it.
const SERVING: &str = "migration-gate-cert-manager";
const AUTHORITY: &str = "migration-gate-cert-manager-ca";

fn start(cluster: &Cluster) -> Result<Process> {
    let sandbox = cluster.sandbox()?;
    let peer = assets::peer("cert-manager")?;
    let kubectl = cluster.kubectl();
    kubectl.define(&peer.join("crds"))?;
    kubectl.run(&format!("create namespace {NAMESPACE}"))?;
    let mut command = Command::new(peer.join("bin/cert-manager"));
    command.env("KUBECONFIG", &kubectl.kubeconfig);
    let controllers = Process::spawn("cert-manager", &sandbox.logs("cert-manager")?, &mut command)?;
    kubectl.apply(&webhooks().to_string())?;
    until(
        "cert-manager's webhook to refuse an object",
        PATIENCE,
        || match kubectl.in_namespace(NAMESPACE).apply_refused(UNFIT) {
            _ if controllers.check().is_err() => Look::Failed(anyhow!("it has ended")),
            Ok(said) if said.contains("denied the request") => Look::Done(()),
            Ok(said) => Look::Pending(said),
            Err(error) => Look::Pending(error.to_string()),
        },
    )?;
    Ok(controllers)
}

const NAMESPACE: &str = "cert-manager";

/// A Certificate that is valid by its CRD, but that the webhook denies.
const UNFIT: &str = "
apiVersion: cert-manager.io/v1
kind: Certificate
metadata: {name: unfit}
spec: {secretName: unfit, issuerRef: {name: a}, dnsNames: [a], duration: 1h, renewBefore: 2h}
";

/// The configurations of cert-manager's webhook, as in its chart.
fn webhooks() -> Value {
    let configuration = |kind: &str, path: &str, operations: &[&str], resources: &str| {
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {
                "name": "cert-manager-webhook",
                "annotations": {
                    "cert-manager.io/inject-ca-from-secret": "cert-manager/cert-manager-webhook-ca",
                },
            },
            "webhooks": [{
                "name": "webhook.cert-manager.io", "failurePolicy": "Fail",
                "matchPolicy": "Equivalent", "sideEffects": "None",
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": format!("https://localhost:10260/{path}")},
                "rules": [{
                    "apiGroups": ["cert-manager.io"], "apiVersions": ["v1"],
                    "operations": operations, "resources": [resources],
                }],
            }],
        })
    };
    let requests = "certificaterequests";
    json!({"apiVersion": "v1", "kind": "List", "items": [
        configuration("MutatingWebhookConfiguration", "mutate", &["CREATE"], requests),
        configuration("ValidatingWebhookConfiguration", "validate", &["CREATE", "UPDATE"], "*/*"),
    ]})
}

fn certificates_are_issued_injected_and_renewed_under_load(cluster: &Cluster) -> Result<()> {
    let controllers = start(cluster)?;
    let _left = LeftWebhooks(cluster);
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::prepare(cluster)?;
    // No replica is ready before a certificate is issued and its CA is in the configurations.
    release
        .helm("install", "--wait --set=certificates.source=certManager")
        .map_err(|error| match controllers.check() {
            Ok(()) => error,
            Err(gone) => gone.context(error),
        })?;
    let kubectl = release.kubectl();
    application.kubectl.apply(HELD)?;

    let load = Load::start(cluster)?;
    load.goes_on()?;
    for name in [SERVING, AUTHORITY] {
        renew(kubectl, name)?;
        load.goes_on()?;
    }
    // The pods get the certificate when the kubelet reads the Secret again.
    let serial = || kubectl.get(&format!("certificate {SERVING}"));
    let renewed = serial()?["status"]["notAfter"].clone();
    let renewed: jiff::Timestamp = renewed.as_str().context("a time")?.parse()?;
    until("every replica to serve it", PATIENCE, || {
        match expiries(kubectl) {
            Err(error) => Look::Failed(error),
            Ok(seen) if seen.iter().all(|seconds| *seconds == renewed.as_second()) => {
                Look::Done(())
            }
            Ok(seen) => Look::Pending(format!("{seen:?}, not {}", renewed.as_second())),
        }
    })?;
    load.goes_on()?;

    // The CA is removed. Calls fail until it is back, which this test does not count.
    let calls = load.finish()?;
    let configuration = "mutatingwebhookconfiguration/migration-gate";
    let bundle = || -> Result<Value> {
        let found = kubectl.get(configuration)?;
        Ok(found["webhooks"][0]["clientConfig"]["caBundle"].clone())
    };
    let before = bundle()?;
    let patch = json!([{"op": "remove", "path": "/webhooks/0/clientConfig/caBundle"}]);
    kubectl.run(&format!(
        "patch {configuration} --type=json --patch={patch}"
    ))?;
    until(
        "the authority to be injected again",
        PATIENCE,
        || match bundle() {
            Err(error) => Look::Failed(error),
            Ok(found) if found == before => Look::Done(()),
            Ok(found) => Look::Pending(found.to_string()),
        },
    )?;
    application.kubectl.run("delete deployment piefed-web")?;
    application.kubectl.apply(HELD)?;
    eprintln!(
        "peers: cert-manager: {calls} creates while both certificates were renewed, none failed"
    );
    controllers.check()
}

/// cert-manager's webhook configurations, which would remain without a server after the test.
struct LeftWebhooks<'c>(&'c Cluster);

impl Drop for LeftWebhooks<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here.
        let _ = self.0.kubectl().run(
            "delete mutatingwebhookconfiguration/cert-manager-webhook \
             validatingwebhookconfiguration/cert-manager-webhook",
        );
    }
}

/// Renews as `cmctl renew NAME`, and waits until the Secret has another certificate.
fn renew(kubectl: &Kubectl, name: &str) -> Result<()> {
    let secret = || {
        kubectl.run(&format!(
            "get secret {name} --output=jsonpath={{.data.tls\\.crt}}"
        ))
    };
    let before = secret()?;
    let certificate = kubectl.get(&format!("certificate {name}"))?;
    let mut conditions = certificate["status"]["conditions"].clone();
    let conditions = conditions.as_array_mut().context("conditions")?;
    conditions.push(json!({
        "type": "Issuing", "status": "True", "reason": "ManuallyTriggered", "message": "renewed",
        "lastTransitionTime": jiff::Timestamp::now().strftime("%FT%TZ").to_string(),
    }));
    let patch = json!({"status": {"conditions": conditions}}).to_string();
    let line = [
        "patch",
        "certificate",
        name,
        "--subresource=status",
        "--type=merge",
        "--patch",
        &patch,
    ];
    kubectl.output(&line, "", PATIENCE)?.success()?;
    until(
        &format!("{name} to be renewed"),
        PATIENCE,
        || match secret() {
            Err(error) => Look::Failed(error),
            Ok(found) if found != before => Look::Done(()),
            Ok(_) => Look::Pending("the same".to_owned()),
        },
    )
}

/// The expiry time of each replica's certificate, by its metrics.
fn expiries(kubectl: &Kubectl) -> Result<Vec<i64>> {
    let pods = kubectl.get("pods --selector=app.kubernetes.io/name=migration-gate")?;
    let pods = pods["items"].as_array().context("pods")?;
    ensure!(!pods.is_empty(), "no replica");
    let mut expiries = Vec::new();
    for pod in pods {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        let namespace = pod["metadata"]["namespace"]
            .as_str()
            .context("a namespace")?;
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}:8080/proxy/metrics");
        let metrics = kubectl.run(&format!("get --raw {path}"))?;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix("migration_gate_certificate_expiry_timestamp"));
        let value = line
            .and_then(|line| line.rsplit(' ').next())
            .context("the metric")?;
        expiries.push(format!("{:.0}", value.parse::<f64>()?).parse()?);
    }
    Ok(expiries)
}

/// Dry runs of a held Deployment without pause. Each calls both webhooks.
struct Load {
    over: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
    caller: Option<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(cluster: &Cluster) -> Result<Self> {
        let api: Api<Deployment> = Api::namespaced(cluster.client(), APPLICATION);
        let mut held: Value = serde_json::to_value(block_on(api.get("piefed-web"))?)?;
        held["metadata"] = json!({"name": "piefed-worker"});
        held["status"] = json!({});
        held["spec"]["template"]["spec"]["initContainers"] = json!([]);
        held["spec"]["template"]["spec"]["volumes"] = json!([]);
        let held: Deployment = serde_json::from_value(held)?;
        let (over, done) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let failures = Arc::<Mutex<Vec<String>>>::default();
        let (stop, count, failed) = (Arc::clone(&over), Arc::clone(&done), Arc::clone(&failures));
        let caller = spawn(async move {
            let dry_run = PostParams {
                dry_run: true,
                ..PostParams::default()
            };
            while !stop.load(Ordering::Relaxed) {
                let failure = match api.create(&dry_run, &held).await {
                    Ok(created) if is_held(&created) => {
                        count.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    Ok(_) => "a Deployment was created without its waiter".to_owned(),
                    Err(error) => error.to_string(),
                };
                let failures = failed.lock();
                failures
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(failure);
            }
        });
        Ok(Self {
            over,
            done,
            failures,
            caller: Some(caller),
        })
    }

    /// Waits for more dry runs, of which none may fail.
    fn goes_on(&self) -> Result<()> {
        let enough = self.done.load(Ordering::Relaxed) + 50;
        until("more creates", PATIENCE, || {
            match (self.failure(), self.done.load(Ordering::Relaxed)) {
                (Some(failure), _) => Look::Failed(anyhow!(failure)),
                (None, done) if done >= enough => Look::Done(()),
                (None, done) => Look::Pending(format!("{done}")),
            }
        })
    }

    fn failure(&self) -> Option<String> {
        let failures = self.failures.lock();
        failures
            .unwrap_or_else(PoisonError::into_inner)
            .first()
            .cloned()
    }

    fn finish(mut self) -> Result<usize> {
        self.over.store(true, Ordering::Relaxed);
        if let Some(caller) = self.caller.take() {
            block_on(caller)?;
        }
        match self.failure() {
            Some(failure) => Err(anyhow!(failure)),
            None => Ok(self.done.load(Ordering::Relaxed)),
        }
    }
}

/// Whether the Deployment has its waiter.
fn is_held(deployment: &Deployment) -> bool {
    let pods = deployment
        .spec
        .as_ref()
        .and_then(|it| it.template.spec.as_ref());
    let containers = pods.and_then(|pods| pods.init_containers.as_ref());
    containers.is_some_and(|list| list.iter().any(|one| one.name == WAITER))
}

impl Drop for Load {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}
