//! The arguments, and the wait that they define.

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

/// Wait for a migration Job to complete; the injected init container runs this
///
/// To try a wait by hand, use the arguments of the init container in the pod.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
#[command(
    override_usage = "migration-gate wait [OPTIONS] --gate <NAME> --namespace <NAME>\n           --job <NAME>"
)]
pub struct WaitArgs {
    /// Name of the gate, for messages and the default record
    #[arg(long, value_name = "NAME")]
    pub(super) gate: String,
    /// Namespace of the Job and the record
    #[arg(long, short, value_name = "NAME")]
    namespace: String,
    /// Migration Job that must complete; repeatable
    ///
    /// A name, in which * stands for a part that changes, or label:SELECTOR. Where several are
    /// separated by |, one of them must complete.
    #[arg(long = "job", value_name = "NAME", required = true, value_parser = job)]
    jobs: Vec<Requirement>,
    /// ConfigMap with the completed versions [default: migration-gate-GATE]
    #[arg(long, value_name = "NAME")]
    record: Option<String>,
    #[command(flatten)]
    version: WantedArgs,
    /// How long to wait for the migration
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = parse_duration)]
    timeout: Duration,
    /// Which completed Jobs count: those of the image's version, or any
    #[arg(long, value_name = "version|any", default_value = "version", value_parser = freshness)]
    freshness: Freshness,
    /// Log format
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) log_format: LogFormatArg,
    #[command(flatten)]
    pub(super) cluster: ClusterArgs,
    /// Termination message file, which the kubelet reads
    #[arg(long, hide = true, default_value = TERMINATION_LOG)]
    pub(super) termination_log: PathBuf,
    /// How long to tolerate permission errors
    #[arg(long, hide = true, default_value = "30s", value_parser = parse_duration)]
    permission_timeout: Duration,
    /// How long to wait for a deleted Job to be created again before the record counts
    #[arg(long, hide = true, default_value = "5s", value_parser = parse_duration)]
    settle: Duration,
    /// How long to wait for the logs of a failed Job
    #[arg(long, hide = true, default_value = "20s", value_parser = parse_duration)]
    log_timeout: Duration,
}

/// [`LogFormat`] as a value of the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormatArg {
    /// Plain text.
    #[default]
    Human,
    /// One JSON object per line, with time, level, gate and message.
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

/// The waiter reports a Job that has no pod after this time: something keeps its pod from being
/// created.
const NO_POD: Duration = Duration::from_secs(10);

/// The validated arguments.
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
