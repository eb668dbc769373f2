//! Argo CD's repository server, application controller and API server, with a Redis and a Git
//! repository for each Application.
//!
//! A sync is a patch of the Application's `operation` by the test. To run a printed command, tests
//! use Argo CD's own command line.

use std::fs;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use kube::Api;
use kube::api::{
    ApiResource, DeleteParams, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams,
};
use serde_json::{Value, json};

use crate::cure::script;
use crate::stories::application::provide;
use testkit::assets;
use testkit::client::{await_gone, await_object, block_on};
use testkit::cluster::Cluster;
use testkit::process::{self, Process};
use testkit::ungated::SET_UP;

const NAMESPACE: &str = "argocd";
/// The port of Argo CD's API server. Argo Rollouts uses the same default.
const API_PORT: u16 = 8088;
pub(super) const PATIENCE: Duration = Duration::from_mins(4);

/// The running Argo CD of a cluster, which all tests of a run share.
pub(super) struct ArgoCd {
    client: kube::Client,
    repositories: PathBuf,
    commands: PathBuf,
    controller: Process,
    _servers: [Process; 2],
}

impl ArgoCd {
    /// The Argo CD of this cluster. The first call starts it.
    pub(super) fn of(cluster: &Cluster) -> Result<&'static Self> {
        static ARGO_CD: OnceLock<ArgoCd> = OnceLock::new();
        static TURN: Mutex<()> = Mutex::new(());
        let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(argo_cd) = ARGO_CD.get() {
            return Ok(argo_cd);
        }
        let started = Self::start(cluster).context(SET_UP)?;
        Ok(ARGO_CD.get_or_init(|| started))
    }

    fn start(cluster: &Cluster) -> Result<Self> {
        let sandbox = cluster.sandbox()?;
        let peer = assets::peer("argo-cd")?;
        let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
        kubectl.run(&format!("create namespace {NAMESPACE}"))?;
        kubectl.define(&peer.join("crds"))?;
        kubectl.run(&format!("apply -f {}", peer.join("config").display()))?;
        kubectl.apply(&project().to_string())?;
        redis(cluster)?;

        let state = sandbox.state("argo-cd")?;
        // The processes use the namespace of the kubeconfig's context.
        let kubeconfig = state.join("kubeconfig");
        fs::copy(&kubectl.kubeconfig, &kubeconfig)?;
        let namespaced = kubectl.with_kubeconfig(&kubeconfig);
        namespaced.run(&format!(
            "config set-context --current --namespace={NAMESPACE}"
        ))?;
        for folder in ["bin", "tls", "ssh", "tmp", "repositories"] {
            fs::create_dir_all(state.join(folder))?;
        }
        fs::write(state.join("ssh/ssh_known_hosts"), "")?;
        // A stand-in for the script that verifies signatures: the commits have none.
        let verify = state.join("bin/git-verify-wrapper.sh");
        fs::write(&verify, "#!/bin/sh\n")?;
        fs::set_permissions(&verify, fs::Permissions::from_mode(0o755))?;

        let logs = sandbox.logs("argo-cd")?;
        let start = |name: &str, arguments: &[&str]| {
            let mut command = sandbox.assets.command("helm");
            let path = command
                .get_envs()
                .find_map(|(name, value)| (name == "PATH").then_some(value?.to_owned()))
                .context("a PATH")?;
            let folders = std::iter::once(state.join("bin")).chain(std::env::split_paths(&path));
            let path = std::env::join_paths(folders)?;
            command = Command::new(peer.join("bin/argocd"));
            command
                .args(arguments)
                .env("PATH", path)
                .env("GOGC", "400")
                .env("ARGOCD_BINARY_NAME", name)
                .env("KUBECONFIG", &kubeconfig)
                // `https://kubernetes.default.svc` then stands for the cluster of the kubeconfig.
                .env("ARGOCD_FAKE_IN_CLUSTER", "true")
                .env("ARGOCD_GPG_ENABLED", "false")
                .env("ARGOCD_TLS_DATA_PATH", state.join("tls"))
                .env("ARGOCD_SSH_DATA_PATH", state.join("ssh"))
                .env("HOME", &state)
                .env("TMPDIR", state.join("tmp"))
                .current_dir(&state);
            Process::spawn(name, &logs, &mut command)
        };
        let server = start(
            "argocd-repo-server",
            &[
                "--address=127.0.0.1",
                "--metrics-address=127.0.0.1",
                "--redis=127.0.0.1:6379",
                "--disable-tls",
                "--client-ca-path=",
            ],
        )?;
        server.await_ready("the repository server to listen", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", 8081))?)
        })?;
        let controller = start(
            "argocd-application-controller",
            &[
                "--redis=127.0.0.1:6379",
                "--repo-server=127.0.0.1:8081",
                "--repo-server-plaintext",
                "--app-resync=20",
                "--app-resync-jitter=0",
            ],
        )?;
        let api = start(
            "argocd-server",
            &[
                "--address=127.0.0.1",
                &format!("--port={API_PORT}"),
                "--metrics-address=127.0.0.1",
                "--redis=127.0.0.1:6379",
                "--repo-server=127.0.0.1:8081",
                "--repo-server-plaintext",
                "--insecure",
                "--disable-auth",
            ],
        )?;
        api.await_ready("the API server of Argo CD to listen", PATIENCE, || {
            Ok(TcpStream::connect(("127.0.0.1", API_PORT))?)
        })?;
        Ok(Self {
            client: cluster.client(),
            repositories: state.join("repositories"),
            commands: commands(&state, &peer)?,
            controller,
            _servers: [server, api],
        })
    }

    /// An Application with this name and an empty repository of its own. Its objects go to the
    /// namespace of the same name. `policy` is its `syncPolicy`.
    pub(super) fn application(
        &'static self,
        name: &str,
        annotations: &Value,
        policy: &Value,
    ) -> Result<ArgoApplication> {
        self.application_with(name, annotations, &json!({"syncPolicy": policy}))
    }

    /// The same with further fields in its `spec`.
    pub(super) fn application_with(
        &'static self,
        name: &str,
        annotations: &Value,
        specification: &Value,
    ) -> Result<ArgoApplication> {
        let repository = self.repositories.join(name);
        fs::create_dir_all(&repository)?;
        git(&repository, &["init", "--quiet", "--initial-branch=main"])?;
        let kind = GroupVersionKind::gvk("argoproj.io", "v1alpha1", "Application");
        let kind = ApiResource::from_gvk(&kind);
        let api = Api::namespaced_with(self.client.clone(), NAMESPACE, &kind);
        let source = format!("file://{}", repository.display());
        let mut object = json!({"spec": {
            "project": "default",
            "source": {"repoURL": source, "targetRevision": "main", "path": "."},
            "destination": {"server": "https://kubernetes.default.svc", "namespace": name},
        }});
        json_patch::merge(&mut object["spec"], specification);
        let mut object = DynamicObject::new(name, &kind).data(object);
        object.metadata.annotations = serde_json::from_value(annotations.clone())?;
        commit(&repository, "empty", &[])?;
        block_on(api.create(&PostParams::default(), &object))?;
        Ok(ArgoApplication {
            argo_cd: self,
            name: name.to_owned(),
            repository,
            api,
        })
    }
}

/// A folder with Argo CD's command line, `argocd`, which is logged in.
fn commands(state: &Path, peer: &Path) -> Result<PathBuf> {
    let commands = state.join("commands");
    fs::create_dir_all(&commands)?;
    let program = peer.join("bin/argocd");
    // The content of the file that `argocd login` writes.
    let login = format!(
        "export HOME={} ARGOCD_OPTS='--server 127.0.0.1:{API_PORT} --plaintext'\nexec {} \"$@\"",
        commands.display(),
        program.display()
    );
    script(&commands, "argocd", &login)?;
    Ok(commands)
}

/// A project that allows everything.
fn project() -> Value {
    json!({
        "apiVersion": "argoproj.io/v1alpha1", "kind": "AppProject", "metadata": {"name": "default"},
        "spec": {
            "sourceRepos": ["*"], "destinations": [{"namespace": "*", "server": "*"}],
            "clusterResourceWhitelist": [{"group": "*", "kind": "*"}],
        },
    })
}

/// Starts Redis in the node's network, and waits until it listens.
fn redis(cluster: &Cluster) -> Result<()> {
    provide(cluster)?;
    let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "redis"},
        "spec": {"hostNetwork": true, "containers": [{
            "name": "redis", "image": "migration-gate.test/redis:7", "imagePullPolicy": "Never",
            "startupProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1, "failureThreshold": 60},
        }]},
    });
    kubectl.apply(&pod.to_string())?;
    kubectl.wait("pod/redis", "condition=Ready", 60)
}

fn git(repository: &Path, arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.arg("-C").arg(repository);
    git.args(["-c", "user.name=test", "-c", "user.email=test@localhost"]);
    // Ignore the user's own configuration.
    git.envs([
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
    ]);
    let said = process::run(git.args(arguments), "", Duration::from_mins(1))?;
    Ok(said.success()?.trim().to_owned())
}

/// Commits these files. Returns the commit's hash.
fn commit(repository: &Path, message: &str, files: &[(&str, &str)]) -> Result<String> {
    for (name, text) in files {
        fs::write(repository.join(name), text)?;
    }
    git(repository, &["add", "--all"])?;
    git(
        repository,
        &["commit", "--quiet", "--allow-empty", "--message", message],
    )?;
    git(repository, &["rev-parse", "HEAD"])
}

/// An Application with its repository. It is deleted when the test is over, but the objects that it
/// has applied are not.
pub(super) struct ArgoApplication {
    argo_cd: &'static ArgoCd,
    pub(super) name: String,
    pub(super) repository: PathBuf,
    api: Api<DynamicObject>,
}

impl ArgoApplication {
    /// Commits manifests, and makes Argo CD look at once, as a webhook of the Git server does.
    /// Returns the commit's hash.
    pub(super) fn push(&self, manifests: &str) -> Result<String> {
        let revision = commit(
            &self.repository,
            "release",
            &[("manifests.yaml", manifests)],
        )?;
        self.refresh("normal")?;
        Ok(revision)
    }

    /// The folder with Argo CD's command line, `argocd`, which is logged in.
    pub(super) fn commands(&self) -> &Path {
        &self.argo_cd.commands
    }

    /// Makes Argo CD compare again: `normal`, or `hard`, which also renders the manifests again.
    pub(super) fn refresh(&self, how: &str) -> Result<()> {
        self.patch(json!({"metadata": {"annotations": {"argocd.argoproj.io/refresh": how}}}))
    }

    /// Makes Argo CD compare again, and waits for the result.
    pub(super) fn compare(&self, how: &str) -> Result<Value> {
        self.refresh(how)?;
        self.until("to be compared", |object| {
            object["metadata"]["annotations"]["argocd.argoproj.io/refresh"].is_null()
        })
    }

    /// Syncs as `argocd app sync NAME`; with `resources`, as with `--resource`.
    pub(super) fn sync(&self, resources: Option<Value>) -> Result<()> {
        let mut sync = json!({"syncStrategy": {"hook": {}}});
        if let Some(resources) = resources {
            sync["resources"] = resources;
        }
        self.patch(json!({"operation": {"initiatedBy": {"username": "test"}, "sync": sync}}))
    }

    /// Changes the Application.
    pub(super) fn patch(&self, patch: Value) -> Result<()> {
        let patch = Patch::Merge(patch);
        block_on(self.api.patch(&self.name, &PatchParams::default(), &patch))?;
        Ok(())
    }

    /// Waits until `holds` is true for the Application, and returns it.
    pub(super) fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let found = await_object(&self.api, &self.name, what, PATIENCE, |object| {
            holds(&json!(object))
        })
        .map_err(|error| match self.argo_cd.controller.check() {
            Ok(()) => error,
            Err(gone) => gone.context(error),
        })?;
        Ok(json!(found))
    }

    /// Waits until an operation on this revision has this phase, such as `Succeeded`.
    pub(super) fn operation(&self, revision: &str, phase: &str) -> Result<Value> {
        self.until(&format!("to be {phase} at {revision}"), |object| {
            let state = &object["status"]["operationState"];
            state["phase"] == phase
                && state["syncResult"]["revision"] == revision
                && object["operation"].is_null()
        })
    }

    /// Waits until the Application has this revision, this sync status and this health.
    pub(super) fn stands(&self, revision: &str, sync: &str, health: &str) -> Result<Value> {
        self.until(
            &format!("to be {sync} and {health} at {revision}"),
            |object| {
                let status = &object["status"];
                status["sync"]["revision"] == revision
                    && status["sync"]["status"] == sync
                    && status["health"]["status"] == health
            },
        )
    }

    /// Deletes the Application and its objects, as `argocd app delete NAME` does.
    pub(super) fn delete(&self) -> Result<()> {
        let finalizers = ["resources-finalizer.argocd.argoproj.io"];
        self.patch(json!({"metadata": {"finalizers": finalizers}}))?;
        block_on(self.api.delete(&self.name, &DeleteParams::default()))?;
        await_gone(&self.api, &self.name, PATIENCE)
    }

    /// The Application as it is now.
    pub(super) fn now(&self) -> Result<Value> {
        let found = block_on(self.api.get(&self.name)).map_err(|error| anyhow!(error))?;
        Ok(json!(found))
    }
}

impl Drop for ArgoApplication {
    fn drop(&mut self) {
        // A failure cannot be reported here, and does no harm: the names differ from test to test.
        let _ = block_on(self.api.delete(&self.name, &DeleteParams::default()));
    }
}
