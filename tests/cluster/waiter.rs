//! The waiter and the record against a real API server, and on a real node.
//!
//! `tests/waiter/` runs it against a fake, where every failure can be made at will. Here the API
//! server decides what a Job can look like, who may see it and how a watch ends.

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

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    // The longest first: it does nothing for most of its time.
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

/// The long forms of them.
pub(crate) fn soaks() -> Vec<Test> {
    [recorder::soaks(), previous::soaks()].concat()
}
