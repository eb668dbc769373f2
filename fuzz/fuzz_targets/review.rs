//! Bodies of admission reviews.

#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| checks::review::check(body));
