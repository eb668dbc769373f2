//! What `/metrics` shows, in the OpenMetrics text format.
//!
//! Every label has a bounded set of values: a kind that no rule speaks of is `other`, and nothing
//! is labelled with an object's name or namespace.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::gate_state::GateState;
use super::webhook::Webhook;
use migration_gate_core::podspec::POD_KINDS;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one server. Clones count together.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reviews: Family<ReviewLabels, Counter>,
    duration: Family<WebhookLabel, Histogram>,
    rejected: Family<RejectedLabels, Counter>,
    in_flight: Gauge,
    certificate: Gauge,
    gates: Family<GateLabels, Gauge>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReviewLabels {
    webhook: &'static str,
    kind: &'static str,
    operation: &'static str,
    decision: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WebhookLabel {
    webhook: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RejectedLabels {
    webhook: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GateLabels {
    gate: String,
    state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics that nothing was counted in yet.
    pub fn new() -> Self {
        // From a quarter of a millisecond, which is what a small review takes, to eight seconds.
        let duration = Family::<WebhookLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
        });
        let mut registry = Registry::with_prefix("migration_gate");
        let reviews = Family::default();
        let rejected = Family::default();
        let in_flight = Gauge::<i64, AtomicI64>::default();
        let certificate = Gauge::<i64, AtomicI64>::default();
        let gates = Family::default();
        registry.register(
            "reviews",
            "Reviews that were answered, by what was decided",
            reviews.clone(),
        );
        registry.register_with_unit(
            "review_duration",
            "From the end of a request's head to its answer",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register(
            "rejected_requests",
            "Requests that were no review, by HTTP status",
            rejected.clone(),
        );
        registry.register(
            "reviews_in_flight",
            "Reviews that are being read or decided",
            in_flight.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "When the certificate that is served expires, in seconds since 1970; 0 without one",
            Unit::Seconds,
            certificate.clone(),
        );
        registry.register(
            "gate_state",
            "1 for the state that a gate's Job is in, 0 for the others",
            gates.clone(),
        );
        Self {
            registry: Arc::new(registry),
            reviews,
            duration,
            rejected,
            in_flight,
            certificate,
            gates,
        }
    }

    /// Tells what a gate's Job is doing. `gate` must be a name from the configuration.
    pub fn set_gate(&self, gate: &str, state: GateState) {
        for each in GateState::METRICS {
            let labels = GateLabels {
                gate: gate.to_owned(),
                state: each,
            };
            self.gates
                .get_or_create(&labels)
                .set(i64::from(each == state.metric()));
        }
    }

    /// Tells when the served certificate expires, in seconds since 1970.
    pub fn set_certificate_expiry(&self, seconds: i64) {
        self.certificate.set(seconds);
    }

    /// Counts a review that was answered.
    pub(super) fn reviewed(
        &self,
        webhook: Webhook,
        group: &str,
        kind: &str,
        operation: &str,
        decision: &'static str,
    ) {
        self.reviews
            .get_or_create(&ReviewLabels {
                webhook: webhook.as_str(),
                kind: known_kind(group, kind),
                operation: known_operation(operation),
                decision,
            })
            .inc();
    }

    /// Counts a request that got no review for an answer.
    pub(super) fn rejected(&self, webhook: Webhook, code: u16) {
        self.rejected
            .get_or_create(&RejectedLabels {
                webhook: webhook.as_str(),
                code,
            })
            .inc();
    }

    /// Begins a request; it ends when the answer is dropped.
    pub(super) fn begin(&self, webhook: Webhook) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight {
            metrics: self,
            webhook,
            since: Instant::now(),
        }
    }

    /// The text that Prometheus reads.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A request that is being answered.
pub(super) struct InFlight<'a> {
    metrics: &'a Metrics,
    webhook: Webhook,
    since: Instant,
}

impl InFlight<'_> {
    /// When it began.
    pub(super) fn since(&self) -> Instant {
        self.since
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.metrics.in_flight.dec();
        self.metrics
            .duration
            .get_or_create(&WebhookLabel {
                webhook: self.webhook.as_str(),
            })
            .observe(self.since.elapsed().as_secs_f64());
    }
}

fn known_kind(group: &str, kind: &str) -> &'static str {
    if group.is_empty() && kind == "ConfigMap" {
        return "ConfigMap";
    }
    POD_KINDS
        .iter()
        .find(|known| known.group == group && known.kind == kind)
        .map_or("other", |known| known.kind)
}

fn known_operation(operation: &str) -> &'static str {
    ["CREATE", "UPDATE", "DELETE", "CONNECT"]
        .into_iter()
        .find(|known| *known == operation)
        .unwrap_or("other")
}
