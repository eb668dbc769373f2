//! Replicas without their webhooks: only their certificates, on one (fake) API server.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use migration_gate::serve::certificates::rotator::{self, Settings};
use migration_gate::serve::certificates::trust::{CallersWriter, ConfigurationName};
use migration_gate::serve::metrics::Metrics;
use migration_gate::serve::ready::Readiness;
use migration_gate::serve::stop::Stop;
use migration_gate::serve::tls::{Identity, Served};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::PATIENCE;
use testkit::fake::FakeApi;

pub const SECRETS: &str = "/api/v1/namespaces/gate/secrets";
pub const SECRET: &str = "/api/v1/namespaces/gate/secrets/certificate";
pub const MUTATING: &str =
    "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/gate";
pub const VALIDATING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/gate";

pub fn configuration(kind: &str, webhooks: usize) -> Value {
    let webhook = |index| {
        json!({
            "name": format!("w{index}.migration-gate.io"),
            "clientConfig": {"service": {"name": "gate", "namespace": "gate", "path": "/x"}},
            "admissionReviewVersions": ["v1"],
            "sideEffects": "None",
        })
    };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": "gate"},
        "webhooks": (0..webhooks).map(webhook).collect::<Vec<_>>(),
    })
}

/// A cluster with the webhook configurations, as the chart makes them.
pub fn cluster() -> FakeApi {
    let api = FakeApi::start();
    api.put(MUTATING, configuration("MutatingWebhookConfiguration", 1));
    api.put(
        VALIDATING,
        configuration("ValidatingWebhookConfiguration", 2),
    );
    api
}

pub fn empty_secret() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "certificate", "namespace": "gate", "labels": {"mine": "yes"}},
    })
}

pub fn settings() -> Settings {
    Settings {
        namespace: "gate".to_owned(),
        secret: "certificate".to_owned(),
        names: vec!["gate.gate.svc".to_owned()],
        lifetime: Duration::from_hours(1),
        propagation: Duration::from_millis(20),
        patience: Duration::from_mins(1),
    }
}

/// The part of a replica that handles its certificate. Dropping it stops it.
pub struct Replica {
    pub served: Arc<Served>,
    pub metrics: Metrics,
    readiness: Readiness,
    _task: JoinSet<()>,
}

impl Replica {
    pub fn start(api: &FakeApi, settings: Settings) -> Self {
        let callers = CallersWriter::new([
            ConfigurationName::Mutating("gate".to_owned()),
            ConfigurationName::Validating("gate".to_owned()),
        ]);
        let (served, stop) = (Arc::new(Served::default()), Stop::default());
        let readiness = Readiness::new(Arc::clone(&served), callers.callers(), stop.clone());
        let metrics = Metrics::new();
        let mut task = JoinSet::new();
        task.spawn(rotator::run(
            api.client(),
            settings,
            callers,
            Arc::clone(&served),
            metrics.clone(),
            stop,
        ));
        Self {
            served,
            metrics,
            readiness,
            _task: task,
        }
    }

    /// Waits for a certificate other than `previous`.
    pub async fn serves(&self, previous: Option<&Identity>) -> Arc<Identity> {
        until("a certificate to serve", || {
            self.served
                .get()
                .filter(|now| previous.is_none_or(|previous| previous.chain() != now.chain()))
        })
        .await
    }

    pub fn why_not_ready(&self) -> String {
        match self.readiness.check() {
            Ok(()) => String::new(),
            Err(cause) => cause.to_string(),
        }
    }
}

pub async fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = look() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting for {what}"))
}

pub async fn until_that(what: &str, mut holds: impl FnMut() -> bool) {
    until(what, || holds().then_some(())).await;
}

/// The CA bundles of all webhooks, which must be the same.
pub fn bundle(api: &FakeApi) -> Option<Vec<CertificateDer<'static>>> {
    let mut bundles = Vec::new();
    for path in [MUTATING, VALIDATING] {
        for webhook in api.get(path)?["webhooks"].as_array()? {
            bundles.push(webhook["clientConfig"]["caBundle"].as_str()?.to_owned());
        }
    }
    assert_eq!(bundles.len(), 3);
    if bundles.iter().any(|other| *other != bundles[0]) {
        return None;
    }
    let pem = STANDARD.decode(&bundles[0]).unwrap();
    let certificates = CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>();
    Some(certificates.unwrap())
}
