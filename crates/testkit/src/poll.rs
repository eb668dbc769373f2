//! Waiting for a condition that nothing announces.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// What one look at a condition shows.
pub enum Look<T> {
    /// It holds.
    Done(T),
    /// Not yet; this is what was seen instead.
    Pending(String),
    /// It never will.
    Failed(anyhow::Error),
}

/// Looks until `what` is there; past the deadline the error tells what was awaited and what was
/// seen last.
///
/// For readiness endpoints and sockets; what the API server can tell is awaited by `kubectl wait`,
/// which watches.
pub fn until<T>(what: &str, deadline: Duration, mut look: impl FnMut() -> Look<T>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Look::Done(found) => return Ok(found),
            Look::Failed(error) => return Err(error.context(format!("while waiting for {what}"))),
            Look::Pending(seen) if Instant::now() > end => {
                return Err(anyhow!("waited {deadline:?} for {what}; last seen: {seen}"));
            }
            Look::Pending(_) => thread::sleep(Duration::from_millis(25)),
        }
    }
}

/// Looks until a value fulfils a condition. An error ends it.
pub fn until_is<T: Debug>(
    what: &str,
    deadline: Duration,
    mut value: impl FnMut() -> Result<T>,
    condition: impl Fn(&T) -> bool,
) -> Result<()> {
    until(what, deadline, || match value() {
        Err(error) => Look::Failed(error),
        Ok(value) if condition(&value) => Look::Done(()),
        Ok(value) => Look::Pending(format!("{value:?}")),
    })
}
