//! The subcommand `record`: lists and corrects the versions in a gate's record.
//!
//! It uses the same kubeconfig and credentials as kubectl. Commands that change the record only
//! show the change, unless `--yes` is given.

mod list;
mod running;
mod stored;

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail, ensure};
use jiff::Timestamp;
use kube::Client;
use kube::api::ListParams;

use self::stored::{read, shown};
use crate::api::client::ClusterAccess;
use crate::api::{Objects, records};
use crate::cli::say::say;
use crate::cli::{self, ClusterArgs, Exit, InstalledArgs, ScopeArgs};
use migration_gate_core::gates::{Config, Gate};
use migration_gate_core::image::Reference;
use migration_gate_core::job::{Job, JobState};
use migration_gate_core::record::{
    Entry, Record, RecordPatch, Recorded, TooManyForgotten, Write, forget,
};

/// Maximum number of attempts to write a change, if other writers are faster.
const TRIES: usize = 5;

/// List or correct the versions that a gate has recorded as migrated
#[derive(Debug, clap::Args)]
pub struct RecordArgs {
    #[command(subcommand)]
    command: RecordCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RecordCommand {
    List(list::ListArgs),
    Done(DoneArgs),
    Forget(ForgetArgs),
}

/// Record a version as migrated, so that its pods start
///
/// For a version that was migrated by hand, or before the gate was installed. Without --yes, the
/// change is only shown.
#[derive(Debug, clap::Args)]
struct DoneArgs {
    /// Version: an image tag, a digest, or the value of the gate's label
    #[arg(required_unless_present_any = ["running", "wanted"])]
    version: Option<String>,
    /// Record the versions that the held workloads run now
    #[arg(long, conflicts_with = "version")]
    running: bool,
    /// Record the versions in their pod templates, whether they run or not
    #[arg(long, conflicts_with_all = ["version", "running"])]
    wanted: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// Forget a version, so that its pods wait for its migration again
///
/// For a database that was restored or replaced. A completed Job of that version no longer counts,
/// even if it still exists. Without --yes, the change is only shown.
#[derive(Debug, clap::Args)]
struct ForgetArgs {
    /// Version: an image, its tag or digest, or the value of the gate's label
    #[arg(required_unless_present = "all")]
    version: Option<String>,
    /// Forget every version
    #[arg(long, conflicts_with = "version")]
    all: bool,
    #[command(flatten)]
    change: ChangeArgs,
}

/// The arguments of the commands that change a record.
#[derive(Debug, clap::Args)]
struct ChangeArgs {
    /// Name of the gate; needed only if there are several
    #[arg(long, value_name = "NAME")]
    gate: Option<String>,
    /// Make the change
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    config: InstalledArgs,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

/// Runs `migration-gate record` and returns its exit code: 0 if the record was changed or shown, 1
/// otherwise.
pub fn main(args: &RecordArgs) -> ExitCode {
    let ended = cli::block_on(async {
        match &args.command {
            RecordCommand::List(args) => list::run(args).await,
            RecordCommand::Done(args) => done(args).await,
            RecordCommand::Forget(args) => forget_version(args).await,
        }
    });
    cli::finish(ended.map(|()| Exit::Success), Exit::Failure)
}

async fn done(args: &DoneArgs) -> anyhow::Result<()> {
    let (cluster, config) = args.change.connect().await?;
    let gate = args.change.gate(&config)?;
    say(format_args!("In {cluster}:"));
    let versions = match &args.version {
        Some(version) => vec![Recorded::Word(word(gate, version)?)],
        None if args.wanted => running::wanted(&cluster.client, gate).await?,
        None => running::versions(&cluster.client, gate).await?,
    };
    let now = Timestamp::now();
    let mut entries = BTreeMap::new();
    for version in versions {
        let entry = Entry {
            version,
            job: String::new(),
            uid: String::new(),
            completed: now,
            took: None,
            requirement: None,
        };
        let (record, version) = (shown(gate), &entry.version);
        say(format_args!("{record}: {version}: recorded as migrated"));
        entries.insert(entry.key(), entry.to_value());
    }
    args.change
        .write(&cluster.client, gate, |record| {
            Ok(Some(match record {
                Some(_) => Write::Patch(RecordPatch::Put(entries.clone())),
                None => Write::Create(entries.clone()),
            }))
        })
        .await
}

/// The version that the argument `given` names: of an image, its tag or digest. Fails for a moving
/// tag.
fn word(gate: &Gate, given: &str) -> anyhow::Result<String> {
    if gate.version.is_some() || given.starts_with("sha256:") {
        return Ok(given.to_owned());
    }
    let is_image = given.contains(['/', ':', '@']);
    let word = if is_image {
        Reference::of(given).version()
    } else {
        given
    };
    ensure!(
        !gate.moving_tags().contains(word),
        "`{word}` does not identify a version; give the digest, --running or --wanted"
    );
    Ok(word.to_owned())
}

async fn forget_version(args: &ForgetArgs) -> anyhow::Result<()> {
    let (cluster, config) = args.change.connect().await?;
    let gate = args.change.gate(&config)?;
    say(format_args!("In {cluster}:"));
    let meant = |version: &Recorded| match &args.version {
        Some(word) => version.is_called(word),
        None => true,
    };
    let keys_of = |record: Option<&Record>| -> BTreeSet<String> {
        let entries = record.into_iter().flat_map(|record| &record.entries);
        entries
            .filter(|(_, entry)| meant(&entry.version))
            .map(|(key, _)| key.clone())
            .collect()
    };
    let there: Vec<Job> = completed(&cluster.client, gate).await?;
    let jobs: Vec<&Job> = there
        .iter()
        .filter(|job| {
            let mut contents = job.contents.clone();
            contents.keep_only(gate.version.as_ref());
            meant(&Recorded::Contents(contents))
        })
        .collect();
    let uids: BTreeSet<String> = jobs.iter().map(|job| job.uid.clone()).collect();
    let there: BTreeSet<String> = there.iter().map(|job| job.uid.clone()).collect();
    let change = |record: Option<&Record>| {
        forget(record, &keys_of(record), &uids, &there)
            .map_err(|TooManyForgotten| too_many(gate, &jobs))
    };
    let record = read(&cluster.client, gate).await?;
    let write = change(record.as_ref())?;
    let keys = keys_of(record.as_ref());
    for key in &keys {
        say(format_args!("{}: {key}: forgotten", shown(gate)));
    }
    for job in &jobs {
        let (namespace, name) = (&gate.namespace, &job.name);
        say(format_args!("Job {namespace}/{name}: no longer counts"));
    }
    if write.is_none() {
        match &args.version {
            Some(version) => bail!(
                "no {version} is recorded or completed for gate {}; see `migration-gate record list`",
                gate.name
            ),
            None => say("Nothing is recorded."),
        }
        return Ok(());
    }
    args.change.write(&cluster.client, gate, change).await
}

/// The error if more Jobs exist than the record can forget.
fn too_many(gate: &Gate, jobs: &[&Job]) -> anyhow::Error {
    let names: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).collect();
    anyhow!(
        "too many completed Jobs exist for the record to forget; delete them, and run this again: kubectl delete job {} -n {}",
        names.join(" "),
        gate.namespace
    )
}

/// The gate's completed Jobs that still exist.
async fn completed(client: &Client, gate: &Gate) -> anyhow::Result<Vec<Job>> {
    let jobs: Vec<Job> = Objects::jobs(client, &gate.namespace)
        .list(&ListParams::default())
        .await
        .with_context(|| format!("cannot list jobs in {}", gate.namespace))?;
    let requirements = gate.requirements();
    let counts = |job: &Job| {
        let mut sources = requirements.iter().flat_map(|of| &of.any_of);
        matches!(job.state, JobState::Complete { .. }) && sources.any(|source| job.is_of(source))
    };
    Ok(jobs.into_iter().filter(counts).collect())
}

impl ChangeArgs {
    async fn connect(&self) -> anyhow::Result<(ClusterAccess, Config)> {
        self.config.connect(&self.cluster).await
    }

    /// The gate of `--gate`, or the only one.
    fn gate<'c>(&self, config: &'c Config) -> anyhow::Result<&'c Gate> {
        let gates = self.scope.gates(config)?;
        let names: Vec<&str> = gates.iter().map(|gate| gate.name.as_str()).collect();
        match (&self.gate, gates.as_slice()) {
            (None, [gate]) => Ok(gate),
            (None, _) => bail!("name the gate with --gate: one of {}", names.join(", ")),
            (Some(name), _) => gates
                .iter()
                .find(|gate| gate.name == *name)
                .copied()
                .with_context(|| {
                    format!(
                        "--gate {name}: the configuration has no gate of that name, only {}; correct it, or name the file with --config",
                        names.join(", ")
                    )
                }),
        }
    }

    /// With `--yes`, writes the change that `change` makes from the current record, `None` if there
    /// is nothing to change. If another writer is faster, calls it again with the newer record.
    async fn write(
        &self,
        client: &Client,
        gate: &Gate,
        change: impl Fn(Option<&Record>) -> anyhow::Result<Option<Write>>,
    ) -> anyhow::Result<()> {
        if !self.yes {
            say("Nothing was changed. Run it again with --yes to make these changes.");
            return Ok(());
        }
        let objects = Objects::config_maps(client, &gate.namespace);
        let mut tries = TRIES;
        loop {
            let record = read(client, gate).await?;
            let Some(write) = change(record.as_ref())? else {
                break;
            };
            let written = records::write(&objects, &gate.name, &write).await;
            tries -= 1;
            match written {
                Ok(record) if write.shows_in(&record) => break,
                Ok(_) => bail!(
                    "the API server accepts the write of {}, but returns a record without it; check for a mutating webhook that changes ConfigMaps",
                    shown(gate)
                ),
                Err(error) if error.code() == Some(409) && tries > 0 => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("cannot write {}", shown(gate)));
                }
            }
        }
        say("Done.");
        Ok(())
    }
}
