//! etcd, an API server, and the controllers that a node needs.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};

use crate::client::{block_on, client};
use crate::pki::{ClusterAuthority, Pair};
use crate::process::Process;
use crate::sandbox::{NODE_ADDRESS, SERVICE_ADDRESS, Sandbox};

/// How long a component may take to start on a busy machine of two cores.
const START: Duration = Duration::from_secs(90);
const STOP: Duration = Duration::from_secs(30);
/// An autoscaler may scale to zero. From Kubernetes 1.37 on, it may anyway.
const FEATURES: &str = "--feature-gates=HPAScaleToZero=true";

/// The common name of the certificate that API servers present to webhooks.
pub const WEBHOOK_CLIENT: &str = "kube-apiserver-webhook-client";

/// The settings that distinguish control planes in the same sandbox.
pub struct PlaneSettings {
    /// The name of its folders.
    pub name: &'static str,
    /// The API server's address.
    pub address: IpAddr,
    /// The API server's port.
    pub port: u16,
    /// etcd's port for clients. The next one is for its peers.
    pub etcd_port: u16,
    /// Whether controllers run, for Deployments, Jobs and other kinds.
    pub controllers: bool,
    /// The API server's program.
    pub program: &'static str,
}

/// The API server of the node's release.
const NEWEST: &str = "kube-apiserver";
/// The API server of the oldest release that the chart admits.
const OLDEST: &str = "kube-apiserver-oldest";

impl PlaneSettings {
    /// The node's control plane. Pods look for it on port 443.
    pub fn of_the_node() -> Result<Self> {
        Ok(Self {
            name: "node",
            address: SERVICE_ADDRESS.parse()?,
            port: 443,
            etcd_port: 2379,
            controllers: true,
            program: NEWEST,
        })
    }

    /// A bare API server for one test, which may stop and start it. `index` makes its ports
    /// different from those of other such tests.
    pub fn bare(name: &'static str, index: u16) -> Result<Self> {
        Ok(Self {
            name,
            address: NODE_ADDRESS.parse()?,
            port: 7000 + index,
            etcd_port: 7500 + 2 * index,
            controllers: false,
            program: NEWEST,
        })
    }

    /// The same with the oldest release that the chart admits.
    #[must_use]
    pub fn oldest(self) -> Self {
        Self {
            program: OLDEST,
            ..self
        }
    }
}

/// A running control plane; dropping it stops it.
pub struct ControlPlane {
    settings: PlaneSettings,
    sandbox: Sandbox,
    state: PathBuf,
    logs: PathBuf,
    authority: ClusterAuthority,
    admin: PathBuf,
    kubelet_client: Pair,
    webhook_client: Pair,
    server: Pair,
    service_accounts: Pair,
    // Fields are dropped in their order: a process ends before those that it depends on.
    controllers: Vec<Process>,
    api_server: Mutex<Option<Process>>,
    etcd: Process,
}

impl ControlPlane {
    /// Starts a control plane and waits until it is ready.
    pub fn start(sandbox: &Sandbox, settings: PlaneSettings) -> Result<Self> {
        let state = sandbox.state(settings.name)?;
        let logs = sandbox.logs(settings.name)?;
        let authority = ClusterAuthority::create(&state.join("pki"))?;
        let server = authority.server(
            "kube-apiserver",
            &[
                "localhost",
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
            ],
            &[
                SERVICE_ADDRESS.parse()?,
                NODE_ADDRESS.parse()?,
                settings.address,
            ],
        )?;
        let kubelet_client = authority.client(
            "kubelet-client",
            "kube-apiserver-kubelet-client",
            Some("system:masters"),
        )?;
        let webhook_client = authority.client("webhook-client", WEBHOOK_CLIENT, None)?;
        let etcd = etcd(sandbox, &settings, &state, &logs)?;
        let mut this = Self {
            service_accounts: authority.signing_key("service-accounts")?,
            admin: state.join("admin.kubeconfig"),
            settings,
            sandbox: sandbox.clone(),
            state,
            logs,
            authority,
            kubelet_client,
            webhook_client,
            server,
            controllers: Vec::new(),
            api_server: Mutex::default(),
            etcd,
        };
        this.admin = this.user("admin", "kubernetes-admin", Some("system:masters"))?;
        this.start_api_server()?;
        if this.settings.controllers {
            this.controllers = vec![this.controller_manager()?, this.scheduler()?];
        }
        Ok(this)
    }

    /// The name of its folders.
    pub fn name(&self) -> &'static str {
        self.settings.name
    }

    /// Whether its API server is of the oldest release that the chart admits.
    pub fn is_oldest(&self) -> bool {
        self.settings.program == OLDEST
    }

    /// The kubeconfig of a user that may do everything.
    pub fn admin(&self) -> &Path {
        &self.admin
    }

    /// The authority that signs for its components.
    pub fn authority(&self) -> &ClusterAuthority {
        &self.authority
    }

    /// The kubeconfig of a user with a certificate.
    pub fn user(&self, file: &str, name: &str, group: Option<&str>) -> Result<PathBuf> {
        let pair = self.authority.client(file, name, group)?;
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": file}}],
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://{}:{}", self.settings.address, self.settings.port),
                "certificate-authority": self.authority.pair().certificate,
            }}],
            "users": [{"name": file, "user": {"client-certificate": pair.certificate, "client-key": pair.key}}],
        });
        let path = self.state.join(format!("{file}.kubeconfig"));
        fs::write(&path, kubeconfig.to_string())?;
        Ok(path)
    }

    /// The API server's process identifier.
    pub fn pid(&self) -> Result<u32> {
        let server = self.api_server();
        let process = server.as_ref().context("the API server is stopped")?;
        Ok(process.pid())
    }

    /// Fails if a component has ended.
    pub fn check(&self) -> Result<()> {
        self.etcd.check()?;
        self.api_server()
            .iter()
            .chain(&self.controllers)
            .try_for_each(Process::check)
    }

    /// Starts the API server and waits until it is ready.
    pub fn start_api_server(&self) -> Result<()> {
        let process = self.spawn_api_server()?;
        // A new client for each attempt: an old one may keep a connection to the dead server.
        let client = client(&self.admin)?;
        process.await_ready("the API server's /readyz to say ok", START, || {
            self.etcd.check()?;
            let request = hyper::Request::get("/readyz").body(Vec::new())?;
            Ok(block_on(client.request_text(request))?)
        })?;
        *self.api_server() = Some(process);
        Ok(())
    }

    /// Stops the API server as an upgrade would: by SIGTERM.
    pub fn stop_api_server(&self) -> Result<()> {
        self.api_server()
            .take()
            .context("the API server is stopped already")?
            .stop(STOP)
    }

    /// Kills the API server, as a crash would. After SIGTERM, it would serve its open watches for
    /// up to a minute.
    pub fn kill_api_server(&self) -> Result<()> {
        self.api_server()
            .take()
            .map(drop)
            .context("the API server is stopped already")
    }

    fn api_server(&self) -> MutexGuard<'_, Option<Process>> {
        let process = self.api_server.lock();
        process.unwrap_or_else(PoisonError::into_inner)
    }

    /// The requests that the API server has answered or begun to answer, as audit events, oldest
    /// first.
    pub fn audit_events(&self) -> Result<Vec<Value>> {
        self.audit_events_with("")
    }

    /// The audit events that contain this word. Only their lines are parsed.
    pub fn audit_events_with(&self, word: &str) -> Result<Vec<Value>> {
        let path = self.audit_log();
        let text =
            fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
        // The last line may be incomplete.
        let whole = text.rsplit_once('\n').map_or("", |(lines, _)| lines);
        whole
            .lines()
            .filter(|line| line.contains(word))
            .map(|line| serde_json::from_str(line).map_err(|error| anyhow!("{error} in {line}")))
            .collect()
    }

    /// The size of the audit log, in bytes.
    pub fn audit_size(&self) -> Result<u64> {
        let path = self.audit_log();
        let log = fs::metadata(&path).with_context(|| format!("reading {}", path.display()))?;
        Ok(log.len())
    }

    /// The audit events with this word from the offset `from` on, and the offset to continue from.
    pub fn audit_events_from(&self, from: u64, word: &str) -> Result<(Vec<Value>, u64)> {
        let mut log = File::open(self.audit_log())?;
        log.seek(SeekFrom::Start(from))?;
        let mut text = String::new();
        log.read_to_string(&mut text)?;
        // The last line may be incomplete, and so may the last line of a server that was killed.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        let lines = whole.lines().filter(|line| line.contains(word));
        let events = lines.filter_map(|line| serde_json::from_str(line).ok());
        Ok((events.collect(), from + u64::try_from(whole.len())?))
    }

    fn audit_log(&self) -> PathBuf {
        self.logs.join("audit.log")
    }

    fn spawn_api_server(&self) -> Result<Process> {
        let policy = self.state.join("audit-policy.yaml");
        let rules = json!({
            "apiVersion": "audit.k8s.io/v1", "kind": "Policy",
            "omitStages": ["RequestReceived"], "rules": [{"level": "Metadata"}],
        });
        fs::write(&policy, rules.to_string())?;
        let admission = self.write_admission_configuration()?;
        let authority = self.authority.pair();
        let mut command = self.sandbox.assets.command(self.settings.program);
        command
            .args([
                "--bind-address=0.0.0.0",
                "--authorization-mode=Node,RBAC",
                "--enable-bootstrap-token-auth=false",
            ])
            .arg(format!("--secure-port={}", self.settings.port))
            // The `kubernetes` Service may have no loopback endpoint.
            .arg(format!("--advertise-address={NODE_ADDRESS}"))
            .arg(format!(
                "--etcd-servers=http://127.0.0.1:{}",
                self.settings.etcd_port
            ))
            .args([
                "--service-cluster-ip-range=10.96.0.0/16",
                "--enable-admission-plugins=NodeRestriction",
            ])
            .arg(FEATURES)
            // The API server dials a webhook's Service at its endpoints, because there is no
            // kube-proxy.
            .arg("--enable-aggregator-routing=true")
            // Nothing here resolves the node's name.
            .arg("--kubelet-preferred-address-types=InternalIP")
            .args([
                "--allow-privileged=true",
                "--service-account-issuer=https://kubernetes.default.svc",
            ])
            .arg("--audit-log-maxsize=1000");
        for (flag, path) in [
            ("client-ca-file", &authority.certificate),
            ("tls-cert-file", &self.server.certificate),
            ("tls-private-key-file", &self.server.key),
            (
                "kubelet-client-certificate",
                &self.kubelet_client.certificate,
            ),
            ("kubelet-client-key", &self.kubelet_client.key),
            ("kubelet-certificate-authority", &authority.certificate),
            (
                "service-account-key-file",
                &self.service_accounts.certificate,
            ),
            (
                "service-account-signing-key-file",
                &self.service_accounts.key,
            ),
            ("audit-policy-file", &policy),
            ("admission-control-config-file", &admission),
            ("audit-log-path", &self.audit_log()),
            ("cert-dir", &self.state),
        ] {
            flag_path(&mut command, flag, path);
        }
        Process::spawn("kube-apiserver", &self.logs, &mut command)
    }

    /// Lets the API server present a client certificate to webhooks, as `docs/operating.md`
    /// describes.
    fn write_admission_configuration(&self) -> Result<PathBuf> {
        let kubeconfig = self.state.join("webhooks.kubeconfig");
        let user = json!({
            "client-certificate": self.webhook_client.certificate,
            "client-key": self.webhook_client.key,
        });
        let users = json!([{"name": "*", "user": user}]);
        let text = json!({"apiVersion": "v1", "kind": "Config", "users": users});
        fs::write(&kubeconfig, text.to_string())?;
        let plugins: Vec<Value> = ["MutatingAdmissionWebhook", "ValidatingAdmissionWebhook"]
            .iter()
            .map(|name| {
                json!({"name": name, "configuration": {
                    "apiVersion": "apiserver.config.k8s.io/v1",
                    "kind": "WebhookAdmissionConfiguration",
                    "kubeConfigFile": kubeconfig,
                }})
            })
            .collect();
        let path = self.state.join("admission.yaml");
        let text = json!({
            "apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration",
            "plugins": plugins,
        });
        fs::write(&path, text.to_string())?;
        Ok(path)
    }

    fn controller_manager(&self) -> Result<Process> {
        let kubeconfig = self.user("controller-manager", "system:kube-controller-manager", None)?;
        let authority = self.authority.pair();
        let mut command = self.sandbox.assets.command("kube-controller-manager");
        command
            .args([
                "--leader-elect=false",
                "--bind-address=127.0.0.1",
                "--use-service-account-credentials=true",
            ])
            // Tests run side by side, and must not wait for each other because of the client's rate
            // limit.
            .args(["--kube-api-qps=200", "--kube-api-burst=400"])
            .args([FEATURES, "--horizontal-pod-autoscaler-sync-period=1s"]);
        for (flag, path) in [
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            (
                "service-account-private-key-file",
                &self.service_accounts.key,
            ),
            ("root-ca-file", &authority.certificate),
            ("cluster-signing-cert-file", &authority.certificate),
            ("cluster-signing-key-file", &authority.key),
            ("cert-dir", &self.state),
        ] {
            flag_path(&mut command, flag, path);
        }
        Process::spawn("kube-controller-manager", &self.logs, &mut command)
    }

    fn scheduler(&self) -> Result<Process> {
        let kubeconfig = self.user("scheduler", "system:kube-scheduler", None)?;
        let mut command = self.sandbox.assets.command("kube-scheduler");
        command.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        for (flag, path) in [
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("cert-dir", &self.state),
        ] {
            flag_path(&mut command, flag, path);
        }
        Process::spawn("kube-scheduler", &self.logs, &mut command)
    }
}

fn etcd(sandbox: &Sandbox, settings: &PlaneSettings, state: &Path, logs: &Path) -> Result<Process> {
    let clients = format!("http://127.0.0.1:{}", settings.etcd_port);
    let peers = format!("http://127.0.0.1:{}", settings.etcd_port + 1);
    let mut command = sandbox.assets.command("etcd");
    command
        // Its data is in memory and ends with the sandbox.
        .args(["--unsafe-no-fsync", "--log-level=warn", "--name=test"])
        .arg(format!("--listen-client-urls={clients}"))
        .arg(format!("--advertise-client-urls={clients}"))
        .arg(format!("--listen-peer-urls={peers}"))
        .arg(format!("--initial-advertise-peer-urls={peers}"))
        .arg(format!("--initial-cluster=test={peers}"));
    flag_path(&mut command, "data-dir", &state.join("etcd"));
    Process::spawn("etcd", logs, &mut command)
}

fn flag_path(command: &mut Command, flag: &str, path: &Path) {
    command.arg(format!("--{flag}={}", path.display()));
}
