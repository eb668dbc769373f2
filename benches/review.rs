//! Measures how many manifests a second are reviewed, and how many are only parsed.
//!
//! `cargo bench --bench review`. Nothing is asserted: the figures are for people.

use std::hint::black_box;
use std::time::{Duration, Instant};

use migration_gate::review::{render, review_text};
use migration_gate_core::gates::Config;
use migration_gate_yaml::documents;

/// How often the examples are repeated, and the number of runs, of which the fastest counts.
const COPIES: usize = 500;
const RUNS: usize = 5;

#[allow(
    clippy::cast_precision_loss,
    reason = "figures for people, far below 2^52"
)]
fn main() {
    let config = Config::default();
    let text = stream();
    let objects = documents(&text).count();
    let mib = text.len() as f64 / f64::from(1 << 20);
    println!("{objects} manifests, {mib:.1} MiB, best of {RUNS} runs");

    let events = fastest(|| granit_parser::Parser::new_from_str(&text).count());
    let parsed = fastest(|| documents(&text).count());
    let reviewed = fastest(|| review_text(&config, &text).len());
    let rendered = fastest(|| {
        documents(&text)
            .flatten()
            .filter_map(|document| render::yaml(&document.value))
            .map(|text| text.len())
            .sum()
    });
    let line = |what: &str, time: Duration| {
        println!(
            "{what:<44} {:>9.0} manifests/s {:>7.1} MiB/s {:>6.2} x parsing",
            objects as f64 / time.as_secs_f64(),
            mib / time.as_secs_f64(),
            time.as_secs_f64() / parsed.as_secs_f64()
        );
    };
    line("YAML events alone", events);
    line("parsing, with the place of every value", parsed);
    line("review, with diffs and excerpts", reviewed);
    line("parsing and writing again, for comparison", rendered);
}

/// The example manifests again and again: of ten, two are injected; a tenth as many are refused.
fn stream() -> String {
    let read = |path: &str| {
        std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    let sound = [
        "namespace",
        "configmap",
        "rbac-init-checker",
        "job-db-init",
        "deployment-web",
        "deployment-worker",
    ]
    .iter()
    .map(|name| format!("---\n{}", read(&format!("examples/piefed/{name}.yaml"))))
    .collect::<Vec<_>>()
    .concat();
    let refused = format!("---\n{}", read("examples/piefed-old/pod-shell.yaml"));
    (0..COPIES)
        .map(|copy| match copy % 10 {
            0 => format!("{sound}{refused}"),
            _ => sound.clone(),
        })
        .collect()
}

fn fastest(mut work: impl FnMut() -> usize) -> Duration {
    (0..RUNS)
        .map(|_| {
            let start = Instant::now();
            black_box(work());
            start.elapsed()
        })
        .min()
        .unwrap_or_default()
}
