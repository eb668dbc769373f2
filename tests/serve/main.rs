//! `migration-gate serve`: the bytes on the wire, the limits of a client, and how it stops.
//!
//! The routes are called without a socket where nothing but the answer matters, and over loopback
//! where the connection does.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and reads best with values in place"
)]

mod bodies;
mod certificates;
mod clients;
mod limits;
mod monitoring;
mod process;
mod program;
mod replicas;
mod stopping;
mod support;
mod tls;
mod wire;
