//! kube-rs for tests that are written without `async`.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::{Context as _, Result};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use tokio::runtime::Runtime;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("a machine that can start threads"));

/// Drives a future to its end on a runtime that all tests share.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// A client of the cluster that a kubeconfig names.
pub(crate) fn client(kubeconfig: &Path) -> Result<kube::Client> {
    block_on(async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        kube::Client::try_from(config).map_err(anyhow::Error::from)
    })
    .with_context(|| format!("making a client from {}", kubeconfig.display()))
}
