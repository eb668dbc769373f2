//! One review: from the body to the answer.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, EXPECT, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tracing::{error, info};

use super::limits::Limits;
use super::metrics::Metrics;
use crate::admission::{self, AdmissionRequest, DecodeError, Failure, Verdict};
use crate::config::Config;
use crate::core::decision::Decision;
use crate::core::request::Request;
use crate::core::{mutate, validate};

/// From this size on, in bytes, a review is decided on a thread of its own, so that the connections
/// that share this one don't wait.
const LARGE: usize = 256 * 1024;

/// What a review counts for at least in the work in flight, in bytes.
const LEAST: u64 = 1024;

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
    /// A permit for each KiB of bodies that may be held at one time.
    room: Arc<Semaphore>,
    /// The permit to decide on a large body.
    large: Arc<Semaphore>,
}

/// Why a request gets no review for an answer.
#[derive(Debug, thiserror::Error)]
enum Rejection {
    #[error("the body is larger than {0} bytes, the most that a review may have (--max-body)")]
    TooLarge(u64),
    #[error("the request took longer than {0:?} (--request-timeout)")]
    TooSlow(Duration),
    #[error("the reviews in flight hold all the memory they may (--max-in-flight)")]
    TooBusy,
    #[error("the body ended early: {0}")]
    Broken(String),
    #[error(transparent)]
    NoReview(#[from] DecodeError),
    #[error("migration-gate failed to decide; its log has the cause")]
    Internal,
}

impl Rejection {
    fn code(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) | Self::NoReview(_) => StatusCode::BAD_REQUEST,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Rejection {
    /// Plain text, which the API server repeats to its own client.
    fn into_response(self) -> Response {
        let mut response = (self.code(), format!("migration-gate: {self}\n")).into_response();
        if matches!(self, Self::TooBusy) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, axum::http::HeaderValue::from_static("1"));
        }
        response
    }
}

impl Reviewer {
    /// A reviewer that goes by `config`.
    pub fn new(config: Arc<Config>, metrics: Metrics, limits: Arc<Limits>) -> Self {
        let room = usize::try_from(kib(limits.max_in_flight)).unwrap_or(Semaphore::MAX_PERMITS);
        Self {
            config,
            metrics,
            limits,
            room: Arc::new(Semaphore::new(room.min(Semaphore::MAX_PERMITS))),
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
        let announced = headers
            .get(CONTENT_LENGTH)
            .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        let most = self.limits.max_body;
        let limit = self.limits.request_timeout;
        let has_room = AtomicBool::new(false);
        let read = async {
            if announced.is_some_and(|length| length > most) {
                // A client that asks first hasn't sent anything, and reading would make it.
                if !headers.contains_key(EXPECT) {
                    discard(body, most).await;
                }
                return Err(Rejection::TooLarge(most));
            }
            let room = self.room_for(announced.unwrap_or(most)).await?;
            has_room.store(true, Ordering::Relaxed);
            Ok((read(body, announced, most).await?, room))
        };
        let (body, room) = timeout(limit, read).await.map_err(|_| {
            if has_room.load(Ordering::Relaxed) {
                Rejection::TooSlow(limit)
            } else {
                Rejection::TooBusy
            }
        })??;
        if body.len() < LARGE {
            return Ok(self.review(webhook, webhook.rules(), &body, in_flight.elapsed())?);
        }
        let reviewer = Arc::clone(self);
        let waited = in_flight.elapsed();
        // One at a time: as values, an object takes many times the memory that it takes as text.
        let turn = Arc::clone(&self.large)
            .acquire_owned()
            .await
            .map_err(|_| Rejection::TooBusy)?;
        tokio::task::spawn_blocking(move || {
            // Given back when the work is over, even if the client didn't wait for it.
            let _held = (room, turn);
            reviewer.review(webhook, webhook.rules(), &body, waited)
        })
        .await
        .map_err(|_| Rejection::Internal)?
        .map_err(Rejection::from)
    }

    /// Waits until a body of this size may be held.
    async fn room_for(&self, bytes: u64) -> Result<OwnedSemaphorePermit, Rejection> {
        // A body that is larger than everything that may be in flight still gets its turn, alone.
        let all = kib(self.limits.max_in_flight);
        let wanted = u32::try_from(kib(bytes.max(LEAST)).min(all)).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .acquire_many_owned(wanted)
            .await
            .map_err(|_| Rejection::TooBusy)
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
            .unwrap_or(Err(Failure::Internal))
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
                decision.violations.len(),
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

fn kib(bytes: u64) -> u64 {
    bytes.div_ceil(1024)
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_LOGGED)]
}

/// The whole body, if it isn't larger than `most`.
async fn read(mut body: Body, announced: Option<u64>, most: u64) -> Result<Vec<u8>, Rejection> {
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    // What a client announces is memory only once it is sent.
    let mut bytes = Vec::with_capacity(announced.map_or(0, |length| {
        usize::try_from(length).unwrap_or(most).min(LARGE)
    }));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| Rejection::Broken(error.to_string()))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > most {
                drop(bytes);
                discard(body, most as u64).await;
                return Err(Rejection::TooLarge(most as u64));
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes)
}

/// Reads on and forgets what it reads, up to as much again as a body may have.
///
/// A client that is still sending when the connection is closed sees that, and not the answer.
async fn discard(mut body: Body, most: u64) {
    let mut left = most;
    while let Some(Ok(frame)) = body.frame().await {
        let length = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
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

    fn reviewer(arguments: &[&str]) -> Arc<Reviewer> {
        let arguments = ["serve"].iter().chain(arguments);
        let limits = LimitsParser::parse_from(arguments).limits;
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
        let reviewer = reviewer(&[]);
        let rules: Rules = |_, _| panic!("a bug");
        let answer = reviewer
            .review(Webhook::Mutate, rules, &review(), Duration::ZERO)
            .unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(answer["response"]["uid"], "u");
        assert_eq!(answer["response"]["allowed"], false);
        assert_eq!(answer["response"]["status"]["code"], 500);
    }

    #[tokio::test]
    async fn who_waits_in_vain_for_room_is_told_to_come_again() {
        let reviewer = reviewer(&["--max-in-flight=4096", "--request-timeout=20ms"]);
        let _all = reviewer.room.acquire_many(4).await.unwrap();
        let response = Arc::clone(&reviewer)
            .serve(Webhook::Validate, HeaderMap::new(), Body::from(review()))
            .await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "1");
    }
}
