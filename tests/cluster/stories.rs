//! An operator's work from the first deployment to the uninstallation, with Helm, Flux, PostgreSQL,
//! Redis and an application with real migrations (`tests/cluster/apps/`).
//!
//! At each request and in each turn of the worker's loop, the application runs a query that needs
//! the schema of its release. Without that schema, PostgreSQL refuses the query, and the
//! application writes a line `UNMIGRATED …`. The stories count these lines: none with
//! migration-gate, some without it.

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

/// The long forms of stories.
pub(crate) fn soaks() -> Vec<Test> {
    revisions::soaks()
}

/// All stories.
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
