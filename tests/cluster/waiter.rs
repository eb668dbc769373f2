//! The waiter and the record against a real API server, and on a real node.
//!
//! `tests/waiter/` runs it against a fake API server, which can have every fault. Here a real API
//! server decides what a Job can be, who may read it and how a watch ends.

pub(crate) mod application;
pub(crate) mod applied;
mod connection;
mod corrected;
mod node;
mod previous;
mod recorder;
mod rights;
mod rollout;

use testkit::suite::Test;

/// All tests of the waiter.
pub(crate) fn tests() -> Vec<Test> {
    // The longest one first: it mostly waits.
    [
        connection::tests(),
        testkit::rows::tests(),
        rights::tests(),
        recorder::tests(),
        node::tests(),
        rollout::tests(),
        corrected::tests(),
        applied::tests(),
    ]
    .concat()
}

/// The long forms of these tests.
pub(crate) fn soaks() -> Vec<Test> {
    [recorder::soaks(), previous::soaks()].concat()
}
