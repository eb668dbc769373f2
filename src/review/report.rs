//! The result of a review: every object with its patch, and the findings with their places.

use std::ops::Range;

use json_patch::PatchOperation;
use serde_json::Value;

use super::codes::{BadCode, Code, Level};
use super::input::Unreadable;
use super::manifest::{Loaded, Manifest, Skipped};
use migration_gate_core::decision::Outcome;
use migration_gate_core::field::{FieldPath, Step};
use migration_gate_yaml::Span;

/// A message about one field of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The index of the object.
    pub manifest: usize,
    /// Its level.
    pub level: Level,
    /// The code, listed in `docs/review.md`.
    pub code: Code,
    /// The field; empty for an object as a whole.
    pub field: FieldPath,
    /// The problem, and the next step.
    pub message: String,
}

impl Finding {
    /// A finding at its code's own level.
    pub fn new(manifest: usize, code: Code, field: FieldPath, message: String) -> Self {
        Self {
            manifest,
            level: code.level(),
            code,
            field,
            message,
        }
    }
}

/// A part of a source that can't be reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadInput {
    /// The index of its source.
    pub source: usize,
    /// The code, listed in `docs/review.md`.
    pub code: BadCode,
    /// Its place.
    pub span: Span,
    /// The problem, and the next step.
    pub message: String,
}

/// One object with what admission does to it.
#[derive(Debug, Clone)]
pub struct Reviewed<'l> {
    /// The object.
    pub manifest: Manifest<'l>,
    /// The gate that holds it.
    pub gate: Option<String>,
    /// The decision.
    pub outcome: Outcome,
    /// The patch of the mutating webhook; empty if the object is refused.
    pub patch: Vec<PatchOperation>,
    /// The object with the patch applied; `None` without a patch.
    pub patched: Option<Value>,
}

/// The annotation that names the codes that an object ignores, separated by commas or spaces.
pub const IGNORE: &str = "migration-gate.io/ignore";

fn ignores(object: &Value, code: Code) -> bool {
    let annotations = object.get("metadata").and_then(|m| m.get("annotations"));
    let codes = annotations.and_then(|annotations| annotations.get(IGNORE)?.as_str());
    let mut codes = codes.unwrap_or_default().split([',', ' ', '\n']);
    codes.any(|ignored| ignored == code.as_str())
}

/// Everything that a review found.
#[derive(Debug)]
pub struct Report<'l> {
    /// The documents.
    pub loaded: &'l [Loaded],
    /// Every object, in order.
    pub objects: Vec<Reviewed<'l>>,
    /// Findings, in the order of their places.
    pub findings: Vec<Finding>,
    /// Documents that aren't manifests, in the order of their places.
    pub bad_input: Vec<BadInput>,
    /// Paths that couldn't be read.
    pub unreadable: Vec<Unreadable>,
    /// The skipped documents, in the order of their places.
    pub skipped: Vec<Skipped>,
    /// Number of ignored warnings.
    pub ignored: usize,
}

impl Report<'_> {
    /// The start of an object in its source's text, as an empty span.
    pub fn start(&self, manifest: &Manifest<'_>) -> Span {
        match &self.loaded[manifest.source].documents[manifest.document] {
            Ok(document) => {
                let start = document.find(&manifest.at).node.span.start();
                Span::new(start, start)
            }
            Err(_) => Span::default(),
        }
    }

    /// The place of a finding in its source's text.
    pub fn span(&self, finding: &Finding) -> Span {
        let manifest = &self.objects[finding.manifest].manifest;
        let Ok(document) = &self.loaded[manifest.source].documents[manifest.document] else {
            return Span::default();
        };
        // A finding about a whole object points at the object's name.
        let name = || FieldPath::from_iter(["metadata", "name"]);
        let whole = finding.field.steps().is_empty();
        let steps = manifest.steps(&if whole { name() } else { finding.field.clone() });
        let found = document.find(&steps);
        if found.steps < steps.len() {
            // The field is missing, so point at its parent.
            return found.key.unwrap_or(found.node.span);
        }
        match found.value {
            // Point at the name of a container or a variable.
            Value::Object(members) if members.contains_key("name") => {
                let mut name = steps;
                name.push(Step::Key("name".to_owned()));
                document.find(&name).node.span
            }
            Value::Object(_) | Value::Array(_) => found.key.unwrap_or(found.node.span),
            _ if found.node.span.start() == found.node.span.end() => {
                found.key.unwrap_or(found.node.span)
            }
            _ => found.node.span,
        }
    }

    /// The indices of a source's objects.
    pub fn objects_of(&self, source: usize) -> Range<usize> {
        let at = |source| self.objects.partition_point(|o| o.manifest.source < source);
        at(source)..at(source + 1)
    }

    /// The indices of a document's objects.
    pub fn objects_in(&self, source: usize, document: usize) -> Range<usize> {
        let at = |document| {
            self.objects
                .partition_point(|o| (o.manifest.source, o.manifest.document) < (source, document))
        };
        at(document)..at(document + 1)
    }

    /// The findings in a source.
    pub fn findings_in(&self, source: usize) -> &[Finding] {
        let of = |finding: &Finding| self.objects[finding.manifest].manifest.source;
        let at = |source| {
            self.findings
                .partition_point(|finding| of(finding) < source)
        };
        &self.findings[at(source)..at(source + 1)]
    }

    /// The documents of a source that aren't manifests.
    pub fn bad_input_in(&self, source: usize) -> &[BadInput] {
        let at = |source| self.bad_input.partition_point(|bad| bad.source < source);
        &self.bad_input[at(source)..at(source + 1)]
    }

    /// Drops the warnings of these codes, and those that their own objects ignore by the annotation
    /// [`IGNORE`]. A refusal cannot be ignored: the API server would refuse the object all the
    /// same.
    pub fn ignore(&mut self, codes: &[Code]) {
        let before = self.findings.len();
        let objects = &self.objects;
        self.findings.retain(|finding| {
            let object = objects[finding.manifest].manifest.request.object;
            finding.level == Level::Error
                || !(codes.contains(&finding.code) || ignores(object, finding.code))
        });
        self.ignored += before - self.findings.len();
    }

    /// The skipped documents of a source.
    pub fn skipped_in(&self, source: usize) -> &[Skipped] {
        let at = |source| self.skipped.partition_point(|one| one.source < source);
        &self.skipped[at(source)..at(source + 1)]
    }

    /// Number of findings of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|f| f.level == level).count()
    }

    /// Number of changed objects.
    pub fn injections(&self) -> usize {
        let changed = self.objects.iter().filter(|o| o.patched.is_some());
        changed.count()
    }

    /// Number of documents and paths that could not be reviewed.
    pub fn unreviewed(&self) -> usize {
        self.bad_input.len() + self.unreadable.len()
    }

    /// The counts, in one sentence.
    pub fn summary(&self) -> String {
        let count = |number: usize, one: &str, many: &str| match number {
            0 => format!("no {many}"),
            1 => format!("1 {one}"),
            number => format!("{number} {many}"),
        };
        let more = |number: usize, what: &str| match number {
            0 => String::new(),
            number => format!(", {number} {what}"),
        };
        let ignored = more(self.ignored, "ignored");
        let bad = more(self.unreviewed(), "that could not be reviewed");
        let skipped = more(self.skipped.len(), "skipped");
        format!(
            "{}: {}, {}, {}{ignored}{bad}{skipped}",
            count(self.objects.len(), "object", "objects"),
            count(self.injections(), "injection", "injections"),
            count(self.count(Level::Error), "violation", "violations"),
            count(self.count(Level::Warning), "warning", "warnings"),
        )
    }
}
