//! One review: from the body to the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};
use tracing::{error, info};

use super::body::{self, Room};
use super::limits::Limits;
use super::metrics::Metrics;
use super::rejection::Rejection;
use crate::admission::{self, AdmissionRequest, DecodeError, Failure, Verdict};
use migration_gate_core::decision::Decision;
use migration_gate_core::gates::Config;
use migration_gate_core::request::Request;
use migration_gate_core::{mutate, validate};

/// From this size on, in bytes, reviews are decided one at a time, and on a thread of their own, so
/// that the connections that share this one don't wait.
const LARGE: usize = 64 * 1024;

/// Longest text from a review that is logged, in bytes.
const LONGEST_LOGGED: usize = 256;

/// Which of the two is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Webhook {
    /// `/mutate`, which injects.
    Mutate,
    /// `/validate`, which refuses.
    Validate,
}

impl Webhook {
    /// The word in logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Mutate => "mutate",
            Self::Validate => "validate",
        }
    }

    fn rules(self) -> Rules {
        match self {
            Self::Mutate => mutate::mutate,
            Self::Validate => validate::validate,
        }
    }
}

type Rules = fn(&Config, &Request<'_>) -> Decision;

/// Answers reviews.
#[derive(Debug)]
pub struct Reviewer {
    config: Arc<Config>,
    metrics: Metrics,
    limits: Arc<Limits>,
    /// For the bodies that are held at one time.
    room: Room,
    /// The permit to decide on a large body.
    large: Arc<Semaphore>,
}

impl Reviewer {
    /// A reviewer that goes by `config`.
    pub fn new(config: Arc<Config>, metrics: Metrics, limits: Arc<Limits>) -> Self {
        Self {
            room: Room::new(&limits),
            config,
            metrics,
            limits,
            large: Arc::new(Semaphore::new(1)),
        }
    }

    /// Answers one HTTP request to a webhook's path.
    pub async fn serve(
        self: Arc<Self>,
        webhook: Webhook,
        headers: HeaderMap,
        body: Body,
    ) -> Response {
        match self.handle(webhook, &headers, body).await {
            Ok(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
            Err(rejection) => {
                let code = rejection.code();
                self.metrics.rejected(webhook, code.as_u16());
                info!(webhook = webhook.as_str(), code = code.as_u16(), cause = %rejection, "request rejected");
                rejection.into_response()
            }
        }
    }

    async fn handle(
        self: &Arc<Self>,
        webhook: Webhook,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Vec<u8>, Rejection> {
        let in_flight = self.metrics.begin(webhook);
        let limits = &self.limits;
        let deadline = Instant::now() + limits.request_timeout;
        let too_slow = |_| Rejection::TooSlow(limits.request_timeout);
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if announced.is_some_and(|length| length > limits.max_body) {
            // A client that asks first hasn't sent anything, and reading would make it.
            if !headers.contains_key(EXPECT) {
                body::discard(body, limits, deadline).await;
            }
            return Err(Rejection::TooLarge(limits.max_body));
        }
        let (body, room) = body::read(body, announced, limits, &self.room, deadline).await?;
        if body.len() < LARGE {
            return Ok(self.review(webhook, webhook.rules(), &body, in_flight.elapsed())?);
        }
        // One at a time: as values, an object takes many times the memory that it takes as text.
        let turn = timeout_at(deadline, Arc::clone(&self.large).acquire_owned())
            .await
            .map_err(|_| Rejection::TooBusy)?
            .map_err(|_| Rejection::TooBusy)?;
        let reviewer = Arc::clone(self);
        let waited = in_flight.elapsed();
        let decided = tokio::task::spawn_blocking(move || {
            // Given back when the work is over, even if the client didn't wait for it.
            let _held = (room, turn);
            reviewer.review(webhook, webhook.rules(), &body, waited)
        });
        match timeout_at(deadline, decided).await.map_err(too_slow)? {
            Ok(answer) => Ok(answer?),
            Err(cause) => {
                error!(webhook = webhook.as_str(), %cause, "review not decided");
                Err(Rejection::Internal)
            }
        }
    }

    /// Answers the review in `body`, or says why it is none.
    pub fn answer(&self, webhook: Webhook, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.review(webhook, webhook.rules(), body, Duration::ZERO)
    }

    /// Answers the review in `body`. A review that can be read is always answered with its uid.
    fn review(
        &self,
        webhook: Webhook,
        rules: Rules,
        body: &[u8],
        waited: Duration,
    ) -> Result<Vec<u8>, DecodeError> {
        let since = Instant::now();
        let request = admission::decode(body)?;
        // A bug in a rule must not cost the answer: the API server would report a broken
        // connection, and nobody would know which object it was.
        let verdict = catch_unwind(AssertUnwindSafe(|| self.decide(rules, &request)))
            .unwrap_or_else(|panic| {
                let cause = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                    .unwrap_or("no reason given");
                let uid = cut(&request.uid);
                error!(uid, panic = cut(cause), "a rule panicked; please report it");
                Err(Failure::Internal)
            })
            .unwrap_or_else(Verdict::Failed);
        let answer = admission::answer(&request, &verdict);
        self.report(webhook, &request, &verdict, waited + since.elapsed());
        Ok(answer)
    }

    fn decide(&self, rules: Rules, request: &AdmissionRequest<'_>) -> Result<Verdict, Failure> {
        // A deletion is never held up: whoever can't delete can't repair.
        let Some(operation) = request.operation() else {
            return Ok(Verdict::Skipped);
        };
        let unreadable = |field| move |cause| Failure::Object { field, cause };
        let object: Value = request
            .object()
            .map_err(unreadable("object"))?
            .ok_or(Failure::NoObject)?;
        let old = request.old_object().map_err(unreadable("oldObject"))?;
        let asked = request.as_core(operation, &object, old.as_ref());
        Ok(Verdict::Decided(rules(&self.config, &asked)))
    }

    /// One line and one count for each decision; never the object's content.
    fn report(
        &self,
        webhook: Webhook,
        request: &AdmissionRequest<'_>,
        verdict: &Verdict,
        took: Duration,
    ) {
        let (decision, gate, patches, refused, failure) = match verdict {
            Verdict::Skipped => ("skipped", None, 0, 0, None),
            Verdict::Failed(failure) => ("failed", None, 0, 0, Some(failure.to_string())),
            Verdict::Decided(decision) => (
                decision.outcome.as_str(),
                decision.gate.as_deref(),
                decision.patch.len(),
                decision.violations.len() + decision.unlisted,
                None,
            ),
        };
        let AdmissionRequest { kind, .. } = request;
        self.metrics.reviewed(
            webhook,
            &kind.group,
            &kind.kind,
            &request.operation,
            decision,
        );
        info!(
            webhook = webhook.as_str(),
            uid = cut(&request.uid),
            operation = cut(&request.operation),
            group = cut(&kind.group),
            kind = cut(&kind.kind),
            subresource = request.sub_resource.as_deref().map(cut),
            namespace = request.namespace.as_deref().map(cut),
            name = request.name.as_deref().map(cut),
            user = request.user_info.username.as_deref().map(cut),
            dry_run = request.dry_run.unwrap_or(false),
            decision,
            gate,
            patches,
            refused_fields = refused,
            micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            "reviewed"
        );
        if let Some(failure) = failure {
            error!(
                uid = cut(&request.uid),
                cause = failure,
                "review not decided"
            );
        }
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_LOGGED)]
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct LimitsParser {
        #[command(flatten)]
        limits: Limits,
    }

    fn reviewer() -> Arc<Reviewer> {
        let limits = LimitsParser::parse_from(["serve"]).limits;
        let (config, metrics) = (Arc::default(), Metrics::new());
        Arc::new(Reviewer::new(config, metrics, Arc::new(limits)))
    }

    fn review() -> Vec<u8> {
        serde_json::to_vec(&json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": "u", "operation": "CREATE", "object": {}, "kind": {"kind": "Pod"},
            },
        }))
        .unwrap()
    }

    #[test]
    fn a_rule_that_panics_costs_no_answer() {
        let reviewer = reviewer();
        let rules: Rules = |_, _| panic!("a bug");
        let answer = reviewer
            .review(Webhook::Mutate, rules, &review(), Duration::ZERO)
            .unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["status"]["code"], 500);
    }
}
