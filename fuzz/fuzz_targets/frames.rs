//! Frames of HTTP/2.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::frames::check(bytes);
});
