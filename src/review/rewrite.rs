//! The manifests after the patch: their own text, edited, or a rendering if that is not possible.
//!
//! Edited text is read again, and shown only if its value is exactly what the API server would
//! store. This check is why the edits are made here; see [`edit`](super::edit).

use serde_json::Value;

use super::diff::FileDiff;
use super::edit::{self, Edit};
use super::input::{STDIN, SourceText};
use super::manifest::Loaded;
use super::render;
use super::report::{Report, Reviewed};
use migration_gate_core::field::Step;
use migration_gate_yaml::{Document, Lines, documents, inner_mark};

/// The result for one source.
#[derive(Debug, Default)]
pub struct Rewrite {
    /// The source's text with every edit made; `None` if there is none.
    pub text: Option<String>,
    edits: Vec<Edit>,
    /// Indices of changed objects that are shown as renderings, because their lines cannot be
    /// edited.
    pub rendered: Vec<usize>,
}

/// The result for the source with this index. `objects` are the report's objects in it.
pub fn rewrite(report: &Report<'_>, source: usize) -> Rewrite {
    let loaded = &report.loaded[source];
    let changed: Vec<usize> = report
        .objects_of(source)
        .filter(|index| report.objects[*index].patched.is_some())
        .collect();
    if changed.is_empty() {
        return Rewrite::default();
    }
    let lines = Lines::new(&loaded.source.text);
    let mut edits = Vec::new();
    let mut rendered = Vec::new();
    for group in changed.chunk_by(|a, b| document_of(report, *a) == document_of(report, *b)) {
        match edits_of(report, loaded, &lines, group) {
            Some(of_document) => edits.extend(of_document),
            None => rendered.extend(group),
        }
    }
    Rewrite {
        text: (!edits.is_empty()).then(|| edit::apply(&loaded.source.text, &edits)),
        edits,
        rendered,
    }
}

fn document_of(report: &Report<'_>, object: usize) -> usize {
    report.objects[object].manifest.document
}

/// The edits that patch the changed `objects` of one document. `None` unless the edited text reads
/// as the value that the API server would store.
fn edits_of(
    report: &Report<'_>,
    loaded: &Loaded,
    lines: &Lines<'_>,
    objects: &[usize],
) -> Option<Vec<Edit>> {
    let text = &loaded.source.text;
    let index = document_of(report, *objects.first()?);
    let document = loaded.documents[index].as_ref().ok()?;
    let start = lines.position(document.span.start());
    if start.column != 1 {
        return None;
    }
    let mut all = Vec::new();
    for object in objects.iter().map(|index| &report.objects[*index]) {
        let at = &object.manifest.at;
        all.extend(edit::edits(text, lines, document, at, &object.patch)?);
    }
    // The edits move from lines of the source to lines of the document, and back.
    let first = start.line - 1;
    let part = &text[document.span.range()];
    let mut edits = edit::join(part, edit::moved_up(all, first)?)?;
    let mut reread = documents(&edit::apply(part, &edits)).collect::<Vec<_>>();
    let value = match (reread.pop(), reread.is_empty()) {
        (Some(Ok(document)), true) => document.value,
        _ => return None,
    };
    for edit in &mut edits {
        edit.move_down(first);
    }
    let source = report.objects[*objects.first()?].manifest.source;
    (value == expected(report, source, index)).then_some(edits)
}

/// The value of a document after its objects are patched.
fn expected(report: &Report<'_>, source: usize, document: usize) -> Value {
    let Ok(original) = &report.loaded[source].documents[document] else {
        return Value::Null;
    };
    let mut value = original.value.clone();
    for object in &report.objects[report.objects_in(source, document)] {
        if let Some(patched) = &object.patched
            && let Some(place) = at_mut(&mut value, &object.manifest.at)
        {
            *place = patched.clone();
        }
    }
    value
}

fn at_mut<'v>(value: &'v mut Value, steps: &[Step]) -> Option<&'v mut Value> {
    steps.iter().try_fold(value, |value, step| match step {
        Step::Key(key) => value.get_mut(key),
        Step::Index(index) => value.get_mut(index),
    })
}

/// The unified diffs of a source: one of its own text, and one for each object that had to be
/// rendered.
pub fn diffs(report: &Report<'_>, source: usize) -> Vec<String> {
    let rewrite = rewrite(report, source);
    let source = &report.loaded[source].source;
    let name = label(source);
    let mut diffs = Vec::new();
    if let Some(new) = &rewrite.text {
        let diff = FileDiff {
            name: &name,
            old: &source.text,
            new,
        };
        diffs.push(diff.of_edits(&rewrite.edits));
    }
    for index in rewrite.rendered {
        diffs.extend(rendered_diff(&name, &report.objects[index]));
    }
    diffs
}

fn rendered_diff(name: &str, object: &Reviewed<'_>) -> Option<String> {
    let diff = FileDiff {
        name: &format!("{name} ({} as YAML)", object.manifest),
        old: &render::yaml(object.manifest.request.object)?,
        new: &render::yaml(object.patched.as_ref()?)?,
    };
    Some(diff.of_texts())
}

/// A source's name after `a/` and `b/`, as git prints it: without a leading `./` or `/`.
fn label(source: &SourceText) -> String {
    if source.name == STDIN {
        return "stdin".to_owned();
    }
    let name = source.name.trim_start_matches("./").trim_start_matches('/');
    let rendered = if source.origin.is_some() {
        " (as rendered)"
    } else {
        ""
    };
    format!("{name}{rendered}")
}

/// The manifests of a source as they would be stored, each document after a `---`.
pub fn yaml(report: &Report<'_>, source: usize) -> String {
    let loaded = &report.loaded[source];
    let rewrite = rewrite(report, source);
    let text = rewrite.text.as_deref().unwrap_or(&loaded.source.text);
    let reread: Vec<_> = documents(text).collect();
    let mut out = String::new();
    for (index, document) in reread.iter().enumerate() {
        let objects = &report.objects[report.objects_in(source, index)];
        let Ok(document) = document else { continue };
        if objects.is_empty() {
            continue;
        }
        if document_is_text(&rewrite, report, source, index) && bears_a_line_break(text, document) {
            push_document(&mut out, text, document);
        } else {
            for object in objects {
                let value = object
                    .patched
                    .as_ref()
                    .unwrap_or(object.manifest.request.object);
                out.push_str("---\n");
                out.extend(render::yaml(value));
            }
        }
    }
    out
}

/// Whether a document is printed as it is written. It is not if one of its objects was rendered, if
/// an item in it is not an object, or if it is an AdmissionReview, of which only the object is a
/// manifest.
fn document_is_text(
    rewrite: &Rewrite,
    report: &Report<'_>,
    source: usize,
    document: usize,
) -> bool {
    let rendered = rewrite
        .rendered
        .iter()
        .any(|index| document_of(report, *index) == document);
    let captured = report.objects[report.objects_in(source, document)]
        .iter()
        .any(|object| object.manifest.at.first() == Some(&Step::Key("request".to_owned())));
    let written = report.loaded[source].documents[document].as_ref();
    let bad = report.bad_input.iter().any(|bad| {
        bad.source == source
            && written.is_ok_and(|document| document.span.range().contains(&bad.span.start()))
    });
    !rendered && !captured && !bad
}

/// Whether a line break can be added, so that another document can follow. A block scalar at the
/// end of a file may lack a line break, and would get another value with one (YAML 1.2, section
/// 8.1.1.2).
fn bears_a_line_break(text: &str, document: &Document) -> bool {
    let text = &text[document.span.range()];
    let reread = || documents(&format!("{text}\n")).next()?.ok();
    text.ends_with('\n') || reread().is_some_and(|reread| reread.value == document.value)
}

fn push_document(out: &mut String, text: &str, document: &Document) {
    let mut text = text[document.span.range()]
        .trim_start_matches('\u{feff}')
        .to_owned();
    // `kubectl` would read it as a part of the first key.
    if let Some(mark) = inner_mark(&text) {
        text.replace_range(mark, "");
    }
    if !text.starts_with("---") {
        out.push_str("---\n");
    }
    out.push_str(&text);
    if !out.ends_with('\n') {
        out.push('\n');
    }
}
