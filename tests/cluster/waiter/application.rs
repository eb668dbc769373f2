//! PieFed's stand-in: a Deployment with one pod, and its Job, in a namespace with a gate.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::stories::stage::Stage;
use testkit::client::await_list;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::{image, process};

pub(crate) const JOB: &str = "piefed-db-init";
pub(crate) const WEB: &str = "piefed-web";
pub(crate) const WAITER: &str = "wait-for-migrations";

/// The Job and one Deployment, with this image.
pub(crate) fn manifests(image: &str) -> String {
    manifests_with(image, None)
}

/// The command of a proxy that ends with the migration beside it.
const UNTIL_MIGRATED: &str = "migrates() { cat /proc/[0-9]*/comm | grep -q '^flask$'; }; \
    until migrates; do sleep 0.1; done; while migrates; do sleep 0.1; done";

/// The same with a proxy of this image as the first container.
pub(crate) fn manifests_with(image: &str, proxy: Option<&str>) -> String {
    let containers = |proxy_command: &[&str], own: Value| -> Value {
        let proxy =
            proxy.map(|image| json!({"name": "proxy", "image": image, "command": proxy_command}));
        proxy.into_iter().chain([own]).collect()
    };
    let migrate = json!({"name": "migrate", "image": image, "command": ["flask", "db", "upgrade"]});
    let web = json!({"name": "web", "image": image, "command": ["flask", "run"]});
    let job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": JOB},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "shareProcessNamespace": true,
            "containers": containers(&["sh", "-c", UNTIL_MIGRATED], migrate),
        }}},
    });
    let labels = json!({"app": "web"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": WEB},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {"containers": containers(&["sleep", "2147483647"], web)},
        }},
    });
    format!("{job}\n---\n{deployment}")
}

/// The application in a namespace with a gate of its own.
pub(crate) struct GatedApplication {
    // Dropped first, while the release's webhooks are there.
    namespace: Namespace,
    pods: Api<Pod>,
    _stage: Option<Stage>,
}

impl GatedApplication {
    pub(crate) fn new(cluster: &Cluster, name: &str) -> Result<Self> {
        Self::on(Stage::enter(cluster)?, cluster, name)
    }

    /// An application in a namespace with a gate of a shared release.
    pub(crate) fn on(stage: Stage, cluster: &Cluster, name: &str) -> Result<Self> {
        let namespace = stage.namespace(name)?;
        Ok(Self {
            _stage: Some(stage),
            ..Self::of(cluster, namespace)
        })
    }

    /// An application in a namespace with a gate of the test's own release.
    pub(crate) fn of(cluster: &Cluster, namespace: Namespace) -> Self {
        Self {
            pods: Api::namespaced(cluster.client(), &namespace.name),
            namespace,
            _stage: None,
        }
    }

    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.namespace.kubectl
    }

    /// Lets the running Job succeed. Returns the time of its completion, in whole seconds.
    pub(crate) fn migrate(&self) -> Result<String> {
        let job = self.end("success", "Complete")?;
        let completed = job["status"]["completionTime"].as_str();
        Ok(completed.context("a completed Job")?.to_owned())
    }

    /// Makes the running Job fail.
    pub(crate) fn fails(&self) -> Result<()> {
        self.end("failure", "Failed").map(drop)
    }

    fn end(&self, how: &str, condition: &str) -> Result<Value> {
        let (kubectl, job) = (self.kubectl(), format!("job/{JOB}"));
        kubectl.wait(&job, "jsonpath={.status.ready}=1", 60)?;
        let finish = format!("exec {job} --container=migrate -- finish-migration {how}");
        kubectl.run(&finish)?;
        kubectl.wait(&job, &format!("condition={condition}"), 60)?;
        kubectl.get(&job)
    }

    /// The Deployment's pods of this image, except those that are being deleted.
    pub(crate) fn pods(&self, image: &str) -> Result<Vec<Value>> {
        let mut pods = self.kubectl().get("pods --selector=app=web")?;
        let Value::Array(mut items) = pods["items"].take() else {
            return Ok(Vec::new());
        };
        items.retain(|pod| is_of(pod, image) && pod["metadata"]["deletionTimestamp"].is_null());
        Ok(items)
    }

    /// Waits until only one pod of this image has not started its own container, and its waiter has
    /// printed `what`. Returns the pod's name.
    pub(crate) fn holds(&self, image: &str, what: &str) -> Result<String> {
        let name = await_list(
            &self.pods,
            "app=web",
            &format!("a new pod of {image}"),
            Duration::from_mins(3),
            |pods| {
                let pods = pods.iter().map(|pod| json!(**pod));
                // A pod of an earlier roll-out may still be being deleted.
                let stays = |pod: &Value| pod["metadata"].get("deletionTimestamp").is_none();
                let waits = |pod: &Value| status(pod).get("running").is_none();
                let new = |pod: &Value| is_of(pod, image) && stays(pod) && waits(pod);
                let new: Vec<Value> = pods.filter(new).collect();
                let [pod] = new.as_slice() else { return None };
                Some(pod["metadata"]["name"].as_str()?.to_owned())
            },
        )?;
        self.namespace.says(&name, WAITER, &[what])?;
        let pod = self.kubectl().get(&format!("pod {name}"))?;
        ensure!(waiter(&pod)["name"] == WAITER, "{}", waiter(&pod));
        ensure!(status(&pod).get("waiting").is_some(), "{}", status(&pod));
        Ok(name)
    }

    /// The `count` pods with these labels, as JSON, when all have a running waiter.
    pub(crate) fn waiting(&self, labels: &str, count: usize) -> Result<Vec<Value>> {
        let what = format!("{count} pods of {labels} in their waiters");
        await_list(&self.pods, labels, &what, Duration::from_mins(3), |pods| {
            let pods: Vec<Value> = pods.iter().map(|pod| json!(**pod)).collect();
            let waits = |pod: &Value| waiter(pod)["state"].get("running").is_some();
            (pods.len() == count && pods.iter().all(waits)).then_some(pods)
        })
    }

    /// Follows a pod's waiter until it prints `what`.
    pub(crate) fn says(&self, pod: &Value, what: &str) -> Result<String> {
        let name = pod["metadata"]["name"].as_str().context("a name")?;
        self.namespace.says(name, WAITER, &[what])
    }

    /// The names of this image's pods, and the output of their waiters.
    pub(crate) fn waiters(&self, image: &str) -> Result<Vec<(String, String)>> {
        let pods = self.pods(image)?;
        let started = pods.iter().filter(|pod| {
            let state = &waiter(pod)["state"];
            state.get("running").is_some() || state.get("terminated").is_some()
        });
        started
            .map(|pod| {
                let name = pod["metadata"]["name"].as_str().context("a name")?;
                Ok((name.to_owned(), self.kubectl().logs(name, WAITER)?))
            })
            .collect()
    }

    pub(crate) fn rolled_out(&self) -> Result<()> {
        self.kubectl()
            .run(&format!("rollout status deployment/{WEB} --timeout=170s"))?;
        Ok(())
    }

    /// The last line of a waiter of this image at its timeout. It is run by hand with the arguments
    /// in the waiting pod, but with a short timeout.
    pub(crate) fn last_words(&self, cluster: &Cluster, image: &str) -> Result<String> {
        let pods = self.pods(image)?;
        let mut waiting = pods
            .iter()
            .filter(|pod| waiter(pod)["state"].get("running").is_some());
        let pod = waiting
            .next()
            .with_context(|| format!("no pod of {image} waits"))?;
        let container = &pod["spec"]["initContainers"][0];
        let args = container["args"].as_array().context("arguments")?;
        let args = args.iter().filter_map(Value::as_str).map(|arg| {
            if arg.starts_with("--timeout=") {
                "--timeout=1s"
            } else {
                arg
            }
        });
        let variables = container["env"].as_array().into_iter().flatten();
        let variables =
            variables.filter_map(|one| Some((one["name"].as_str()?, one["value"].as_str()?)));
        let mut command = released(cluster)?;
        command.args(args).envs(variables);
        let said = said(&mut command, 4)?;
        eprintln!("waiter: {}", said.trim_end());
        Ok(said)
    }

    /// Checks that every pod of this image has started, and its own container not before
    /// `completed`. Returns the longest time between the two in seconds, the resolution of
    /// Kubernetes' times.
    pub(crate) fn started_after(&self, completed: &str, image: &str) -> Result<i64> {
        let pods = self.pods(image)?;
        ensure!(!pods.is_empty(), "no pod of {image}");
        let completed: Timestamp = completed.parse()?;
        let mut longest = 0;
        for pod in &pods {
            let (waiter, own) = (waiter(pod), status(pod));
            ensure!(waiter["state"]["terminated"]["exitCode"] == 0, "{waiter}");
            let started = own["running"]["startedAt"].as_str();
            let started: Timestamp = started.with_context(|| format!("{own}"))?.parse()?;
            ensure!(
                completed <= started,
                "the Job completed at {completed}: {own}"
            );
            longest = longest.max(started.duration_since(completed).as_secs());
        }
        Ok(longest)
    }

    /// Checks that the running migration holds a new pod, and that the pod starts after it.
    pub(crate) fn migrates_first(&self, image: &str) -> Result<()> {
        self.holds(image, "waiting: Job piefed-db-init is running")?;
        let completed = self.migrate()?;
        self.rolled_out()?;
        self.started_after(&completed, image)?;
        Ok(())
    }
}

fn is_of(pod: &Value, image: &str) -> bool {
    let containers = pod["spec"]["containers"].as_array();
    containers.is_some_and(|list| list.iter().any(|one| one["image"] == image))
}

/// The status of the first init container.
pub(crate) fn waiter(pod: &Value) -> &Value {
    &pod["status"]["initContainerStatuses"][0]
}

/// The state of the application's own container.
fn status(pod: &Value) -> &Value {
    let statuses = pod["status"]["containerStatuses"].as_array();
    let own = statuses.and_then(|list| list.iter().find(|status| status["name"] == "web"));
    own.map_or(&Value::Null, |own| &own["state"])
}

/// Runs the release build of the program with kubectl's credentials. Returns its output.
pub(crate) fn program(cluster: &Cluster, args: &[&str], code: i32) -> Result<String> {
    said(released(cluster)?.args(args), code)
}

fn released(cluster: &Cluster) -> Result<Command> {
    let mut command = Command::new(image::release()?);
    command.env("KUBECONFIG", &cluster.kubectl().kubeconfig);
    Ok(command)
}

fn said(command: &mut Command, code: i32) -> Result<String> {
    let output = process::run(command, "", Duration::from_mins(1))?;
    let said = output.stdout + &output.stderr;
    ensure!(
        output.status.code() == Some(code),
        "{}: {said}",
        output.line
    );
    Ok(said)
}
