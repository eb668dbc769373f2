//! The program: one subcommand for each of its jobs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use migration_gate::{check, eject, review, serve, wait};

/// Makes a Kubernetes cluster enforce migration ordering.
#[derive(Parser)]
#[command(version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::Args>),
    Wait(wait::Args),
    Review(review::Args),
    Eject(eject::Args),
    Check(check::Args),
}

fn main() -> ExitCode {
    let cli = Cli::try_parse().unwrap_or_else(|error| {
        if error.use_stderr() {
            wait::misused(std::env::args_os(), &error.to_string());
        }
        error.exit()
    });
    match cli.command {
        Command::Serve(args) => serve::main(*args),
        Command::Wait(args) => wait::main(&args),
        Command::Review(args) => review::main(args),
        Command::Eject(args) => eject::main(&args),
        Command::Check(args) => check::main(&args),
    }
}
