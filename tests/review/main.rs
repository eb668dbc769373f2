//! The offline review as a library: its findings, and that it shows what would be stored.

mod edits;
mod folders;
mod heeded;
mod inputs;
mod kubectl;
mod lints;
mod lints_of_time;
mod live;
mod manifests;
mod output;
mod rendered;
mod strict;
mod trimmed;

use migration_gate::review::engine::review;
use migration_gate::review::input::SourceText;
use migration_gate::review::manifest::Loaded;
use migration_gate_core::gates::Config;

/// A Deployment that PieFed's gate holds.
const DEPLOYMENT: &str = include_str!("setup/deployment.yaml");

/// A text as the only source.
fn loaded(text: &str) -> [Loaded; 1] {
    [Loaded::new(SourceText {
        name: "app.yaml".to_owned(),
        text: text.to_owned(),
        ..SourceText::default()
    })]
}

/// The findings in a text, as `code line:column`.
fn found(config: &Config, text: &str) -> Vec<String> {
    let loaded = loaded(text);
    let report = review(config, &loaded, None);
    let mut found: Vec<String> = report
        .findings
        .iter()
        .map(|finding| {
            assert_eq!(finding.level, finding.code.level(), "{finding:?}");
            let start = report.span(finding).start();
            let line = text[..start].matches('\n').count() + 1;
            format!("{} {line}", finding.code.as_str())
        })
        .collect();
    found.extend(
        report
            .bad_input
            .iter()
            .map(|bad| bad.code.as_str().to_owned()),
    );
    found
}
