//! The subcommand `wait`: the injected init container, `wait-for-migrations`.
//!
//! It watches the gate's Job and record, asks [`verdict`](crate::core::verdict::verdict) after
//! each change, and exits: 0 open, 1 internal, 2 usage, 3 the Job failed, 4 timed out, 5 not
//! permitted, 130 and 143 after SIGINT and SIGTERM.

mod identity;
mod logs;
mod output;
mod run;
mod tail;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::config::{Freshness, parse_duration};
use crate::core::explain::Subject;
use crate::core::names;
use crate::core::verdict::{Limits, Wanted};
pub use output::LogFormat;
use output::Output;

/// Waits until a migration Job has completed; runs as the injected init container
///
/// The injected container sets all but the log format, so what it does can be tried by hand with
/// the arguments that the pod shows.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct Args {
    /// The gate's name, for messages and the record's name.
    #[arg(long)]
    gate: String,
    /// The namespace of Job and record.
    #[arg(long)]
    namespace: String,
    /// The migration Job.
    #[arg(long)]
    job: String,
    /// The ConfigMap with what the Job has completed [default: migration-gate-GATE].
    #[arg(long)]
    record: Option<String>,
    /// The image of the container that waits; its version is what the Job must have completed for.
    #[arg(long)]
    image: Option<String>,
    /// How long to wait in all, such as 10m.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// Which completed Jobs count: those of the image's version, or any.
    #[arg(long, default_value = "version", value_parser = freshness)]
    freshness: Freshness,
    /// How lines look.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Where the kubelet looks for a container's last words.
    #[arg(long, hide = true, default_value = "/dev/termination-log")]
    termination_log: PathBuf,
    /// How long missing rights are borne with.
    #[arg(long, hide = true, default_value = "30s", value_parser = parse_duration)]
    permission_timeout: Duration,
    /// How long a Job that was deleted is expected to be created anew.
    #[arg(long, hide = true, default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
}

fn freshness(text: &str) -> Result<Freshness, String> {
    [Freshness::Version, Freshness::Any]
        .into_iter()
        .find(|freshness| freshness.as_str() == text)
        .ok_or_else(|| "it is `version` or `any`".to_owned())
}

/// How a waiter ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Exit {
    Open = 0,
    Internal = 1,
    Usage = 2,
    JobFailed = 3,
    TimedOut = 4,
    NotPermitted = 5,
    // What a shell, and so everyone, takes for death by that signal.
    Interrupted = 130,
    Terminated = 143,
}

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    subject: Subject,
    record: String,
    limits: Limits,
}

impl Plan {
    fn new(args: &Args) -> Result<Self, String> {
        let record = args
            .record
            .clone()
            .unwrap_or_else(|| names::record(&args.gate));
        names::dns_label(&args.gate).map_err(|cause| format!("--gate: {cause}"))?;
        names::dns_label(&args.namespace).map_err(|cause| format!("--namespace: {cause}"))?;
        names::dns_subdomain(&args.job).map_err(|cause| format!("--job: {cause}"))?;
        names::dns_subdomain(&record).map_err(|cause| format!("--record: {cause}"))?;
        let wanted = match (args.freshness, &args.image) {
            (Freshness::Any, _) => Wanted::Any,
            (Freshness::Version, Some(image)) if !image.is_empty() => {
                Wanted::Version(image.clone())
            }
            (Freshness::Version, _) => {
                return Err(
                    "--image: it is missing, so no Job's version can be compared with it; give the \
                     image that waits, or --freshness=any to take every completed Job"
                        .to_owned(),
                );
            }
        };
        Ok(Self {
            subject: Subject {
                namespace: args.namespace.clone(),
                job: args.job.clone(),
                wanted,
            },
            record,
            limits: Limits {
                timeout: args.timeout,
                denied: args.permission_timeout,
                settle: args.settle,
            },
        })
    }
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the same signature for every subcommand"
)]
/// Runs `migration-gate wait` and answers with its exit code.
pub fn main(args: &Args) -> ExitCode {
    let mut output = Output::new(args.log_format, &args.gate, args.termination_log.clone());
    let exit = match Plan::new(args) {
        Ok(plan) => run::to_the_end(&plan, &mut output),
        Err(cause) => {
            output.give_up(&format!("cannot wait: {cause}"));
            Exit::Usage
        }
    };
    ExitCode::from(exit as u8)
}
