//! A gate's Job and record in a namespace of an API server, real or fake. No controller runs there,
//! so the test sets the Job's status. A real API server refuses a status that is impossible for a
//! Job.

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
use crate::control_plane::{ControlPlane, PlaneSettings};
use crate::gate::{JOB, RECORD, entry, manifest, without_success_criteria};
use crate::kubectl::Kubectl;
use crate::sandbox::Sandbox;
use crate::waiter::Waiter;

/// A real API server without controllers.
pub struct Plane {
    /// The server.
    pub server: ControlPlane,
    /// kubectl as its administrator.
    pub kubectl: Kubectl,
    /// A client as its administrator.
    pub client: kube::Client,
}

impl Plane {
    /// Starts an API server. `index` makes its ports different from those of others in the sandbox.
    pub fn start(sandbox: &Sandbox, name: &'static str, index: u16) -> Result<Self> {
        Self::start_with(sandbox, PlaneSettings::bare(name, index)?)
    }

    fn start_with(sandbox: &Sandbox, settings: PlaneSettings) -> Result<Self> {
        let name = settings.name;
        let server = ControlPlane::start(sandbox, settings)?;
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

    /// The API server that all tests share which do not stop it. It ends with the sandbox.
    pub fn shared(sandbox: &Sandbox) -> Result<&'static Self> {
        static PLANE: OnceLock<Result<Plane, String>> = OnceLock::new();
        started_once(&PLANE, || Self::start(sandbox, "waiter", 4))
    }

    /// The same with the oldest release that the chart admits.
    pub fn oldest(sandbox: &Sandbox) -> Result<&'static Self> {
        static PLANE: OnceLock<Result<Plane, String>> = OnceLock::new();
        started_once(&PLANE, || {
            Self::start_with(sandbox, PlaneSettings::bare("oldest", 10)?.oldest())
        })
    }

    /// The kubeconfig of a user with this name and without permissions.
    pub fn user(&self, name: &str) -> Result<PathBuf> {
        self.server.user(name, name, None)
    }

    /// The requests about a namespace, as audit events, oldest first. They include a watch from the
    /// beginning of its answer.
    pub fn requests(&self, namespace: &str) -> Result<Vec<Value>> {
        let events = self.server.audit_events_with(namespace)?;
        Ok(events
            .into_iter()
            .filter(|event| event["objectRef"]["namespace"] == namespace)
            .collect())
    }
}

fn started_once(
    plane: &'static OnceLock<Result<Plane, String>>,
    start: impl FnOnce() -> Result<Plane>,
) -> Result<&'static Plane> {
    plane
        .get_or_init(|| start().map_err(|error| format!("{error:#}")))
        .as_ref()
        .map_err(|error| anyhow!("there is no API server to test on: {error}"))
}

/// A namespace with a gate `g`.
pub struct Scene {
    /// The namespace's name.
    pub namespace: String,
    kubeconfig: PathBuf,
    jobs: Api<Job>,
    records: Api<ConfigMap>,
    folder: tempfile::TempDir,
    waiters: AtomicU32,
    /// Whether Jobs have the condition `SuccessCriteriaMet` before they are complete.
    pub tells_success_early: bool,
}

impl Scene {
    /// A scene in an existing namespace. `client` acts for the test, and waiters use `kubeconfig`.
    pub fn new(client: &kube::Client, kubeconfig: PathBuf, namespace: &str) -> Result<Self> {
        Ok(Self {
            namespace: namespace.to_owned(),
            kubeconfig,
            jobs: Api::namespaced(client.clone(), namespace),
            records: Api::namespaced(client.clone(), namespace),
            folder: tempfile::tempdir()?,
            waiters: AtomicU32::new(0),
            tells_success_early: true,
        })
    }

    /// A scene in a new namespace of a real API server. Waiters have all permissions.
    pub fn on(plane: &Plane, namespace: &str) -> Result<Self> {
        Self::through(plane, plane.server.admin(), namespace)
    }

    /// The same with another kubeconfig for waiters.
    pub fn through(plane: &Plane, kubeconfig: &Path, namespace: &str) -> Result<Self> {
        let object: Namespace = serde_json::from_value(json!({"metadata": {"name": namespace}}))?;
        let namespaces = Api::all(plane.client.clone());
        block_on(namespaces.create(&PostParams::default(), &object))
            .with_context(|| format!("creating the namespace {namespace}"))?;
        let this = Self::new(&plane.client, kubeconfig.to_owned(), namespace)?;
        Ok(Self {
            tells_success_early: !plane.server.is_oldest(),
            ..this
        })
    }

    /// A waiter with these arguments.
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

    /// Creates the Job with an image with this tag.
    pub fn create(&self, tag: &str) -> Result<()> {
        self.create_with(tag, &json!({}))
    }

    /// The same, with further fields in its `spec`.
    pub fn create_with(&self, tag: &str, spec: &Value) -> Result<()> {
        let mut job = manifest(JOB, tag);
        json_patch::merge(&mut job["spec"], spec);
        self.create_job(job)
    }

    /// Creates a Job from its manifest.
    pub fn create_job(&self, manifest: Value) -> Result<()> {
        let job = serde_json::from_value(manifest)?;
        block_on(self.jobs.create(&PostParams::default(), &job))?;
        Ok(())
    }

    /// Applies a merge patch to the Job.
    pub fn patch(&self, patch: &Value) -> Result<()> {
        let patch = Patch::Merge(patch);
        block_on(self.jobs.patch(JOB, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Applies a merge patch to the Job's status, without conditions that the server's release does
    /// not have.
    pub fn status(&self, status: &Value) -> Result<()> {
        if self.tells_success_early {
            return set_status(&self.jobs, JOB, status);
        }
        set_status(&self.jobs, JOB, &without_success_criteria(status.clone()))
    }

    /// The Jobs of the namespace, for requests without a method here.
    pub fn jobs(&self) -> &Api<Job> {
        &self.jobs
    }

    /// Deletes the Job with background propagation, as kubectl does.
    pub fn delete(&self) -> Result<()> {
        block_on(self.jobs.delete(JOB, &DeleteParams::background()))?;
        Ok(())
    }

    /// Deletes the Job with foreground propagation. It stays until [`Self::let_go`], because no
    /// garbage collector runs here.
    pub fn begin_to_delete(&self) -> Result<()> {
        block_on(self.jobs.delete(JOB, &DeleteParams::foreground()))?;
        Ok(())
    }

    /// Removes the finalizer of the Job that [`Self::begin_to_delete`] has set.
    pub fn let_go(&self) -> Result<()> {
        self.patch(&json!({"metadata": {"finalizers": null}}))
    }

    /// Replaces the record's entries by completions of images with these tags.
    pub fn record(&self, tags: &[&str]) -> Result<()> {
        let entries = tags.iter().map(|&tag| (tag.to_owned(), entry(tag)));
        self.record_as(entries.collect())
    }

    /// Replaces the record's data.
    pub fn record_as(&self, data: BTreeMap<String, String>) -> Result<()> {
        let mut record = ConfigMap {
            data: Some(data),
            ..ConfigMap::default()
        };
        record.metadata.name = Some(RECORD.to_owned());
        let params = PostParams::default();
        match block_on(self.records.get_opt(RECORD))? {
            None => block_on(self.records.create(&params, &record))?,
            Some(_) => block_on(self.records.replace(RECORD, &params, &record))?,
        };
        Ok(())
    }

    /// The data of the record.
    pub fn recorded(&self) -> Result<BTreeMap<String, String>> {
        let record = block_on(self.records.get_opt(RECORD))?;
        Ok(record.and_then(|record| record.data).unwrap_or_default())
    }
}

/// Applies a merge patch to the status of a Job.
pub fn set_status(jobs: &Api<Job>, name: &str, status: &Value) -> Result<()> {
    let patch = Patch::Merge(json!({"status": status}));
    block_on(jobs.patch_status(name, &PatchParams::default(), &patch))
        .with_context(|| format!("setting the status {status}"))?;
    Ok(())
}
