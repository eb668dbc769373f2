//! The arguments that several subcommands take.

use std::path::PathBuf;

use anyhow::ensure;
use migration_gate_core::gates::{Config, Gate};

use super::config::{self, ConfigError};
use crate::api::client::{self, ClusterAccess, ClusterError, Selection};

/// The argument that names the configuration.
#[derive(Debug, Clone, clap::Args)]
pub struct ConfigArgs {
    /// The configuration file; without it, the built-in gate for PieFed
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration, or answers with the built-in one.
    pub fn load(&self) -> Result<Config, ConfigError> {
        self.config
            .as_deref()
            .map_or_else(|| Ok(Config::default()), config::load)
    }
}

/// The arguments that name the cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "Cluster")]
pub struct ClusterArgs {
    /// The kubeconfig file [default: those in KUBECONFIG, or ~/.kube/config]
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,

    /// The kubeconfig's context [default: the current one]
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl ClusterArgs {
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
    /// Only the gates of this namespace
    #[arg(long, short, value_name = "NAME", conflicts_with = "all_namespaces")]
    namespace: Option<String>,

    /// The gates of all namespaces, which is the default
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl ScopeArgs {
    /// The gates that are meant.
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
