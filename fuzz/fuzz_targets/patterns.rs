//! Patterns, Jobs of a gate, and label selectors.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| checks::patterns::check(text));
