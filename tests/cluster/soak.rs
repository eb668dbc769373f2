//! The long forms of tests, which take minutes each: `make soak`. Their short forms are among the
//! tests. To add a soak, list the function in its module's `soaks!`, and the module here.

use testkit::suite::Test;

use crate::{chart, monitoring, oldest, orders, pages, serve, session, status, stories, waiter};

/// All soaks, in the order in which they run.
pub(crate) fn soaks() -> Vec<Test> {
    [
        orders::soaks(),
        stories::soaks(),
        waiter::soaks(),
        chart::soaks(),
        serve::soaks(),
        status::soaks(),
        monitoring::soaks(),
        pages::soaks(),
        session::soaks(),
        oldest::soaks(),
    ]
    .concat()
}
