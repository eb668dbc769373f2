//! The subcommand `status`: the state of the gates, what is wrong, and the commands that fix it.
//!
//! `reading` fetches the objects with few requests, `migration_gate_core::status` judges them, and
//! `human`, `changes` and `json` print the result.

mod changes;
mod closer;
mod found;
mod human;
mod installation;
mod json;
mod reading;
mod screen;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use jiff::Timestamp;

use self::changes::Changes;
use self::found::{StatusReport, Unread};
use self::reading::Reading;
use self::screen::Screen;
use crate::api::client::ClusterAccess;
use crate::cli::say::say;
use crate::cli::{self, ClusterArgs, Exit, ScopeArgs, config};
use migration_gate_core::gates::{Config, Gate, parse_duration};
use migration_gate_core::status::{Flags, Installation, chosen, overview};

/// The pause between two reports of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);

/// Show the state of the gates, what is wrong, and the commands that fix it
///
/// The gates are those of the installed release. Nothing is changed. Exit codes: 0 nothing is
/// wrong, 1 something is, 2 the cluster cannot be read.
#[derive(Debug, clap::Args)]
pub struct StatusArgs {
    /// Name of a gate [default: all gates]
    #[arg(value_name = "GATE")]
    gate: Option<String>,
    /// Output format
    #[arg(long, short, value_name = "FORMAT", value_enum, default_value_t)]
    output: ReportForm,
    /// Show changes until every gate is open
    #[arg(long, short)]
    watch: bool,
    /// How long to wait for the gates to open, with --watch [default: no limit]
    #[arg(long, value_name = "DURATION", requires = "watch", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Configuration file [default: the one of the installed release]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    scope: ScopeArgs,
    #[command(flatten)]
    cluster: ClusterArgs,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum ReportForm {
    /// A table and sentences
    #[default]
    Human,
    /// A JSON object; with --watch, one per line for each change
    Json,
}

/// Runs `migration-gate status` and returns its exit code. `program` is the name that it was called
/// by.
pub fn main(args: &StatusArgs, program: &str) -> ExitCode {
    let ended = cli::block_on(run(args, program));
    cli::finish(ended, Exit::BadInput)
}

async fn run(args: &StatusArgs, program: &str) -> anyhow::Result<Exit> {
    let own = args.config.as_deref().map(config::load).transpose()?;
    let cluster = args.cluster.connect().await?;
    let flags = flags(args, program);
    let begun = Instant::now();
    let mut printer = StatusPrinter::new(args, cluster.clone());
    let mut has_looked = false;
    loop {
        let left = args
            .timeout
            .map(|limit| limit.saturating_sub(begun.elapsed()));
        let look = Box::pin(look(args, &cluster, own.clone(), &flags));
        let report = match within(left, look).await {
            None => {
                eprintln!("error: --timeout is over, and the cluster has not answered");
                return Ok(Exit::Failure);
            }
            Some(Ok(report)) => report,
            // With --watch, keep trying.
            Some(Err(error)) if has_looked => {
                eprintln!("error: {error:#}; looking again");
                tokio::time::sleep(INTERVAL.min(left.unwrap_or(INTERVAL))).await;
                continue;
            }
            Some(Err(error)) => return Err(error),
        };
        has_looked = true;
        let timed_out = args
            .timeout
            .is_some_and(|limit| begun.elapsed() + INTERVAL > limit);
        let is_last = !args.watch || report.overview.is_open() || timed_out;
        printer.print(&report, is_last);
        if is_last {
            let waits = args.watch && !report.overview.is_open();
            return Ok(if report.overview.is_wrong() || waits {
                Exit::Failure
            } else {
                Exit::Success
            });
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// The result of some work, or `None` if it takes longer than that.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

async fn look(
    args: &StatusArgs,
    cluster: &ClusterAccess,
    own: Option<Config>,
    flags: &Flags,
) -> anyhow::Result<StatusReport> {
    let (config, release, unread) = installation::find(&cluster.client, own).await?;
    let gates = meant(args, &config)?;
    Ok(Box::pin(report(cluster, &config, gates, release, unread, flags)).await)
}

/// The options that printed commands need, as this command got them.
fn flags(args: &StatusArgs, program: &str) -> Flags {
    let path = |path: Option<&PathBuf>| path.map(|path| path.display().to_string());
    Flags {
        program: program.to_owned(),
        kubeconfig: path(args.cluster.kubeconfig()),
        context: args.cluster.context().map(str::to_owned),
        config: path(args.config.as_ref()),
    }
}

/// The gates to report. An error if the named one does not exist.
fn meant<'c>(args: &StatusArgs, config: &'c Config) -> anyhow::Result<Vec<&'c Gate>> {
    args.scope.gates(config)?;
    let gates = chosen(&config.gates, args.gate.as_deref(), args.scope.namespace());
    if let Some(name) = &args.gate {
        let known = chosen(&config.gates, None, args.scope.namespace());
        let known: Vec<&str> = known.iter().map(|gate| gate.name.as_str()).collect();
        ensure!(
            !gates.is_empty(),
            "there is no gate {name}, only {}; correct it, or name the file with --config",
            known.join(", ")
        );
    }
    if gates.is_empty() {
        bail!("the configuration has no gates");
    }
    Ok(gates)
}

async fn report(
    cluster: &ClusterAccess,
    config: &Config,
    gates: Vec<&Gate>,
    release: Option<Installation>,
    mut unread: Vec<Unread>,
    flags: &Flags,
) -> StatusReport {
    let reading = Reading::new(&cluster.client, config);
    let mut snapshot = Box::pin(reading.snapshot(gates, release, flags.clone())).await;
    let closer = Box::pin(closer::look(&cluster.client, &mut snapshot)).await;
    unread.extend(reading.unread());
    unread.extend(closer);
    let at = Timestamp::now();
    StatusReport {
        overview: overview(&snapshot, at),
        unread,
        at,
    }
}

/// Prints one report after the other.
struct StatusPrinter {
    form: ReportForm,
    watch: bool,
    /// Whether a single gate was asked for, which is shown in full.
    detailed: bool,
    cluster: ClusterAccess,
    screen: Screen,
    changes: Changes,
}

impl StatusPrinter {
    fn new(args: &StatusArgs, cluster: ClusterAccess) -> Self {
        Self {
            form: args.output,
            watch: args.watch,
            detailed: args.gate.is_some(),
            cluster,
            screen: Screen::of_standard_output(),
            changes: Changes::default(),
        }
    }

    fn print(&mut self, report: &StatusReport, is_last: bool) {
        match self.form {
            ReportForm::Json if self.watch => {
                if self.changes.any(report) {
                    say(json::value(report, &self.cluster));
                }
            }
            ReportForm::Json => say(format_args!("{:#}", json::value(report, &self.cluster))),
            ReportForm::Human if self.watch && !self.screen.is_terminal() => {
                self.changes.lines(report).iter().for_each(say);
            }
            ReportForm::Human => {
                let lines = human::lines(report, &self.cluster, self.detailed, &self.screen);
                if self.watch {
                    self.screen.redraw(&lines, is_last);
                } else {
                    lines.iter().for_each(say);
                }
            }
        }
    }
}
