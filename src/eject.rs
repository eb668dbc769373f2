//! The subcommand `eject`: takes the waiters out of the held Deployments, then deletes what
//! `helm uninstall` left for them.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use crate::config::{self, Config, Gate, parse_duration};
use crate::core::eject::eject;
use crate::core::names;

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
    let client = Client::try_default()
        .await
        .context("no cluster is configured; set KUBECONFIG or run in a pod")?;
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
    let installed = Api::<MutatingWebhookConfiguration>::all(client.clone())
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
    /// Kind and name of what is deleted once no pod needs it.
    leftovers: Vec<Leftover>,
}

enum Leftover {
    Record(String),
    RoleBinding(String),
    Role(String),
    ServiceAccount(String),
}

impl Leftover {
    fn describe(&self) -> String {
        match self {
            Self::Record(name) => format!("ConfigMap {name} (the record of completed migrations)"),
            Self::RoleBinding(name) => format!("RoleBinding {name}"),
            Self::Role(name) => format!("Role {name}"),
            Self::ServiceAccount(name) => format!("ServiceAccount {name}"),
        }
    }

    async fn delete(&self, client: &Client, namespace: &str) -> Result<(), kube::Error> {
        match self {
            Self::Record(name) => delete::<ConfigMap>(client, namespace, name).await,
            Self::RoleBinding(name) => delete::<RoleBinding>(client, namespace, name).await,
            Self::Role(name) => delete::<Role>(client, namespace, name).await,
            Self::ServiceAccount(name) => delete::<ServiceAccount>(client, namespace, name).await,
        }
    }
}

impl Plan {
    async fn make(client: &Client, gate: &Gate) -> anyhow::Result<Self> {
        let namespace = gate.namespace.as_str();
        let deployments = Api::<Deployment>::namespaced(client.clone(), namespace)
            .list(&ListParams::default())
            .await
            .with_context(|| format!("cannot list deployments in {namespace}"))?;
        let deployments = deployments
            .items
            .into_iter()
            .map(|deployment| {
                let name = deployment.name_any();
                let value = serde_json::to_value(&deployment)?;
                Ok((name, json_patch::Patch(eject(gate, &value))))
            })
            .collect::<Result<Vec<_>, serde_json::Error>>()?
            .into_iter()
            .filter(|(_, patch)| !patch.0.is_empty())
            .collect();

        let mut leftovers = Vec::new();
        let record = names::record(&gate.name);
        if Api::<ConfigMap>::namespaced(client.clone(), namespace)
            .get_opt(&record)
            .await
            .with_context(|| format!("cannot get ConfigMap {namespace}/{record}"))?
            .is_some()
        {
            leftovers.push(Leftover::Record(record));
        }
        let labelled = labelled::<RoleBinding>(client, namespace).await?;
        leftovers.extend(labelled.into_iter().map(Leftover::RoleBinding));
        let labelled = self::labelled::<Role>(client, namespace).await?;
        leftovers.extend(labelled.into_iter().map(Leftover::Role));
        let labelled = self::labelled::<ServiceAccount>(client, namespace).await?;
        leftovers.extend(labelled.into_iter().map(Leftover::ServiceAccount));
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
        for leftover in &self.leftovers {
            let _ = writeln!(text, "{namespace}: delete {}", leftover.describe());
        }
        if text.is_empty() {
            let _ = writeln!(text, "{namespace}: nothing of migration-gate is left");
        }
        text
    }

    /// Deletes only when every roll-out is through: until then a pod may still ask for its Job.
    async fn carry_out(&self, client: &Client, timeout: Duration) -> anyhow::Result<()> {
        let namespace = self.namespace.as_str();
        let api = Api::<Deployment>::namespaced(client.clone(), namespace);
        for (name, patch) in &self.deployments {
            println!("Deployment {namespace}/{name}: taking the waiter out");
            api.patch(
                name,
                &PatchParams::default(),
                &Patch::<()>::Json(patch.clone()),
            )
            .await
            .with_context(|| format!("cannot patch Deployment {namespace}/{name}"))?;
        }
        for (name, _) in &self.deployments {
            println!("Deployment {namespace}/{name}: waiting for its roll-out");
            tokio::time::timeout(
                timeout,
                await_condition(api.clone(), name, only_new_pods),
            )
            .await
            .with_context(|| {
                format!("the roll-out of Deployment {namespace}/{name} is not through after {timeout:?}; nothing was deleted: see `kubectl -n {namespace} rollout status deployment/{name}`, then run this again")
            })??;
        }
        for leftover in &self.leftovers {
            println!("{namespace}: deleting {}", leftover.describe());
            leftover
                .delete(client, namespace)
                .await
                .with_context(|| format!("cannot delete {namespace}: {}", leftover.describe()))?;
        }
        Ok(())
    }
}

/// Whether every pod is of the template as it is now, and the controller has seen that template.
fn only_new_pods(deployment: Option<&Deployment>) -> bool {
    // One that was deleted meanwhile has no pod that waits.
    let Some(deployment) = deployment else {
        return true;
    };
    let wanted = deployment.spec.as_ref().and_then(|spec| spec.replicas);
    deployment.status.as_ref().is_some_and(|status| {
        let updated = status.updated_replicas.unwrap_or(0);
        status.observed_generation >= deployment.metadata.generation
            && updated >= wanted.unwrap_or(1)
            && status.replicas.unwrap_or(0) == updated
    })
}

/// The names of the chart's objects of one kind.
async fn labelled<K>(client: &Client, namespace: &str) -> anyhow::Result<Vec<String>>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    let found = Api::<K>::namespaced(client.clone(), namespace)
        .list(&ListParams::default().labels(CHART_LABEL))
        .await
        .with_context(|| format!("cannot list {} in {namespace}", K::plural(&())))?;
    Ok(found.items.iter().map(ResourceExt::name_any).collect())
}

async fn delete<K>(client: &Client, namespace: &str, name: &str) -> Result<(), kube::Error>
where
    K: Resource<DynamicType = (), Scope = k8s_openapi::NamespaceResourceScope>
        + Clone
        + DeserializeOwned
        + std::fmt::Debug,
{
    match Api::<K>::namespaced(client.clone(), namespace)
        .delete(name, &kube::api::DeleteParams::default())
        .await
    {
        Ok(_) => Ok(()),
        // Somebody was faster.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}
