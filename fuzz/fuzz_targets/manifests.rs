//! Texts that are reviewed offline.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| {
    checks::manifests::check(text);
});
