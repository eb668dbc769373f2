//! The review itself: the two webhooks' rules on every object, then what only shows between objects.
//!
//! Pure: what is reviewed has been read already, and nothing is printed.

use std::ops::Range;

use json_patch::PatchOperation;
use serde_json::Value;

use super::lint;
use super::manifest::{Loaded, Manifest, NotAnObject, manifests};
use migration_gate_core::decision::{Outcome, Rule, Violation};
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::{Config, Mode};
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;
use migration_gate_yaml::Span;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The object is let through; it will bite later.
    Warning,
    /// The API server would refuse the object.
    Error,
}

/// One thing to tell about one field of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The index of the object.
    pub manifest: usize,
    /// How bad it is.
    pub level: Level,
    /// A stable code, listed in `docs/review.md`.
    pub code: &'static str,
    /// The field; of an object as a whole, none.
    pub field: FieldPath,
    /// What is wrong and what to do.
    pub message: String,
}

/// What can't be reviewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadInput {
    /// The index of its source.
    pub source: usize,
    /// A stable code: `syntax` or `not-an-object`.
    pub code: &'static str,
    /// Where it is.
    pub span: Span,
    /// What is wrong and what to do.
    pub message: String,
}

/// One object with what admission does to it.
#[derive(Debug, Clone)]
pub struct Reviewed<'l> {
    /// The object.
    pub manifest: Manifest<'l>,
    /// The gate that holds it.
    pub gate: Option<String>,
    /// What was decided.
    pub outcome: Outcome,
    /// What the mutating webhook would change; empty if the object is refused.
    pub patch: Vec<PatchOperation>,
    /// The object with the patch applied; `None` without a patch.
    pub patched: Option<Value>,
}

/// All that a review found.
#[derive(Debug)]
pub struct Report<'l> {
    /// What was read.
    pub loaded: &'l [Loaded],
    /// Every object, in order.
    pub objects: Vec<Reviewed<'l>>,
    /// Findings, in the order of their places.
    pub findings: Vec<Finding>,
    /// What isn't a manifest, in the order of its places.
    pub bad_input: Vec<BadInput>,
}

/// Reviews what was read. `namespace` is where objects go that don't say.
pub fn review<'l>(config: &Config, loaded: &'l [Loaded], namespace: Option<&'l str>) -> Report<'l> {
    let (manifests, problems) = manifests(loaded, namespace);
    let mut report = Report {
        loaded,
        objects: Vec::with_capacity(manifests.len()),
        findings: Vec::new(),
        bad_input: bad_input(loaded, problems),
    };
    // Violations are found as such, with their fields, and become warnings below if the mode says so.
    let enforced = Config {
        mode: Mode::Enforce,
        ..config.clone()
    };
    for manifest in manifests {
        report.object(config.mode, &enforced, manifest);
    }
    let findings = lint::lints(config, &report.objects);
    report.findings.extend(findings);
    report.sort();
    report
}

impl<'l> Report<'l> {
    fn object(&mut self, mode: Mode, config: &Config, manifest: Manifest<'l>) {
        let index = self.objects.len();
        let request = manifest.request;
        let mutation = mutate(config, &request);
        let refused = !mutation.violations.is_empty();
        let patched = apply(&request, &mutation.patch);

        let mut violations = mutation.violations;
        // Paths in the object as its author wrote it, so before the injection moves init containers along.
        violations.extend(
            validate(config, &request)
                .violations
                .into_iter()
                .filter(|violation| violation.rule != Rule::WaiterMissing),
        );
        if !refused && mutation.gate.is_some() {
            let after = Request {
                object: patched.as_ref().unwrap_or(request.object),
                ..request
            };
            violations.extend(
                validate(config, &after)
                    .violations
                    .into_iter()
                    .filter(|violation| violation.rule == Rule::WaiterMissing),
            );
        }
        let outcome = match (violations.is_empty(), mode) {
            (true, _) => mutation.outcome,
            (false, Mode::Enforce) => Outcome::Denied,
            (false, Mode::Warn) => Outcome::Warned,
        };
        self.findings
            .extend(violations.into_iter().map(|violation| {
                let Violation {
                    field,
                    rule,
                    message,
                } = violation;
                Finding {
                    manifest: index,
                    level: match mode {
                        Mode::Enforce => Level::Error,
                        Mode::Warn => Level::Warning,
                    },
                    code: rule.code(),
                    field,
                    message,
                }
            }));
        self.findings
            .extend(mutation.warnings.into_iter().map(|warning| Finding {
                manifest: index,
                level: Level::Warning,
                code: warning.code,
                field: warning.field,
                message: warning.message,
            }));
        // What is refused is never stored, so it isn't shown as if it were.
        let stored = outcome != Outcome::Denied;
        self.objects.push(Reviewed {
            manifest,
            gate: mutation.gate,
            outcome,
            patch: if stored { mutation.patch } else { Vec::new() },
            patched: patched.filter(|_| stored),
        });
    }

    /// The place of an object in its source's text.
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
        // An object as a whole is known by its name.
        let name = || FieldPath::from_iter(["metadata", "name"]);
        let whole = finding.field.steps().is_empty();
        let steps = manifest.steps(&if whole { name() } else { finding.field.clone() });
        let found = document.find(&steps);
        if found.steps < steps.len() {
            // The field isn't there: point at what it is missing from.
            return found.key.unwrap_or(found.node.span);
        }
        match found.value {
            // A container or a variable is known by its name.
            Value::Object(members) if members.contains_key("name") => {
                let mut name = steps;
                name.push(migration_gate_core::field::Step::Key("name".to_owned()));
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

    /// How many findings there are of a level.
    pub fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|f| f.level == level).count()
    }

    fn sort(&mut self) {
        let mut findings: Vec<_> = std::mem::take(&mut self.findings)
            .into_iter()
            .map(|finding| {
                let source = self.objects[finding.manifest].manifest.source;
                (source, self.span(&finding).start(), finding)
            })
            .collect();
        findings.sort_by_key(|(source, start, finding)| {
            (
                *source,
                *start,
                std::cmp::Reverse(finding.level),
                finding.code,
            )
        });
        self.findings = findings.into_iter().map(|(_, _, f)| f).collect();
    }
}

fn apply(request: &Request<'_>, patch: &[PatchOperation]) -> Option<Value> {
    if patch.is_empty() {
        return None;
    }
    let mut object = request.object.clone();
    // The engine makes patches of the object as it is, so this fails on none of them.
    json_patch::patch(&mut object, patch).ok()?;
    Some(object)
}

fn bad_input(loaded: &[Loaded], problems: Vec<NotAnObject>) -> Vec<BadInput> {
    let mut bad: Vec<BadInput> = problems
        .into_iter()
        .map(|problem| BadInput {
            source: problem.source,
            code: "not-an-object",
            span: problem.span,
            message: problem.message,
        })
        .collect();
    for (source, one) in loaded.iter().enumerate() {
        bad.extend(
            one.documents
                .iter()
                .filter_map(|document| document.as_ref().err())
                .map(|error| BadInput {
                    source,
                    code: "syntax",
                    span: Span::new(error.offset, error.offset),
                    message: error.message.clone(),
                }),
        );
    }
    bad.sort_by_key(|bad| (bad.source, bad.span.start()));
    bad
}
