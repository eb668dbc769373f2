//! The findings of one look.

use jiff::Timestamp;
use serde_json::Value;

use crate::api::ApiError;
use migration_gate_core::status::{Diagnosis, Overview};

/// The findings, and what could not be read.
pub(super) struct StatusReport {
    pub(super) overview: Overview,
    pub(super) unread: Vec<Unread>,
    pub(super) at: Timestamp,
}

/// Something that could not be read, and why.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Unread {
    /// Its name, for people.
    pub(super) what: String,
    /// The API server's error.
    pub(super) why: String,
}

impl Unread {
    pub(super) fn new(what: &str, error: &ApiError) -> Self {
        Self {
            what: what.to_owned(),
            why: error.to_string(),
        }
    }
}

/// The text of a value; empty if it is not a string.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The place of a problem, for people: `Job migrate in shop`.
pub(super) fn place(trouble: &Diagnosis) -> String {
    match &trouble.namespace {
        Some(namespace) => format!("{} in {namespace}", trouble.object),
        None => trouble.object.clone(),
    }
}
