//! The rules, told as `what comes in → what is decided`. No I/O.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and reads best with values in place"
)]

mod ejection;
mod fixtures;
mod mutation;
mod patches;
mod prefilter;
mod previous;
mod properties;
mod validation;
