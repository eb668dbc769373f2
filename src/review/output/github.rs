//! Workflow commands: GitHub shows them beside the lines of a pull request.
//!
//! The syntax is one line per command with two rules of escaping, which is not worth a crate.

use std::io::{self, Write};

use super::{Places, Stretch};
use crate::review::codes::BadCode;
use crate::review::report::Report;

pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut places = Places::new(report);
    for object in &report.objects {
        if let (Some(gate), Some(_)) = (&object.gate, &object.patched) {
            let place = places.of(object.manifest.source, report.start(&object.manifest));
            let message = format!(
                "{}: {} by gate {gate}",
                object.manifest,
                object.outcome.as_str()
            );
            command(
                out,
                "notice",
                Some(place),
                object.outcome.as_str(),
                &message,
            )?;
        }
    }
    for finding in &report.findings {
        let manifest = &report.objects[finding.manifest].manifest;
        let message = match finding.field.to_string() {
            field if field.is_empty() => format!("{manifest}: {}", finding.message),
            field => format!("{manifest}: {field}: {}", finding.message),
        };
        let place = places.of_finding(finding);
        command(
            out,
            finding.level.as_str(),
            Some(place),
            finding.code.as_str(),
            &message,
        )?;
    }
    for skipped in &report.skipped {
        let place = places.of(skipped.source, skipped.span);
        let (title, message) = (skipped.part.as_str(), skipped.part.message());
        command(out, "notice", Some(place), title, message)?;
    }
    for bad in &report.bad_input {
        let place = places.of(bad.source, bad.span);
        command(out, "error", Some(place), bad.code.as_str(), &bad.message)?;
    }
    for unreadable in &report.unreadable {
        command(
            out,
            "error",
            None,
            BadCode::Unreadable.as_str(),
            &unreadable.to_string(),
        )?;
    }
    writeln!(out, "{}", report.summary())
}

fn command(
    out: &mut impl Write,
    severity: &str,
    place: Option<Stretch<'_>>,
    title: &str,
    message: &str,
) -> io::Result<()> {
    write!(out, "::{severity} ")?;
    if let Some(Stretch { file, start, end }) = place {
        write!(out, "file={},line={},", property(file), start.line)?;
        // GitHub ignores columns unless the start and the end are on the same line.
        if start.line == end.line {
            write!(out, "col={},endColumn={},", start.column, end.column)?;
        }
    }
    writeln!(out, "title={}::{}", property(title), data(message))
}

/// Escapes text after the `::`, so that nothing in a manifest can end the command or start another.
fn data(text: &str) -> String {
    text.replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}
