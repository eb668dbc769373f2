//! Flux's kustomize-controller, the real one, with a folder in the place of a Git repository.
//!
//! source-controller would fetch the repository and offer it as an archive; an `ExternalArtifact`
//! whose status names the archive's address, digest and revision says the same to
//! kustomize-controller.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Event;
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams,
    PostParams,
};
use serde_json::{Value, json};

use testkit::client::{await_object, block_on};
use testkit::cluster::Cluster;
use testkit::process::{self, Process};
use testkit::ungated::SET_UP;

const NAMESPACE: &str = "flux-system";
/// How long a reconciliation may take on a busy machine of two cores; health checks end before
/// that.
const DEADLINE: Duration = Duration::from_mins(6);

/// A running kustomize-controller, which all tests of a run share.
pub(crate) struct Flux {
    client: kube::Client,
    folder: PathBuf,
    address: String,
    revisions: AtomicU32,
    controller: Process,
    _server: Process,
}

impl Flux {
    /// The controller of this cluster; the first caller starts it.
    pub(crate) fn of(cluster: &Cluster) -> Result<&'static Self> {
        static FLUX: OnceLock<Flux> = OnceLock::new();
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flux) = FLUX.get() {
            return Ok(flux);
        }
        let started = Self::start(cluster).context(SET_UP)?;
        Ok(FLUX.get_or_init(|| started))
    }

    fn start(cluster: &Cluster) -> Result<Self> {
        let sandbox = cluster.sandbox()?;
        let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
        let definitions = sandbox.assets.flux_definitions();
        kubectl.run(&format!("apply --server-side -f {}", definitions.display()))?;
        kubectl.run(
            "wait --for=condition=Established --timeout=170s customresourcedefinitions --all",
        )?;
        kubectl.run(&format!("create namespace {NAMESPACE}"))?;

        let folder = sandbox.state("flux")?.join("artifacts");
        fs::create_dir_all(&folder)?;
        let logs = sandbox.logs("flux")?;
        // No one else listens in this network namespace's upper ports, so the port is still free a
        // moment later.
        let address = TcpListener::bind(("127.0.0.1", 0))?
            .local_addr()?
            .to_string();
        let mut server = Command::new("busybox");
        server
            .args(["httpd", "-f", "-p", &address, "-h"])
            .arg(&folder);
        let server = Process::spawn("artifacts", &logs, &mut server)?;

        let mut command = sandbox.assets.command("kustomize-controller");
        command
            .env("KUBECONFIG", &kubectl.kubeconfig)
            .env("RUNTIME_NAMESPACE", NAMESPACE)
            .env("TMPDIR", sandbox.state("flux")?)
            .args([
                "--watch-all-namespaces",
                "--feature-gates=ExternalArtifact=true",
            ])
            .args(["--metrics-addr=127.0.0.1:0", "--health-addr=127.0.0.1:9440"]);
        let controller = Process::spawn("kustomize-controller", &logs, &mut command)?;
        controller.await_ready(
            "kustomize-controller to be ready",
            Duration::from_mins(3),
            || {
                let mut get = Command::new("busybox");
                get.args(["wget", "-q", "-O", "-", "http://127.0.0.1:9440/readyz"]);
                process::run(&mut get, "", Duration::from_secs(10))?.success()
            },
        )?;
        Ok(Self {
            client: cluster.client(),
            folder,
            address,
            revisions: AtomicU32::new(1),
            controller,
            _server: server,
        })
    }

    /// A source of manifests and the Kustomization that applies them, as an operator has them:
    /// `prune`, `wait`.
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

    /// Offers what is in `folder` now, as source-controller would; gives the revision's name, and
    /// the status of the source.
    fn artifact(&self, name: &str, folder: &Path) -> Result<(String, Value)> {
        let number = self.revisions.fetch_add(1, Ordering::Relaxed);
        let file = format!("{name}-{number}.tar.gz");
        let path = self.folder.join(&file);
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
                "url": format!("http://{}/{file}", self.address),
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

    /// A Git repository `flux-system` that holds what is in `folder` now.
    pub(crate) fn git_repository(&self, folder: &Path) -> Result<()> {
        let kind = kind("source.toolkit.fluxcd.io", "GitRepository");
        let name = NAMESPACE;
        // source-controller leaves it alone, since there is no Git server.
        let spec = json!({"url": "https://example.invalid/repository", "interval": "10m", "suspend": true});
        let repository = self.create(&kind, name, &spec)?;
        let (_, status) = self.artifact(name, folder)?;
        let (parameters, status) = (PatchParams::default(), Patch::Merge(status));
        block_on(repository.patch_status(name, &parameters, &status))?;
        Ok(())
    }

    /// An artifact of that name that holds what is in `folder` now.
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
        let object = DynamicObject::new(name, kind).data(json!({"spec": spec}));
        block_on(api.create(&PostParams::default(), &object))?;
        Ok(api)
    }
}

fn kind(group: &str, kind: &str) -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind))
}

/// What one reconciliation came to.
#[derive(Debug)]
pub(crate) struct Reconciliation {
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Reconciliation {
    /// An error that shows the condition, unless it is that everything is applied and healthy.
    pub(crate) fn success(self) -> Result<()> {
        if self.ready {
            return Ok(());
        }
        Err(anyhow!("Flux reports {}: {}", self.reason, self.message))
    }

    /// The condition's message; an error if nothing was wrong.
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

/// One of Flux's Kustomizations; deleted when the test is over.
pub(crate) struct FluxKustomization {
    flux: &'static Flux,
    name: String,
    source: Api<DynamicObject>,
    this: Api<DynamicObject>,
}

impl FluxKustomization {
    /// Offers what is in `folder` now as the source's next revision, as a push would; gives its
    /// name.
    pub(crate) fn publish(&self, folder: &Path) -> Result<String> {
        let (revision, status) = self.flux.artifact(&self.name, folder)?;
        let (parameters, status) = (PatchParams::default(), Patch::Merge(status));
        block_on(self.source.patch_status(&self.name, &parameters, &status))?;
        Ok(revision)
    }

    /// Waits until Flux is through with this revision, one way or the other.
    pub(crate) fn settled(&self, revision: &str) -> Result<Reconciliation> {
        self.outcome(&format!("to be through with {revision}"), |status| {
            status["lastAttemptedRevision"] == revision
        })
    }

    /// What [`Self::publish`] and then [`Self::settled`] give.
    pub(crate) fn push(&self, folder: &Path) -> Result<Reconciliation> {
        let revision = self.publish(folder)?;
        self.settled(&revision)
    }

    /// Reconciles once more, as `flux reconcile kustomization` does.
    pub(crate) fn reconcile(&self) -> Result<Reconciliation> {
        let request = self.request()?;
        self.handled(&request)
    }

    /// Asks for one more reconciliation; gives the request's name.
    pub(crate) fn request(&self) -> Result<String> {
        let number = self.flux.revisions.fetch_add(1, Ordering::Relaxed);
        let request = format!("request-{number}");
        let annotations = json!({"reconcile.fluxcd.io/requestedAt": request});
        let patch = Patch::Merge(json!({"metadata": {"annotations": annotations}}));
        block_on(self.this.patch(&self.name, &PatchParams::default(), &patch))?;
        Ok(request)
    }

    /// Waits until Flux is through with a request, one way or the other.
    pub(crate) fn handled(&self, request: &str) -> Result<Reconciliation> {
        self.outcome("to have reconciled once more", |status| {
            status["lastHandledReconcileAt"] == request
        })
    }

    /// What Flux says it has changed, in its events about this Kustomization; that a reconciliation
    /// succeeded is none.
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
            // A failure has no one to go to; the names differ from test to test.
            let _ = self.this.delete(&self.name, &parameters).await;
            let _ = self.source.delete(&self.name, &parameters).await;
        });
    }
}
