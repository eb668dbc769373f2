//! Texts that are reviewed offline.

#![no_main]

#[path = "../checks/manifests.rs"]
mod checks;

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    checks::check(text);
});
