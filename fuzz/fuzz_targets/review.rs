//! Bodies of admission reviews.

#![no_main]

#[path = "../checks/review.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|body: &[u8]| checks::check(body));
