//! The subcommand `serve`.

use std::process::ExitCode;

/// The arguments of `migration-gate serve`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs `migration-gate serve` and answers with its exit code.
pub fn main(_args: Args) -> ExitCode {
    ExitCode::FAILURE
}
