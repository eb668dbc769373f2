//! The subcommand `review`.

use std::process::ExitCode;

/// The arguments of `migration-gate review`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `migration-gate review` and answers with its exit code.
pub fn main(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}
