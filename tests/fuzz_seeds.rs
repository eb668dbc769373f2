//! What holds for any input holds for every seed, and so for everything that fuzzing has found.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;

use checks::{frames, manifests, patterns, record, review, versions, yaml};

fn each(target: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/seeds")
        .join(target);
    let mut count = 0;
    for seed in fs::read_dir(folder).unwrap() {
        let path = seed.unwrap().path();
        eprintln!("{}", path.display());
        check(&fs::read(path).unwrap());
        count += 1;
    }
    assert!(count > 5, "{count} seeds");
}

#[test]
fn every_connection_ends_and_is_answered_in_frames() {
    each("frames", |bytes| {
        frames::check(bytes);
    });
    // Or none of them would show anything.
    let answered = frames::check(include_bytes!("../fuzz/seeds/frames/review"));
    let answered = String::from_utf8_lossy(&answered);
    assert!(answered.contains(r#""allowed":true"#), "{answered}");
}

#[test]
fn every_review_is_answered_rightly() {
    each("review", review::check);
}

#[test]
fn every_pattern_matches_what_it_says() {
    each("patterns", patterns::check);
}

#[test]
fn every_record_is_read_cleaned_and_kept() {
    each("record", record::check);
}

#[test]
fn all_images_are_compared_alike_from_both_sides() {
    each("versions", versions::check);
}

#[test]
fn every_text_is_read_or_refused() {
    each("yaml", yaml::check);
}

#[test]
fn every_text_is_reviewed_and_shown_as_it_would_be_stored() {
    each("manifests", |text| {
        manifests::check(text);
    });
    each("yaml", |text| {
        manifests::check(text);
    });
}
