//! Manifests and configurations.

#![no_main]

#[path = "../checks/yaml.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &[u8]| checks::check(text));
