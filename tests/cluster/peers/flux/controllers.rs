//! source-controller and helm-controller, beside the kustomize-controller that all tests have.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::registry::ImageRegistry;
use testkit::assets::peer;
use testkit::cluster::Cluster;
use testkit::process::{self, Process};

const NAMESPACE: &str = "flux-system";

/// Those of them that a test needs, for as long as it does.
pub(super) struct Controllers {
    _running: Vec<Process>,
}

impl Controllers {
    /// Starts both of them; they trust the registry.
    pub(super) fn start(cluster: &Cluster, registry: &ImageRegistry) -> Result<Self> {
        let state = cluster.sandbox()?.state("flux")?;
        let storage = state.join("storage");
        std::fs::create_dir_all(&storage)?;
        let storage = format!("--storage-path={}", storage.display());
        let source = [
            storage.as_str(),
            "--storage-addr=127.0.0.1:9090",
            "--storage-adv-addr=127.0.0.1:9090",
        ];
        definitions(cluster)?;
        let trust = |mut command: Command| {
            let (variable, authority) = registry.environment();
            command.env(variable, authority);
            command
        };
        let mut command = trust(command_of(cluster, SOURCE)?);
        command.args(source);
        let source = started(cluster, SOURCE, command)?;
        let helm = started(cluster, HELM, trust(command_of(cluster, HELM)?))?;
        Ok(Self {
            _running: vec![source, helm],
        })
    }

    /// Starts helm-controller alone, which takes its charts from where kustomize-controller takes
    /// its manifests.
    pub(super) fn start_helm(cluster: &Cluster) -> Result<Self> {
        definitions(cluster)?;
        let mut command = command_of(cluster, HELM)?;
        command.arg("--feature-gates=ExternalArtifact=true");
        Ok(Self {
            _running: vec![started(cluster, HELM, command)?],
        })
    }
}

/// A controller, and where it says that it is ready.
type Controller = (&'static str, &'static str);

const SOURCE: Controller = ("source-controller", "127.0.0.1:9441");
const HELM: Controller = ("helm-controller", "127.0.0.1:9442");

fn definitions(cluster: &Cluster) -> Result<()> {
    let crds = peer("flux")?.join("crds");
    let kubectl = cluster.kubectl();
    kubectl.run(&format!("apply --server-side -f {}", crds.display()))?;
    kubectl.run(
        "wait --for=condition=Established --timeout=170s crd/helmreleases.helm.toolkit.fluxcd.io",
    )?;
    Ok(())
}

fn command_of(cluster: &Cluster, (name, health): Controller) -> Result<Command> {
    let mut command = Command::new(peer("flux")?.join("bin").join(name));
    command
        .env("KUBECONFIG", &cluster.kubectl().kubeconfig)
        .env("RUNTIME_NAMESPACE", NAMESPACE)
        .env("TMPDIR", cluster.sandbox()?.state("flux")?)
        .args(["--watch-all-namespaces", "--metrics-addr=127.0.0.1:0"])
        .arg(format!("--health-addr={health}"));
    Ok(command)
}

fn started(cluster: &Cluster, (name, health): Controller, mut command: Command) -> Result<Process> {
    let process = Process::spawn(name, &cluster.sandbox()?.logs("flux")?, &mut command)?;
    process.await_ready(
        &format!("{name} to be ready"),
        Duration::from_mins(3),
        || {
            let mut get = Command::new("busybox");
            get.args(["wget", "-q", "-O", "-", &format!("http://{health}/readyz")]);
            process::run(&mut get, "", Duration::from_secs(10))?.success()
        },
    )?;
    Ok(process)
}
