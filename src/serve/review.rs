//! One review: from the request's body to the response.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use axum::extract::Request;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use tokio::time::timeout_at;
use tracing::{error, info};

use super::body::{self, Announced, Room};
use super::limits::ClientLimits;
use super::metrics::Metrics;
use super::rejection::Rejection;
use super::share::Share;
use super::webhook::Webhook;
use crate::admission::{self, AdmissionRequest, Answer, DecodeError, ReviewError};
use crate::cli::chain;
use migration_gate_core::gates::Config;
use migration_gate_core::text::truncate;

/// From this body size on, in bytes, reviews are decided one at a time on a thread of their own, so
/// that other connections of the same worker do not wait.
const LARGE: usize = 64 * 1024;

/// Maximum length of a text from a review in the log, in bytes.
const LONGEST_LOGGED: usize = 256;

/// Answers reviews.
#[derive(Debug)]
pub struct Reviewer {
    config: Arc<Config>,
    metrics: Metrics,
    limits: Arc<ClientLimits>,
    /// The room for bodies in memory.
    room: Room,
    /// The permit to decide on a large body.
    large: Arc<Share>,
}

impl Reviewer {
    /// A reviewer with this configuration.
    pub fn new(config: Arc<Config>, metrics: Metrics, limits: Arc<ClientLimits>) -> Self {
        Self {
            room: Room::new(&limits),
            config,
            metrics,
            limits,
            large: Share::new(1),
        }
    }

    /// Answers one HTTP request to a webhook's path.
    pub async fn serve(self: Arc<Self>, webhook: Webhook, request: Request) -> Response {
        match self.review(webhook, request).await {
            Ok(answer) => ([(CONTENT_TYPE, "application/json")], answer).into_response(),
            Err(rejection) => {
                let code = rejection.code();
                self.metrics.rejected(webhook, code.as_u16());
                info!(webhook = webhook.as_str(), code = code.as_u16(), cause = %rejection, "request rejected");
                rejection.into_response()
            }
        }
    }

    /// Reads the request's body when there is room for it, and decides. Large bodies wait for their
    /// turn.
    async fn review(
        self: &Arc<Self>,
        webhook: Webhook,
        request: Request,
    ) -> Result<Vec<u8>, Rejection> {
        let in_flight = self.metrics.begin(webhook);
        let since = in_flight.since();
        let limits = &self.limits;
        let deadline = (since + limits.request_timeout).into();
        let too_slow = |_| Rejection::TooSlow(limits.request_timeout);
        let (head, body) = request.into_parts();
        let announced = Announced::in_head(&head.headers);
        // The parsed headers take more memory than their text, so they are not kept while the body
        // arrives.
        drop(head);
        let (body, room) = body::read(body, announced, limits, &self.room, deadline).await?;
        if body.len() < LARGE {
            return Ok(self.decide(webhook, &body, since)?);
        }
        // One at a time: a parsed object takes many times the memory of its text.
        let turn = timeout_at(deadline, self.large.take(1, body.len() as u64))
            .await
            .map_err(|_| Rejection::TooBusy)??;
        let reviewer = Arc::clone(self);
        let decided = tokio::task::spawn_blocking(move || {
            // Released when the work is done, even if the client has gone away.
            let _held = (room, turn);
            reviewer.decide(webhook, &body, since)
        });
        match timeout_at(deadline, decided).await.map_err(too_slow)? {
            Ok(answer) => Ok(answer?),
            Err(cause) => {
                error!(webhook = webhook.as_str(), %cause, "review not decided");
                Err(Rejection::Internal)
            }
        }
    }

    /// Answers the review in `body`, which was requested at `since`. A review that can be decoded
    /// is always answered, with its uid. The error says why `body` is not a review.
    pub fn decide(
        &self,
        webhook: Webhook,
        body: &[u8],
        since: Instant,
    ) -> Result<Vec<u8>, DecodeError> {
        let request = admission::decode(body)?;
        // Without this, a panic in a rule would break the connection: the API server would report
        // that alone, and the log would not name the object.
        let decide = AssertUnwindSafe(|| webhook.decide(&self.config, &request));
        let answer = catch_unwind(decide)
            .unwrap_or_else(|panic| {
                let cause = panic
                    .downcast_ref::<&str>()
                    .copied()
                    .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
                    .unwrap_or("no reason given");
                let uid = cut(&request.uid);
                error!(uid, panic = cut(cause), "a rule panicked; please report it");
                Err(ReviewError::Internal)
            })
            .unwrap_or_else(Answer::Failed);
        self.report(webhook, &request, &answer, since);
        Ok(admission::answer(&request, &answer))
    }

    /// Counts each decision and logs it in one line, without the object's content.
    fn report(
        &self,
        webhook: Webhook,
        request: &AdmissionRequest<'_>,
        answer: &Answer,
        since: Instant,
    ) {
        let (decision, gate, patches, refused, failure) = match answer {
            Answer::Skipped => ("skipped", None, 0, 0, None),
            Answer::Failed(failure) => ("failed", None, 0, 0, Some(chain(failure))),
            Answer::Decided(decision) => (
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
            micros = u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX),
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
    truncate(text, LONGEST_LOGGED)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::{Value, json};

    use super::*;

    #[derive(Parser)]
    struct LimitsParser {
        #[command(flatten)]
        limits: ClientLimits,
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
        let webhook = Webhook::new("mutate", |_, _| panic!("a bug"));
        let answer = reviewer.decide(webhook, &review(), Instant::now()).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["status"]["code"], 500);
    }
}
