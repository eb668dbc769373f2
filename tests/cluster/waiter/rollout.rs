//! Pods that come after their migration, and pods that come before it, on the real node.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::stories::stage::Stage;
use testkit::client::await_list;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;

testkit::tests! {
    shared:
        pods_start_after_the_jobs_ttl_has_deleted_it,
        no_new_pod_starts_before_a_job_of_its_version_completes;
}

const JOB: &str = "piefed-db-init";
const WEB: &str = "piefed-web";
const WAITER: &str = "wait-for-migrations";

/// The Job and one Deployment, of the stand-in's image with this tag.
fn manifests(tag: &str) -> String {
    format!(
        "
apiVersion: batch/v1
kind: Job
metadata: {{name: {JOB}}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {{name: migrate, image: 'piefed/piefed:{tag}', command: [flask, db, upgrade]}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {WEB}}}
spec:
  replicas: 1
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: web, image: 'piefed/piefed:{tag}', command: [flask, run]}}
"
    )
}

/// The application in a namespace with a gate of its own.
struct Application {
    // Dropped first, while the release's webhooks are there.
    namespace: Namespace,
    pods: Api<Pod>,
    _stage: Arc<Stage>,
}

impl Application {
    fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        let stage = Stage::enter(cluster)?;
        let namespace = stage.namespace(name)?;
        Ok(Self {
            pods: Api::namespaced(cluster.client(), &namespace.name),
            namespace,
            _stage: stage,
        })
    }

    fn kubectl(&self) -> &Kubectl {
        &self.namespace.kubectl
    }

    /// Lets the Job that runs succeed; gives the time of its completion, in whole seconds.
    fn migrate(&self) -> Result<String> {
        let kubectl = self.kubectl();
        let job = format!("job/{JOB}");
        kubectl.wait(&job, "jsonpath={.status.ready}=1", 60)?;
        kubectl.exec(&job, &["finish-migration", "success"])?;
        kubectl.wait(&job, "condition=Complete", 60)?;
        let job = kubectl.get(&job)?;
        let completed = job["status"]["completionTime"].as_str();
        Ok(completed.context("a completed Job")?.to_owned())
    }

    /// The Deployment's pods of this version.
    fn pods(&self, tag: &str) -> Result<Vec<Value>> {
        let mut pods = self.kubectl().get("pods --selector=app=web")?;
        let Value::Array(mut items) = pods["items"].take() else {
            return Ok(Vec::new());
        };
        items.retain(|pod| is_of(pod, tag));
        Ok(items)
    }

    /// Waits until the waiter of the only pod of this version says so; the pod's own container hasn't started then.
    fn holds(&self, tag: &str, what: &str) -> Result<()> {
        let pod = await_list(
            &self.pods,
            "app=web",
            &format!("a pod of {tag}"),
            Duration::from_mins(3),
            |pods| {
                let mut pods = pods.iter().map(|pod| json!(**pod));
                let pod = pods.find(|pod| is_of(pod, tag))?;
                let others = pods.filter(|pod| is_of(pod, tag)).count();
                let name = pod["metadata"]["name"].as_str()?;
                (others == 0).then(|| name.to_owned())
            },
        )?;
        self.namespace.says(&pod, WAITER, &[what])?;
        let pod = self.kubectl().get(&format!("pod {pod}"))?;
        let (waiter, main) = statuses(&pod);
        ensure!(waiter["state"].get("running").is_some(), "{waiter}");
        ensure!(main["state"].get("waiting").is_some(), "{main}");
        Ok(())
    }

    /// The names of this version's pods, and what their waiters have said.
    fn waiters(&self, tag: &str) -> Result<Vec<(String, String)>> {
        let pods = self.pods(tag)?;
        let started = pods.iter().filter(|pod| {
            let state = &statuses(pod).0["state"];
            state.get("running").is_some() || state.get("terminated").is_some()
        });
        started
            .map(|pod| {
                let name = pod["metadata"]["name"].as_str().context("a name")?;
                Ok((name.to_owned(), self.kubectl().logs(name, WAITER)?))
            })
            .collect()
    }

    fn rolled_out(&self) -> Result<()> {
        self.kubectl()
            .run(&format!("rollout status deployment/{WEB} --timeout=170s"))?;
        Ok(())
    }

    /// Every pod of this version has started, and its own container not before `completed`.
    fn started_after(&self, completed: &str, tag: &str) -> Result<()> {
        let pods = self.pods(tag)?;
        ensure!(!pods.is_empty(), "no pod of {tag}");
        for pod in &pods {
            let (waiter, main) = statuses(pod);
            let ended = &waiter["state"]["terminated"];
            ensure!(
                waiter["name"] == WAITER && ended["exitCode"] == 0 && waiter["restartCount"] == 0,
                "{waiter}"
            );
            // RFC 3339 in UTC and whole seconds, so texts compare as times do.
            let started = main["state"]["running"]["startedAt"].as_str();
            ensure!(
                started.is_some_and(|started| completed <= started),
                "the Job completed at {completed}: {main}"
            );
        }
        Ok(())
    }
}

fn is_of(pod: &Value, tag: &str) -> bool {
    pod["spec"]["containers"][0]["image"] == format!("piefed/piefed:{tag}")
}

/// The status of the injected container, and of the application's own.
fn statuses(pod: &Value) -> (&Value, &Value) {
    (
        &pod["status"]["initContainerStatuses"][0],
        &pod["status"]["containerStatuses"][0],
    )
}

fn pods_start_after_the_jobs_ttl_has_deleted_it(cluster: &Cluster) -> Result<()> {
    let application = Application::new(cluster, "waiter-ttl")?;
    let kubectl = application.kubectl();
    kubectl.apply(&manifests("1.2.0"))?;
    application.migrate()?;
    application.rolled_out()?;
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"ttlSecondsAfterFinished":1}}}}"#
    ))?;
    kubectl.wait(&format!("job/{JOB}"), "delete", 60)?;

    kubectl.run(&format!("scale deployment/{WEB} --replicas=5"))?;
    application.rolled_out()?;
    let jobs = kubectl.run("get jobs --output=name")?;
    ensure!(jobs.is_empty(), "{jobs}");
    let waiters = application.waiters("1.2.0")?;
    ensure!(waiters.len() == 5, "{waiters:?}");
    let recorded = waiters
        .iter()
        .filter(|(_, said)| {
            said.starts_with("open: the record has version 1.2.0, completed ")
                && said.lines().count() == 1
        })
        .count();
    // The first pod was there before the Job was over.
    ensure!(recorded >= 4, "{waiters:?}");
    Ok(())
}

fn no_new_pod_starts_before_a_job_of_its_version_completes(cluster: &Cluster) -> Result<()> {
    cluster.tag(
        "docker.io/piefed/piefed:1.3.0",
        "docker.io/piefed/piefed:1.4.0",
    )?;
    let application = Application::new(cluster, "waiter-versions")?;
    let kubectl = application.kubectl();
    kubectl.apply(&manifests("1.2.0"))?;
    application.holds("1.2.0", "waiting: Job piefed-db-init is running")?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, "1.2.0")?;

    // The Job is replaced, as Flux and Helm do it.
    kubectl.run(&format!("delete job {JOB}"))?;
    kubectl.apply(&manifests("1.3.0"))?;
    application.holds("1.3.0", "waiting: Job piefed-db-init is running")?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, "1.3.0")?;

    // The Deployment is updated and the Job can't be.
    let refusal = kubectl.apply_refused(&manifests("1.4.0"))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.holds("1.4.0", "is complete, but for version 1.3.0 ")?;
    kubectl.run(&format!("delete job {JOB}"))?;
    application.holds("1.4.0", "waiting: Job piefed-db-init was deleted")?;
    kubectl.apply(&manifests("1.4.0"))?;
    application.holds("1.4.0", "waiting: Job piefed-db-init is running")?;
    let completed = application.migrate()?;
    application.rolled_out()?;
    application.started_after(&completed, "1.4.0")?;

    // Back to a version that has been there: nothing to wait for, although its Job can't be applied.
    let refusal = kubectl.apply_refused(&manifests("1.2.0"))?;
    ensure!(refusal.contains("field is immutable"), "{refusal}");
    application.rolled_out()?;
    let waiters = application.waiters("1.2.0")?;
    ensure!(
        waiters.len() == 1
            && waiters[0]
                .1
                .starts_with("open: the record has version 1.2.0, "),
        "{waiters:?}"
    );
    Ok(())
}
