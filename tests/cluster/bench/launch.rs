//! The time from a completion to the application's process on the node, and the kubelet's share of
//! it.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use super::figures::{OURS, Part};
use super::milliseconds;
use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::gate::{complete, running};
use testkit::image::BUSYBOX;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::release::Release;

testkit::tests! {
    exclusive: launch;
}

/// The workload that the built-in gate holds, and its Job.
const NAMESPACE: &str = "piefed-application";
const DEPLOYMENT: &str = "piefed-web";
const JOB: &str = "piefed-db-init";
const ROUNDS: u32 = 11;
const PATIENCE: Duration = Duration::from_mins(2);
pub(super) const LAUNCH: &str = "completion to the application's process";
/// The contender with an init container that only ends at a moment of the test's choice.
pub(super) const OTHER_INIT: &str = "another init container";

fn launch(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace_named(NAMESPACE)?;
    let _release = Release::install(cluster)?;
    let stage = Stage {
        cluster,
        namespace: &namespace,
        folder: cluster.sandbox()?.state("bench-launch")?,
    };
    let (mut held, mut other) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        other.push(milliseconds(stage.released(round)?));
        held.push(milliseconds(stage.held(round)?));
    }
    let mut part = Part::default();
    part.add(LAUNCH, OURS, "ms", &held);
    part.add(LAUNCH, OTHER_INIT, "ms", &other);
    part.keep("launch")
}

struct Stage<'c> {
    cluster: &'c Cluster,
    namespace: &'c Namespace,
    /// A folder that is shared with the pods.
    folder: PathBuf,
}

impl Stage<'_> {
    /// The time from the write of the Job's condition to the application's process. Each round has
    /// its own version.
    fn held(&self, round: u32) -> Result<Duration> {
        let image = format!("docker.io/library/web:{round}");
        self.cluster.tag(BUSYBOX, &image)?;
        let kubectl = &self.namespace.kubectl;
        let started = self.folder.join(format!("held-{round}"));
        kubectl.apply(&job(&image).to_string())?;
        self.status(&running())?;
        kubectl.apply(&deployment(&image, &self.folder, &started).to_string())?;
        let pods = format!("pods --selector=app={DEPLOYMENT}");
        until("a waiter that waits", PATIENCE, || {
            let waits = || -> Result<bool> {
                let found = kubectl.get(&pods)?;
                let Some(name) = found["items"][0]["metadata"]["name"].as_str() else {
                    return Ok(false);
                };
                Ok(kubectl
                    .logs(name, "wait-for-migrations")
                    .is_ok_and(|said| said.contains("waiting")))
            };
            match waits() {
                Ok(true) => Look::Done(()),
                Ok(false) => Look::Pending("it has said nothing yet".to_owned()),
                Err(error) => Look::Failed(error),
            }
        })?;
        spread(round);
        let begun = SystemTime::now();
        self.status(&complete())?;
        let launched = since(begun, &started)?;
        kubectl.run(&format!(
            "delete deployment/{DEPLOYMENT} job/{JOB} --cascade=foreground --wait"
        ))?;
        Ok(launched)
    }

    /// The time from the end of an init container to the application's process.
    fn released(&self, round: u32) -> Result<Duration> {
        let kubectl = &self.namespace.kubectl;
        let started = self.folder.join(format!("other-{round}"));
        let pipe = self.folder.join(format!("pipe-{round}"));
        let name = format!("other-{round}");
        let mut pod = pod(BUSYBOX, &self.folder, &started);
        pod["initContainers"] = json!([{
            "name": "wait", "image": BUSYBOX,
            "command": ["sh", "-c", format!("mkfifo {0}; cat {0}", pipe.display())],
            "volumeMounts": pod["containers"][0]["volumeMounts"],
        }]);
        let manifest =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod});
        kubectl.apply(&manifest.to_string())?;
        until("the pipe", PATIENCE, || {
            if pipe.exists() {
                Look::Done(())
            } else {
                Look::Pending("no pipe".to_owned())
            }
        })?;
        // This blocks until the container reads. The container's read ends when the pipe is closed.
        let end = OpenOptions::new().write(true).open(&pipe)?;
        spread(round);
        let begun = SystemTime::now();
        drop::<File>(end);
        let launched = since(begun, &started)?;
        kubectl.run(&format!("delete pod/{name} --wait"))?;
        Ok(launched)
    }

    fn status(&self, status: &Value) -> Result<()> {
        let jobs: Api<Job> = Api::namespaced(self.cluster.client(), NAMESPACE);
        let status = Patch::Merge(json!({"status": status}));
        block_on(jobs.patch_status(JOB, &PatchParams::default(), &status))?;
        Ok(())
    }
}

/// Waits a part of a second that differs in each round. The kubelet looks at its containers once a
/// second: without this, one contender's init container would end at another moment of it than the
/// other's.
fn spread(round: u32) {
    std::thread::sleep(Duration::from_secs(1) * round / ROUNDS);
}

/// Waits for a file. Returns the time from `begun` to its creation.
fn since(begun: SystemTime, file: &Path) -> Result<Duration> {
    let made = until("the application", PATIENCE, || match fs::metadata(file) {
        Ok(found) => Look::Done(found.modified()),
        Err(_) => Look::Pending("it hasn't started".to_owned()),
    })??;
    made.duration_since(begun)
        .context("the application started too early")
}

/// A Job without a controller, so that the test completes it.
fn job(image: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": JOB},
        "spec": {"managedBy": "example.com/bench", "template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "migrate", "image": image}],
        }}},
    })
}

fn deployment(image: &str, folder: &Path, started: &Path) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": DEPLOYMENT},
        "spec": {
            "selector": {"matchLabels": {"app": DEPLOYMENT}},
            "template": {"metadata": {"labels": {"app": DEPLOYMENT}}, "spec": pod(image, folder, started)},
        },
    })
}

/// A pod whose process creates a file as soon as it runs.
fn pod(image: &str, folder: &Path, started: &Path) -> Value {
    json!({
        "terminationGracePeriodSeconds": 0,
        "containers": [{
            "name": "web", "image": image, "imagePullPolicy": "Never",
            "command": ["sh", "-c", format!("touch {}; sleep 2147483647", started.display())],
            "volumeMounts": [{"name": "shared", "mountPath": folder}],
        }],
        "volumes": [{"name": "shared", "hostPath": {"path": folder}}],
    })
}
