//! The subcommand `eject`: takes the waiters out of the held Deployments, then deletes what
//! `helm uninstall` left for them.

mod carriers;
mod installed;
mod leftovers;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{ListParams, Patch};
use serde_json::Value;

use self::leftovers::Leftovers;
use crate::api::{Objects, client as cluster};
use crate::cli::say::say;
use crate::cli::{self, ConfigArgs, Exit};
use migration_gate_core::eject::{eject, gate_of};
use migration_gate_core::gates::{Config, Gate, parse_duration};

/// What the chart labels its objects with.
const CHART_LABEL: &str = "app.kubernetes.io/name=migration-gate";

/// Takes the waiters out of the held Deployments, and deletes what `helm uninstall` left.
///
/// Shows what it would do; with --yes it does it. An installed release has its configuration in a
/// `ConfigMap` that goes with `helm uninstall`, so save it before.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: ConfigArgs,
    /// Only this gate of the configuration; may be given again.
    #[arg(long = "gate", value_name = "NAME")]
    gates: Vec<String>,
    /// Do it.
    #[arg(long)]
    yes: bool,
    /// How long to wait for each gate's roll-outs before giving up.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
}

/// Runs `migration-gate eject` and answers with its exit code: 0 done or shown, 1 otherwise.
pub fn main(args: &Args) -> ExitCode {
    let ended = cli::block_on(run(args)).map(|()| Exit::Success);
    cli::finish(ended, Exit::Failure)
}

async fn run(args: &Args) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let gates = chosen(&config, &args.gates)?;
    let client = cluster::connect().await?;
    let mut ejections = Vec::new();
    for gate in gates {
        ejections.push(Ejection::make(&client, gate).await?);
    }
    installed::refuse_while_held(&client, &ejections).await?;
    let leftovers = Leftovers::find(&client, &ejections).await?;
    say(describe(&ejections, &leftovers).trim_end());
    if !args.yes {
        say("Nothing was changed. Run it again with --yes to do this.");
        return Ok(());
    }

    for ejection in &ejections {
        ejection.take_out(&client).await?;
    }
    // Nothing is deleted before no pod needs it, whoever began to take its waiter out: an earlier
    // run of this command may have given up here.
    for ejection in &ejections {
        carriers::gone(&client, ejection.gate, args.timeout).await?;
    }
    // Found anew: what a Deployment names has changed, and minutes may have passed.
    let leftovers = Leftovers::find(&client, &ejections).await?;
    leftovers.delete(&client).await?;
    say("Done.");
    Ok(())
}

/// The gates that the command line asks for.
fn chosen<'c>(config: &'c Config, names: &[String]) -> anyhow::Result<Vec<&'c Gate>> {
    for name in names {
        if !config.gates.iter().any(|gate| gate.name == *name) {
            let known: Vec<&str> = config.gates.iter().map(|gate| gate.name.as_str()).collect();
            bail!(
                "--gate {name}: the configuration has no gate of that name, only {}; correct it, or name the file with --config",
                known.join(", ")
            );
        }
    }
    Ok(config
        .gates
        .iter()
        .filter(|gate| names.is_empty() || names.contains(&gate.name))
        .collect())
}

/// What is done for one gate's Deployments.
struct Ejection<'c> {
    gate: &'c Gate,
    /// Each Deployment as it is, with its patch.
    deployments: Vec<(Value, json_patch::Patch)>,
    /// Deployments of the namespace with a waiter of another gate, and that gate.
    others: Vec<(String, String)>,
}

impl<'c> Ejection<'c> {
    async fn make(client: &Client, gate: &'c Gate) -> anyhow::Result<Self> {
        let mut deployments = Vec::new();
        let mut others = Vec::new();
        let objects = Objects::namespaced::<Deployment>(client, &gate.namespace);
        for deployment in list(&objects, &ListParams::default()).await? {
            let patch = eject(gate, &deployment);
            if !patch.is_empty() {
                deployments.push((deployment, json_patch::Patch(patch)));
            } else if let Some(other) = gate_of(&deployment["spec"]["template"]["spec"]) {
                others.push((name_of(&deployment).to_owned(), other.to_owned()));
            }
        }
        Ok(Self {
            gate,
            deployments,
            others,
        })
    }

    async fn take_out(&self, client: &Client) -> anyhow::Result<()> {
        let namespace = self.gate.namespace.as_str();
        let objects = Objects::namespaced::<Deployment>(client, namespace);
        for (deployment, patch) in &self.deployments {
            let name = name_of(deployment);
            say(format_args!(
                "Deployment {namespace}/{name}: taking the waiter out"
            ));
            objects.patch::<Value>(name, &Patch::<()>::Json(patch.clone()))
            .await
            .with_context(|| {
                format!("cannot patch Deployment {namespace}/{name}; if it was changed meanwhile, run this again")
            })?;
        }
        Ok(())
    }
}

fn describe(ejections: &[Ejection<'_>], leftovers: &Leftovers) -> String {
    let mut text = String::new();
    for ejection in ejections {
        let namespace = &ejection.gate.namespace;
        for (deployment, patch) in &ejection.deployments {
            let name = name_of(deployment);
            let _ = writeln!(text, "Deployment {namespace}/{name}: one roll-out without");
            for operation in &patch.0 {
                if let json_patch::PatchOperation::Remove(removed) = operation {
                    let _ = writeln!(text, "  {}", removed.path);
                }
            }
        }
    }
    text.push_str(&leftovers.describe());
    if text.is_empty() {
        let gates: Vec<&str> = ejections
            .iter()
            .map(|ejection| ejection.gate.name.as_str())
            .collect();
        let _ = writeln!(
            text,
            "Nothing of migration-gate is left for gate {}.",
            gates.join(", ")
        );
    }
    let ejected = |gate: &str, namespace: &str| {
        ejections
            .iter()
            .any(|ejection| ejection.gate.name == gate && ejection.gate.namespace == namespace)
    };
    let mut told = std::collections::BTreeSet::new();
    for ejection in ejections {
        let namespace = &ejection.gate.namespace;
        for (name, gate) in &ejection.others {
            if !ejected(gate, namespace) && told.insert((namespace, name)) {
                let _ = writeln!(
                    text,
                    "Deployment {namespace}/{name}: left alone, because its waiter is of gate {gate}"
                );
            }
        }
    }
    text
}

fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

async fn list(objects: &Objects, params: &ListParams) -> anyhow::Result<Vec<Value>> {
    objects
        .list(params)
        .await
        .with_context(|| match objects.namespace() {
            Some(namespace) => format!("cannot list {} in {namespace}", objects.kind().plural),
            None => format!("cannot list {}", objects.kind().plural),
        })
}
