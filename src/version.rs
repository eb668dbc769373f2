//! The subcommand `version`: the versions of this program, the installed release and the API
//! server.

use std::process::ExitCode;

use k8s_openapi::api::apps::v1::Deployment;
use kube::api::ListParams;
use kube::core::ApiResource;
use serde_json::Value;

use crate::api::client::ClusterAccess;
use crate::api::{ApiError, Objects};
use crate::cli::say::say;
use crate::cli::{self, ClusterArgs, Exit};

/// The label that the chart gives the server's Deployment.
const SERVER: &str = "app.kubernetes.io/name=migration-gate";

/// Print the versions of this program, the installed release and the cluster
#[derive(Debug, clap::Args)]
pub struct VersionArgs {
    /// Print only the version of this program
    #[arg(long)]
    client: bool,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `migration-gate version` and returns its exit code: 1 if the API server's version cannot be
/// read.
pub fn main(args: &VersionArgs) -> ExitCode {
    say(format_args!("migration-gate {}", env!("CARGO_PKG_VERSION")));
    if args.client {
        return Exit::Success.into();
    }
    let ended = cli::block_on(async {
        let cluster = args.cluster.connect().await?;
        let kubernetes = kubernetes(&cluster).await?;
        say(format_args!("Kubernetes {kubernetes}, {cluster}"));
        match installed(&cluster).await {
            Ok(installed) if installed.is_empty() => say("no release is installed"),
            Ok(installed) => installed.iter().for_each(say),
            Err(error) => say(format_args!("cannot read the installed release: {error}")),
        }
        Ok(Exit::Success)
    });
    cli::finish(ended, Exit::Failure)
}

async fn kubernetes(cluster: &ClusterAccess) -> Result<String, ApiError> {
    let version = cluster.client.apiserver_version().await?;
    Ok(version.git_version)
}

async fn installed(cluster: &ClusterAccess) -> Result<Vec<String>, ApiError> {
    let deployments = ApiResource::erase::<Deployment>(&());
    let params = ListParams::default().labels(SERVER);
    let found: Vec<Value> = Objects::of(&cluster.client, deployments, None)
        .list(&params)
        .await?;
    Ok(found.iter().map(release).collect())
}

fn release(deployment: &Value) -> String {
    let metadata = &deployment["metadata"];
    let text = |value: &Value| value.as_str().unwrap_or("unknown").to_owned();
    format!(
        "installed release {} in namespace {}: {}",
        text(&metadata["labels"]["app.kubernetes.io/instance"]),
        text(&metadata["namespace"]),
        text(&metadata["labels"]["app.kubernetes.io/version"]),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::release;

    #[test]
    fn a_release_is_named_with_its_namespace_and_version() {
        let labels = json!({
            "app.kubernetes.io/instance": "gate",
            "app.kubernetes.io/version": "0.2.0",
        });
        let deployment = json!({"metadata": {"namespace": "ops", "labels": labels}});
        assert_eq!(
            release(&deployment),
            "installed release gate in namespace ops: 0.2.0"
        );
    }
}
