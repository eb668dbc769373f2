//! What an operator lives through, from the first deployment to the uninstallation: Helm, Flux,
//! PostgreSQL, Redis and an application whose migrations are real (`tests/cluster/apps/`).
//!
//! The application's code runs the query that its release was written for, at each request and in
//! each turn of the worker's loop. Where the schema isn't there yet, PostgreSQL refuses the query
//! and the application writes a line
//! `UNMIGRATED …`. The stories count these lines: none with migration-gate, some without it.

pub(crate) mod application;
mod day_after;
mod down;
mod failure;
mod first_deployment;
pub(crate) mod from_zero;
mod health_checks;
mod operations;
mod revisions;
pub(crate) mod stage;
pub(crate) mod traffic;
mod ungated;
mod upgrade;

use testkit::suite::Test;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    [
        ungated::tests(),
        first_deployment::tests(),
        upgrade::tests(),
        failure::tests(),
        health_checks::tests(),
        day_after::tests(),
        operations::tests(),
        revisions::tests(),
        from_zero::tests(),
        down::tests(),
    ]
    .concat()
}
