//! Flux's real kustomize-controller, with a folder in place of a Git repository.
//!
//! source-controller would fetch the repository and serve it as an archive. For
//! kustomize-controller, an `ExternalArtifact` whose status has the archive's address, digest and
//! revision is the same.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use serde_json::{Value, json};

use testkit::assets::peer;
use testkit::client::{await_object, block_on};
use testkit::cluster::Cluster;
use testkit::process::{self, Process};
use testkit::ungated::SET_UP;

const NAMESPACE: &str = "flux-system";
const CONTROLLER: &str = "kustomize-controller";
/// Time limit for a reconciliation on a busy machine of two cores. Health checks end earlier.
pub(crate) const DEADLINE: Duration = Duration::from_mins(6);

/// A running kustomize-controller, which all tests of a run share.
pub(crate) struct Flux {
    client: kube::Client,
    artifacts: Artifacts,
    revisions: AtomicU32,
    controller: Process,
    /// The shard of Kustomizations that it reconciles, if it is for one.
    shard: Option<&'static str>,
}

/// A folder, and the address from which it can be fetched.
#[derive(Clone)]
struct Artifacts {
    folder: PathBuf,
    address: String,
    _server: Arc<Process>,
}

/// Flux's label that assigns Kustomizations to controllers.
const SHARD: &str = "sharding.fluxcd.io/key";
/// The shard of the controller that cancels health checks.
const CANCELS: &str = "cancels";

impl Flux {
    /// The controller of this cluster. The first call starts it. In the tests with all of Flux, it
    /// is of the same earlier release.
    pub(crate) fn of(cluster: &Cluster) -> Result<&'static Self> {
        static FLUX: OnceLock<Flux> = OnceLock::new();
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flux) = FLUX.get() {
            return Ok(flux);
        }
        let earlier = peer("flux").ok().filter(|folder| folder.exists());
        let (command, definitions) = if let Some(folder) = earlier {
            let command = Command::new(folder.join("bin").join(CONTROLLER));
            (command, folder.join("crds"))
        } else {
            let assets = &cluster.sandbox()?.assets;
            (assets.command(CONTROLLER), assets.flux_definitions())
        };
        let started = Self::start(cluster, command, &definitions).context(SET_UP)?;
        Ok(FLUX.get_or_init(|| started))
    }

    /// Another controller that ends a health check when there is a new revision
    /// (`CancelHealthCheckOnNewRevision`). The first call starts it.
    pub(crate) fn that_cancels(cluster: &Cluster) -> Result<&'static Self> {
        static FLUX: OnceLock<Flux> = OnceLock::new();
        let artifacts = Self::of(cluster)?.artifacts.clone();
        if let Some(flux) = FLUX.get() {
            return Ok(flux);
        }
        let gates = "CancelHealthCheckOnNewRevision=true,ExternalArtifact=true";
        let command = cluster.sandbox()?.assets.command(CONTROLLER);
        let controller = controller(cluster, command, &format!("{SHARD}={CANCELS}"), gates, 9443)?;
        let started = Self {
            client: cluster.client(),
            artifacts,
            revisions: AtomicU32::new(1),
            controller,
            shard: Some(CANCELS),
        };
        Ok(FLUX.get_or_init(|| started))
    }

    fn start(cluster: &Cluster, command: Command, definitions: &Path) -> Result<Self> {
        let sandbox = cluster.sandbox()?;
        let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
        kubectl.define(definitions)?;
        kubectl.run(&format!("create namespace {NAMESPACE}"))?;

        let folder = sandbox.state("flux")?.join("artifacts");
        fs::create_dir_all(&folder)?;
        // No other program in this network namespace uses these ports, so the port is still free a
        // moment later.
        let address = TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .to_string();
        let mut server = Command::new("busybox");
        server
            .args(["httpd", "-f", "-p", &address, "-h"])
            .arg(&folder);
        let server = Process::spawn("artifacts", &sandbox.logs("flux")?, &mut server)?;
        let others = format!("!{SHARD}");
        let controller = controller(cluster, command, &others, "ExternalArtifact=true", 9440)?;
        Ok(Self {
            client: cluster.client(),
            artifacts: Artifacts {
                folder,
                address,
                _server: Arc::new(server),
            },
            revisions: AtomicU32::new(1),
            controller,
            shard: None,
        })
    }

    /// A source of manifests and the Kustomization that applies them, with `prune` and `wait` as
    /// usual.
    pub(crate) fn kustomization(&'static self, name: &str) -> Result<FluxKustomization> {
        let source = kind("source.toolkit.fluxcd.io", "ExternalArtifact");
        let this = kind("kustomize.toolkit.fluxcd.io", "Kustomization");
        let this_spec = json!({
            "sourceRef": {"kind": source.kind, "name": name}, "path": "./",
            "prune": true, "wait": true, "interval": "10m", "retryInterval": "5s", "timeout": "5m",
            // The test deletes the namespace, and everything in it.
            "deletionPolicy": "Orphan",
        });
        Ok(FluxKustomization {
            flux: self,
            name: name.to_owned(),
            source: self.create(&source, name, &json!({}))?,
            this: self.create(&this, name, &this_spec)?,
        })
    }

    /// Serves the content of `folder`, as source-controller would. Returns the revision's name and
    /// the status of the source.
    fn artifact(&self, name: &str, folder: &Path) -> Result<(String, Value)> {
        let number = self.revisions.fetch_add(1, Ordering::Relaxed);
        let file = format!("{name}-{number}.tar.gz");
        let path = self.artifacts.folder.join(&file);
        let mut tar = Command::new("tar");
        tar.args(["--create", "--gzip", "--file"]).arg(&path);
        tar.arg("--directory").arg(folder).arg(".");
        process::run(&mut tar, "", Duration::from_mins(3))?.success()?;
        let mut sum = Command::new("sha256sum");
        let sum = process::run(sum.arg(&path), "", Duration::from_mins(3))?.success()?;
        let digest = sum.split(' ').next().context("a digest")?;
        let revision = format!("main@sha256:{digest}");
        let status = json!({"status": {
            "artifact": {
                "url": format!("http://{}/{file}", self.artifacts.address),
                "path": file,
                "digest": format!("sha256:{digest}"),
                "revision": revision,
                "size": fs::metadata(&path)?.len(),
                "lastUpdateTime": "2026-01-01T00:00:00Z",
            },
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Succeeded", "message": "stored",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        }});
        Ok((revision, status))
    }

    /// A `GitRepository` `flux-system` with the content of `folder`.
    pub(crate) fn git_repository(&self, folder: &Path) -> Result<()> {
        let kind = kind("source.toolkit.fluxcd.io", "GitRepository");
        let name = NAMESPACE;
        // It is suspended, because there is no Git server.
        let spec = json!({"url": "https://example.invalid/repository", "interval": "10m", "suspend": true});
        let repository = self.create(&kind, name, &spec)?;
        let (_, status) = self.artifact(name, folder)?;
        let (parameters, status) = (PatchParams::default(), Patch::Merge(status));
        block_on(repository.patch_status(name, &parameters, &status))?;
        Ok(())
    }

    /// An `ExternalArtifact` with this name and the content of `folder`.
    pub(crate) fn artifact_of(&self, name: &str, folder: &Path) -> Result<()> {
        let kind = kind("source.toolkit.fluxcd.io", "ExternalArtifact");
        let source = self.create(&kind, name, &json!({}))?;
        let (_, status) = self.artifact(name, folder)?;
        let (parameters, status) = (PatchParams::default(), Patch::Merge(status));
        block_on(source.patch_status(name, &parameters, &status))?;
        Ok(())
    }

    fn create(&self, kind: &ApiResource, name: &str, spec: &Value) -> Result<Api<DynamicObject>> {
        let api = Api::namespaced_with(self.client.clone(), NAMESPACE, kind);
        let mut object = DynamicObject::new(name, kind).data(json!({"spec": spec}));
        object.metadata.labels = self
            .shard
            .map(|shard| [(SHARD.to_owned(), shard.to_owned())].into());
        block_on(api.create(&PostParams::default(), &object))?;
        Ok(api)
    }
}

/// Starts a kustomize-controller for the Kustomizations that a selector of labels selects.
fn controller(
    cluster: &Cluster,
    mut command: Command,
    selector: &str,
    gates: &str,
    health_port: u16,
) -> Result<Process> {
    command
        .arg(format!("--watch-label-selector={selector}"))
        .arg(format!("--feature-gates={gates}"));
    let name = format!("{CONTROLLER}-{health_port}");
    start(cluster, &name, &format!("127.0.0.1:{health_port}"), command)
}

/// Starts one of Flux's controllers, and waits until it reports at `health` that it is ready.
pub(crate) fn start(
    cluster: &Cluster,
    name: &str,
    health: &str,
    mut command: Command,
) -> Result<Process> {
    let sandbox = cluster.sandbox()?;
    command
        .env("KUBECONFIG", &cluster.kubectl().kubeconfig)
        .env("RUNTIME_NAMESPACE", NAMESPACE)
        .env("TMPDIR", sandbox.state("flux")?)
        .args(["--watch-all-namespaces", "--metrics-addr=127.0.0.1:0"])
        .arg(format!("--health-addr={health}"));
    let controller = Process::spawn(name, &sandbox.logs("flux")?, &mut command)?;
    controller.await_ready(
        &format!("{name} to be ready"),
        Duration::from_mins(3),
        || {
            let mut get = Command::new("busybox");
            get.args(["wget", "-q", "-O", "-", &format!("http://{health}/readyz")]);
            process::run(&mut get, "", Duration::from_secs(10))?.success()
        },
    )?;
    Ok(controller)
}

fn kind(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

/// The result of one reconciliation.
#[derive(Debug)]
pub(crate) struct Reconciliation {
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Reconciliation {
    /// Fails with the condition unless everything is applied and healthy.
    pub(crate) fn success(self) -> Result<()> {
        if self.ready {
            return Ok(());
        }
        Err(anyhow!("Flux reports {}: {}", self.reason, self.message))
    }

    /// The condition's message. Fails if the reconciliation has succeeded.
    pub(crate) fn failure(self) -> Result<String> {
        if self.ready {
            return Err(anyhow!(
                "Flux reports {}, and should have failed",
                self.reason
            ));
        }
        Ok(format!("{}: {}", self.reason, self.message))
    }
}

/// A Kustomization of Flux. It is deleted when the test is over.
pub(crate) struct FluxKustomization {
    flux: &'static Flux,
    name: String,
    source: Api<DynamicObject>,
    this: Api<DynamicObject>,
}

impl FluxKustomization {
    /// Serves the content of `folder` as the source's next revision, as after a push. Returns the
    /// revision's name.
    pub(crate) fn publish(&self, folder: &Path) -> Result<String> {
        let (revision, status) = self.flux.artifact(&self.name, folder)?;
        let (parameters, status) = (PatchParams::default(), Patch::Merge(status));
        block_on(self.source.patch_status(&self.name, &parameters, &status))?;
        Ok(revision)
    }

    /// Waits until Flux has succeeded or failed with this revision.
    pub(crate) fn settled(&self, revision: &str) -> Result<Reconciliation> {
        self.outcome(&format!("to be through with {revision}"), |status| {
            status["lastAttemptedRevision"] == revision
        })
    }

    /// [`Self::publish`], and then [`Self::settled`].
    pub(crate) fn push(&self, folder: &Path) -> Result<Reconciliation> {
        let revision = self.publish(folder)?;
        self.settled(&revision)
    }

    /// Reconciles again, as `flux reconcile kustomization` does.
    pub(crate) fn reconcile(&self) -> Result<Reconciliation> {
        let request = self.request()?;
        self.handled(&request)
    }

    /// Requests another reconciliation. Returns the request's name.
    pub(crate) fn request(&self) -> Result<String> {
        let number = self.flux.revisions.fetch_add(1, Ordering::Relaxed);
        let request = format!("request-{number}");
        let annotations = json!({"reconcile.fluxcd.io/requestedAt": request});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        block_on(self.this.patch(&self.name, &PatchParams::default(), &patch))?;
        Ok(request)
    }

    /// Waits until Flux has succeeded or failed with a request.
    pub(crate) fn handled(&self, request: &str) -> Result<Reconciliation> {
        self.outcome("to have reconciled once more", |status| {
            status["lastHandledReconcileAt"] == request
        })
    }

    /// The changes that Flux has reported in Events about this Kustomization, without those about a
    /// successful reconciliation.
    pub(crate) fn changes(&self) -> Result<Vec<String>> {
        let events: Api<Event> = Api::namespaced(self.flux.client.clone(), NAMESPACE);
        let about = format!(
            "involvedObject.kind=Kustomization,involvedObject.name={}",
            self.name
        );
        let events = block_on(events.list(&ListParams::default().fields(&about)))?;
        Ok(events
            .into_iter()
            .filter(|event| event.reason.as_deref() != Some("ReconciliationSucceeded"))
            .map(|event| event.message.unwrap_or_default())
            .collect())
    }

    /// The messages of its conditions.
    pub(crate) fn said(&self) -> Result<String> {
        let this = block_on(self.this.get(&self.name))?;
        Ok(this.data["status"]["conditions"].to_string())
    }

    fn outcome(&self, what: &str, handled: impl Fn(&Value) -> bool) -> Result<Reconciliation> {
        let ready = |status: &Value| {
            let conditions = status["conditions"].as_array()?;
            conditions.iter().find(|it| it["type"] == "Ready").cloned()
        };
        let found = await_object(&self.this, &self.name, what, DEADLINE, |object| {
            let status = &object.data["status"];
            handled(status) && ready(status).is_some_and(|ready| ready["status"] != "Unknown")
        })
        .map_err(|error| match self.flux.controller.check() {
            Ok(()) => error,
            Err(gone) => gone.context(error),
        })?;
        let ready = ready(&found.data["status"]).context("a Ready condition")?;
        let text = |field: &str| ready[field].as_str().unwrap_or_default().to_owned();
        Ok(Reconciliation {
            ready: ready["status"] == "True",
            reason: text("reason"),
            message: text("message"),
        })
    }
}

impl Drop for FluxKustomization {
    fn drop(&mut self) {
        let parameters = DeleteParams::default();
        block_on(async {
            // A failure cannot be reported here, and does no harm: the names differ from test to
            // test.
            let _ = self.this.delete(&self.name, &parameters).await;
            let _ = self.source.delete(&self.name, &parameters).await;
        });
    }
}
