//! What holds for any text that is reviewed offline.

use migration_gate::review::engine::review;
use migration_gate::review::input::SourceText;
use migration_gate::review::manifest::Loaded;
use migration_gate::review::report::Report;
use migration_gate::review::{review_text, rewrite};
use migration_gate_core::gates::Config;
use migration_gate_yaml::documents;
use serde_json::Value;

/// What is shown for a text: whether objects change, and whether their lines are edited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// Nothing changes.
    Nothing,
    /// Lines of the text.
    Edited,
    /// A rendering, of one object at least.
    Rendered,
}

/// Checks one text, whatever is in it, and answers with what is shown for it.
///
/// # Panics
///
/// When something doesn't hold.
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
    let report = review(&Config::default(), &loaded, None);
    check_spans(&report);
    check_manifests(&report);
    check_diff(&report)
}

/// Nothing points outside of the text.
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

/// What is printed as YAML is what would be stored, in the same order.
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

/// What `patch` makes of a text and a unified diff, without any fuzz.
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
