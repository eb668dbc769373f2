//! source-controller and helm-controller. All tests have kustomize-controller already.

use std::process::Command;

use anyhow::Result;

use crate::flux;
use crate::registry::ImageRegistry;
use testkit::assets::peer;
use testkit::cluster::Cluster;
use testkit::process::Process;

/// The controllers that a test needs. Dropping this stops them.
pub(super) struct Controllers {
    _running: Vec<Process>,
}

impl Controllers {
    /// Starts both controllers, which trust the registry.
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
        let mut command = trust(command_of(SOURCE)?);
        command.args(source);
        let source = started(cluster, SOURCE, command)?;
        let helm = started(cluster, HELM, trust(command_of(HELM)?))?;
        Ok(Self {
            _running: vec![source, helm],
        })
    }

    /// Starts only helm-controller. It gets its charts from the same artifacts as
    /// kustomize-controller its manifests.
    pub(super) fn start_helm(cluster: &Cluster) -> Result<Self> {
        definitions(cluster)?;
        let mut command = command_of(HELM)?;
        command.arg("--feature-gates=ExternalArtifact=true");
        Ok(Self {
            _running: vec![started(cluster, HELM, command)?],
        })
    }
}

/// A controller, and the address where it reports that it is ready.
type Controller = (&'static str, &'static str);

const SOURCE: Controller = ("source-controller", "127.0.0.1:9441");
const HELM: Controller = ("helm-controller", "127.0.0.1:9442");

fn definitions(cluster: &Cluster) -> Result<()> {
    cluster.kubectl().define(&peer("flux")?.join("crds"))
}

fn command_of((name, _): Controller) -> Result<Command> {
    Ok(Command::new(peer("flux")?.join("bin").join(name)))
}

fn started(cluster: &Cluster, (name, health): Controller, command: Command) -> Result<Process> {
    flux::start(cluster, name, health, command)
}
