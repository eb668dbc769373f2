//! The program: one subcommand for each of its jobs.

#![forbid(unsafe_code)]

use std::path::Path;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use migration_gate::cli::generate::{self, CompletionsArgs, ManArgs};
use migration_gate::{check, eject, record, review, serve, status, version, wait};

/// Start Kubernetes workloads only after their migration Job has completed
#[derive(Parser)]
#[command(version, max_term_width = 80)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(Box<serve::ServeArgs>),
    Wait(Box<wait::WaitArgs>),
    Review(review::ReviewArgs),
    Status(status::StatusArgs),
    Eject(eject::EjectArgs),
    Check(check::CheckArgs),
    Record(record::RecordArgs),
    Version(version::VersionArgs),
    Completions(CompletionsArgs),
    #[command(hide = true)]
    Man(ManArgs),
}

/// The same for a waiter alone. Defining the other subcommands takes a megabyte of memory in each
/// waiting pod.
#[derive(Parser)]
#[command(version, max_term_width = 80)]
struct WaiterCli {
    #[command(subcommand)]
    command: WaiterCommand,
}

#[derive(Subcommand)]
enum WaiterCommand {
    Wait(Box<wait::WaitArgs>),
}

/// The command's definition, under the name by which the program was called: kubectl runs
/// `kubectl-migration_gate` for `kubectl migration-gate`.
fn definitions(command: clap::Command) -> clap::Command {
    command.bin_name(program())
}

/// The name by which the program was called, for its help and messages.
fn program() -> &'static str {
    let program = std::env::args_os().next().unwrap_or_default();
    let plugin = Path::new(&program)
        .file_stem()
        .is_some_and(|name| name == "kubectl-migration_gate");
    if plugin {
        "kubectl migration-gate"
    } else {
        "migration-gate"
    }
}

fn main() -> ExitCode {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|word| word == "wait")
    {
        let WaiterCommand::Wait(args) = parse::<WaiterCli>().command;
        return wait::main(&args);
    }
    match parse::<Cli>().command {
        Command::Serve(args) => serve::main(*args),
        Command::Wait(args) => wait::main(&args),
        Command::Review(args) => review::main(args),
        Command::Status(args) => status::main(&args, program()),
        Command::Eject(args) => eject::main(&args),
        Command::Check(args) => check::main(&args),
        Command::Record(args) => record::main(&args),
        Command::Version(args) => version::main(&args),
        Command::Completions(args) => generate::completions(&args, Cli::command()),
        Command::Man(args) => generate::man(&args, Cli::command()),
    }
}

/// Parses the command line. Prints the help or an error, and exits, if there is nothing to run.
fn parse<C: Parser>() -> C {
    definitions(C::command())
        .try_get_matches()
        .and_then(|matches| C::from_arg_matches(&matches))
        .unwrap_or_else(|error| {
            if error.use_stderr() {
                wait::misused(std::env::args_os(), &error.to_string());
            }
            error.exit()
        })
}
