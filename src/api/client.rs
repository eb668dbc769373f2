//! A client for the API server, for long-lived connections that may break at any time.

mod kubeconfig;

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};
use tower::ServiceBuilder;

use super::error::{Cause, ConnectError};

/// How long establishing a connection may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Idle time before the first keep-alive probe. Three unanswered probes end the connection.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// In a pod, the files of its service account are missing.
    #[error("cannot read the pod's service account")]
    InCluster(#[source] Cause),
    /// No kubeconfig is usable.
    #[error("cannot use the kubeconfig")]
    Kubeconfig(#[source] Cause),
    /// The configuration names certificates or credentials that don't work.
    #[error("cannot set up a connection to the API server")]
    Client(#[source] Cause),
}

impl From<InClusterError> for ClusterError {
    fn from(cause: InClusterError) -> Self {
        Self::InCluster(
            Cause::of(&cause).then("mount its token, or set KUBECONFIG outside of a pod"),
        )
    }
}

impl From<KubeconfigError> for ClusterError {
    fn from(cause: KubeconfigError) -> Self {
        Self::Kubeconfig(kubeconfig::cause(&cause))
    }
}

/// The user's choice of a cluster. Empty if the environment decides.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    /// The kubeconfig file, instead of those that the environment names.
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context, instead of the current one.
    pub context: Option<String>,
}

/// A cluster, and a client for it.
#[derive(Clone)]
pub struct ClusterAccess {
    /// The client.
    pub client: Client,
    /// The kubeconfig's context; `None` for a pod's own cluster.
    pub context: Option<String>,
    /// The API server's address.
    pub server: String,
}

impl fmt::Display for ClusterAccess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.context {
            Some(context) => write!(f, "context {context}, server {}", self.server),
            None => write!(f, "this pod's cluster, server {}", self.server),
        }
    }
}

/// Sets up a client for a cluster, which is chosen as kubectl chooses it: by the selected
/// kubeconfig, else by those in `KUBECONFIG`, else by the pod's service account, else by
/// `~/.kube/config`.
pub async fn connect(selection: &Selection) -> Result<ClusterAccess, ClusterError> {
    let variable = std::env::var_os("KUBECONFIG").filter(|paths| !paths.is_empty());
    let in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    if in_pod && variable.is_none() && *selection == Selection::default() {
        let config = Config::incluster()?;
        return Ok(ClusterAccess {
            context: None,
            server: address(&config),
            client: client(config)?,
        });
    }
    let kubeconfig = kubeconfig::read(selection.kubeconfig.as_deref(), variable)?;
    let context = selection.context.clone();
    let context = context.or_else(|| kubeconfig.current_context.clone());
    let options = KubeConfigOptions {
        context: context.clone(),
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
    Ok(ClusterAccess {
        context,
        server: address(&config),
        client: client(config)?,
    })
}

fn address(config: &Config) -> String {
    config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned()
}

/// A minimal client: no retries (the callers decide when to retry), and keep-alive probes, so that
/// a watch over a dead connection ends within half a minute.
pub fn client(config: Config) -> Result<Client, ClusterError> {
    let plugin = config.auth_info.exec.clone();
    build(config)
        .map_err(|error| ClusterError::Client(kubeconfig::credentials(&error, plugin.as_ref())))
}

fn build(config: Config) -> kube::Result<Client> {
    if config.proxy_url.is_some() {
        // kube's own client supports proxies, and its error names those that it does not.
        return Client::try_from(config);
    }
    let server = address(&config);
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE / 2));
    http.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    http.set_tcp_user_timeout(Some(KEEPALIVE * 2));
    let https = config.rustls_https_connector_with_connector(http)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(move |error| ConnectError::named(&server, error))
        .service(legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}
