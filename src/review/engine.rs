//! The review itself: both webhooks' rules on every object, then the lints over all of them.
//!
//! Pure: the manifests have been read already, and nothing is printed.

use std::cmp::Reverse;

use json_patch::PatchOperation;
use serde_json::Value;

use super::codes::{BadCode, Code, Level};
use super::lint::World;
use super::manifest::{Loaded, Manifest, NotAnObject, SourceContents, contents};
use super::report::{BadInput, Finding, Report, Reviewed};
use migration_gate_core::decision::{Decision, Notice, Outcome, Rule, Violation};
use migration_gate_core::gates::{Config, Mode};
use migration_gate_core::held::mode;
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;
use migration_gate_yaml::Span;

/// Reviews manifests. `namespace` is for objects that name none.
pub fn review<'l>(config: &Config, loaded: &'l [Loaded], namespace: Option<&'l str>) -> Report<'l> {
    let SourceContents {
        manifests,
        problems,
        skipped,
    } = contents(loaded, namespace);
    let mut report = Report {
        loaded,
        objects: Vec::with_capacity(manifests.len()),
        findings: Vec::new(),
        bad_input: bad_input(loaded, problems),
        unreadable: Vec::new(),
        skipped,
        ignored: 0,
    };
    let assessor = Assessor::new(config);
    for (index, manifest) in manifests.into_iter().enumerate() {
        let (object, findings) = assessor.admit(index, manifest);
        report.objects.push(object);
        report.findings.extend(findings);
    }
    let world = World::new(config, &report.objects);
    report.findings.retain(|finding| !world.heeds(finding));
    report.findings.extend(world.lints());
    report.ignore(&[]);
    sort(&mut report);
    report
}

/// Asks both webhooks' rules.
#[derive(Debug)]
pub struct Assessor<'c> {
    config: &'c Config,
    /// The same configuration in the mode `enforce`.
    enforced: Config,
}

impl<'c> Assessor<'c> {
    /// Asks the rules of a configuration.
    pub fn new(config: &'c Config) -> Self {
        // In the mode `enforce` the rules find violations with their fields. They become warnings
        // later if the configuration's own mode says so.
        let mut enforced = config.clone();
        enforced.mode = Mode::Enforce;
        for gate in &mut enforced.gates {
            gate.mode = None;
        }
        Self { config, enforced }
    }

    /// The configuration.
    pub fn config(&self) -> &'c Config {
        self.config
    }

    fn admit<'l>(&self, index: usize, manifest: Manifest<'l>) -> (Reviewed<'l>, Vec<Finding>) {
        let mode = mode(self.config, &manifest.request);
        admit(mode, &self.enforced, index, manifest)
    }

    /// Whether the rules hold, change or refuse an object, or warn about it.
    pub fn has_findings(&self, manifest: Manifest<'_>) -> bool {
        let (object, findings) = self.admit(0, manifest);
        let untouched = object.outcome == Decision::default().outcome && object.patched.is_none();
        !untouched || object.gate.is_some() || !findings.is_empty()
    }
}

/// One object as both webhooks treat it, with their findings. `index` is its place in the report.
fn admit<'l>(
    mode: Mode,
    enforced: &Config,
    index: usize,
    manifest: Manifest<'l>,
) -> (Reviewed<'l>, Vec<Finding>) {
    let undeleted = undeleted(&manifest);
    let object = undeleted.as_ref().unwrap_or(manifest.request.object);
    // For an object that a cluster has stored, the review shows the next change of its pod
    // template.
    let stored = |old: &Value| std::ptr::eq(old, manifest.request.object);
    let request = Request {
        object,
        old: manifest.request.old.filter(|old| !stored(old)),
        ..manifest.request
    };
    // A fragment gets no waiter: the object that it is merged into gets one.
    let mut mutation = if manifest.fragment {
        Decision::default()
    } else {
        mutate(enforced, &request)
    };
    let after = apply(&request, &mutation.patch);
    let validated = Request {
        object,
        ..manifest.request
    };
    let violations = violations(enforced, &validated, &mut mutation, after.as_ref());
    let outcome = match (violations.is_empty(), mode) {
        (true, _) => mutation.outcome,
        (false, Mode::Enforce) => Outcome::Denied,
        (false, Mode::Warn) => Outcome::Warned,
    };
    let level = match mode {
        Mode::Enforce => Level::Error,
        Mode::Warn => Level::Warning,
    };
    let refusals = violations.into_iter().map(|violation| Finding {
        level,
        ..Finding::new(
            index,
            violation.rule.into(),
            violation.field,
            violation.message,
        )
    });
    // A lint reports these instead, because it sees the other manifests too.
    let warnings = mutation.warnings.into_iter();
    let warnings = warnings.filter(|warning| warning.notice != Notice::PrefixedSource);
    let warnings = warnings.map(|warning| {
        let code = Code::from(warning.notice);
        Finding::new(index, code, warning.field, warning.message)
    });
    let findings = refusals.chain(warnings).collect();
    let patched = match undeleted {
        Some(_) => apply(&manifest.request, &mutation.patch),
        None => after,
    };
    // A refused object is never stored, so it is not shown as if it were.
    let stored = outcome != Outcome::Denied;
    let object = Reviewed {
        manifest,
        gate: mutation.gate,
        outcome,
        patch: if stored { mutation.patch } else { Vec::new() },
        patched: patched.filter(|_| stored),
    };
    (object, findings)
}

/// The violations that both webhooks find.
fn violations(
    enforced: &Config,
    request: &Request<'_>,
    mutation: &mut Decision,
    patched: Option<&Value>,
) -> Vec<Violation> {
    let found = |request: &Request<'_>, waiter: bool| {
        validate(enforced, request)
            .violations
            .into_iter()
            .filter(move |violation| (violation.rule == Rule::WaiterMissing) == waiter)
    };
    let refused = !mutation.violations.is_empty();
    let mut violations = std::mem::take(&mut mutation.violations);
    // Fields are paths in the object as its author wrote it, before the injection moves init
    // containers.
    let others: Vec<Violation> = found(request, false)
        .filter(|v| !is_taken_out(request.object, v) && !violations.contains(v))
        .collect();
    violations.extend(others);
    if !refused && mutation.gate.is_some() {
        let after = Request {
            object: patched.unwrap_or(request.object),
            ..*request
        };
        violations.extend(found(&after, true));
    }
    violations
}

/// The object without `metadata.deletionTimestamp`, which only the API server sets. `None` if the
/// object stays as it is.
fn undeleted(manifest: &Manifest<'_>) -> Option<Value> {
    let request = &manifest.request;
    if !manifest.written || !request.is_being_deleted() {
        return None;
    }
    let mut object = request.object.clone();
    let metadata = object.get_mut("metadata")?.as_object_mut()?;
    metadata.shift_remove("deletionTimestamp");
    Some(object)
}

/// Whether a strategic merge patch deletes the forbidden field from the object that it is merged
/// into.
fn is_taken_out(object: &Value, violation: &Violation) -> bool {
    let at = object.pointer(violation.field.pointer().as_str());
    at.is_some_and(|at| at.get("$patch").is_some_and(|how| how == "delete"))
}

fn apply(request: &Request<'_>, patch: &[PatchOperation]) -> Option<Value> {
    if patch.is_empty() {
        return None;
    }
    let mut object = request.object.clone();
    // This cannot fail: the rules make patches for the object as it is.
    json_patch::patch(&mut object, patch).ok()?;
    Some(object)
}

fn bad_input(loaded: &[Loaded], problems: Vec<NotAnObject>) -> Vec<BadInput> {
    let broken = loaded.iter().enumerate().flat_map(|(source, one)| {
        let errors = one.documents.iter().filter_map(|d| d.as_ref().err());
        errors.map(move |error| BadInput {
            source,
            code: BadCode::Syntax,
            span: Span::new(error.offset, error.offset),
            message: error.message.clone(),
        })
    });
    let strange = problems.into_iter().map(|problem| BadInput {
        source: problem.source,
        code: BadCode::NotAnObject,
        span: problem.span,
        message: problem.message,
    });
    let mut bad: Vec<BadInput> = strange.chain(broken).collect();
    bad.sort_by_key(|bad| (bad.source, bad.span.start()));
    bad
}

/// Puts findings in the order of their places.
fn sort(report: &mut Report<'_>) {
    let mut findings = std::mem::take(&mut report.findings);
    findings.sort_by_cached_key(|finding| {
        let source = report.objects[finding.manifest].manifest.source;
        let start = report.span(finding).start();
        (source, start, Reverse(finding.level), finding.code.as_str())
    });
    report.findings = findings;
}
