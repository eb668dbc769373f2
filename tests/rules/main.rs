//! The rules, told as `what comes in → what is decided`. No I/O.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod ejection;
mod fixtures;
mod mutation;
mod patches;
mod prefilter;
mod properties;
mod validation;
