//! A container registry for one test: crane's, behind TLS, because Helm requires that.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

use testkit::assets::{Assets, repository};
use testkit::client::{block_on, spawn};
use testkit::cluster::Cluster;
use testkit::node;
use testkit::pki::{ClusterAuthority, Pair};
use testkit::process::{self, Process};
use testkit::sandbox::NODE_ADDRESS;

/// A running registry. It is empty at first. Dropping it stops it.
pub struct ImageRegistry {
    host: String,
    authority: PathBuf,
    assets: Assets,
    front: AbortHandle,
    _server: Process,
}

impl ImageRegistry {
    /// Starts a registry on the node's address, and lets the node pull from it. Skips the test on a
    /// given cluster.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let sandbox = cluster.sandbox()?;
        let state = sandbox.state("registry")?;
        let authority = ClusterAuthority::create(&state.join("pki"))?;
        let pair = authority.server("registry", &[], &[NODE_ADDRESS.parse()?])?;
        let authority = authority.pair().certificate;

        // No other program in this network namespace uses these ports, so the port is still free a
        // moment later.
        let behind = block_on(TcpListener::bind(("127.0.0.1", 0)))?.local_addr()?;
        let mut serve = sandbox.assets.command("crane");
        serve.args(["registry", "serve", "--address", &behind.to_string()]);
        let server = Process::spawn("registry", &sandbox.logs("registry")?, &mut serve)?;
        server.await_ready("the registry to listen", Duration::from_mins(1), || {
            Ok(block_on(TcpStream::connect(behind))?)
        })?;

        let listener = block_on(TcpListener::bind((NODE_ADDRESS, 0)))?;
        let host = listener.local_addr()?.to_string();
        let front = spawn(accept(listener, acceptor(&pair)?, behind)).abort_handle();

        let folder = node::registries(sandbox)?.join(&host);
        fs::create_dir_all(&folder)?;
        let url = json!(format!("https://{host}"));
        // A JSON string is a TOML string, too.
        let hosts = format!("server = {url}\n[host.{url}]\nca = {}\n", json!(authority));
        fs::write(folder.join("hosts.toml"), hosts)?;
        Ok(Self {
            host,
            authority,
            assets: sandbox.assets.clone(),
            front,
            _server: server,
        })
    }

    /// Its host and port, with which image references begin.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The environment variable by which a program written in Go trusts this registry, and no other
    /// server.
    pub fn environment(&self) -> (&'static str, &Path) {
        ("SSL_CERT_FILE", &self.authority)
    }

    /// Publishes image and chart as the release workflow does, but without signatures: as
    /// `HOST/owner/migration-gate:0.1.0` and `HOST/owner/charts/migration-gate:0.1.0`.
    pub fn publish(&self, archive: &Path) -> Result<()> {
        let host = &self.host;
        let image = format!("{host}/owner/migration-gate:0.1.0");
        let mut push = self.assets.command("crane");
        let pushed = self.run(push.arg("push").arg(archive).arg(image))?;
        let (_, digest) = pushed.trim().rsplit_once('@').context("a digest")?;
        let folder = tempfile::tempdir()?;
        let mut chart = Command::new(repository().join("build/chart.sh"));
        chart
            .arg(folder.path())
            .args([host, "owner/migration-gate", digest])
            .arg("https://github.com/owner/migration-gate")
            .env("HELM", self.assets.program("helm"));
        let chart = self.run(&mut chart)?;
        let mut push = self.assets.command("helm");
        push.args(["push", chart.trim()])
            .arg(format!("oci://{host}/owner/charts"));
        self.run(&mut push).map(drop)
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        let (variable, authority) = self.environment();
        command.env(variable, authority);
        process::run(command, "", Duration::from_mins(3))?.success()
    }
}

impl Drop for ImageRegistry {
    fn drop(&mut self) {
        self.front.abort();
    }
}

/// A TLS acceptor with this certificate.
pub(crate) fn acceptor(pair: &Pair) -> Result<TlsAcceptor> {
    let certificates = CertificateDer::pem_file_iter(&pair.certificate)
        .and_then(Iterator::collect)
        .context("reading a certificate")?;
    let key = PrivateKeyDer::from_pem_file(&pair.key).context("reading its key")?;
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(certificates, key)?;
    Ok(Arc::new(config).into())
}

/// Terminates TLS, and passes the connections on.
async fn accept(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr) {
    while let Ok((near, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            if let Ok(mut near) = acceptor.accept(near).await
                && let Ok(mut far) = TcpStream::connect(behind).await
            {
                // An error also closes both connections.
                let _ = copy_bidirectional(&mut near, &mut far).await;
            }
        });
    }
}
