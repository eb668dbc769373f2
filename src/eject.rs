//! The subcommand `eject`: removes the waiters from held workloads, then deletes the objects that
//! they needed.

mod carriers;
mod ejection;
mod installed;
mod leftovers;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;

use self::ejection::Ejection;
use self::leftovers::Leftovers;
use crate::cli::say::say;
use crate::cli::{self, ClusterArgs, ConfigArgs, Exit, ScopeArgs};
use migration_gate_core::gates::{Gate, parse_duration};

/// Remove the waiters from held workloads, and delete what they needed
///
/// Without --yes, the changes are only shown. `helm uninstall` deletes the ConfigMap with the
/// release's configuration, so save it first and pass it with --config.
#[derive(Debug, clap::Args)]
pub struct EjectArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    /// Name of a gate; repeatable [default: all gates]
    #[arg(long = "gate", value_name = "NAME")]
    gates: Vec<String>,
    /// Make the changes
    #[arg(long)]
    yes: bool,
    /// How long to wait for each gate's roll-outs
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `migration-gate eject` and returns its exit code: 0 if the changes were made or shown, 1
/// otherwise.
pub fn main(args: &EjectArgs) -> ExitCode {
    let ended = cli::block_on(run(args)).map(|()| Exit::Success);
    cli::finish(ended, Exit::Failure)
}

async fn run(args: &EjectArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let gates = chosen(args.scope.gates(&config)?, &args.gates)?;
    let cluster = args.cluster.connect().await?;
    let client = cluster.client.clone();
    let mut ejections = Vec::new();
    for gate in gates {
        ejections.push(Ejection::make(&client, gate).await?);
    }
    installed::refuse_while_held(&client, &ejections).await?;
    let leftovers = Leftovers::find(&client, &ejections).await?;
    say(format_args!("In {cluster}:"));
    say(describe(&ejections, &leftovers).trim_end());
    if !args.yes {
        say("Nothing was changed. Run it again with --yes to make these changes.");
        return Ok(());
    }

    for ejection in &ejections {
        ejection.take_out(&client).await?;
    }
    // Pods may still need the objects, so delete them last. This wait also covers pods of workloads
    // that an earlier run has patched before it timed out.
    for ejection in &ejections {
        carriers::gone(&client, ejection.gate, args.timeout).await?;
    }
    // Find them again: the accounts that the workloads name have changed, and minutes may have
    // passed.
    let leftovers = Leftovers::find(&client, &ejections).await?;
    leftovers.delete(&client).await?;
    say("Done.");
    Ok(())
}

/// The gates of `--gate`, or all.
fn chosen<'c>(gates: Vec<&'c Gate>, names: &[String]) -> anyhow::Result<Vec<&'c Gate>> {
    for name in names {
        if !gates.iter().any(|gate| gate.name == *name) {
            let known: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
            bail!(
                "--gate {name}: the configuration has no gate of that name, only {}; correct it, or name the file with --config",
                known.join(", ")
            );
        }
    }
    Ok(gates
        .into_iter()
        .filter(|gate| names.is_empty() || names.contains(&gate.name))
        .collect())
}

fn describe(ejections: &[Ejection<'_>], leftovers: &Leftovers) -> String {
    let mut text = String::new();
    for ejection in ejections {
        let namespace = &ejection.gate.namespace;
        for ejected in &ejection.workloads {
            let shown = ejected.shown(namespace);
            let _ = writeln!(text, "{shown}: one roll-out without");
            for operation in &ejected.patch.0 {
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
        for (shown, gate) in &ejection.others {
            if !ejected(gate, namespace) && told.insert(shown) {
                let _ = writeln!(
                    text,
                    "{shown}: not changed, because its waiter belongs to gate {gate}"
                );
            }
        }
    }
    text
}
