//! The record's ConfigMap.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| checks::record::check(text));
