//! The two webhooks and their rules.

use migration_gate_core::decision::Decision;
use migration_gate_core::gates::Config;
use migration_gate_core::request::Request;
use migration_gate_core::{mutate, validate};

use crate::admission::{AdmissionRequest, Answer, ReviewError};

/// One of the two webhooks.
#[derive(Debug, Clone, Copy)]
pub struct Webhook {
    name: &'static str,
    rules: Rules,
}

/// The rules of a webhook.
pub(super) type Rules = fn(&Config, &Request<'_>) -> Decision;

impl Webhook {
    /// `/mutate`, which injects the waiter.
    pub const MUTATE: Self = Self::new("mutate", mutate::mutate);

    /// `/validate`, which denies.
    pub const VALIDATE: Self = Self::new("validate", validate::validate);

    pub(super) const fn new(name: &'static str, rules: Rules) -> Self {
        Self { name, rules }
    }

    /// The webhook's name in logs and metrics.
    pub fn as_str(self) -> &'static str {
        self.name
    }

    /// Decides on the object in `request`.
    pub(super) fn decide(
        self,
        config: &Config,
        request: &AdmissionRequest<'_>,
    ) -> Result<Answer, ReviewError> {
        // A deletion is never held up: operators must be able to delete to repair.
        let Some(operation) = request.operation() else {
            return Ok(Answer::Skipped);
        };
        let unreadable = |field| {
            move |error: &serde_json::Error| ReviewError::Object {
                field,
                cause: error.to_string(),
            }
        };
        let object = request.object().ok_or(ReviewError::NoObject)?;
        let object = object.map_err(unreadable("object"))?;
        let old = request.old_object().transpose();
        let old = old.map_err(unreadable("oldObject"))?;
        let asked = request.as_core(operation, object, old);
        Ok(Answer::Decided((self.rules)(config, &asked)))
    }
}
