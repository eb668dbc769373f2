//! Certificates of the server's own making, with several replicas on one (fake) API server.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use migration_gate::serve::certificates::trust::{Callers, CallersWriter, ConfigurationName};
use serde::Deserialize as _;
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::replicas::{
    MUTATING, Replica, SECRET, SECRETS, VALIDATING, bundle, cluster, configuration, empty_secret,
    settings, until, until_that,
};
use crate::support::{Authority, PATIENCE};
use testkit::fake::FakeApi;

#[tokio::test(flavor = "multi_thread")]
async fn any_number_of_replicas_agree_on_one_ca() {
    for round in 0..20 {
        let api = cluster();
        let precreated = round % 2 == 0;
        if precreated {
            api.put(SECRET, empty_secret());
        }
        let replicas: Vec<_> = (0..5).map(|_| Replica::start(&api, settings())).collect();
        let mut chains = Vec::new();
        for replica in &replicas {
            let identity = replica.serves(None).await;
            chains.push(identity.chain().to_vec());
            assert_eq!(replica.why_not_ready(), "");
        }
        assert!(chains.iter().all(|chain| *chain == chains[0]));
        assert_eq!(bundle(&api).unwrap().len(), 1, "round {round}");
        let (verb, path, status) = if precreated {
            ("patch", SECRET, 200)
        } else {
            ("create", SECRETS, 201)
        };
        assert_eq!(api.count(verb, path, status), 1);
        let secret = api.get(SECRET).unwrap();
        let keys: Vec<_> = secret["data"].as_object().unwrap().keys().collect();
        assert_eq!(keys, ["ca.crt", "tls.crt", "tls.key"]);
        if precreated {
            assert_eq!(secret["metadata"]["labels"]["mine"], "yes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_replica_joins_without_a_write() {
    let api = cluster();
    let first = Replica::start(&api, settings());
    let identity = first.serves(None).await;
    let changes = *api.changes().borrow();
    let second = Replica::start(&api, settings());
    assert_eq!(second.serves(None).await.chain(), identity.chain());
    assert_eq!(*api.changes().borrow(), changes);
}

#[tokio::test(flavor = "multi_thread")]
async fn ready_is_only_who_the_api_server_accepts() {
    let api = FakeApi::start();
    api.put(MUTATING, configuration("MutatingWebhookConfiguration", 1));
    let replica = Replica::start(&api, settings());
    until("a Secret", || api.get(SECRET)).await;
    // One of the two configurations is missing.
    assert_eq!(replica.why_not_ready(), "there is no certificate yet");
    api.put(
        VALIDATING,
        configuration("ValidatingWebhookConfiguration", 2),
    );
    replica.serves(None).await;
    assert_eq!(replica.why_not_ready(), "");

    // Another writer puts its own bundle there, and this server may not fix it.
    api.deny("patch", VALIDATING);
    let mut foreign = configuration("ValidatingWebhookConfiguration", 2);
    let other = Authority::new();
    let pem = pem::encode(&pem::Pem::new("CERTIFICATE", other.certificate.to_vec()));
    for webhook in foreign["webhooks"].as_array_mut().unwrap() {
        webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(&pem));
    }
    api.put(VALIDATING, foreign.clone());
    let why = "ValidatingWebhookConfiguration gate: the caBundle of webhook w0";
    until_that("unreadiness", || replica.why_not_ready().contains(why)).await;
    api.heal();
    until_that("readiness", || replica.why_not_ready().is_empty()).await;

    // An applier that omits the bundle removes it only for a moment.
    api.put(MUTATING, configuration("MutatingWebhookConfiguration", 1));
    until("the bundle's return", || bundle(&api)).await;
    until_that("readiness", || replica.why_not_ready().is_empty()).await;

    // A deleted configuration calls no replica, so only the other one counts.
    api.delete(MUTATING);
    api.deny("patch", VALIDATING);
    api.put(VALIDATING, foreign);
    until_that("unreadiness", || replica.why_not_ready().contains(why)).await;
    api.heal();
    until_that("readiness", || replica.why_not_ready().is_empty()).await;
}

/// An operator has deleted it, as in an emergency, and the replicas are restarted.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_configuration_is_awaited_only_for_a_while() {
    let mut impatient = settings();
    impatient.patience = Duration::from_millis(50);
    let api = cluster();
    api.delete(VALIDATING);
    let first = Replica::start(&api, impatient.clone());
    first.serves(None).await;
    assert_eq!(first.why_not_ready(), "");

    api.delete(MUTATING);
    let second = Replica::start(&api, impatient);
    second.serves(None).await;
    assert_eq!(second.why_not_ready(), "");

    // They are created again, without a bundle.
    api.put(MUTATING, configuration("MutatingWebhookConfiguration", 1));
    api.put(
        VALIDATING,
        configuration("ValidatingWebhookConfiguration", 2),
    );
    until("the bundles", || bundle(&api)).await;
    for replica in [&first, &second] {
        assert_eq!(replica.why_not_ready(), "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_lost_or_spoilt_is_made_anew() {
    let api = cluster();
    let replica = Replica::start(&api, settings());
    let mut previous = replica.serves(None).await;
    let spoil: [fn(&mut Map<String, Value>); 4] = [
        |data| data.clear(),
        |data| data["tls.crt"] = json!(STANDARD.encode("garbage")),
        |data| data["ca.crt"] = data["tls.crt"].clone(),
        |data| drop(data.remove("tls.key")),
    ];
    for spoil in spoil {
        let mut secret = api.get(SECRET).unwrap();
        let data = secret["data"].as_object_mut().unwrap();
        spoil(data);
        if data.is_empty() {
            api.delete(SECRET);
        } else {
            api.put(SECRET, secret);
        }
        let next = replica.serves(Some(&previous)).await;
        assert_eq!(replica.why_not_ready(), "");
        previous = next;
    }
    // The CAs of earlier certificates stay trusted, because other replicas may still serve those.
    assert!(bundle(&api).unwrap().len() > 2);
}

/// The bundle of a configuration, with this certificate at its end.
fn extend_bundle(api: &FakeApi, path: &str, certificate: &[u8]) {
    let mut object = api.get(path).unwrap();
    let further = pem::encode(&pem::Pem::new("CERTIFICATE", certificate));
    for webhook in object["webhooks"].as_array_mut().unwrap() {
        let bundle = webhook["clientConfig"]["caBundle"].as_str().unwrap();
        let bundle = [STANDARD.decode(bundle).unwrap(), further.clone().into()].concat();
        webhook["clientConfig"]["caBundle"] = json!(STANDARD.encode(bundle));
    }
    api.put(path, object);
}

/// A replica that may not write one object still does the rest, and serves a trusted certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_is_refused_holds_up_nothing_else() {
    let api = cluster();
    let first = Replica::start(&api, settings());
    let identity = first.serves(None).await;
    drop(first);
    let foreign = Authority::new();
    for path in [MUTATING, VALIDATING] {
        extend_bundle(&api, path, &foreign.certificate);
    }
    api.deny("patch", MUTATING);
    let second = Replica::start(&api, settings());
    assert_eq!(second.serves(None).await.chain(), identity.chain());
    assert_eq!(second.why_not_ready(), "");
    let size = |path| {
        let webhook = api.get(path).unwrap()["webhooks"][0].take();
        let bundle = STANDARD.decode(webhook["clientConfig"]["caBundle"].as_str().unwrap());
        pem::parse_many(bundle.unwrap()).unwrap().len()
    };
    until_that("the bundle that may be written", || size(VALIDATING) == 1).await;
    assert_eq!(size(MUTATING), 2);
    api.heal();
    until_that("the other", || size(MUTATING) == 1).await;

    // The same holds if the Secret is due for renewal and may not be written.
    drop(second);
    api.deny("patch", SECRET);
    let mut late = settings();
    late.lifetime *= 10;
    let third = Replica::start(&api, late);
    assert_eq!(third.serves(None).await.chain(), identity.chain());
}

/// A replica that starts just then has never seen the Secret, and others still serve its
/// certificate.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_lost_while_a_replica_starts_costs_nobody_the_trust() {
    let api = cluster();
    let first = Replica::start(&api, settings());
    let served = first.serves(None).await;
    // From here on this replica gets no events, and serves the certificate that it has.
    drop(first);
    api.delete(SECRET);
    let second = Replica::start(&api, settings());
    second.serves(None).await;
    callers(&api, Instant::now())
        .accept(&served, Timestamp::now())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_expiry_is_shown() {
    let api = cluster();
    let replica = Replica::start(&api, settings());
    let mut previous = None;
    for _ in 0..2 {
        let identity = replica.serves(previous.as_deref()).await;
        let line = format!(
            "migration_gate_certificate_expiry_timestamp_seconds {}\n",
            identity.not_after().as_second()
        );
        let metrics = || replica.metrics.encode().unwrap();
        until_that("its expiry", || metrics().contains(&line)).await;
        api.delete(SECRET);
        previous = Some(identity);
    }
}

/// As in a roll-out that changes the server's name, where old and new replicas run side by side.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_name_gets_a_certificate_that_old_replicas_keep() {
    let api = cluster();
    let old = Replica::start(&api, settings());
    let first = old.serves(None).await;
    let mut renamed = settings();
    renamed.names = vec!["gate.gate.svc".to_owned(), "127.0.0.1".to_owned()];
    let new = Replica::start(&api, renamed);
    let second = new.serves(None).await;
    assert_eq!(second.names(), ["gate.gate.svc", "127.0.0.1"]);
    assert_eq!(old.serves(Some(&first)).await.chain(), second.chain());

    let mut other = settings();
    other.names = vec!["127.0.0.2".to_owned()];
    let other = Replica::start(&api, other);
    let third = new.serves(Some(&second)).await;
    assert_eq!(third.names(), ["127.0.0.2", "gate.gate.svc", "127.0.0.1"]);
    for replica in [&old, &other] {
        until("agreement", || {
            let served = replica.served.get()?;
            (served.chain() == third.chain()).then_some(())
        })
        .await;
    }
    assert_eq!(api.count("patch", SECRET, 200), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarrel_over_the_bundle_is_no_busy_loop() {
    let api = cluster();
    let replica = Replica::start(&api, settings());
    replica.serves(None).await;
    let before = api.count("patch", MUTATING, 200);
    // Removes the bundle as often as it is restored.
    let mut changes = api.changes();
    let quarrel = async {
        loop {
            let written = api.get(MUTATING).unwrap();
            if written["webhooks"][0]["clientConfig"]["caBundle"].is_string() {
                api.put(MUTATING, configuration("MutatingWebhookConfiguration", 1));
            }
            changes.changed().await.unwrap();
        }
    };
    let _ = timeout(Duration::from_secs(2), quarrel).await;
    let writes = api.count("patch", MUTATING, 200) - before;
    assert!((1..50).contains(&writes), "{writes} writes");
    // When the other writer gives up, the bundle stays.
    until("the bundle", || bundle(&api)).await;
}

/// Rotation after rotation with three replicas, seen by an API server that learns of every change
/// as late as it may.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_served_is_accepted_by_an_api_server_that_lags() {
    let api = cluster();
    let lag = Duration::from_millis(300);
    let mut settings = settings();
    settings.lifetime = Duration::from_secs(4);
    settings.propagation = lag + Duration::from_millis(100);
    let replicas: Vec<_> = (0..3)
        .map(|_| Replica::start(&api, settings.clone()))
        .collect();
    for replica in &replicas {
        replica.serves(None).await;
    }

    let mut served = Vec::new();
    let mut bundles = Vec::new();
    let watch = async {
        // Three rotations of each replica: more than two bundles of two CAs each.
        while served.len() < 4 * replicas.len() {
            for (number, replica) in replicas.iter().enumerate() {
                let identity = replica.served.get().unwrap();
                for ago in [Duration::ZERO, lag] {
                    let verdict = callers(&api, Instant::now().checked_sub(ago).unwrap())
                        .accept(&identity, Timestamp::now());
                    // It must be accepted, unless it was replaced just now.
                    let still = replica.served.get().unwrap();
                    assert!(
                        verdict.is_ok() || still.chain() != identity.chain(),
                        "{ago:?} ago: {verdict:?}"
                    );
                }
                let known = (number, identity.chain().to_vec());
                if !served.contains(&known) {
                    served.push(known);
                }
            }
            bundles.extend(bundle(&api).map(|bundle| bundle.len()));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, watch).await.expect("it doesn't rotate");
    let kept = bundles.iter().position(|count| *count == 2);
    let kept = kept.expect("the old CA is never kept");
    assert!(bundles[kept..].contains(&1), "the old CA is never dropped");
    assert!(
        bundles.iter().all(|count| *count <= 2),
        "an old CA is kept for ever"
    );
    assert_eq!(api.count("create", SECRETS, 201), 1);
}

/// The configurations as seen by an API server that knows all changes until then.
fn callers(api: &FakeApi, at: Instant) -> Callers {
    let mutating = ConfigurationName::Mutating("gate".to_owned());
    let validating = ConfigurationName::Validating("gate".to_owned());
    let mut callers = CallersWriter::new([mutating.clone(), validating.clone()]);
    let seen = |path| api.get_as_of(path, at).unwrap();
    let object = MutatingWebhookConfiguration::deserialize(seen(MUTATING)).unwrap();
    callers.see(&mutating, Some(object.into()));
    let object = ValidatingWebhookConfiguration::deserialize(seen(VALIDATING)).unwrap();
    callers.see(&validating, Some(object.into()));
    callers.callers()
}
