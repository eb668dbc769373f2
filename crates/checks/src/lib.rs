//! What holds for every input, whatever is in it. The fuzz targets check it for inputs that they
//! make up, `tests/fuzz_seeds.rs` for those that fuzzing has found, and the review's properties for
//! generated manifests.
//!
//! A crate of its own, as a fuzz target builds all that it depends on with instrumentation.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

pub mod frames;
pub mod manifests;
pub mod patterns;
pub mod record;
pub mod review;
pub mod versions;
pub mod yaml;
