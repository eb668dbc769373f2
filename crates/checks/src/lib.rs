//! Properties of every input, whatever is in it. The fuzz targets check them for inputs that they
//! generate, `tests/fuzz_seeds.rs` for inputs that fuzzing has found, and the review's properties
//! for generated manifests.
//!
//! This is a crate of its own because a fuzz target builds all its dependencies with
//! instrumentation.

#![allow(clippy::unwrap_used, reason = "a check fails by panicking")]

pub mod frames;
pub mod manifests;
pub mod patterns;
pub mod record;
pub mod review;
pub mod versions;
pub mod yaml;
