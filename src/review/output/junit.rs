//! JUnit XML: one suite per file, one case per object. Violations fail a case; warnings are in its
//! output.
//!
//! The four elements are written by hand, which is shorter than the model of `quick-junit` and its
//! XML writer; the escaping is tested.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::{Places, Stretch};
use crate::review::codes::{BadCode, Level};
use crate::review::report::{Finding, Report};

pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut places = Places::new(report);
    let mut by_object: Vec<Vec<&Finding>> = vec![Vec::new(); report.objects.len()];
    for finding in &report.findings {
        by_object[finding.manifest].push(finding);
    }
    let cases = report.objects.len() + report.unreviewed();
    writeln!(out, r#"<?xml version="1.0" encoding="UTF-8"?>"#)?;
    writeln!(
        out,
        r#"<testsuites name="migration-gate review" tests="{cases}" failures="{}" errors="{}">"#,
        failed(&by_object),
        report.unreviewed(),
    )?;
    for (source, loaded) in report.loaded.iter().enumerate() {
        let objects = report.objects_of(source);
        let bad = report.bad_input_in(source);
        if objects.is_empty() && bad.is_empty() {
            continue;
        }
        writeln!(
            out,
            r#"  <testsuite name="{}" tests="{}" failures="{}" errors="{}">"#,
            escape(&loaded.source.name),
            objects.len() + bad.len(),
            failed(&by_object[objects.clone()]),
            bad.len(),
        )?;
        for index in objects {
            case(report, index, &by_object[index], &mut places, out)?;
        }
        for bad in bad {
            let place = places.of(bad.source, bad.span);
            error(
                out,
                &loaded.source.name,
                bad.code.as_str(),
                &located(place, &bad.message),
            )?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    for unreadable in &report.unreadable {
        let name = escape(&unreadable.name);
        writeln!(
            out,
            r#"  <testsuite name="{name}" tests="1" failures="0" errors="1">"#
        )?;
        error(
            out,
            &unreadable.name,
            BadCode::Unreadable.as_str(),
            &unreadable.to_string(),
        )?;
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

/// How many of these objects have a violation.
fn failed(objects: &[Vec<&Finding>]) -> usize {
    let is_violation = |finding: &&Finding| finding.level == Level::Error;
    let failed = objects.iter().filter(|of| of.iter().any(is_violation));
    failed.count()
}

fn case(
    report: &Report<'_>,
    index: usize,
    findings: &[&Finding],
    places: &mut Places<'_>,
    out: &mut impl Write,
) -> io::Result<()> {
    let manifest = &report.objects[index].manifest;
    let file = escape(&report.loaded[manifest.source].source.name);
    write!(
        out,
        r#"    <testcase classname="{file}" name="{}""#,
        escape(&manifest.to_string())
    )?;
    if findings.is_empty() {
        return writeln!(out, "/>");
    }
    writeln!(out, ">")?;
    let mut warnings = String::new();
    for finding in findings {
        let message = match finding.field.to_string() {
            field if field.is_empty() => finding.message.clone(),
            field => format!("{field}: {}", finding.message),
        };
        let text = located(places.of_finding(finding), &message);
        match finding.level {
            Level::Error => writeln!(
                out,
                r#"      <failure type="{}" message="{}">{}</failure>"#,
                finding.code.as_str(),
                escape(&message),
                escape(&text)
            )?,
            Level::Warning => {
                let _ = writeln!(warnings, "warning[{}]: {text}", finding.code.as_str());
            }
        }
    }
    if !warnings.is_empty() {
        writeln!(out, "      <system-out>{}</system-out>", escape(&warnings))?;
    }
    writeln!(out, "    </testcase>")
}

fn error(out: &mut impl Write, file: &str, code: &str, message: &str) -> io::Result<()> {
    writeln!(
        out,
        r#"    <testcase classname="{}" name="{code}">"#,
        escape(file)
    )?;
    let message = escape(message);
    writeln!(out, r#"      <error type="{code}" message="{message}"/>"#)?;
    writeln!(out, "    </testcase>")
}

fn located(place: Stretch<'_>, message: &str) -> String {
    format!(
        "{}:{}:{}: {message}",
        place.file, place.start.line, place.start.column
    )
}

/// Text for an attribute or an element. XML 1.0 has no place for most control characters, not even
/// escaped.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' => escaped.push_str("&#10;"),
            '\t' => escaped.push_str("&#9;"),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => {
                escaped.push(char::REPLACEMENT_CHARACTER);
            }
            c => escaped.push(c),
        }
    }
    escaped
}
