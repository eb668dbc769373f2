//! Writes the response to a review.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use super::decode::{API_VERSION, AdmissionRequest, KIND};
use super::warnings::within_limits;
use crate::cli::chain;
use migration_gate_core::decision::{Decision, Rule, Violation};

/// The approximate size of a response with a patch, in bytes.
const USUAL: usize = 4 * 1024;

/// The content of a response.
#[derive(Debug)]
pub enum Answer {
    /// The rules have decided.
    Decided(Decision),
    /// No rule applies to the request, such as a deletion. It is allowed.
    Skipped,
    /// The review could be read but not decided. The object is refused.
    Failed(ReviewError),
}

/// Why a review could not be decided.
#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    /// The review has no object although its operation brings one.
    #[error("the AdmissionReview's request.object is missing")]
    NoObject,
    /// An object in the review can't be read.
    #[error("the AdmissionReview's request.{field} cannot be read: {cause}")]
    Object {
        /// `object` or `oldObject`.
        field: &'static str,
        /// The error of reading it.
        cause: String,
    },
    /// A bug in migration-gate.
    #[error("migration-gate failed to decide; its log has the cause under this review's uid")]
    Internal,
}

impl ReviewError {
    /// The HTTP code and the `metav1.StatusReason` of the refusal.
    fn status(&self) -> (u16, &'static str) {
        match self {
            Self::NoObject | Self::Object { .. } => (400, "BadRequest"),
            Self::Internal => (500, "InternalError"),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionReview<'a> {
    api_version: &'static str,
    kind: &'static str,
    response: AdmissionResponse<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct AdmissionResponse<'a> {
    uid: &'a str,
    allowed: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<DenialStatus<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    audit_annotations: BTreeMap<&'static str, &'a str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

/// A `metav1.Status`.
#[derive(Serialize)]
#[allow(clippy::struct_field_names, reason = "the names are Kubernetes' own")]
struct DenialStatus<'a> {
    status: &'static str,
    code: u16,
    reason: &'static str,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<StatusDetails<'a>>,
}

#[derive(Serialize)]
struct StatusDetails<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    group: &'a str,
    kind: &'a str,
    causes: Vec<StatusCause<'a>>,
}

#[derive(Serialize)]
struct StatusCause<'a> {
    reason: &'static str,
    message: &'a str,
    field: String,
}

/// The response to `request`: an AdmissionReview as JSON.
pub fn answer(request: &AdmissionRequest<'_>, answer: &Answer) -> Vec<u8> {
    let mut response = AdmissionResponse {
        uid: &request.uid,
        allowed: true,
        ..AdmissionResponse::default()
    };
    match answer {
        Answer::Skipped => {}
        Answer::Decided(decision) => decided(&mut response, request, decision),
        Answer::Failed(failure) => {
            let (code, reason) = failure.status();
            response.allowed = false;
            response.status = Some(DenialStatus {
                status: "Failure",
                code,
                reason,
                message: chain(failure),
                details: None,
            });
        }
    }
    let review = AdmissionReview {
        api_version: API_VERSION,
        kind: KIND,
        response,
    };
    // This cannot fail: JSON can hold every value of the review.
    json(&review).unwrap_or_default()
}

fn decided<'a>(
    response: &mut AdmissionResponse<'a>,
    request: &'a AdmissionRequest<'_>,
    decision: &'a Decision,
) {
    let warnings: Vec<String> = decision.warnings.iter().map(ToString::to_string).collect();
    response.warnings = within_limits(&warnings, decision.unlisted);
    response
        .audit_annotations
        .insert("decision", decision.outcome.as_str());
    if let Some(gate) = &decision.gate {
        response.audit_annotations.insert("gate", gate);
    }
    if !decision.violations.is_empty() {
        response.allowed = false;
        response.status = Some(denial(request, decision));
    } else if !decision.patch.is_empty()
        && let Ok(patch) = json(&decision.patch)
    {
        response.patch_type = Some("JSONPatch");
        // After the JSON, not while it is written: that is in pieces of a few bytes, and encoding
        // each of them takes a fifth more instructions for the whole review.
        response.patch = Some(STANDARD.encode(patch));
    }
}

/// A value as JSON. The buffer starts with room for the usual response.
fn json(value: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(USUAL);
    serde_json::to_writer(&mut text, value)?;
    Ok(text)
}

fn denial<'a>(request: &'a AdmissionRequest<'_>, decision: &'a Decision) -> DenialStatus<'a> {
    let violations = &decision.violations;
    DenialStatus {
        status: "Failure",
        code: 403,
        reason: "Forbidden",
        message: message(violations, decision.unlisted),
        details: Some(StatusDetails {
            name: request.name.as_deref().unwrap_or_default(),
            group: &request.kind.group,
            kind: &request.kind.kind,
            causes: violations
                .iter()
                .map(|violation| StatusCause {
                    reason: cause(violation.rule),
                    message: &violation.message,
                    field: violation.field.to_string(),
                })
                .collect(),
        }),
    }
}

/// The `metav1.CauseType` of a rule.
fn cause(rule: Rule) -> &'static str {
    match rule {
        Rule::ForbiddenEnv | Rule::ForbiddenKey => "FieldValueForbidden",
        Rule::WaiterMissing | Rule::ReservedName => "FieldValueInvalid",
    }
}

/// Every field with its problem; fields with the same problem share the message.
fn message(violations: &[Violation], unlisted: usize) -> String {
    let mut message = String::new();
    for same in violations.chunk_by(|a, b| a.message == b.message) {
        if !message.is_empty() {
            message.push_str("; ");
        }
        for (i, violation) in same.iter().enumerate() {
            let separator = if i == 0 { "" } else { ", " };
            // Writing to a String can't fail.
            let _ = write!(message, "{separator}{}", violation.field);
        }
        let _ = write!(message, ": {}", same[0].message);
    }
    if unlisted > 0 {
        let _ = write!(message, "; and {unlisted} more fields");
    }
    message
}
