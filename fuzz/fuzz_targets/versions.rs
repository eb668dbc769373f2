//! Images and their versions.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| checks::versions::check(text));
