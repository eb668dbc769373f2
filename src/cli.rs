//! What every subcommand has in common with the others.

pub mod config;
pub(crate) mod say;
