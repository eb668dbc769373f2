//! A client for the API server, made for connections that stay open for long and may break at
//! any time.

use std::time::Duration;

use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::client::ConfigExt;
use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};
use tower::{BoxError, ServiceBuilder};

use super::error::Cause;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// A peer that vanished without a word is noticed after this plus three probes.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// In a pod, but without the files of a service account.
    #[error("cannot read the pod's service account")]
    InCluster(#[source] Cause),
    /// Outside of a pod, and no kubeconfig that could be used.
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
        let cause = match &cause {
            // Without the excerpt of the file, which takes several lines.
            KubeconfigError::Parse(error) => {
                Cause::of(error.without_snippet()).after("failed to parse kubeconfig YAML")
            }
            cause => Cause::of(cause),
        };
        Self::Kubeconfig(cause.then("set KUBECONFIG to a file that kubectl accepts"))
    }
}

impl From<kube::Error> for ClusterError {
    fn from(cause: kube::Error) -> Self {
        Self::Client(Cause::of(&cause))
    }
}

/// A client for the cluster of [`config`].
pub async fn connect() -> Result<Client, ClusterError> {
    client(config().await?)
}

/// The cluster that this process is meant to talk to: as with kubectl, `KUBECONFIG` if it is
/// set, the pod's service account in a pod, and `~/.kube/config` otherwise.
pub async fn config() -> Result<Config, ClusterError> {
    let explicit = std::env::var_os("KUBECONFIG").is_some_and(|path| !path.is_empty());
    if !explicit && std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        Ok(Config::incluster()?)
    } else {
        Ok(Config::from_kubeconfig(&KubeConfigOptions::default()).await?)
    }
}

/// A client with the least between the caller and the connection: no retries of its own (the
/// callers know better when to try again), and keep-alive probes, so that a watch over a
/// connection that is dead without knowing it ends within half a minute.
pub fn client(config: Config) -> Result<Client, ClusterError> {
    if config.proxy_url.is_some() {
        // Says what it can't do, or does it.
        return Ok(Client::try_from(config)?);
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
    let https = config.rustls_https_connector_with_connector(http)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(https));
    Ok(Client::new(service, config.default_namespace))
}
