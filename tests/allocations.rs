//! How often a review allocates: a count that doesn't depend on the machine. `docs/performance.md`
//! has times.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use allocation_counter::measure;
use migration_gate::admission::{Answer, answer, decode};
use migration_gate_core::gates::Config;
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::Operation;
use migration_gate_yaml::documents;
use serde_json::json;

/// The review of a creation of the example's Deployment, under a name.
fn body(name: &str) -> Vec<u8> {
    let text = include_str!("../examples/piefed/deployment-web.yaml");
    let mut object = documents(text).next().unwrap().unwrap().value;
    object["metadata"]["name"] = json!(name);
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": {
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "resource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "name": name, "namespace": "piefed-application", "operation": "CREATE",
            "userInfo": {"username": "kustomize-controller", "groups": ["system:authenticated"]},
            "object": object, "oldObject": null, "dryRun": false,
        },
    });
    review.to_string().into_bytes()
}

/// The allocations from a body to its response, after a first review has set up what all reviews
/// share.
fn allocations(name: &str, patched: bool) -> u64 {
    let config = Config::default();
    let body = body(name);
    let answered = || {
        let review = decode(&body).unwrap();
        let object = review.object().unwrap().unwrap();
        let request = review.as_core(Operation::Create, object, None);
        answer(&review, &Answer::Decided(mutate(&config, &request)))
    };
    let text = String::from_utf8(answered()).unwrap();
    assert_eq!(text.contains("\"patch\""), patched, "{text}");
    let counted = measure(|| drop(answered()));
    assert_eq!(counted.count_current, 0, "something is left");
    counted.count_total
}

/// A count that rises needs a reason. A count that falls is updated here.
#[test]
fn a_review_of_the_example_allocates_as_often_as_it_did() {
    assert_eq!(allocations("piefed-web", true), 396);
    assert_eq!(allocations("other", false), 147);
}
