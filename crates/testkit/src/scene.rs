//! A gate's Job and record in a namespace of a real API server. No controller lives there, so the test says what the
//! Job does, by its status; the API server still refuses a status that no Job can have.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use crate::client::{block_on, client};
use crate::control_plane::{ControlPlane, Settings};
use crate::kubectl::Kubectl;
use crate::sandbox::Sandbox;
use crate::waiter::Waiter;

/// The migration Job of every gate here.
pub const JOB: &str = "db-init";
/// The record of the gate `g`.
pub const RECORD: &str = "migration-gate-g";
/// A waiter for an image of version 2.
pub const V2: &str = "--image=web:2";

/// Fixed, as the API server lets no Job's start change.
const STARTED: &str = "2026-01-01T00:00:00Z";
/// When a Job completes.
pub const COMPLETED: &str = "2026-01-01T00:01:00Z";

/// An API server without controllers.
pub struct Plane {
    /// The API server.
    pub server: ControlPlane,
    /// kubectl as its administrator.
    pub kubectl: Kubectl,
    /// A client as its administrator.
    pub client: kube::Client,
}

impl Plane {
    /// Starts one. `index` tells its ports apart from those of others in the sandbox.
    pub fn start(sandbox: &Sandbox, name: &'static str, index: u16) -> Result<Self> {
        let server = ControlPlane::start(sandbox, Settings::bare(name, index)?)?;
        let kubectl = Kubectl {
            program: sandbox.assets.program("kubectl"),
            helm: sandbox.assets.program("helm"),
            kubeconfig: server.admin().to_owned(),
            namespace: None,
            cache: sandbox.state(&format!("{name}-kubectl"))?,
        };
        let client = client(server.admin())?;
        Ok(Self {
            server,
            kubectl,
            client,
        })
    }

    /// The one that all tests share which leave it alone. It ends with the sandbox.
    pub fn shared(sandbox: &Sandbox) -> Result<&'static Self> {
        static PLANE: OnceLock<Result<Plane, String>> = OnceLock::new();
        PLANE
            .get_or_init(|| Self::start(sandbox, "waiter", 4).map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("there is no API server to test on: {error}"))
    }

    /// The kubeconfig of a user of this name, who may do nothing yet.
    pub fn user(&self, name: &str) -> Result<PathBuf> {
        self.server.user(name, name, None)
    }

    /// The requests about a namespace, as audit events, oldest first; a watch is in there as soon as it is answered.
    pub fn requests(&self, namespace: &str) -> Result<Vec<Value>> {
        let events = self.server.audit_events_with(namespace)?;
        Ok(events
            .into_iter()
            .filter(|event| event["objectRef"]["namespace"] == namespace)
            .collect())
    }
}

/// A namespace with a gate `g`.
pub struct Scene {
    /// Its name.
    pub namespace: String,
    kubeconfig: PathBuf,
    jobs: Api<Job>,
    records: Api<ConfigMap>,
    folder: tempfile::TempDir,
    waiters: AtomicU32,
}

impl Scene {
    /// A namespace of the shared API server's.
    pub fn shared(sandbox: &Sandbox, namespace: &str) -> Result<Self> {
        Self::on(Plane::shared(sandbox)?, namespace)
    }

    /// A new namespace of this API server.
    pub fn on(plane: &Plane, namespace: &str) -> Result<Self> {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        let namespaces = Api::all(plane.client.clone());
        block_on(namespaces.create(&PostParams::default(), &object))
            .with_context(|| format!("creating the namespace {namespace}"))?;
        Ok(Self {
            namespace: namespace.to_owned(),
            kubeconfig: plane.server.admin().to_owned(),
            jobs: Api::namespaced(plane.client.clone(), namespace),
            records: Api::namespaced(plane.client.clone(), namespace),
            folder: tempfile::tempdir()?,
            waiters: AtomicU32::new(0),
        })
    }

    /// A waiter with these arguments, and with every right.
    pub fn waiter(&self, args: &[&str]) -> Result<Waiter> {
        self.waiter_as(&self.kubeconfig, args)
    }

    /// A waiter as the user of a kubeconfig.
    pub fn waiter_as(&self, kubeconfig: &Path, args: &[&str]) -> Result<Waiter> {
        let number = self.waiters.fetch_add(1, Ordering::Relaxed);
        let folder = self.folder.path().join(number.to_string());
        fs::create_dir(&folder)?;
        let namespace = format!("--namespace={}", self.namespace);
        let job = format!("--job={JOB}");
        let args = ["--gate=g", &namespace, &job]
            .into_iter()
            .chain(args.iter().copied());
        Ok(Waiter::spawn(kubeconfig, &folder, args))
    }

    /// Creates the Job, of an image with this tag.
    pub fn create(&self, tag: &str) -> Result<()> {
        self.create_with(tag, &json!({}))
    }

    /// The same, with further fields in its `spec`.
    pub fn create_with(&self, tag: &str, spec: &Value) -> Result<()> {
        let mut job = job(JOB, tag);
        for (field, value) in spec.as_object().into_iter().flatten() {
            job["spec"][field] = value.clone();
        }
        let job = serde_json::from_value(job)?;
        block_on(self.jobs.create(&PostParams::default(), &job))?;
        Ok(())
    }

    /// Merges into the Job's `spec`.
    pub fn patch(&self, spec: &Value) -> Result<()> {
        let patch = Patch::Merge(json!({"spec": spec}));
        block_on(self.jobs.patch(JOB, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Merges into the Job's status.
    pub fn status(&self, status: &Value) -> Result<()> {
        set_status(&self.jobs, JOB, status)
    }

    /// Deletes the Job, and its pods after it, as kubectl does.
    pub fn delete(&self) -> Result<()> {
        block_on(self.jobs.delete(JOB, &DeleteParams::background()))?;
        Ok(())
    }

    /// Deletes the Job after its pods; as nobody deletes pods here, it stays until [`Self::let_go`].
    pub fn begin_to_delete(&self) -> Result<()> {
        block_on(self.jobs.delete(JOB, &DeleteParams::foreground()))?;
        Ok(())
    }

    /// Lets the Job go that [`Self::begin_to_delete`] holds.
    pub fn let_go(&self) -> Result<()> {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        block_on(self.jobs.patch(JOB, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Records completions of images with these tags.
    pub fn record(&self, tags: &[&str]) -> Result<()> {
        let entries = tags
            .iter()
            .map(|&tag| (tag.to_owned(), entry(tag)))
            .collect();
        self.record_as(&entries)
    }

    /// Makes the record hold exactly this.
    pub fn record_as(&self, data: &BTreeMap<String, String>) -> Result<()> {
        let record = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": RECORD}, "data": data});
        let params = PatchParams::apply("test").force();
        block_on(self.records.patch(RECORD, &params, &Patch::Apply(record)))?;
        Ok(())
    }

    /// The data of the record.
    pub fn recorded(&self) -> Result<BTreeMap<String, String>> {
        let record = block_on(self.records.get_opt(RECORD))?;
        Ok(record.and_then(|record| record.data).unwrap_or_default())
    }
}

/// A record's entry for an image with this tag.
pub fn entry(tag: &str) -> String {
    json!({"image": format!("init:{tag}"), "job": JOB, "uid": "u", "completed": COMPLETED})
        .to_string()
}

/// A Job of an image with this tag.
pub fn job(name: &str, tag: &str) -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 3, "template": {"spec": {
            "restartPolicy": "Never",
            "containers": [{"name": "migrate", "image": format!("init:{tag}")}],
        }}},
    })
}

/// Merges into the status of a Job.
pub fn set_status(jobs: &Api<Job>, name: &str, status: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    block_on(jobs.patch_status(name, &PatchParams::default(), &patch))
        .with_context(|| format!("setting the status {status}"))?;
    Ok(())
}

/// The status of a Job whose first pod runs.
pub fn running() -> Value {
    json!({"startTime": STARTED, "active": 1, "ready": 1})
}

/// The Job is sure to succeed, and its pod has not ended yet.
pub fn succeeding() -> Value {
    ending(&["SuccessCriteriaMet"])
}

/// The Job is sure to fail, and its pod has not ended yet.
pub fn failing() -> Value {
    ending(&["FailureTarget"])
}

/// The status of a Job that is complete.
pub fn complete() -> Value {
    let mut status = over(&["SuccessCriteriaMet", "Complete"]);
    status["completionTime"] = json!(COMPLETED);
    status["succeeded"] = json!(1);
    status
}

/// The status of a Job that has failed.
pub fn failed() -> Value {
    let mut status = over(&["FailureTarget", "Failed"]);
    status["failed"] = json!(4);
    status
}

fn over(conditions: &[&str]) -> Value {
    let mut status = ending(conditions);
    status["active"] = json!(0);
    status["ready"] = json!(0);
    status
}

fn ending(conditions: &[&str]) -> Value {
    let mut status = running();
    status["conditions"] = conditions
        .iter()
        .map(|kind| {
            json!({"type": kind, "status": "True", "reason": "BecauseOfTheTest", "message": "so it is",
                   "lastTransitionTime": COMPLETED})
        })
        .collect();
    status
}
