//! The arguments, and the wait that they ask for.

use std::path::PathBuf;
use std::time::Duration;

use crate::cli::ClusterArgs;
use migration_gate_core::applier::Applier;
use migration_gate_core::explain::Subject;
use migration_gate_core::gates::{Freshness, JobSource, LogFormat, Requirement, parse_duration};
use migration_gate_core::names;
use migration_gate_core::verdict::Limits;

use super::version::WantedArgs;

/// Kubernetes' default for a container's `terminationMessagePath`.
pub(super) const TERMINATION_LOG: &str = "/dev/termination-log";

/// Waits until a migration Job has completed; runs as the injected init container
///
/// The injected container sets what its gate says, so what it does can be tried by hand with the
/// arguments that the pod shows.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(
    override_usage = "migration-gate wait [OPTIONS] --gate <NAME> --namespace <NAME>\n           --job <NAME>"
)]
pub struct WaitArgs {
    /// The gate's name, for messages and the record's name.
    #[arg(long, value_name = "NAME")]
    pub(super) gate: String,
    /// The namespace of Job and record.
    #[arg(long, short, value_name = "NAME")]
    namespace: String,
    /// A migration Job that must have completed; may be given several times.
    ///
    /// By its name, with `*` for a part that changes, or as `label:SELECTOR`. Of several with `|`
    /// between them, one must have completed.
    #[arg(long = "job", value_name = "NAME", required = true, value_parser = job)]
    jobs: Vec<Requirement>,
    /// The ConfigMap with what the Job has completed [default: migration-gate-GATE].
    #[arg(long)]
    record: Option<String>,
    #[command(flatten)]
    version: WantedArgs,
    /// How long to wait in all, such as 10m.
    #[arg(long, default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// Which completed Jobs count: those of the image's version, or any.
    #[arg(long, default_value = "version", value_parser = freshness)]
    freshness: Freshness,
    /// How lines look.
    #[arg(long, value_enum, default_value_t)]
    pub(super) log_format: LogFormatArg,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// Where the kubelet looks for a container's last words.
    #[arg(long, hide = true, default_value = TERMINATION_LOG)]
    pub(super) termination_log: PathBuf,
    /// How long missing rights are borne with.
    #[arg(long, hide = true, default_value = "30s", value_parser = parse_duration)]
    permission_timeout: Duration,
    /// How long a Job that was deleted is expected to be created anew.
    #[arg(long, hide = true, default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    /// How long the logs of a failed Job may take.
    #[arg(long, hide = true, default_value = "20s", value_parser = parse_duration)]
    log_timeout: Duration,
}

/// [`LogFormat`] as clap reads it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormatArg {
    /// Plain text, for people.
    #[default]
    Human,
    /// One JSON object a line, with `time`, `level`, `gate` and `message`.
    Json,
}

impl From<LogFormatArg> for LogFormat {
    fn from(argument: LogFormatArg) -> Self {
        match argument {
            LogFormatArg::Human => Self::Human,
            LogFormatArg::Json => Self::Json,
        }
    }
}

fn freshness(text: &str) -> Result<Freshness, String> {
    [Freshness::Version, Freshness::Any]
        .into_iter()
        .find(|freshness| freshness.as_str() == text)
        .ok_or_else(|| "it is `version` or `any`".to_owned())
}

fn job(text: &str) -> Result<Requirement, String> {
    let requirement = Requirement::parse(text)?;
    for source in &requirement.any_of {
        if let JobSource::Name(name) = source {
            names::pattern(name)?;
        }
    }
    Ok(requirement)
}

/// A Job that has no pod after that much time has something in its way.
const NO_POD: Duration = Duration::from_secs(10);

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) subject: Subject,
    pub(super) jobs: Vec<Requirement>,
    pub(super) record: String,
    pub(super) limits: Limits,
    pub(super) log_timeout: Duration,
    pub(super) cluster: ClusterArgs,
}

impl Plan {
    pub(super) fn new(args: &WaitArgs) -> Result<Self, String> {
        let record = args
            .record
            .clone()
            .unwrap_or_else(|| names::record(&args.gate));
        names::dns_label(&args.gate).map_err(|cause| format!("--gate: {cause}"))?;
        names::dns_label(&args.namespace).map_err(|cause| format!("--namespace: {cause}"))?;
        names::dns_subdomain(&record).map_err(|cause| format!("--record: {cause}"))?;
        Ok(Self {
            subject: Subject {
                gate: args.gate.clone(),
                namespace: args.namespace.clone(),
                wanted: args.version.wanted(args.freshness)?,
                applier: std::env::var(names::APPLIED_BY)
                    .map(|word| Applier::parse(&word))
                    .unwrap_or_default(),
            },
            jobs: args.jobs.clone(),
            record,
            limits: Limits {
                timeout: args.timeout,
                denied: args.permission_timeout,
                settle: args.settle,
                no_pod: NO_POD,
            },
            log_timeout: args.log_timeout,
            cluster: args.cluster.clone(),
        })
    }
}
