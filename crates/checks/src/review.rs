//! Properties of any body that is sent to the webhooks.

use std::sync::{Arc, LazyLock};
use std::time::Instant;

use base64::Engine as _;
use clap::Parser;
use migration_gate::admission;
use migration_gate::serve::limits::ClientLimits;
use migration_gate::serve::metrics::Metrics;
use migration_gate::serve::review::Reviewer;
use migration_gate::serve::webhook::Webhook;
use serde_json::{Value, json};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    limits: ClientLimits,
}

/// The default limits of a client.
pub(crate) fn limits() -> ClientLimits {
    Arguments::parse_from(["serve"]).limits
}

/// Checks one body.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(body: &[u8]) {
    static REVIEWER: LazyLock<Reviewer> =
        LazyLock::new(|| Reviewer::new(Arc::default(), Metrics::new(), Arc::new(limits())));
    let reviewer: &Reviewer = &REVIEWER;
    let Ok(request) = admission::decode(body) else {
        for webhook in [Webhook::MUTATE, Webhook::VALIDATE] {
            let error = reviewer
                .decide(webhook, body, Instant::now())
                .unwrap_err()
                .to_string();
            assert!(error.contains("expected"), "{error}");
            assert!(error.len() < 1024, "{error}");
        }
        return;
    };
    let validated = answer(reviewer, Webhook::VALIDATE, body, &request.uid);
    assert!(
        validated.get("patch").is_none(),
        "a validating webhook patches"
    );

    let mutated = answer(reviewer, Webhook::MUTATE, body, &request.uid);
    let Some(patch) = mutated.get("patch") else {
        return;
    };
    assert_eq!(mutated["patchType"], "JSONPatch");
    assert_eq!(mutated["allowed"], true);
    let patch = base64::engine::general_purpose::STANDARD
        .decode(patch.as_str().unwrap())
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut object = request.object().unwrap().unwrap().clone();
    json_patch::patch(&mut object, &patch).expect("the patch fits the object");

    // A second call adds nothing, and validation does not miss the waiter.
    let mut again: Value = serde_json::from_slice(body).unwrap();
    again["request"]["object"] = object;
    let again = serde_json::to_vec(&again).unwrap();
    let twice = answer(reviewer, Webhook::MUTATE, &again, &request.uid);
    assert!(
        twice.get("patch").is_none(),
        "mutating twice isn't once: {twice}"
    );
    let validated = answer(reviewer, Webhook::VALIDATE, &again, &request.uid);
    let causes = validated["status"]["details"]["causes"].as_array();
    for cause in causes.into_iter().flatten() {
        assert_eq!(cause["reason"], "FieldValueForbidden", "{validated}");
    }
}

/// The response, checked to be an answer to the review.
fn answer(reviewer: &Reviewer, webhook: Webhook, body: &[u8], uid: &str) -> Value {
    let answer = reviewer
        .decide(webhook, body, Instant::now())
        .expect("it was decoded once");
    let mut answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    let response = answer["response"].take();
    assert_eq!(response["uid"], uid);
    assert_ne!(response["status"]["code"], 500, "{response}");
    let denied = response["allowed"] == json!(false);
    assert_eq!(denied, response["status"]["code"].is_u64(), "{response}");
    assert_eq!(
        response["patch"].is_string(),
        response["patchType"].is_string()
    );
    for warning in response["warnings"].as_array().into_iter().flatten() {
        let warning = warning.as_str().unwrap();
        assert!(warning.len() <= 256 && !warning.contains(char::is_control));
    }
    response
}
