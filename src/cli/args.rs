//! The arguments that several subcommands take.

use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};
use kube::Client;
use migration_gate_core::gates::{Config, Gate};

use super::config::{self, ConfigError};
use super::installed;
use crate::api::client::{self, ClusterAccess, ClusterError, Selection};

/// The argument that names the configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// Configuration file [default: the built-in gate for PieFed]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration file, or returns the built-in configuration if none is named.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.config
            .as_deref()
            .map_or_else(|| Ok(Config::default()), config::load)
    }
}

/// The argument that names the configuration, of a subcommand that is about an installed release.
#[derive(Debug, Clone, clap::Args)]
pub struct InstalledArgs {
    /// Configuration file [default: the one of the installed release]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl InstalledArgs {
    /// Connects to the cluster, and returns the configuration: that of the named file, else that of
    /// the installed release, else the built-in one. An error if several releases are installed.
    pub async fn connect(&self, cluster: &ClusterArgs) -> anyhow::Result<(ClusterAccess, Config)> {
        let given = self.config.as_deref().map(config::load).transpose()?;
        let cluster = cluster.connect().await?;
        let config = match given {
            Some(config) => config,
            None => installed_config(&cluster.client)
                .await
                .context("cannot determine which gates are installed; name a file with --config")?,
        };
        Ok((cluster, config))
    }
}

async fn installed_config(client: &Client) -> anyhow::Result<Config> {
    let releases = installed::releases(client)
        .await
        .context("cannot list configmaps")?;
    match releases.as_slice() {
        [] => Ok(Config::default()),
        [release] => installed::configuration(release),
        several => {
            let places: Vec<String> = several.iter().map(installed::place).collect();
            bail!("there are several releases: {}", places.join(", "))
        }
    }
}

/// The arguments that name the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// Kubeconfig file [default: those in KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// Kubeconfig context [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
    /// The kubeconfig, if one is named.
    pub fn kubeconfig(&self) -> Option<&PathBuf> {
        self.kubeconfig.as_ref()
    }

    /// The context, if one is named.
    pub fn context(&self) -> Option<&str> {
        self.context.as_deref()
    }

    /// Sets up a connection to the cluster.
    pub async fn connect(&self) -> Result<ClusterAccess, ClusterError> {
        client::connect(&Selection {
            kubeconfig: self.kubeconfig.clone(),
            context: self.context.clone(),
        })
        .await
    }
}

/// The arguments that name the namespaces.
#[derive(Debug, Clone, clap::Args)]
pub struct ScopeArgs {
    /// Namespace of the gates
    #[arg(long, short, value_name = "NAME", conflicts_with = "all_namespaces")]
    namespace: Option<String>,

    /// All namespaces; this is the default
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl ScopeArgs {
    /// The namespace, if one is named.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The gates of the named namespace, or all. An error if that namespace has none.
    pub fn gates<'c>(&self, config: &'c Config) -> anyhow::Result<Vec<&'c Gate>> {
        let Some(namespace) = &self.namespace else {
            return Ok(config.gates.iter().collect());
        };
        let within = |gate: &&Gate| gate.namespace == *namespace;
        let gates: Vec<&Gate> = config.gates.iter().filter(within).collect();
        ensure!(
            !gates.is_empty(),
            "--namespace {namespace}: the configuration has no gate in that namespace; name the file with --config"
        );
        Ok(gates)
    }
}
