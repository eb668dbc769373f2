//! A client for the API server, made for connections that stay open for long and may break at
//! any time.

use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// A peer that vanished without a word is noticed after this plus three probes.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// In a pod, but without the files of a service account.
    #[error(
        "cannot read the pod's service account: {0}; mount its token, or set KUBECONFIG outside of a pod"
    )]
    InCluster(#[source] kube::config::InClusterError),
    /// Outside of a pod, and no kubeconfig that could be used.
    #[error("cannot use the kubeconfig: {0}; set KUBECONFIG to a file that kubectl accepts")]
    Kubeconfig(#[source] kube::config::KubeconfigError),
    /// The configuration names certificates or credentials that don't work.
    #[error("cannot set up a connection to the API server: {0}")]
    Client(#[source] kube::Error),
}

/// The cluster that this process is meant to talk to: as with kubectl, `KUBECONFIG` if it is
/// set, the pod's service account in a pod, and `~/.kube/config` otherwise.
pub async fn config() -> Result<Config, ClusterError> {
    let explicit = std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
    if !explicit && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Config::incluster().map_err(ClusterError::InCluster)
    } else {
        Config::from_kubeconfig(&kube::config::KubeConfigOptions::default())
            .await
            .map_err(ClusterError::Kubeconfig)
    }
}

/// A client with the least between the caller and the connection: no retries of its own (the
/// callers know better when to try again), and keep-alive probes, so that a watch over a
/// connection that is dead without knowing it ends within half a minute.
pub fn client(config: Config) -> Result<Client, ClusterError> {
    if config.proxy_url.is_some() {
        // Says what it can't do, or does it.
        return Client::try_from(config).map_err(ClusterError::Client);
    }
    let mut http = HttpConnector::new();
    http.enforce_http(false);
    http.set_nodelay(true);
    http.set_connect_timeout(Some(CONNECT));
    http.set_keepalive(Some(KEEPALIVE));
    http.set_keepalive_interval(Some(KEEPALIVE / 2));
    http.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    http.set_tcp_user_timeout(Some(KEEPALIVE * 2));
    let https = config
        .rustls_https_connector_with_connector(http)
        .map_err(ClusterError::Client)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(ClusterError::Client)?)
        .layer(config.extra_headers_layer().map_err(ClusterError::Client)?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}
