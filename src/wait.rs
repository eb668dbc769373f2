//! The subcommand `wait`: the injected init container, `wait-for-migrations`.
//!
//! It watches the gate's Job and record, asks [`verdict`](migration_gate_core::verdict::verdict) after
//! each change, and exits: 0 open, 1 internal, 2 usage, 3 the Job failed, 4 timed out, 5 not
//! permitted, 130 and 143 after SIGINT and SIGTERM.

mod identity;
mod logs;
mod output;
mod run;
mod tail;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use migration_gate_core::explain::Subject;
use migration_gate_core::gates::{Freshness, LogFormat, parse_duration};
use migration_gate_core::names;
use migration_gate_core::verdict::{Limits, Wanted};
use output::Output;

use crate::cli::Exit;

/// Kubernetes' default for a container's `terminationMessagePath`.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Waits until a migration Job has completed; runs as the injected init container
///
/// The injected container sets what its gate says, so what it does can be tried by hand with the
/// arguments that the pod shows.
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
    log_format: LogFormatArg,
    /// Where the kubelet looks for a container's last words.
    #[arg(long, hide = true, default_value = TERMINATION_LOG)]
    termination_log: PathBuf,
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
enum LogFormatArg {
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

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    subject: Subject,
    record: String,
    limits: Limits,
    log_timeout: Duration,
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
            log_timeout: args.log_timeout,
        })
    }
}

/// Runs `migration-gate wait` and answers with its exit code.
pub fn main(args: &Args) -> ExitCode {
    exit_on_panic(args);
    let mut output = Output::new(
        args.log_format.into(),
        &args.gate,
        args.termination_log.clone(),
    );
    let exit = match Plan::new(args) {
        Ok(plan) => run::to_the_end(&plan, &mut output),
        Err(cause) => {
            output.give_up(&format!("cannot wait: {cause}"));
            Exit::BadInput
        }
    };
    exit.into()
}

/// A bug ends the wait as other bad ends do: told where people look, with an exit code of the
/// waiter's own. A hook does that however the program was built to panic.
fn exit_on_panic(args: &Args) {
    let Args {
        log_format, gate, ..
    } = args.clone();
    let termination_log = args.termination_log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let output = Output::new(log_format.into(), &gate, termination_log.clone());
        let panic = panic.to_string().replace('\n', " ");
        output.give_up(&format!(
            "cannot wait any more, which is a bug of migration-gate; please report it: {panic}"
        ));
        std::process::exit(Exit::Failure as i32);
    }));
}

/// Leaves the reason why a command line was refused in the termination message too, if it is one
/// of `wait`.
pub fn misused(command_line: impl IntoIterator<Item = OsString>, refusal: &str) {
    let mut words = command_line.into_iter().skip(1);
    if words.next().is_none_or(|subcommand| subcommand != "wait") {
        return;
    }
    let words: Vec<OsString> = words.collect();
    let (reason, _) = refusal.split_once("\n\n").unwrap_or((refusal, ""));
    let reason = reason.trim_start_matches("error: ").trim_end();
    let message = format!("cannot wait: {reason}");
    // Whoever can't be told there reads it on standard error.
    let _ = output::write_termination_message(termination_log(&words), &message);
}

fn termination_log(words: &[OsString]) -> &Path {
    const OPTION: &str = "--termination-log";
    let joined = words
        .iter()
        .find_map(|word| word.to_str()?.strip_prefix(OPTION)?.strip_prefix('='));
    let apart = || words.iter().skip_while(|word| *word != OPTION).nth(1);
    joined
        .map(Path::new)
        .or_else(|| apart().map(Path::new))
        .unwrap_or(Path::new(TERMINATION_LOG))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn parse(args: &[&str]) -> Args {
        let required = ["wait", "--gate=g", "--namespace=ns", "--job=j"];
        Cli::parse_from(required.iter().chain(args)).args
    }

    #[test]
    fn limits_that_nobody_sets_are_those_of_the_documentation() {
        let plan = Plan::new(&parse(&["--image=web:2"])).expect("a plan");
        assert_eq!(
            plan.limits,
            Limits {
                timeout: Duration::from_mins(10),
                denied: Duration::from_secs(30),
                settle: Duration::from_secs(5),
            }
        );
        assert_eq!(plan.log_timeout, Duration::from_secs(20));
        assert_eq!(plan.record, "migration-gate-g");
        assert_eq!(plan.subject.wanted, Wanted::Version("web:2".into()));
    }

    #[test]
    fn the_termination_log_is_found_in_words_that_are_refused() {
        let check = |words: &[&str], expect: &str| {
            let words: Vec<OsString> = words.iter().map(OsString::from).collect();
            assert_eq!(termination_log(&words), Path::new(expect), "{words:?}");
        };
        check(&["--timeout=abc"], "/dev/termination-log");
        check(&["--termination-log=/a", "--timeout=abc"], "/a");
        check(&["--timeout", "abc", "--termination-log", "/a"], "/a");
        check(&["--termination-log"], "/dev/termination-log");
    }

    /// The process that is to panic is this test in another process.
    #[test]
    fn a_panic_ends_the_wait_with_a_message_and_code_1() {
        const CHILD: &str = "MIGRATION_GATE_TEST_PANIC";
        if let Ok(termination_log) = std::env::var(CHILD) {
            exit_on_panic(&parse(&[&format!("--termination-log={termination_log}")]));
            panic!("of a bug");
        }
        let termination_log = tempfile::NamedTempFile::new().expect("a file");
        let name = "wait::tests::a_panic_ends_the_wait_with_a_message_and_code_1";
        let ended = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", name, "--nocapture"])
            .env(CHILD, termination_log.path())
            .output()
            .expect("the other process");
        assert_eq!(ended.status.code(), Some(1));
        let message = std::fs::read_to_string(termination_log.path()).expect("a message");
        assert!(
            message.starts_with("cannot wait any more, which is a bug of migration-gate; ")
                && message.ends_with(" of a bug"),
            "{message}"
        );
    }
}
