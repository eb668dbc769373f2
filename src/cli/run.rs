//! Running a subcommand, and printing why it failed.

use std::error::Error;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::runtime::{Builder, Runtime};

use super::exit::Exit;

/// A runtime with one thread, which is enough to talk to one API server.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the async runtime")
}

/// Does the work of a subcommand to its end.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    runtime()?.block_on(work)
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Ends a subcommand: prints why it failed, if it did. `failed` is its exit code for that.
pub(crate) fn finish(ended: anyhow::Result<Exit>, failed: Exit) -> ExitCode {
    ended
        .unwrap_or_else(|error| {
            eprintln!("error: {}", chain(error.as_ref()));
            failed
        })
        .into()
}
