//! The report for programs, in the form that `docs/review.md` describes. It is stable within a
//! version.
//!
//! The document has types of its own, so that a change of the report's types can't change it.

use std::io::{self, Write};

use json_patch::PatchOperation;
use serde::Serialize;

use super::{Places, Stretch};
use crate::review::codes::{BadCode, Level};
use crate::review::manifest::Manifest;
use crate::review::report::Report;
use crate::review::rewrite;

/// The name of this form of the document. Fields may be added; any other change makes it `v2`.
const SCHEMA: &str = "migration-gate.review/v1";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ReportV1<'r> {
    schema: &'static str,
    summary: Summary,
    objects: Vec<ObjectV1<'r>>,
    findings: Vec<FindingV1<'r>>,
    bad_input: Vec<DocumentV1<'r>>,
    skipped: Vec<DocumentV1<'r>>,
    diffs: Vec<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    objects: usize,
    injections: usize,
    violations: usize,
    warnings: usize,
    ignored: usize,
    bad_input: usize,
    skipped: usize,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'r> {
    api_version: String,
    kind: &'r str,
    namespace: &'r str,
    name: &'r str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectV1<'r> {
    #[serde(flatten)]
    reference: ObjectRef<'r>,
    file: &'r str,
    line: usize,
    gate: Option<&'r str>,
    outcome: &'static str,
    patch: &'r [PatchOperation],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FindingV1<'r> {
    level: &'static str,
    code: &'static str,
    message: &'r str,
    object: ObjectRef<'r>,
    field: String,
    #[serde(flatten)]
    place: Region<'r>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DocumentV1<'r> {
    code: &'static str,
    message: &'r str,
    #[serde(flatten)]
    place: Region<'r>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region<'r> {
    file: &'r str,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_column: Option<usize>,
}

impl<'r> From<Stretch<'r>> for Region<'r> {
    fn from(place: Stretch<'r>) -> Self {
        Self {
            file: place.file,
            line: Some(place.start.line),
            column: Some(place.start.column),
            end_line: Some(place.end.line),
            end_column: Some(place.end.column),
        }
    }
}

pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut places = Places::new(report);
    let objects = report.objects.iter().map(|object| {
        let manifest = &object.manifest;
        let place = places.of(manifest.source, report.start(manifest));
        ObjectV1 {
            reference: reference(manifest),
            file: place.file,
            line: place.start.line,
            gate: object.gate.as_deref(),
            outcome: object.outcome.as_str(),
            patch: &object.patch,
        }
    });
    let objects = objects.collect();
    let findings = report.findings.iter().map(|finding| FindingV1 {
        level: finding.level.as_str(),
        code: finding.code.as_str(),
        message: &finding.message,
        object: reference(&report.objects[finding.manifest].manifest),
        field: finding.field.to_string(),
        place: places.of_finding(finding).into(),
    });
    let findings = findings.collect();
    let mut bad_input: Vec<DocumentV1<'_>> = report
        .bad_input
        .iter()
        .map(|bad| DocumentV1 {
            code: bad.code.as_str(),
            message: &bad.message,
            place: places.of(bad.source, bad.span).into(),
        })
        .collect();
    bad_input.extend(report.unreadable.iter().map(|unreadable| DocumentV1 {
        code: BadCode::Unreadable.as_str(),
        message: &unreadable.message,
        place: Region {
            file: &unreadable.name,
            line: None,
            column: None,
            end_line: None,
            end_column: None,
        },
    }));
    let skipped = report.skipped.iter().map(|skipped| DocumentV1 {
        code: skipped.part.as_str(),
        message: skipped.part.message(),
        place: places.of(skipped.source, skipped.span).into(),
    });
    let skipped = skipped.collect();
    let document = ReportV1 {
        schema: SCHEMA,
        summary: Summary {
            objects: report.objects.len(),
            injections: report.injections(),
            violations: report.count(Level::Error),
            warnings: report.count(Level::Warning),
            ignored: report.ignored,
            bad_input: report.unreviewed(),
            skipped: report.skipped.len(),
        },
        objects,
        findings,
        bad_input,
        skipped,
        diffs: (0..report.loaded.len())
            .flat_map(|source| rewrite::diffs(report, source))
            .collect(),
    };
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn reference<'r>(manifest: &'r Manifest<'_>) -> ObjectRef<'r> {
    ObjectRef {
        api_version: manifest.api_version(),
        kind: manifest.request.kind,
        namespace: manifest.request.namespace,
        name: manifest.name(),
    }
}
