//! SARIF 2.1.0 (OASIS, 27 March 2020), as code scanning services read it.
//!
//! The few members that are needed are written as JSON: the types of `serde-sarif` cover the whole
//! standard and would be more to read than this.

use std::io::{self, Write};

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{Places, Stretch};
use crate::review::codes::{BadCode, Code};
use crate::review::report::Report;

/// The page that explains the rules, with an anchor for each.
const DOCUMENTATION: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main/docs/review.md");

pub(super) fn write(report: &Report<'_>, out: &mut impl Write) -> io::Result<()> {
    let mut places = Places::new(report);
    let results: Vec<Value> = report
        .findings
        .iter()
        .map(|finding| {
            let manifest = &report.objects[finding.manifest].manifest;
            // A finding about the whole object has no field.
            let field = finding.field.to_string();
            let (name, about) = if field.is_empty() {
                (manifest.to_string(), manifest.to_string())
            } else {
                (
                    format!("{manifest} {field}"),
                    format!("{manifest}: {field}"),
                )
            };
            let mut location = location(places.of_finding(finding));
            location["logicalLocations"] = json!([{
                "fullyQualifiedName": name,
                "kind": "member",
            }]);
            json!({
                "ruleId": finding.code.as_str(),
                "ruleIndex": Code::ALL.iter().position(|code| *code == finding.code),
                "level": finding.level.as_str(),
                "message": {"text": format!("{about}: {}", finding.message)},
                "locations": [location],
                // A place by name, so that a finding is recognized after its lines have moved.
                "partialFingerprints": {
                    "objectField/v1": format!("{manifest}#{field}"),
                },
            })
        })
        .collect();
    let mut notifications: Vec<Value> = report
        .bad_input
        .iter()
        .map(|bad| {
            let place = places.of(bad.source, bad.span);
            notification("error", bad.code.as_str(), &bad.message, &location(place))
        })
        .collect();
    notifications.extend(report.unreadable.iter().map(|unreadable| {
        let location =
            json!({"physicalLocation": {"artifactLocation": {"uri": uri(&unreadable.name)}}});
        notification(
            "error",
            BadCode::Unreadable.as_str(),
            &unreadable.message,
            &location,
        )
    }));
    let successful = notifications.is_empty();
    notifications.extend(report.skipped.iter().map(|skipped| {
        let location = location(places.of(skipped.source, skipped.span));
        let part = skipped.part;
        notification("note", part.as_str(), part.message(), &location)
    }));
    let rules: Vec<Value> = Code::ALL
        .iter()
        .map(|code| {
            json!({
                "id": code.as_str(),
                "shortDescription": {"text": code.about()},
                "help": {"text": code.help()},
                "helpUri": format!("{DOCUMENTATION}#{}", code.as_str()),
                "defaultConfiguration": {"level": code.level().as_str()},
            })
        })
        .collect();
    let document = json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": {"driver": {
                "name": "migration-gate",
                "semanticVersion": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            }},
            "columnKind": "unicodeCodePoints",
            "invocations": [{
                "executionSuccessful": successful,
                "toolExecutionNotifications": notifications,
            }],
            "results": results,
        }],
    });
    serde_json::to_writer_pretty(&mut *out, &document)?;
    writeln!(out)
}

fn location(place: Stretch<'_>) -> Value {
    json!({"physicalLocation": {
        "artifactLocation": {"uri": uri(place.file)},
        "region": {
            "startLine": place.start.line,
            "startColumn": place.start.column,
            "endLine": place.end.line,
            "endColumn": place.end.column,
        },
    }})
}

fn notification(level: &str, code: &str, message: &str, location: &Value) -> Value {
    json!({
        "level": level,
        "descriptor": {"id": code},
        "message": {"text": message},
        "locations": [location],
    })
}

/// The characters to encode in a path (RFC 3986, section 3.3).
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'/');

/// A path as a URI reference.
fn uri(path: &str) -> String {
    utf8_percent_encode(path.trim_start_matches("./"), PATH).to_string()
}
