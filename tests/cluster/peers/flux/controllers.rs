//! source-controller and helm-controller, beside the kustomize-controller that all tests have.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::registry::ImageRegistry;
use testkit::assets::peer;
use testkit::cluster::Cluster;
use testkit::process::{self, Process};

const NAMESPACE: &str = "flux-system";

/// Both of them, while a test needs them.
pub(super) struct Controllers {
    _running: Vec<Process>,
}

impl Controllers {
    /// Starts them; they trust the registry.
    pub(super) fn start(cluster: &Cluster, registry: &ImageRegistry) -> Result<Self> {
        let sandbox = cluster.sandbox()?;
        let folder = peer("flux")?;
        let kubectl = cluster.kubectl().in_namespace(NAMESPACE);
        kubectl.run(&format!(
            "apply --server-side -f {}",
            folder.join("crds").display()
        ))?;
        kubectl.run("wait --for=condition=Established --timeout=170s crd/helmreleases.helm.toolkit.fluxcd.io")?;
        let state = sandbox.state("flux")?;
        let storage = state.join("storage");
        std::fs::create_dir_all(&storage)?;
        let storage = format!("--storage-path={}", storage.display());
        let source = [
            storage.as_str(),
            "--storage-addr=127.0.0.1:9090",
            "--storage-adv-addr=127.0.0.1:9090",
        ];
        let mut running = Vec::new();
        for (name, health, options) in [
            ("source-controller", "127.0.0.1:9441", &source[..]),
            ("helm-controller", "127.0.0.1:9442", &[]),
        ] {
            let mut command = Command::new(folder.join("bin").join(name));
            let (variable, authority) = registry.environment();
            command
                .env("KUBECONFIG", &kubectl.kubeconfig)
                .env("RUNTIME_NAMESPACE", NAMESPACE)
                .env("TMPDIR", &state)
                .env(variable, authority)
                .args(["--watch-all-namespaces", "--metrics-addr=127.0.0.1:0"])
                .arg(format!("--health-addr={health}"))
                .args(options);
            running.push(started(name, health, &sandbox.logs("flux")?, &mut command)?);
        }
        Ok(Self { _running: running })
    }
}

fn started(name: &str, health: &str, logs: &Path, command: &mut Command) -> Result<Process> {
    let process = Process::spawn(name, logs, command)?;
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
