//! The exit codes of all subcommands.

use std::process::ExitCode;

/// The exit code of a subcommand. clap also exits with 2 if it refuses the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The work is done, and no problem was found.
    Success = 0,
    /// The work failed, or a problem was found.
    Failure = 1,
    /// The arguments or the input cannot be used.
    BadInput = 2,
    /// `wait`: the Job has failed.
    JobFailed = 3,
    /// `wait`: the gate didn't open in time.
    TimedOut = 4,
    /// `wait`: the waiter may not watch the Job.
    NotPermitted = 5,
    /// `wait`: stopped by SIGINT. Shells use this code for a process that the signal has killed.
    Interrupted = 130,
    /// `wait`: stopped by SIGTERM, likewise.
    Terminated = 143,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
