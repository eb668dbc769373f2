//! Shared parts of the subcommands: arguments, the runtime, errors and exit codes.
//!
//! A message never contains its cause: the cause is the error's `source()`. `finish` writes the
//! whole chain, each cause once, behind one prefix.

mod args;
pub mod config;
mod exit;
pub mod generate;
pub(crate) mod installed;
mod run;
pub(crate) mod say;

pub use self::args::{ClusterArgs, ConfigArgs, InstalledArgs, ScopeArgs};
pub use self::exit::Exit;
pub(crate) use self::run::{block_on, chain, finish, runtime};
