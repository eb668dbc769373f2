//! Completions and man pages, from the definitions of the command line.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Command;
use clap_complete::Shell;

use super::exit::Exit;
use super::run::finish;
use super::say::say;

/// Print a shell completion script
///
/// Bash: source <(migration-gate completions bash). Zsh: write it to a file in a directory of
/// $fpath. Fish: write it to a file in ~/.config/fish/completions.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// Shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Runs `migration-gate completions`.
pub fn completions(args: &CompletionsArgs, mut command: Command) -> ExitCode {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    say(String::from_utf8_lossy(&script).trim_end());
    Exit::Success.into()
}

/// Write the man pages to a directory
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory; it is created if it does not exist
    #[arg(value_name = "FOLDER")]
    folder: PathBuf,
}

/// Runs `migration-gate man`.
pub fn man(args: &ManArgs, command: Command) -> ExitCode {
    let written = write_pages(args, command)
        .with_context(|| format!("cannot write man pages to {}", args.folder.display()))
        .map(|()| Exit::Success);
    finish(written, Exit::Failure)
}

fn write_pages(args: &ManArgs, command: Command) -> io::Result<()> {
    std::fs::create_dir_all(&args.folder)?;
    clap_mangen::generate_to(command, &args.folder)
}
