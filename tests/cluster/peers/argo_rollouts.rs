//! Argo Rollouts: its controller creates pods from a Rollout's own template, or from a
//! Deployment's.

use std::net::TcpStream;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::stage;
use crate::waiter::application::{GatedApplication, JOB, WEB, waiter};
use testkit::assets;
use testkit::cluster::Cluster;
use testkit::poll::until_is;
use testkit::process::Process;
use testkit::ungated::SET_UP;

/// The namespaces, each with a gate that holds a Rollout and a Deployment of the same name.
pub(super) const CANARY: &str = "rollouts-canary";
pub(super) const BLUE_GREEN: &str = "rollouts-blue-green";
pub(super) const REFERENCE: &str = "rollouts-reference";

testkit::tests! {
    shared:
        a_canary_is_held_and_aborted_and_held_again,
        a_preview_is_held_and_promoted_once_it_is_migrated,
        a_rollout_of_a_deployments_pods_is_held;
}

const V2: &str = "piefed/piefed:1.2.0";
const V3: &str = "piefed/piefed:1.3.0";

/// The waiter's line while the migration runs.
const RUNS: &str = "waiting: Job piefed-db-init is running";

/// The controller of a cluster, which the tests of a run share.
fn controller(cluster: &Cluster) -> Result<&'static Process> {
    static CONTROLLER: OnceLock<Process> = OnceLock::new();
    static TURN: Mutex<()> = Mutex::new(());
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(controller) = CONTROLLER.get() {
        return Ok(controller);
    }
    let started = start(cluster).context(SET_UP)?;
    Ok(CONTROLLER.get_or_init(|| started))
}

fn start(cluster: &Cluster) -> Result<Process> {
    let sandbox = cluster.sandbox()?;
    let peer = assets::peer("argo-rollouts")?;
    let kubectl = cluster.kubectl();
    kubectl.define(&peer.join("crds"))?;
    kubectl.run("create namespace argo-rollouts")?;
    let mut command = std::process::Command::new(peer.join("bin/rollouts-controller"));
    command
        .arg("--kubeconfig")
        .arg(&kubectl.kubeconfig)
        .args(["--namespace=argo-rollouts", "--leader-elect=false"]);
    let logs = sandbox.logs("argo-rollouts")?;
    let controller = Process::spawn("rollouts-controller", &logs, &mut command)?;
    controller.await_ready(
        "the Rollouts' controller to be healthy",
        Duration::from_mins(3),
        || Ok(TcpStream::connect(("127.0.0.1", 8080))?),
    )?;
    Ok(controller)
}

/// The migration Job with this image.
fn job(image: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": JOB},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "migrate", "image": image, "command": ["flask", "db", "upgrade"]}],
        }}},
    })
}

fn template(image: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": image, "command": ["flask", "run"]}]},
    })
}

/// A Rollout of two pods, with this source of the pod template and this strategy.
fn rollout(pods: (&str, Value), strategy: &Value) -> Value {
    let (field, pods) = pods;
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "metadata": {"name": WEB},
        "spec": {
            "replicas": 2, "selector": {"matchLabels": {"app": "web"}}, field: pods,
            "strategy": strategy,
        },
    })
}

/// An application whose pods a Rollout creates.
struct Rolled {
    application: GatedApplication,
    controller: &'static Process,
}

impl Rolled {
    fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let controller = controller(cluster)?;
        let application = GatedApplication::on(stage(cluster)?, cluster, name)?;
        Ok(Self {
            application,
            controller,
        })
    }

    /// Replaces the Job, as an operator with kubectl must.
    fn migrate_to(&self, image: &str) -> Result<()> {
        let kubectl = self.application.kubectl();
        kubectl.run(&format!("delete job {JOB} --ignore-not-found"))?;
        kubectl.apply(&job(image).to_string())?;
        Ok(())
    }

    fn await_phase(&self, phase: &str) -> Result<()> {
        self.await_field("phase", phase)
    }

    fn await_field(&self, field: &str, value: &str) -> Result<()> {
        let condition = format!("jsonpath={{.status.{field}}}={value}");
        let kubectl = self.application.kubectl();
        let awaited = kubectl.wait(&format!("rollout/{WEB}"), &condition, 60);
        awaited.map_err(|error| match self.controller.check() {
            Ok(()) => error,
            Err(gone) => gone.context(error),
        })
    }

    /// Checks that exactly `count` pods of an image serve.
    fn serve(&self, image: &str, count: usize) -> Result<()> {
        let pods = self.application.pods(image)?;
        let ready = |pod: &&Value| pod["status"]["containerStatuses"][0]["ready"] == true;
        let serve = pods.iter().filter(ready).count();
        ensure!(serve == count, "{serve} pods of {image} serve, not {count}");
        Ok(())
    }

    /// Waits until `count` pods of an image are in their waiters.
    fn held(&self, image: &str, count: usize) -> Result<()> {
        let waits = |pod: &&Value| waiter(pod)["state"].get("running").is_some();
        let held = || Ok(self.application.pods(image)?.iter().filter(waits).count());
        let what = format!("{count} pods of {image} to wait");
        until_is(&what, Duration::from_mins(3), held, |held| *held == count)
    }

    fn patch_status(&self, status: &Value) -> Result<()> {
        let patch = json!({"status": status}).to_string();
        let kubectl = self.application.kubectl();
        let line = format!("patch rollout {WEB} --subresource=status --type=merge --patch={patch}");
        kubectl.run(&line)?;
        Ok(())
    }

    /// Deploys the first version.
    fn first(&self, objects: &[Value]) -> Result<()> {
        self.migrate_to(V2)?;
        self.apply(objects)?;
        self.application.migrate()?;
        self.await_phase("Healthy")?;
        self.serve(V2, 2)
    }

    fn apply(&self, objects: &[Value]) -> Result<()> {
        let all: Vec<String> = objects.iter().map(Value::to_string).collect();
        self.application.kubectl().apply(&all.join("\n---\n"))?;
        Ok(())
    }
}

fn a_canary_is_held_and_aborted_and_held_again(cluster: &Cluster) -> Result<()> {
    let rolled = Rolled::new(cluster, CANARY)?;
    let strategy = json!({"canary": {"steps": [{"setWeight": 50}, {"pause": {"duration": "1s"}}]}});
    let at = |image| [rollout(("template", template(image)), &strategy)];
    rolled.first(&at(V2))?;
    rolled.migrate_to(V3)?;
    rolled.apply(&at(V3))?;
    rolled.application.holds(V3, RUNS)?;
    rolled.serve(V2, 2)?;

    // `kubectl argo rollouts abort`: the held pods are deleted, and the old ones are scaled up
    // again.
    rolled.patch_status(&json!({"abort": true}))?;
    rolled.await_phase("Degraded")?;
    rolled.await_field("readyReplicas", "2")?;
    rolled.serve(V2, 2)?;
    let held = rolled.application.pods(V3)?;
    ensure!(held.is_empty(), "{held:#?}");

    // `kubectl argo rollouts retry`: the same template, and the same waiter.
    rolled.patch_status(&json!({"abort": false}))?;
    rolled.application.holds(V3, RUNS)?;
    let completed = rolled.application.migrate()?;
    rolled.await_phase("Healthy")?;
    rolled.serve(V3, 2)?;
    rolled.application.started_after(&completed, V3)?;
    Ok(())
}

fn a_preview_is_held_and_promoted_once_it_is_migrated(cluster: &Cluster) -> Result<()> {
    let rolled = Rolled::new(cluster, BLUE_GREEN)?;
    let service = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
        })
    };
    let strategy = json!({"blueGreen": {"activeService": "active", "previewService": "preview"}});
    let at = |image| rollout(("template", template(image)), &strategy);
    rolled.first(&[service("active"), service("preview"), at(V2)])?;
    let active = || -> Result<Value> {
        let service = rolled.application.kubectl().get("service active")?;
        Ok(service["spec"]["selector"]["rollouts-pod-template-hash"].clone())
    };
    let before = active()?;
    rolled.migrate_to(V3)?;
    rolled.apply(&[at(V3)])?;
    rolled.held(V3, 2)?;
    rolled.serve(V2, 2)?;
    ensure!(active()? == before, "visitors were sent to pods that wait");
    let completed = rolled.application.migrate()?;
    rolled.await_phase("Healthy")?;
    ensure!(active()? != before, "nothing was promoted");
    rolled.application.started_after(&completed, V3)?;
    Ok(())
}

fn a_rollout_of_a_deployments_pods_is_held(cluster: &Cluster) -> Result<()> {
    let rolled = Rolled::new(cluster, REFERENCE)?;
    let deployment = |image: &str| {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": WEB},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"app": "web"}},
                     "template": template(image)},
        })
    };
    let reference = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": WEB});
    let strategy = json!({"canary": {"steps": [{"setWeight": 50}, {"pause": {"duration": "1s"}}]}});
    let rollout = rollout(("workloadRef", reference), &strategy);
    rolled.first(&[deployment(V2), rollout])?;
    rolled.migrate_to(V3)?;
    rolled.apply(&[deployment(V3)])?;
    rolled.application.holds(V3, RUNS)?;
    rolled.serve(V2, 2)?;
    let completed = rolled.application.migrate()?;
    rolled.await_phase("Healthy")?;
    rolled.serve(V3, 2)?;
    rolled.application.started_after(&completed, V3)?;
    Ok(())
}
