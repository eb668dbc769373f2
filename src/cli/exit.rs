//! The exit codes of all subcommands.

use std::process::ExitCode;

/// How a subcommand ends. 2 is also how clap ends at a command line that it refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Done, and nothing was found wrong.
    Success = 0,
    /// The work failed, or something was found wrong.
    Failure = 1,
    /// The arguments or the input can't be worked with.
    BadInput = 2,
    /// `wait`: the Job has failed.
    JobFailed = 3,
    /// `wait`: the gate didn't open in time.
    TimedOut = 4,
    /// `wait`: the waiter may not watch the Job.
    NotPermitted = 5,
    /// `wait`: SIGINT. By convention of shells, death by that signal.
    Interrupted = 130,
    /// `wait`: SIGTERM, likewise.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
