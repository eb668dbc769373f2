//! `record list`.

use serde_json::json;

use super::stored::{read, shown};
use crate::cli::say::say;
use crate::cli::{ClusterArgs, InstalledArgs, ScopeArgs};
use migration_gate_core::gates::Gate;
use migration_gate_core::record::{Entry, Record};

/// List the recorded versions, newest first
#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: Form,
    #[command(flatten)]
    config: InstalledArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum Form {
    /// One line of text for each entry
    #[default]
    Human,
    /// One JSON object per line for each entry
    Json,
}

pub(super) async fn run(args: &ListArgs) -> anyhow::Result<()> {
    let (cluster, config) = args.config.connect(&args.cluster).await?;
    let client = cluster.client;
    let gates = args.scope.gates(&config)?;
    for gate in gates {
        let record = read(&client, gate).await?;
        match args.output {
            Form::Human => print(gate, record.as_ref()),
            Form::Json => entries(record.as_ref()).for_each(|entry| say(as_json(gate, entry))),
        }
    }
    Ok(())
}

fn entries(record: Option<&Record>) -> impl Iterator<Item = &Entry> {
    let entries = record
        .into_iter()
        .flat_map(|record| record.entries.values());
    let mut entries: Vec<&Entry> = entries.collect();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.completed));
    entries.into_iter()
}

fn print(gate: &Gate, record: Option<&Record>) {
    say(format_args!("Gate {}, {}:", gate.name, shown(gate)));
    let Some(record) = record else {
        return say("  no record yet");
    };
    let versions: Vec<String> = entries(Some(record))
        .map(|e| e.version.to_string())
        .collect();
    let width = versions.iter().map(String::len).max().unwrap_or_default();
    for (entry, version) in entries(Some(record)).zip(&versions) {
        let by = match entry.job.as_str() {
            "" => "by hand".to_owned(),
            job => format!("Job {job}"),
        };
        let took = entry.took.map(|took| format!(" in {took}s"));
        let (at, took) = (entry.completed, took.unwrap_or_default());
        say(format_args!("  {version:width$}  {at}  {by}{took}"));
    }
    if versions.is_empty() {
        say("  nothing");
    }
    for (key, cause) in &record.corrupt {
        say(format_args!("  {key} is corrupt and ignored: {cause}"));
    }
}

fn as_json(gate: &Gate, entry: &Entry) -> serde_json::Value {
    json!({
        "gate": gate.name,
        "namespace": gate.namespace,
        "version": entry.version.to_string(),
        "completed": entry.completed,
        "seconds": entry.took,
        "job": Some(&entry.job).filter(|job| !job.is_empty()),
    })
}
