//! The programs of which a cluster consists.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

const FOLDER: &str = "MIGRATION_GATE_CLUSTER_ASSETS";

/// How much garbage a server written in Go may accumulate before a collection, in percent of the
/// live memory. These machines have enough memory and few processors.
const LAZY_COLLECTION: (&str, &str) = ("GOGC", "400");

/// A client ends before a garbage collection would be worth its time.
pub const NO_COLLECTION: [(&str, &str); 2] = [("GOGC", "off"), ("GOMEMLIMIT", "512MiB")];

/// The folder of a control plane's and a node's programs.
#[derive(Clone)]
pub struct Assets {
    bin: PathBuf,
}

impl Assets {
    /// Builds missing programs, or finds those that the process outside has built.
    pub fn prepare() -> Result<Self> {
        if let Some(bin) = std::env::var_os(FOLDER) {
            return Ok(Self { bin: bin.into() });
        }
        let script = repository().join("tests/cluster/assets.sh");
        let mut script = Command::new(script);
        script.arg("flux");
        let bin = printed(script)?;
        Ok(Self { bin: bin.into() })
    }

    /// The environment variable that passes the folder to a child.
    pub fn announce(&self) -> (&'static str, &Path) {
        (FOLDER, &self.bin)
    }

    /// The folder of all programs.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The folder of Flux's custom resource definitions.
    pub fn flux_definitions(&self) -> PathBuf {
        self.bin.with_file_name("flux-crds")
    }

    /// The path of a program. `KUBEBUILDER_ASSETS` may name a folder with other builds of three of
    /// them, as for other tools' tests. Their version must then fit the kubelet's by Kubernetes'
    /// version skew policy.
    pub fn program(&self, name: &str) -> PathBuf {
        if let Some(offered) = std::env::var_os("KUBEBUILDER_ASSETS")
            && matches!(name, "etcd" | "kube-apiserver" | "kubectl")
        {
            let path = Path::new(&offered).join(name);
            if path.exists() {
                return path;
            }
        }
        self.bin.join(name)
    }

    /// A command that runs a program, with the other programs on its `PATH`.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        let (name, percent) = LAZY_COLLECTION;
        command.env(name, percent);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::iter::once(self.bin.clone())
            .chain(std::env::split_paths(&path))
            .chain(["/usr/sbin", "/sbin"].map(PathBuf::from));
        if let Ok(path) = std::env::join_paths(folders) {
            command.env("PATH", path);
        }
        command
    }
}

/// The variable with the folder of [`definitions`], for the process inside.
pub const DEFINITIONS: &str = "MIGRATION_GATE_CLUSTER_DEFINITIONS";

/// The folder of the custom resource definitions of other operators, whose kinds the chart renders.
pub fn definitions() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os(DEFINITIONS) {
        return Ok(folder.into());
    }
    let script = repository().join("tests/cluster/definitions.sh");
    printed(Command::new(script)).map(PathBuf::from)
}

/// The variable with the folder of the peers, for the process inside.
pub(crate) const PEERS: &str = "MIGRATION_GATE_CLUSTER_PEERS";

/// Builds these peers, or finds them in the cache. Returns the folder that has a folder for each.
pub(crate) fn peers(names: &[String]) -> Result<PathBuf> {
    let mut script = Command::new(repository().join("tests/cluster/peers.sh"));
    script.args(names);
    printed(script).map(PathBuf::from)
}

/// The folder of a peer. The modules of its tests have the same name.
pub fn peer(name: &str) -> Result<PathBuf> {
    std::env::var_os(PEERS)
        .map(|peers| PathBuf::from(peers).join(name))
        .context("the sandbox was entered without peers")
}

/// The prefixes of the variables that cargo sets for the package whose tests it runs.
const PACKAGE: [&str; 4] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_CRATE_",
    "CARGO_BIN_EXE_",
];

/// Runs a script that reports progress on standard error, and returns the one line that it prints.
pub fn printed(mut command: Command) -> Result<String> {
    // With these variables, another cargo would consider dependencies changed.
    for (name, _) in std::env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| PACKAGE.iter().any(|prefix| name.starts_with(prefix)))
        {
            command.env_remove(name);
        }
    }
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("running {}", command.get_program().display()))?;
    if !output.status.success() {
        bail!(
            "{} failed ({}); the lines above say why",
            command.get_program().display(),
            output.status
        );
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// The repository's folder.
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
