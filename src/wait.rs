//! The subcommand `wait`: the injected init container, `wait-for-migrations`.
//!
//! It watches the gate's Job and record, asks [`verdict`](migration_gate_core::verdict::verdict)
//! after each change, and exits: 0 open, 1 internal, 2 usage, 3 the Job failed, 4 timed out, 5 not
//! permitted, 130 and 143 after SIGINT and SIGTERM.

mod args;
mod identity;
mod logs;
mod output;
mod own_pod;
mod run;
mod tail;
mod told;
mod version;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

pub use self::args::WaitArgs;
use self::args::{Plan, TERMINATION_LOG};
use self::output::Output;
use crate::cli::Exit;

/// Runs `migration-gate wait` and returns its exit code.
pub fn main(args: &WaitArgs) -> ExitCode {
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

/// A panic ends the wait as other failures do: with a termination message, and an exit code of the
/// waiter's own. A panic hook works with every `panic` setting of the build.
fn exit_on_panic(args: &WaitArgs) {
    let WaitArgs {
        log_format, gate, ..
    } = args.clone();
    let termination_log = args.termination_log.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let output = Output::new(log_format.into(), &gate, termination_log.clone());
        let panic = panic.to_string().replace('\n', " ");
        output.give_up(&format!(
            "the waiter panicked; please report this bug: {panic}"
        ));
        std::process::exit(Exit::Failure as i32);
    }));
}

/// Writes the reason why a command line of `wait` was refused to the termination message, too. Does
/// nothing for other subcommands.
pub fn misused(command_line: impl IntoIterator<Item = OsString>, refusal: &str) {
    let mut words = command_line.into_iter().skip(1);
    if words.next().is_none_or(|subcommand| subcommand != "wait") {
        return;
    }
    let words: Vec<OsString> = words.collect();
    let (reason, _) = refusal.split_once("\n\n").unwrap_or((refusal, ""));
    let reason = reason.trim_start_matches("error: ").trim_end();
    let message = format!("cannot wait: {reason}");
    // If the file cannot be written, standard error still has it.
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
    use std::time::Duration;

    use clap::Parser;
    use migration_gate_core::verdict::Limits;

    use super::*;

    #[derive(Parser)]
    struct WaitCli {
        #[command(flatten)]
        args: WaitArgs,
    }

    fn parse(args: &[&str]) -> WaitArgs {
        let required = ["wait", "--gate=g", "--namespace=ns", "--job=j"];
        WaitCli::parse_from(required.iter().chain(args)).args
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
                no_pod: Duration::from_secs(10),
            }
        );
        assert_eq!(plan.log_timeout, Duration::from_secs(20));
        assert_eq!(plan.record, "migration-gate-g");
        assert_eq!(plan.subject.wanted.word(), Some("2"));
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

    /// The test runs itself in a second process, which panics.
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
            message.starts_with("the waiter panicked; please report this bug: ")
                && message.ends_with(" of a bug"),
            "{message}"
        );
    }
}
