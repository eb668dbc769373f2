//! `--strict` accepts everything that the documentation recommends.

use std::fs;
use std::path::{Path, PathBuf};

use migration_gate::cli::config::{load, parse};
use migration_gate::review::codes::Code;
use migration_gate::review::engine::review;
use migration_gate::review::input::{SourceText, gather};
use migration_gate::review::manifest::Loaded;
use migration_gate_core::gates::Config;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The findings that fail a strict review.
fn complaints(config: &Config, loaded: &[Loaded], namespace: Option<&str>) -> Vec<String> {
    let report = review(config, loaded, namespace);
    assert!(report.injections() > 0, "{}", report.summary());
    assert_eq!(report.unreviewed(), 0, "{}", report.summary());
    let findings = report.findings.iter();
    let said = findings.map(|finding| {
        let manifest = &report.objects[finding.manifest].manifest;
        format!("{}: {manifest}: {}", finding.code.as_str(), finding.message)
    });
    said.collect()
}

fn of_files(paths: &[PathBuf]) -> Vec<String> {
    let (sources, _) = gather(paths, std::io::empty());
    let loaded: Vec<Loaded> = sources.into_iter().map(Loaded::new).collect();
    let gates = repository().join("examples/piefed-gates.yaml");
    complaints(&load(&gates).expect("valid"), &loaded, None)
}

#[test]
fn the_example() {
    let folder = repository().join("examples/piefed");
    assert_eq!(of_files(std::slice::from_ref(&folder)), [""; 0]);
}

/// The README leaves the account and its rights to the chart.
#[test]
fn the_recommended_setup() {
    let folder = fs::read_dir(repository().join("examples/piefed")).expect("the example");
    let files = folder.map(|entry| entry.expect("an entry").path());
    let others: Vec<PathBuf> = files
        .filter(|path| path.extension().is_some_and(|end| end == "yaml"))
        .filter(|path| !path.ends_with("rbac-init-checker.yaml"))
        .collect();
    assert!(others.len() > 4, "{others:?}");
    assert_eq!(of_files(&others), [""; 0]);
}

/// Manifests after the shapes of charts, with the gates of `docs/gates.md`.
#[test]
fn the_shapes_of_charts() {
    let page = fs::read_to_string(repository().join("docs/gates.md")).expect("the page");
    let mut shapes = 0;
    for part in page.split("<!-- shape: ").skip(1) {
        let (name, rest) = part.split_once(" -->\n```yaml\n").expect("a shape");
        let (gate, _) = rest.split_once("```\n").expect("a gate");
        let config = parse(gate, "docs/gates.md").expect("valid");
        let file = repository().join(format!("tests/shapes/{name}.yaml"));
        let text = fs::read_to_string(file).expect("the shape");
        let text = text
            .replace("${VERSION}", "1.2.0")
            .replace("${REVISION}", "2")
            .replace("${TIMESTAMP}", "2026-11-26-10-02-59")
            .replace("${DIGEST}", &"0".repeat(64));
        let load = |text: String| {
            [Loaded::new(SourceText {
                name: name.to_owned(),
                text,
                ..SourceText::default()
            })]
        };
        let loaded = load(text.clone());
        let namespace = config.gates[0].namespace.clone();
        let complaints = complaints(&config, &loaded, Some(&namespace));
        // The page warns about hooks that come last. Whether it matters depends on Helm's options.
        let last = ["many-workloads", "post-hook", "post-hook-two-workloads"].contains(&name);
        let rest = complaints
            .iter()
            .filter(|one| !(last && one.starts_with("deadlock: ")));
        assert_eq!(rest.collect::<Vec<_>>(), [""; 0], "{name}");
        assert_eq!(!complaints.is_empty(), last, "{name}: {complaints:?}");
        // Where Helm does not wait, the Job is annotated, or the code ignored.
        let heeded = "    migration-gate.io/ignore: deadlock\n    helm.sh/hook:";
        let annotated = load(text.replace("    helm.sh/hook:", heeded));
        let left = self::complaints(&config, &annotated, Some(&namespace));
        assert_eq!(left, [""; 0], "{name}");
        let mut report = review(&config, &loaded, Some(&namespace));
        report.ignore(&[Code::Deadlock]);
        assert_eq!(report.findings, [], "{name}");
        shapes += 1;
    }
    assert_eq!(shapes, 16);
}
