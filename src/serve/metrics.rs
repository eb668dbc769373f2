//! The content of `/metrics`, in the OpenMetrics text format.
//!
//! Every label has a bounded set of values: a kind without a rule is `other`, gates come from the
//! configuration, and no label holds an object's name or namespace.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Instant;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::process::ProcessCollector;
use super::recorder::{GateNews, GateReport};
use super::webhook::Webhook;
use migration_gate_core::outlook::GateState;
use migration_gate_core::podspec::POD_KINDS;

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics of one server. Clones share the counts.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    reviews: Family<ReviewLabels, Counter>,
    duration: Family<WebhookLabel, Histogram>,
    rejected: Family<RejectedLabels, Counter>,
    in_flight: Gauge,
    certificate: Gauge,
    gates: GateMetrics,
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
struct StateLabels {
    gate: String,
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WatchLabels {
    gate: String,
    objects: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GateLabel {
    gate: String,
}

/// The states of a gate, and their values of the label `state`.
const STATES: [(GateState, &str); 4] = [
    (GateState::Open, "open"),
    (GateState::Waiting, "waiting"),
    (GateState::Failed, "failed"),
    (GateState::Unknown, "unknown"),
];

/// The metrics of each gate.
#[derive(Debug, Clone, Default)]
struct GateMetrics {
    state: Family<StateLabels, Gauge>,
    watches: Family<WatchLabels, Gauge>,
    waiting_pods: Family<GateLabel, Gauge>,
    unrecorded: Family<GateLabel, Gauge>,
    failed_writes: Family<GateLabel, Counter>,
    last_completion: Family<GateLabel, Gauge>,
    last_duration: Family<GateLabel, Gauge>,
}

impl GateMetrics {
    fn register(&self, registry: &mut Registry) {
        registry.register(
            "gate_state",
            "1 for the present state of the gate, 0 for the others",
            self.state.clone(),
        );
        registry.register(
            "gate_watch_up",
            "1 if the gate's watches of these objects work, 0 if not",
            self.watches.clone(),
        );
        registry.register(
            "gate_waiting_pods",
            "Pods of held workloads that wait for a migration",
            self.waiting_pods.clone(),
        );
        registry.register(
            "gate_unrecorded_completions",
            "Completed migrations that are missing from the record",
            self.unrecorded.clone(),
        );
        registry.register(
            "record_write_failures",
            "Failed writes of the record",
            self.failed_writes.clone(),
        );
        registry.register_with_unit(
            "last_migration_completion_timestamp",
            "Completion time of the newest migration in the record, in seconds since 1970",
            Unit::Seconds,
            self.last_completion.clone(),
        );
        registry.register_with_unit(
            "last_migration_duration",
            "Duration of the newest migration in the record",
            Unit::Seconds,
            self.last_duration.clone(),
        );
    }

    fn set(&self, gate: &str, report: &GateReport) {
        let GateReport {
            state,
            waiting_pods,
            unrecorded,
            last,
            sees_jobs,
            sees_record,
            sees_workloads,
        } = *report;
        for (each, word) in STATES {
            let labels = StateLabels {
                gate: gate.to_owned(),
                state: word,
            };
            let is_so = i64::from(each == state);
            self.state.get_or_create(&labels).set(is_so);
        }
        for (objects, works) in [
            ("jobs", sees_jobs),
            ("record", sees_record),
            ("workloads", sees_workloads),
        ] {
            let labels = WatchLabels {
                gate: gate.to_owned(),
                objects,
            };
            self.watches.get_or_create(&labels).set(i64::from(works));
        }
        let label = GateLabel {
            gate: gate.to_owned(),
        };
        let set = |family: &Family<GateLabel, Gauge>, value: Option<u64>| {
            let value = value.and_then(|value| i64::try_from(value).ok());
            match value {
                Some(value) => {
                    family.get_or_create(&label).set(value);
                }
                None => {
                    family.remove(&label);
                }
            }
        };
        set(&self.waiting_pods, Some(waiting_pods));
        set(&self.unrecorded, u64::try_from(unrecorded).ok());
        let completed = last.map(|(completed, _)| completed.as_second());
        let completed = completed.and_then(|second| u64::try_from(second).ok());
        set(&self.last_completion, completed);
        set(&self.last_duration, last.and_then(|(_, took)| took));
        // A counter that starts at 0 shows its first failure as an increase.
        drop(self.failed_writes.get_or_create(&label));
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics without any counts.
    pub fn new() -> Self {
        // From 0.25 ms, the time of a small review, to about 8 s.
        let duration = Family::<WebhookLabel, Histogram>::new_with_constructor(|| {
            Histogram::new(exponential_buckets(0.000_25, 2.0, 16))
        });
        let mut whole = Registry::default();
        whole.register_collector(Box::new(ProcessCollector));
        let registry = whole.sub_registry_with_prefix("migration_gate");
        let reviews = Family::default();
        let rejected = Family::default();
        let in_flight = Gauge::<i64, AtomicI64>::default();
        let certificate = Gauge::<i64, AtomicI64>::default();
        let gates = GateMetrics::default();
        registry.register("reviews", "Answered reviews, by decision", reviews.clone());
        registry.register_with_unit(
            "review_duration",
            "Time from the end of a request's headers to its response",
            Unit::Seconds,
            duration.clone(),
        );
        registry.register(
            "rejected_requests",
            "Rejected requests, by HTTP status",
            rejected.clone(),
        );
        registry.register(
            "reviews_in_flight",
            "Reviews that are being read or decided",
            in_flight.clone(),
        );
        registry.register_with_unit(
            "certificate_expiry_timestamp",
            "Expiry time of the serving certificate, in seconds since 1970; 0 if there is none",
            Unit::Seconds,
            certificate.clone(),
        );
        gates.register(registry);
        registry.register(
            "build",
            "Version of the program",
            Info::new([("version", env!("CARGO_PKG_VERSION"))]),
        );
        Self {
            registry: Arc::new(whole),
            reviews,
            duration,
            rejected,
            in_flight,
            certificate,
            gates,
        }
    }

    /// Updates the metrics of a gate. `gate` must be the name of a configured gate, or the label
    /// has no bound.
    pub fn on_gate(&self, gate: &str, news: &GateNews) {
        match news {
            GateNews::State(report) => self.gates.set(gate, report),
            GateNews::WriteFailed => {
                let gate = gate.to_owned();
                self.gates
                    .failed_writes
                    .get_or_create(&GateLabel { gate })
                    .inc();
            }
        }
    }

    /// Sets the time at which the served certificate expires, in seconds since 1970.
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

    /// Counts a request that was answered with an HTTP error instead of a review.
    pub(super) fn rejected(&self, webhook: Webhook, code: u16) {
        self.rejected
            .get_or_create(&RejectedLabels {
                webhook: webhook.as_str(),
                code,
            })
            .inc();
    }

    /// Counts a request as in flight until the returned value is dropped.
    pub(super) fn begin(&self, webhook: Webhook) -> InFlight<'_> {
        self.in_flight.inc();
        InFlight {
            metrics: self,
            webhook,
            since: Instant::now(),
        }
    }

    /// The metrics as text, with content type [`CONTENT_TYPE`].
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
    /// The time at which it began.
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
