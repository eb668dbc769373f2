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
    match Cli::parse().command {
        Command::Serve(args) => serve::main(*args),
        Command::Wait(args) => wait::main(&args),
        Command::Review(args) => review::main(args),
        Command::Eject(args) => eject::main(&args),
        Command::Check(args) => check::main(&args),
    }
}
