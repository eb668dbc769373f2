//! Properties of any text that is reviewed offline.

use std::sync::LazyLock;

use clap::ValueEnum as _;
use migration_gate::cli::config::parse;
use migration_gate::review::engine::review;
use migration_gate::review::input::SourceText;
use migration_gate::review::load::{Retention, load};
use migration_gate::review::manifest::Loaded;
use migration_gate::review::origin::Origin;
use migration_gate::review::output::{self, Format, Paint, Sinks};
use migration_gate::review::report::Report;
use migration_gate::review::{review_text, rewrite};
use migration_gate_core::gates::Config;
use migration_gate_yaml::documents;
use serde_json::Value;

/// How the changes of a text are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing changes.
    Nothing,
    /// Lines of the text.
    Edited,
    /// A rendering of at least one object.
    Rendered,
}

/// Checks one text, and returns how its changes are shown.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) -> Shown {
    let text = String::from_utf8_lossy(bytes);
    let shown = review_text(&Config::default(), &text);
    assert!(
        !shown.contains(|c: char| c.is_control() && c != '\n'),
        "a control character reaches the terminal: {shown:?}"
    );
    let loaded = [Loaded::new(SourceText {
        name: "app.yaml".to_owned(),
        text: text.into_owned(),
        ..SourceText::default()
    })];
    let report = review(&EVERY_OPTION, &loaded, None);
    check_trimming(&EVERY_OPTION, &report);
    check_spans(&report);
    check_forms(&report);
    check_origins(&report.loaded[0].source.text);
    let report = review(&Config::default(), &loaded, None);
    check_spans(&report);
    check_manifests(&report);
    check_diff(&report)
}

/// Gates with every option, which hold workloads of every kind.
static EVERY_OPTION: LazyLock<Config> =
    LazyLock::new(|| parse(GATES, "gates").expect("a configuration"));

const GATES: &str = "\
gates:
- {name: a, namespace: piefed-application, jobs: [{name: 'piefed-*'}, {selector: {matchLabels: {app: x}}}, {anyOf: [{name: b}, {name: c}]}], workloads: [{kind: Deployment, name: 'piefed-*'}, {kind: StatefulSet, name: 'c*'}], serviceAccount: s, timeout: 2h}
- {name: b, namespace: piefed-application, job: piefed-db-init, workloads: [{kind: DaemonSet, name: 'g*'}, {kind: CronJob, name: 'n*'}, {kind: Rollout, name: 'w*'}], serviceAccount: s, version: {label: v}, mode: warn}
- {name: c, namespace: default, job: migrate, selector: {matchLabels: {app: x}}, serviceAccount: s, container: web, movingTags: ['v*'], extraAccounts: [t]}
- {name: d, namespace: default, job: migrate, deployments: [web], serviceAccount: s, freshness: any}
rbac: {gates: false}
";

/// A report in each format, without colours: the texts for standard output and standard error.
///
/// # Panics
///
/// When a form can't be written.
pub fn in_every_form(report: &Report<'_>) -> impl Iterator<Item = (Format, [String; 2])> {
    Format::value_variants().iter().map(|form| {
        let mut sinks = Sinks {
            out: Vec::new(),
            err: Vec::new(),
            out_paint: Paint::Plain,
            err_paint: Paint::Plain,
        };
        output::write(*form, report, &mut sinks).expect("memory to write to");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        (*form, [text(sinks.out), text(sinks.err)])
    })
}

/// The report in the format that has everything but the manifests' own text.
fn as_json(report: &Report<'_>) -> String {
    let mut sinks = Sinks {
        out: Vec::new(),
        err: Vec::new(),
        out_paint: Paint::Plain,
        err_paint: Paint::Plain,
    };
    output::write(Format::Json, report, &mut sinks).expect("memory to write to");
    String::from_utf8(sinks.out).expect("UTF-8")
}

/// Each form of a report can be written, and those for programs can be read.
fn check_forms(report: &Report<'_>) {
    for (form, [out, _]) in in_every_form(report) {
        if matches!(form, Format::Json | Format::Sarif) {
            serde_json::from_str::<Value>(&out).expect("JSON");
        }
    }
}

/// A text gives the same report without the parts that no rule and no lint needs.
///
/// # Panics
///
/// When the reports differ.
pub fn check_trimming(config: &Config, whole: &Report<'_>) {
    let sources = whole.loaded.iter().map(|loaded| loaded.source.clone());
    let namespace = None;
    let trimmed = load(sources.collect(), Retention::Needed { config, namespace });
    let trimmed = review(config, &trimmed, namespace);
    assert_eq!(as_json(whole), as_json(&trimmed));
}

/// If a text is rendered from itself, each line leads to a line of the text or to none.
fn check_origins(text: &str) {
    let whole = Origin::Template(text.to_owned());
    let part = Origin::Manifest {
        text: text.to_owned(),
        part: 0..text.len(),
    };
    let lines = text.lines().count();
    for origin in [whole, part] {
        let found = origin.lines(text);
        assert_eq!(found.len(), lines);
        assert!(
            found
                .iter()
                .flatten()
                .all(|line| (1..=lines).contains(line)),
            "{found:?}"
        );
    }
}

/// No place is outside of the text.
fn check_spans(report: &Report<'_>) {
    let text = &report.loaded[0].source.text;
    for finding in &report.findings {
        assert!(
            text.get(report.span(finding).range()).is_some(),
            "{finding:?}"
        );
    }
    for bad in &report.bad_input {
        assert!(text.get(bad.span.range()).is_some(), "{bad:?}");
    }
}

/// The printed YAML has the values that would be stored, in the same order.
fn check_manifests(report: &Report<'_>) {
    let wanted: Vec<&Value> = report
        .objects
        .iter()
        .map(|object| {
            object
                .patched
                .as_ref()
                .unwrap_or(object.manifest.request.object)
        })
        .collect();
    let printed = rewrite::yaml(report, 0);
    let mut stored = Vec::new();
    for document in documents(&printed) {
        flatten(
            document.expect("what is printed can be read").value,
            &mut stored,
        );
    }
    assert_eq!(stored.iter().collect::<Vec<_>>(), wanted, "{printed}");
}

/// The items of lists, and of lists in lists.
fn flatten(value: Value, objects: &mut Vec<Value>) {
    let is_list = value["kind"]
        .as_str()
        .is_some_and(|kind| kind.ends_with("List"));
    match value.get("items") {
        Some(Value::Array(items)) if is_list => {
            for item in items {
                flatten(item.clone(), objects);
            }
        }
        Some(_) if is_list => {}
        _ => objects.push(value),
    }
}

/// The diff leads from the text to the edited text.
fn check_diff(report: &Report<'_>) -> Shown {
    let changes = rewrite::rewrite(report, 0);
    let text = &report.loaded[0].source.text;
    if let Some(new) = &changes.text {
        let diff = rewrite::diffs(report, 0).remove(0);
        assert_eq!(&patched(text, &diff), new, "{diff}");
    }
    match (changes.text.is_some(), changes.rendered.is_empty()) {
        (false, true) => Shown::Nothing,
        (true, true) => Shown::Edited,
        _ => Shown::Rendered,
    }
}

/// A text with a unified diff applied as `patch` does, without any fuzz.
fn patched(text: &str, diff: &str) -> String {
    let mut old = text.split_inclusive('\n');
    let mut at = 0;
    let mut new = String::new();
    let mut lines = diff.split_inclusive('\n').skip(2).peekable();
    while let Some(line) = lines.next() {
        if let Some(header) = line.strip_prefix("@@ -") {
            let range = header.split(' ').next().expect("a range");
            let (start, length) = range.split_once(',').unwrap_or((range, "1"));
            let start: usize = start.parse().expect("a line");
            // An empty range follows the line that it names.
            let first = if length == "0" { start } else { start - 1 };
            while at < first {
                new.push_str(old.next().expect("a line before the hunk"));
                at += 1;
            }
            continue;
        }
        let (sign, content) = line.split_at(1);
        let content = match lines.next_if(|next| next.starts_with('\\')) {
            Some(_) => content
                .strip_suffix('\n')
                .expect("a line feed before the remark"),
            None => content,
        };
        if sign != "+" {
            assert_eq!(old.next(), Some(content), "the old line");
            at += 1;
        }
        if sign != "-" {
            new.push_str(content);
        }
    }
    new.extend(old);
    new
}
