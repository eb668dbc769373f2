//! The subcommand `wait`.

use std::process::ExitCode;

/// The arguments of `migration-gate wait`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `migration-gate wait` and answers with its exit code.
pub fn main(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}
