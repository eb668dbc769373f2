//! The rules, told as `what comes in → what is decided`. No I/O.

mod fixtures;
mod mutation;
mod patches;
mod properties;
mod validation;
