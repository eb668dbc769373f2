//! Waiting for a condition that has no events.

use std::fmt::Debug;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

/// The result of one check of a condition.
pub enum Look<T> {
    /// It holds.
    Done(T),
    /// It does not hold yet. This was seen instead.
    Pending(String),
    /// It never will hold.
    Failed(anyhow::Error),
}

/// Calls `look` until it is done. After the deadline, the error names `what` and what was last
/// seen.
///
/// Use it for readiness endpoints and sockets. For the state of objects, use `kubectl wait`, which
/// watches.
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

/// Calls `look` until a condition holds for its value. An error ends the wait.
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
