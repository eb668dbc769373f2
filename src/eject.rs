//! The subcommand `eject`: takes the waiters out of the held Deployments, then deletes what
//! `helm uninstall` left for them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};
use serde::Deserialize;

use crate::cluster;
use crate::config::{self, Config, Gate, parse_duration};
use crate::core::eject::eject;
use crate::core::names;
use crate::observe::{Object, Pacing, Target, Trouble, Update, observe};

/// What the chart labels its objects with.
const CHART_LABEL: &str = "app.kubernetes.io/name=migration-gate";

/// Takes the waiters out of the held Deployments, and deletes what `helm uninstall` left.
///
/// Shows what it would do; with --yes it does it.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The configuration; without it, the built-in `PieFed` gate.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// How long to wait for each roll-out before giving up.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
}

/// Runs `migration-gate eject` and answers with its exit code: 0 done or shown, 1 otherwise.
pub fn main(args: &Args) -> ExitCode {
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
        .and_then(|runtime| runtime.block_on(run(args)));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let config = match &args.config {
        Some(path) => config::load(path)?,
        None => Config::default(),
    };
    let client = cluster::client(cluster::config().await?)?;
    refuse_while_installed(&client).await?;
    let mut plans = Vec::new();
    for gate in &config.gates {
        plans.push(Plan::make(&client, gate).await?);
    }
    for plan in &plans {
        print!("{}", plan.describe());
    }
    if !args.yes {
        println!("Nothing was changed. Run it again with --yes to do this.");
        return Ok(());
    }
    for plan in &plans {
        plan.carry_out(&client, args.timeout).await?;
    }
    println!("Done.");
    Ok(())
}

/// The webhook would put back what is taken out.
async fn refuse_while_installed(client: &Client) -> anyhow::Result<()> {
    let kind = ApiResource::erase::<MutatingWebhookConfiguration>(&());
    let installed = Api::<DynamicObject>::all_with(client.clone(), &kind)
        .list(&ListParams::default().labels(CHART_LABEL))
        .await
        .context("cannot list mutatingwebhookconfigurations")?;
    match installed.items.first() {
        None => Ok(()),
        Some(found) => bail!(
            "MutatingWebhookConfiguration {} is installed and would inject the waiters again; run `helm uninstall` for the release {} first",
            found.name_any(),
            found
                .annotations()
                .get("meta.helm.sh/release-name")
                .map_or("of migration-gate", String::as_str)
        ),
    }
}

/// What is to be done for one gate.
struct Plan {
    namespace: String,
    /// Each Deployment with its patch.
    deployments: Vec<(String, json_patch::Patch)>,
    /// What is deleted once no pod needs it.
    leftovers: Vec<Leftover>,
}

struct Leftover {
    kind: ApiResource,
    name: String,
}

impl Plan {
    async fn make(client: &Client, gate: &Gate) -> anyhow::Result<Self> {
        let namespace = gate.namespace.as_str();
        let mut deployments = Vec::new();
        let kind = ApiResource::erase::<Deployment>(&());
        for deployment in list(client, namespace, &kind, &ListParams::default()).await? {
            let name = deployment.name_any();
            let patch = eject(gate, &serde_json::to_value(&deployment)?);
            if !patch.is_empty() {
                deployments.push((name, json_patch::Patch(patch)));
            }
        }

        let mut leftovers = Vec::new();
        let kind = ApiResource::erase::<ConfigMap>(&());
        let name = names::record(&gate.name);
        if Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind)
            .get_metadata_opt(&name)
            .await
            .with_context(|| format!("cannot get ConfigMap {namespace}/{name}"))?
            .is_some()
        {
            leftovers.push(Leftover { kind, name });
        }
        let ours = ListParams::default().labels(CHART_LABEL);
        for kind in [
            ApiResource::erase::<RoleBinding>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<ServiceAccount>(&()),
        ] {
            for found in list(client, namespace, &kind, &ours).await? {
                leftovers.push(Leftover {
                    kind: kind.clone(),
                    name: found.name_any(),
                });
            }
        }
        Ok(Self {
            namespace: namespace.to_owned(),
            deployments,
            leftovers,
        })
    }

    fn describe(&self) -> String {
        let mut text = String::new();
        let namespace = &self.namespace;
        for (name, patch) in &self.deployments {
            let _ = writeln!(text, "Deployment {namespace}/{name}: one roll-out without");
            for operation in &patch.0 {
                if let json_patch::PatchOperation::Remove(removed) = operation {
                    let _ = writeln!(text, "  {}", removed.path);
                }
            }
        }
        for Leftover { kind, name } in &self.leftovers {
            let _ = writeln!(text, "{} {namespace}/{name}: deleted", kind.kind);
        }
        if text.is_empty() {
            let _ = writeln!(text, "{namespace}: nothing of migration-gate is left");
        }
        text
    }

    /// Deletes only when every roll-out is through: until then a pod may still ask for its Job.
    async fn carry_out(&self, client: &Client, timeout: Duration) -> anyhow::Result<()> {
        let namespace = self.namespace.as_str();
        let kind = ApiResource::erase::<Deployment>(&());
        let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, &kind);
        for (name, patch) in &self.deployments {
            println!("Deployment {namespace}/{name}: taking the waiter out");
            api.patch(
                name,
                &PatchParams::default(),
                &Patch::<()>::Json(patch.clone()),
            )
            .await
            .with_context(|| {
                format!("cannot patch Deployment {namespace}/{name}; if it was changed meanwhile, run this again")
            })?;
        }
        for (name, _) in &self.deployments {
            println!("Deployment {namespace}/{name}: waiting for its roll-out");
            tokio::time::timeout(timeout, rolled_out(client, namespace, name))
                .await
                .with_context(|| {
                    format!("the roll-out of Deployment {namespace}/{name} is not through after {timeout:?}; nothing was deleted: see `kubectl -n {namespace} rollout status deployment/{name}`, then run this again")
                })??;
        }
        for Leftover { kind, name } in &self.leftovers {
            println!("{} {namespace}/{name}: deleting it", kind.kind);
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, kind);
            match api.delete(name, &DeleteParams::default()).await {
                // Somebody may have been faster.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot delete {} {namespace}/{name}", kind.kind)
                    });
                }
            }
        }
        Ok(())
    }
}

async fn list(
    client: &Client,
    namespace: &str,
    kind: &ApiResource,
    params: &ListParams,
) -> anyhow::Result<Vec<DynamicObject>> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, kind);
    let found = api
        .list(params)
        .await
        .with_context(|| format!("cannot list {} in {namespace}", kind.plural))?;
    Ok(found.items)
}

/// Watches a Deployment until no pod of an earlier template is left.
async fn rolled_out(client: &Client, namespace: &str, name: &str) -> anyhow::Result<()> {
    let target = Target {
        path: format!("/apis/apps/v1/namespaces/{namespace}/deployments"),
        name: name.to_owned(),
    };
    let mut updates = std::pin::pin!(observe::<Rollout>(
        client.clone(),
        target,
        Pacing::default()
    ));
    while let Some(update) = updates.next().await {
        match update {
            Update::Present(rollout) if rollout.is_over() => break,
            // One that was deleted meanwhile has no pod that waits.
            Update::Absent(_) => break,
            Update::Trouble(Trouble::Denied(cause)) => {
                bail!("cannot watch Deployment {namespace}/{name}: {cause}")
            }
            Update::Present(_)
            | Update::Resumed
            | Update::Trouble(Trouble::Unreachable(_) | Trouble::Failing(_)) => {}
        }
    }
    Ok(())
}

/// As much of a Deployment as tells how far its roll-out is.
#[derive(Debug, Clone, Deserialize)]
struct Rollout {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    resource_version: String,
    generation: i64,
}

#[derive(Debug, Clone, Deserialize)]
struct Spec {
    replicas: i32,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Status {
    observed_generation: i64,
    replicas: i32,
    updated_replicas: i32,
}

impl Object for Rollout {
    fn resource_version(&self) -> &str {
        &self.metadata.resource_version
    }
}

impl Rollout {
    /// Whether every pod is of the template as it is now, and the controller has seen that template.
    fn is_over(&self) -> bool {
        let status = &self.status;
        status.observed_generation >= self.metadata.generation
            && status.updated_replicas >= self.spec.replicas
            && status.replicas == status.updated_replicas
    }
}
