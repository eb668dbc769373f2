//! The waiter and the record against a real API server, and on a real node.
//!
//! `tests/waiter/` has the same rows against a fake, where every failure can be made at will. Here the API server says
//! what a Job can look like, who may see it and how a watch ends.

mod connection;
mod node;
#[path = "../waiter/process.rs"]
mod process;
mod proxy;
mod recorder;
mod rights;
mod rollout;
mod rows;
pub(crate) mod scene;

use crate::harness::Test;

/// All of them.
pub(crate) fn tests() -> impl Iterator<Item = Test> {
    // The longest first: it does nothing for most of its time.
    connection::TESTS
        .into_iter()
        .chain(rows::TESTS)
        .chain(rights::TESTS)
        .chain(recorder::TESTS)
        .chain(node::TESTS)
        .chain(rollout::TESTS)
}
