//! A node: containerd and kubelet, joined to a control plane.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;

use crate::control_plane::ControlPlane;
use crate::image::BUSYBOX;
use crate::process::{self, Process};
use crate::sandbox::{DNS_ADDRESS, NODE_ADDRESS, Sandbox};

const NAME: &str = "node-1";
const START: Duration = Duration::from_secs(90);

/// Only the container runtime, so that images can be imported while the control plane starts.
pub struct Runtime {
    sandbox: Sandbox,
    socket: PathBuf,
    containerd: Process,
}

impl Runtime {
    /// Starts containerd and waits until it answers.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let state = sandbox.state("containerd")?;
        let socket = socket(sandbox)?;
        let config = state.join("config.toml");
        fs::write(&config, containerd_config(sandbox, &state, &socket)?)?;
        let mut command = sandbox.assets.command("containerd");
        command.arg("--config").arg(&config);
        let containerd = Process::spawn("containerd", &sandbox.logs("node")?, &mut command)?;
        containerd.await_ready("containerd to accept connections", START, || {
            Ok(UnixStream::connect(&socket)?)
        })?;
        Ok(Self {
            sandbox: sandbox.clone(),
            socket,
            containerd,
        })
    }

    /// Makes the images in an archive available to pods.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let mut ctr = self.ctr();
        ctr.args(["images", "import"]).arg(archive);
        process::run(&mut ctr, "", Duration::from_mins(2))?
            .success()
            .map(drop)
    }

    /// containerd's own client, in the kubelet's containerd namespace.
    fn ctr(&self) -> Command {
        let mut ctr = self.sandbox.assets.command("ctr");
        ctr.arg("--address")
            .arg(&self.socket)
            .arg("--namespace=k8s.io");
        ctr
    }
}

/// The socket of the container runtime.
pub fn socket(sandbox: &Sandbox) -> Result<PathBuf> {
    Ok(sandbox.state("containerd")?.join("containerd.sock"))
}

/// The folder that tells the container runtime how to reach registries, with a folder for each by
/// its host and port. The runtime reads it again for each pull.
pub fn registries(sandbox: &Sandbox) -> Result<PathBuf> {
    sandbox.state("registries")
}

/// A running node; dropping it stops kubelet and containerd.
pub struct TestNode {
    kubelet: Process,
    runtime: Runtime,
}

impl TestNode {
    /// Joins a node to a control plane. Does not wait until the node is ready.
    pub fn join(control_plane: &ControlPlane, runtime: Runtime) -> Result<Self> {
        let sandbox = &runtime.sandbox;
        let state = sandbox.state("kubelet")?;
        let config = state.join("config.yaml");
        fs::write(&config, kubelet_config(control_plane, &runtime, &state)?)?;
        let kubeconfig = control_plane.user(
            "kubelet",
            &format!("system:node:{NAME}"),
            Some("system:nodes"),
        )?;
        let mut command = sandbox.assets.command("kubelet");
        command
            .arg(format!("--hostname-override={NAME}"))
            .arg(format!("--node-ip={NODE_ADDRESS}"))
            .arg(format!("--config={}", config.display()))
            .arg(format!("--kubeconfig={}", kubeconfig.display()))
            .arg(format!("--root-dir={}", state.join("root").display()));
        let kubelet = Process::spawn("kubelet", &sandbox.logs("node")?, &mut command)?;
        Ok(Self { kubelet, runtime })
    }

    /// Adds a second name to an image on the node.
    pub fn tag(&self, image: &str, name: &str) -> Result<()> {
        let mut ctr = self.runtime.ctr();
        ctr.args(["images", "tag", "--force", image, name]);
        process::run(&mut ctr, "", Duration::from_secs(90))?
            .success()
            .map(drop)
    }

    /// The digest of an image on the node.
    pub fn digest(&self, image: &str) -> Result<String> {
        let mut ctr = self.runtime.ctr();
        ctr.args(["images", "list", &format!("name=={image}")]);
        let list = process::run(&mut ctr, "", Duration::from_secs(90))?.success()?;
        let mut words = list.split_whitespace();
        let digest = words.find(|word| word.starts_with("sha256:"));
        Ok(digest.with_context(|| format!("no {image}"))?.to_owned())
    }

    /// As [`Runtime::import`].
    pub fn import(&self, archive: &Path) -> Result<()> {
        self.runtime.import(archive)
    }

    /// Fails if a component has ended.
    pub fn check(&self) -> Result<()> {
        self.runtime.containerd.check()?;
        self.kubelet.check()
    }
}

fn containerd_config(sandbox: &Sandbox, state: &Path, socket: &Path) -> Result<String> {
    let networks = state.join("cni");
    fs::create_dir_all(&networks)?;
    let network = json!({
        "cniVersion": "1.0.0", "name": "pods", "plugins": [{
            "type": "bridge", "bridge": "pods0", "isGateway": true, "hairpinMode": true,
            "ipam": {
                "type": "host-local", "dataDir": state.join("cni-addresses"),
                "ranges": [[{"subnet": "10.244.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}],
            },
        }],
    });
    fs::write(networks.join("10-pods.conflist"), network.to_string())?;
    // A JSON string is a TOML string, too.
    let quoted = |path: &Path| json!(path).to_string();
    Ok(format!(
        r#"version = 3
root = {root}
state = {state}

[grpc]
address = {socket}

[plugins.'io.containerd.cri.v1.images'.pinned_images]
sandbox = "{BUSYBOX}"

[plugins.'io.containerd.cri.v1.images'.registry]
config_path = {registries}

[plugins.'io.containerd.cri.v1.runtime']
# Lowering a pod's score needs a capability that root in a sandbox may lack; without this, no pod starts there.
restrict_oom_score_adj = true

[plugins.'io.containerd.cri.v1.runtime'.cni]
bin_dirs = [{bin}]
conf_dir = {networks}
"#,
        root = quoted(&state.join("root")),
        state = quoted(&state.join("state")),
        bin = quoted(sandbox.assets.bin()),
        socket = quoted(socket),
        networks = quoted(&networks),
        registries = quoted(&registries(sandbox)?),
    ))
}

fn kubelet_config(control_plane: &ControlPlane, runtime: &Runtime, state: &Path) -> Result<String> {
    let authority = control_plane.authority();
    let server = authority.server("kubelet-server", &[NAME], &[NODE_ADDRESS.parse()?])?;
    let config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": format!("unix://{}", runtime.socket.display()),
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": authority.pair().certificate},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": server.certificate, "tlsPrivateKeyFile": server.key,
        // Accept every version of cgroups and every amount of disk space.
        "failCgroupV1": false, "cgroupDriver": "cgroupfs", "cgroupRoot": runtime.sandbox.cgroup(),
        "cgroupsPerQOS": true, "enforceNodeAllocatable": [],
        "localStorageCapacityIsolation": false, "failSwapOn": false,
        "evictionHard": {"memory.available": "1Mi", "nodefs.available": "1Mi", "imagefs.available": "1Mi"},
        "volumePluginDir": state.join("volume-plugins"),
        // The machine's own resolvers cannot be reached from the sandbox.
        "clusterDNS": [DNS_ADDRESS], "clusterDomain": "cluster.local", "resolvConf": "",
        // Otherwise it would pull an image that it has pulled under one name again under another
        // name, even if that was imported.
        "imagePullCredentialsVerificationPolicy": "NeverVerify",
        // Mounted Secrets and ConfigMaps are updated within seconds instead of a minute.
        "syncFrequency": "5s",
        "eventRecordQPS": 0,
    });
    Ok(config.to_string())
}
