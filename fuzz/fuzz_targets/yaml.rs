//! Manifests and configurations.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| checks::yaml::check(text));
