//! Reviews and their responses, by calling the routes.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use base64::Engine as _;
use jiff::Timestamp;
use migration_gate::serve::recorder::{GateNews, GateReport};
use migration_gate_core::outlook::GateState;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::support::{default_limits, read, review, webhooks};

async fn call(path: &str, body: impl Into<Body>) -> (StatusCode, Value) {
    let (routes, _) = webhooks(default_limits());
    let request = Request::post(path).body(body.into()).unwrap();
    read(routes.oneshot(request).await.unwrap()).await
}

/// The response to a request, checked to be an answer to it.
async fn answer(path: &str, request: Value) -> Value {
    let (status, mut answer) = call(path, review(request.clone())).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(answer["kind"], "AdmissionReview");
    assert_eq!(answer["response"]["uid"], request["uid"]);
    answer["response"].take()
}

fn deployment(env: &Value) -> Value {
    json!({
        "metadata": {"name": "piefed-web"},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "piefed:1", "env": env}]}}},
    })
}

fn create(object: Value) -> Value {
    json!({
        "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "name": "piefed-web",
        "namespace": "piefed-application",
        "operation": "CREATE",
        "userInfo": {"username": "admin"},
        "object": object,
        "oldObject": null,
    })
}

#[tokio::test]
async fn a_patch_comes_as_base64_with_its_type() {
    let object = deployment(&json!([]));
    let answer = answer("/mutate", create(object.clone())).await;
    assert_eq!(answer["allowed"], true);
    assert_eq!(answer["patchType"], "JSONPatch");
    assert_eq!(
        answer["auditAnnotations"],
        json!({"decision": "injected", "gate": "piefed"})
    );
    let patch = base64::engine::general_purpose::STANDARD
        .decode(answer["patch"].as_str().unwrap())
        .unwrap();
    let patch: json_patch::Patch = serde_json::from_slice(&patch).unwrap();
    let mut patched = object;
    json_patch::patch(&mut patched, &patch).unwrap();
    let init = &patched["spec"]["template"]["spec"]["initContainers"][0];
    assert_eq!(init["name"], "wait-for-migrations");
}

#[tokio::test]
async fn without_anything_to_change_there_is_no_patch() {
    let mut request = create(deployment(&json!([])));
    request["namespace"] = json!("default");
    assert_eq!(
        answer("/mutate", request).await,
        json!({
            "uid": "705ab4f5-6393-11e8-b7cc-42010a800002",
            "allowed": true,
            "auditAnnotations": {"decision": "untouched"},
        })
    );
}

#[tokio::test]
async fn a_denial_names_every_field_in_words_and_in_causes() {
    let variable = json!({"name": "PIEFED_INIT_CONTAINER", "value": "1"});
    let mut request = create(deployment(&json!([variable, {"name": "A"}, variable])));
    request["namespace"] = json!("default");
    let answer = answer("/validate", request).await;
    assert_eq!(answer["allowed"], false);
    let status = &answer["status"];
    assert_eq!(status["status"], "Failure");
    assert_eq!(status["code"], 403);
    assert_eq!(status["reason"], "Forbidden");
    let fields = [
        "spec.template.spec.containers[0].env[0]",
        "spec.template.spec.containers[0].env[2]",
    ];
    let message = status["message"].as_str().unwrap();
    assert!(
        message.starts_with(&format!(
            "{}, {}: `PIEFED_INIT_CONTAINER`",
            fields[0], fields[1]
        )),
        "{message}"
    );
    let details = &status["details"];
    assert_eq!(
        (&details["group"], &details["kind"], &details["name"]),
        (&json!("apps"), &json!("Deployment"), &json!("piefed-web"))
    );
    let causes = details["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 2);
    for (cause, field) in causes.iter().zip(fields) {
        assert_eq!(cause["field"], field);
        assert_eq!(cause["reason"], "FieldValueForbidden");
        assert!(cause["message"].as_str().unwrap().contains("remove it"));
    }
    assert!(answer.get("patch").is_none() && answer.get("patchType").is_none());
    assert_eq!(answer["auditAnnotations"], json!({"decision": "denied"}));
}

#[tokio::test]
async fn a_denial_of_a_held_deployment_is_audited_with_its_gate() {
    let answer = answer("/validate", create(deployment(&json!([])))).await;
    assert_eq!(answer["allowed"], false);
    assert_eq!(
        answer["auditAnnotations"],
        json!({"decision": "denied", "gate": "piefed"})
    );
}

#[tokio::test]
async fn a_flood_of_violations_gets_an_answer_that_can_be_read() {
    let variable = json!({"name": "PIEFED_INIT_CONTAINER"});
    let answer = answer(
        "/validate",
        create(deployment(&json!(vec![variable; 10_000]))),
    )
    .await;
    let causes = answer["status"]["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 256);
    // The missing waiter is among them.
    assert_eq!(causes[0]["reason"], "FieldValueInvalid");
    let message = answer["status"]["message"].as_str().unwrap();
    assert!(message.ends_with("; and 9745 more fields"), "{message}");
    assert!(message.len() < 32 * 1024);
}

#[tokio::test]
async fn warnings_keep_within_their_limits() {
    let mut object = deployment(&json!([]));
    object["spec"]["template"]["spec"]["serviceAccountName"] = json!("own".repeat(80));
    let answer = answer("/mutate", create(object)).await;
    let warnings = answer["warnings"].as_array().unwrap();
    assert!(warnings.len() > 1, "{warnings:?}");
    assert!(
        warnings
            .iter()
            .all(|warning| warning.as_str().unwrap().len() <= 256)
    );
}

#[tokio::test]
async fn a_deletion_is_never_held_up() {
    for operation in ["DELETE", "CONNECT"] {
        for path in ["/mutate", "/validate"] {
            let mut request = create(Value::Null);
            request["operation"] = json!(operation);
            request["oldObject"] = deployment(&json!([{"name": "PIEFED_INIT_CONTAINER"}]));
            assert_eq!(
                answer(path, request).await,
                json!({"uid": "705ab4f5-6393-11e8-b7cc-42010a800002", "allowed": true})
            );
        }
    }
}

#[tokio::test]
async fn a_review_that_can_t_be_decided_is_answered_all_the_same() {
    let check = async |object: Value, expect: &str| {
        let answer = answer("/validate", create(object)).await;
        assert_eq!(answer["allowed"], false);
        assert_eq!(answer["status"]["code"], 400);
        assert_eq!(answer["status"]["reason"], "BadRequest");
        let message = answer["status"]["message"].as_str().unwrap();
        assert!(message.contains(expect), "{message}");
    };
    check(Value::Null, "request.object is missing").await;

    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    let body = String::from_utf8(review(create(json!("DEEP")))).unwrap();
    let (status, answer) = call("/validate", body.replace("\"DEEP\"", &deep)).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(
        answer["response"]["uid"],
        "705ab4f5-6393-11e8-b7cc-42010a800002"
    );
    assert_eq!(answer["response"]["status"]["code"], 400);
}

#[tokio::test]
async fn what_is_no_review_gets_400_and_what_was_expected() {
    let check = async |body: &str| {
        let (status, answer) = call("/mutate", body.to_owned()).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let message = answer.as_str().unwrap();
        assert!(message.contains("expected"), "{message}");
        assert!(message.contains("AdmissionReview"), "{message}");
    };
    check("").await;
    check("not json").await;
    check("{}").await;
    check("null").await;
    check(r#"{"apiVersion": "admission.k8s.io/v1beta1", "kind": "AdmissionReview", "request": {"uid": "u"}}"#).await;
    check(r#"{"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": {}}"#)
        .await;
}

#[tokio::test]
async fn only_the_two_paths_and_only_post() {
    let (status, _) = call("/elsewhere", "{}").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    let (routes, _) = webhooks(default_limits());
    let request = Request::builder()
        .method(Method::GET)
        .uri("/mutate")
        .body(Body::empty())
        .unwrap();
    let (status, _) = read(routes.oneshot(request).await.unwrap()).await;
    assert_eq!(status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn metrics_count_by_bounded_labels() {
    let (routes, metrics) = webhooks(default_limits());
    let send = async |path: &str, body: Vec<u8>| {
        let request = Request::post(path).body(Body::from(body)).unwrap();
        routes.clone().oneshot(request).await.unwrap();
    };
    send("/mutate", review(create(deployment(&json!([]))))).await;
    let mut odd = create(json!({}));
    odd["kind"] = json!({"group": "example.com", "version": "v1", "kind": "Whatever"});
    odd["operation"] = json!("PRAY");
    send("/validate", review(odd)).await;
    send("/validate", b"{}".to_vec()).await;
    let report = GateReport {
        state: GateState::Waiting,
        waiting_pods: 2,
        unrecorded: 1,
        last: Some((Timestamp::UNIX_EPOCH, Some(60))),
        sees_jobs: true,
        sees_record: false,
        sees_workloads: true,
    };
    metrics.on_gate("piefed", &GateNews::State(report));
    metrics.on_gate("piefed", &GateNews::WriteFailed);
    let text = metrics.encode().unwrap();
    for line in [
        r#"migration_gate_reviews_total{webhook="mutate",kind="Deployment",operation="CREATE",decision="injected"} 1"#,
        r#"migration_gate_reviews_total{webhook="validate",kind="other",operation="other",decision="skipped"} 1"#,
        r#"migration_gate_rejected_requests_total{webhook="validate",code="400"} 1"#,
        r#"migration_gate_review_duration_seconds_count{webhook="validate"} 2"#,
        // The buckets reach from the duration of a small review to more than any may take.
        r#"migration_gate_review_duration_seconds_bucket{le="8.192",webhook="validate"} 2"#,
        r#"migration_gate_review_duration_seconds_bucket{le="+Inf",webhook="validate"} 2"#,
        "migration_gate_reviews_in_flight 0",
        r#"migration_gate_gate_state{gate="piefed",state="waiting"} 1"#,
        r#"migration_gate_gate_state{gate="piefed",state="open"} 0"#,
        r#"migration_gate_gate_state{gate="piefed",state="unknown"} 0"#,
        r#"migration_gate_gate_waiting_pods{gate="piefed"} 2"#,
        r#"migration_gate_gate_watch_up{gate="piefed",objects="jobs"} 1"#,
        r#"migration_gate_gate_watch_up{gate="piefed",objects="record"} 0"#,
        r#"migration_gate_gate_unrecorded_completions{gate="piefed"} 1"#,
        r#"migration_gate_record_write_failures_total{gate="piefed"} 1"#,
        r#"migration_gate_last_migration_completion_timestamp_seconds{gate="piefed"} 0"#,
        r#"migration_gate_last_migration_duration_seconds{gate="piefed"} 60"#,
        concat!(
            "migration_gate_build_info{version=\"",
            env!("CARGO_PKG_VERSION"),
            "\"} 1"
        ),
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
    }
    let first = r#"_bucket{le="0.00025",webhook="validate"}"#;
    assert!(text.contains(first), "{first} is not in\n{text}");
    assert_eq!(text.matches("_bucket{le=").count(), 2 * 17);
}
