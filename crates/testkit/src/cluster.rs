//! The cluster that the tests share: a node booted here, or one that the user has.

use std::fs;
use std::iter::once;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use kube::Api;
use kube::api::PostParams;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::block_on;
use crate::control_plane::{ControlPlane, PlaneSettings};
use crate::kubectl::Kubectl;
use crate::namespace::Namespace;
use crate::node::{Runtime, TestNode};
use crate::process;
use crate::sandbox::Sandbox;
use crate::skip::Skip;
use crate::{client, image as images};

/// A cluster that the tests have not booted.
pub struct Given {
    /// The user's `KUBECONFIG`, which may be a list of files.
    pub kubeconfig: PathBuf,
    /// The command that loads an image archive onto its nodes, if they do not have the images yet.
    pub loader: Option<String>,
}

impl Given {
    /// The cluster of `KUBECONFIG` and `IMAGE_LOAD`, if they are set.
    pub fn from_environment() -> Result<Option<Self>> {
        let Some(kubeconfig) = std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty())
        else {
            return Ok(None);
        };
        let loader = match std::env::var("IMAGE_LOAD") {
            Ok(none) if none == "none" => None,
            Ok(loader) if !loader.is_empty() => Some(loader),
            _ => bail!(
                "KUBECONFIG is set, so the tests run on that cluster, and it needs their images: set IMAGE_LOAD to the command that brings an image archive to its nodes (IMAGE_LOAD='kind load image-archive'), or to `none` if they are there already; unset KUBECONFIG to boot a node here"
            ),
        };
        Ok(Some(Self {
            kubeconfig: kubeconfig.into(),
            loader,
        }))
    }
}

/// What every test of a running cluster gets.
pub struct Cluster {
    kubectl: Kubectl,
    client: kube::Client,
    own: Option<Own>,
    folder: PathBuf,
    /// The same folder, if it ends with this cluster.
    _temporary: Option<TempDir>,
    names: AtomicU32,
}

/// A node that these tests have booted. Fields are dropped in their order: the node before its
/// control plane.
struct Own {
    node: TestNode,
    control_plane: ControlPlane,
    sandbox: Sandbox,
}

impl Cluster {
    /// Boots a node with the stand-ins' images and one more archive.
    pub(crate) fn boot(sandbox: &Sandbox, archive: &Path) -> Result<Self> {
        let started = Instant::now();
        let folder = sandbox.state("cluster")?;
        // Import the images while the control plane starts: the start of the API server leaves a
        // core idle at times.
        let (runtime, control_plane) = thread::scope(|scope| {
            let runtime = scope.spawn(|| -> Result<Runtime> {
                let stand_ins = images::stand_ins(&folder)?;
                let runtime = Runtime::start(sandbox)?;
                stand_ins
                    .iter()
                    .map(PathBuf::as_path)
                    .chain(once(archive))
                    .try_for_each(|archive| runtime.import(archive))?;
                Ok(runtime)
            });
            let control_plane = ControlPlane::start(sandbox, PlaneSettings::of_the_node()?);
            let runtime = runtime
                .join()
                .map_err(|_| anyhow!("the container runtime's thread panicked"))?;
            anyhow::Ok((runtime?, control_plane?))
        })?;
        let node = TestNode::join(&control_plane, runtime)?;
        let kubectl = Kubectl {
            program: sandbox.assets.program("kubectl"),
            helm: sandbox.assets.program("helm"),
            kubeconfig: control_plane.admin().to_owned(),
            namespace: None,
            cache: folder.join("cache"),
        };
        let client = client::client(control_plane.admin())?;
        let own = Own {
            node,
            control_plane,
            sandbox: sandbox.clone(),
        };
        let this = Self {
            kubectl,
            client,
            own: Some(own),
            folder,
            _temporary: None,
            names: AtomicU32::new(0),
        };
        this.kubectl
            .wait("node/node-1", "condition=Ready", 60)
            .map_err(|error| this.explain(error))?;
        eprintln!(
            "cluster: the node is ready after {:.1} s",
            started.elapsed().as_secs_f32()
        );
        Ok(this)
    }

    /// The cluster of the user's `KUBECONFIG`.
    pub(crate) fn given(given: &Given, image: &Path) -> Result<Self> {
        let temporary = tempfile::tempdir()?;
        let folder = temporary.path().to_owned();
        let mut kubectl = Kubectl {
            program: "kubectl".into(),
            helm: "helm".into(),
            kubeconfig: given.kubeconfig.clone(),
            namespace: None,
            cache: folder.join("cache"),
        };
        // One file with the current context, instead of the user's list of files, in which it may
        // change.
        let text = kubectl.run("config view --minify --flatten --raw -o=json")?;
        let config: Value = serde_json::from_str(&text)?;
        kubectl.kubeconfig = folder.join("kubeconfig");
        fs::write(&kubectl.kubeconfig, text)?;
        eprintln!(
            "cluster: on the cluster of KUBECONFIG: context {}, {}",
            config["current-context"], config["clusters"][0]["cluster"]["server"]
        );
        if let Some(loader) = &given.loader {
            images::migration_gate(image)?;
            let stand_ins = images::stand_ins(&folder)?;
            for archive in stand_ins.iter().map(PathBuf::as_path).chain(once(image)) {
                let mut command = Command::new("sh");
                command
                    .args(["-c", &format!("{loader} \"$1\""), "sh"])
                    .arg(archive);
                process::run(&mut command, "", Duration::from_mins(5))?
                    .success()
                    .context("running IMAGE_LOAD")?;
            }
        }
        let client = client::client(&kubectl.kubeconfig)?;
        Ok(Self {
            kubectl,
            client,
            own: None,
            folder,
            _temporary: Some(temporary),
            names: AtomicU32::new(0),
        })
    }

    /// kubectl and Helm as the cluster's administrator.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// A kube-rs client as the cluster's administrator; [`client::block_on`] drives it.
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// A new namespace of the test's own.
    pub fn namespace(&self, stem: &str) -> Result<Namespace> {
        let number = self.names.fetch_add(1, Ordering::Relaxed);
        self.namespace_named(&format!("{stem}-{}-{number}", std::process::id()))
    }

    /// A new namespace of exactly this name. Waits until an earlier test's namespace of this name
    /// is gone.
    pub fn namespace_named(&self, name: &str) -> Result<Namespace> {
        self.namespace_with(name, &[])
    }

    /// The same, with labels.
    pub fn namespace_with(&self, name: &str, labels: &[(&str, &str)]) -> Result<Namespace> {
        Namespace::create(self.client(), &self.kubectl, name, labels)
    }

    /// Keeps a namespace until the node ends, if the tests have booted it: to delete thousands of
    /// objects takes as long as to create them.
    pub fn leave(&self, namespace: &mut Namespace) {
        namespace.stays = self.own.is_some();
    }

    /// kubectl as a ServiceAccount, with a token as in a pod.
    pub fn kubectl_as(&self, namespace: &str, account: &str) -> Result<Kubectl> {
        let kubectl = self.kubectl.in_namespace(namespace);
        let token = kubectl.run(&format!("create token {account}"))?;
        let text = kubectl.run("config view --minify --flatten --raw -o=json")?;
        let mut kubeconfig: Value = serde_json::from_str(&text)?;
        let user = kubeconfig
            .pointer_mut("/users/0/user")
            .context("a kubeconfig without a user")?;
        *user = json!({"token": token.trim()});
        let path = self
            .folder
            .join(format!("{namespace}-{account}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string())?;
        Ok(kubectl.with_kubeconfig(&path))
    }

    /// Whether a ServiceAccount has a permission, such as to `patch` `deployments.apps/NAME` in a
    /// namespace (empty for cluster-scoped objects): the API server's answer to a
    /// `SubjectAccessReview`.
    pub fn may(
        &self,
        (home, account): (&str, &str),
        verb: &str,
        what: &str,
        namespace: &str,
    ) -> Result<bool> {
        let (kind, name) = what.split_once('/').unwrap_or((what, ""));
        let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
        let review = serde_json::from_value(json!({"metadata": {}, "spec": {
            "user": format!("system:serviceaccount:{home}:{account}"),
            "groups": ["system:serviceaccounts", format!("system:serviceaccounts:{home}"), "system:authenticated"],
            "resourceAttributes": {
                "namespace": namespace, "verb": verb, "group": group, "resource": resource, "name": name,
            },
        }}))?;
        let reviews: Api<SubjectAccessReview> = Api::all(self.client());
        let reviewed = block_on(reviews.create(&PostParams::default(), &review))?;
        let status = reviewed.status.context("a review without an answer")?;
        Ok(status.allowed)
    }

    /// The requests that have reached the API server, as audit events, oldest first. Skips the test
    /// on a given cluster.
    pub fn audit_events(&self) -> Result<Vec<Value>> {
        self.own()?.control_plane.audit_events()
    }

    /// The audit events that contain this word. Skips the test on a given cluster.
    pub fn audit_events_with(&self, word: &str) -> Result<Vec<Value>> {
        self.own()?.control_plane.audit_events_with(word)
    }

    /// The cluster's control plane. Skips the test on a given cluster.
    pub fn control_plane(&self) -> Result<&ControlPlane> {
        Ok(&self.own()?.control_plane)
    }

    /// Puts the images in an archive on the node. Skips the test on a given cluster.
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.own()?.node.import(archive)
    }

    /// Adds a second name to an image on the node. Skips the test on a given cluster.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        self.own()?.node.tag(image, name)
    }

    /// The digest of an image on the node. Skips the test on a given cluster.
    pub fn digest(&self, image: &str) -> Result<String> {
        self.own()?.node.digest(image)
    }

    /// The sandbox in which the cluster's components run. Skips the test on a given cluster.
    pub fn sandbox(&self) -> Result<&Sandbox> {
        Ok(&self.own()?.sandbox)
    }

    /// The folder of the cluster's programs, on the node's own disk. Skips the test on a given
    /// cluster.
    pub fn programs(&self) -> Result<&Path> {
        Ok(self.own()?.sandbox.assets.bin())
    }

    /// The error of a test. If a component of the node has died, adds that to it.
    pub fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let Some(own) = &self.own else { return error };
        match own.control_plane.check().and_then(|()| own.node.check()) {
            Ok(()) => error,
            Err(died) => anyhow!("{error:#}\n{died:#}"),
        }
    }

    fn own(&self) -> Result<&Own> {
        self.own.as_ref().ok_or_else(|| {
            Skip("needs a node that the tests boot, and KUBECONFIG is set".to_owned()).into()
        })
    }
}
