//! Which objects a text holds.

use migration_gate::review::codes::Code;
use migration_gate::review::engine::review;
use migration_gate::review::input::SourceText;
use migration_gate::review::manifest::{Loaded, SourceContents, contents};
use migration_gate_core::gates::Config;
use serde_json::json;

use super::{found, loaded};

fn objects(text: &str, namespace: Option<&str>) -> Vec<String> {
    let loaded = loaded(text);
    let SourceContents {
        manifests,
        problems,
        ..
    } = contents(&loaded, namespace);
    manifests
        .iter()
        .map(|manifest| format!("{} {manifest}", manifest.api_version()))
        .chain(problems.into_iter().map(|problem| problem.message))
        .collect()
}

#[test]
fn every_object_is_found() {
    let check = |text: &str, expect: &[&str]| assert_eq!(objects(text, None), expect, "{text}");
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: ns}}";
    check(
        &format!("{pod}\n---\n---\n# none\n---\n{pod}"),
        &["v1 Pod ns/a", "v1 Pod ns/a"],
    );
    check(
        &format!("{{apiVersion: v1, kind: List, items: [{pod}, {pod}]}}"),
        &["v1 Pod ns/a", "v1 Pod ns/a"],
    );
    // Items of a typed list have its item kind, even if they do not name it.
    check(
        "{apiVersion: apps/v1, kind: DeploymentList, items: [{metadata: {name: a, namespace: ns}}]}",
        &["apps/v1 Deployment ns/a"],
    );
    check("{apiVersion: v1, kind: List, items: []}", &[]);
    check("{apiVersion: v1, kind: PodList, items: }", &[]);
    check(
        "{apiVersion: v1, kind: Pod, metadata: {generateName: a-}}",
        &["v1 Pod default/a-"],
    );
    check("{apiVersion: v1, kind: Pod}", &["v1 Pod default/"]);
    // A kind that ends in List without being one.
    check(
        "{apiVersion: x.io/v1, kind: AllowList, spec: {}}",
        &["x.io/v1 AllowList default/"],
    );
    check(
        "{apiVersion: kustomize.config.k8s.io/v1beta1, kind: Kustomization}",
        &[],
    );
}

#[test]
fn what_is_no_object_is_told() {
    let check = |text: &str, expect: &str| {
        let found = objects(text, None);
        assert_eq!(found.len(), 1, "{text}");
        assert!(found[0].contains(expect), "{text}: {}", found[0]);
    };
    check("a: 1", "it has no apiVersion");
    check("apiVersion: v1", "it has no kind");
    check("kind: Pod", "it has no apiVersion");
    check("{apiVersion: '', kind: Pod}", "it has no apiVersion");
    check("{apiVersion: v1, kind: 3}", "it has no kind");
    check("[1]", "it is not a mapping");
    check("text", "it is not a mapping");
    check(
        "{apiVersion: v1, kind: List, items: [1]}",
        "it is not a mapping",
    );
    check(
        "{apiVersion: v1, kind: List, items: [{metadata: {}}]}",
        "it has no apiVersion",
    );
}

#[test]
fn where_an_object_goes_that_does_not_say() {
    let text = "{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: ''}}";
    assert_eq!(objects(text, None), ["v1 Pod default/a"]);
    assert_eq!(objects(text, Some("flag")), ["v1 Pod flag/a"]);
    let source = SourceText {
        name: "a.yaml".to_owned(),
        text: text.to_owned(),
        namespace: Some("kustomization".to_owned()),
        ..SourceText::default()
    };
    let loaded = [Loaded::new(source)];
    let name = |namespace| {
        contents(&loaded, namespace).manifests[0]
            .request
            .namespace
            .to_owned()
    };
    assert_eq!(name(None), "kustomization");
    assert_eq!(name(Some("flag")), "flag");
}

fn admission_review(request: &serde_json::Value) -> String {
    json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request})
        .to_string()
}

#[test]
fn a_captured_review_is_reviewed_as_what_it_was() {
    let kind = json!({"group": "apps", "version": "v1", "kind": "ReplicaSet"});
    let object = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "a", "ownerReferences": [{"controller": true}]},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "env": [{"name": "PIEFED_INIT_CONTAINER"}]}]}}},
    });
    let request = |operation: &str, old: Option<&serde_json::Value>| {
        admission_review(&json!({
            "uid": "u", "kind": kind, "namespace": "piefed-application", "operation": operation,
            "object": object, "oldObject": old,
        }))
    };
    let check =
        |text: &str, expect: &[&str]| assert_eq!(found(&Config::default(), text), expect, "{text}");
    check(&request("CREATE", None), &["forbidden-env 1"]);
    check(&request("UPDATE", Some(&object)), &[]);
    check(&request("DELETE", None), &[]);
    check(&request("CONNECT", None), &[]);
    assert_eq!(
        objects(&request("CREATE", None), None),
        ["apps/v1 ReplicaSet piefed-application/a"]
    );
}

#[test]
fn a_captured_review_that_is_none_is_told() {
    let check = |text: &str, expect: &str| assert_eq!(objects(text, None), [expect], "{text}");
    let kind = json!({"group": "", "version": "v1", "kind": "Pod"});
    check(
        &admission_review(&json!(null)),
        "this AdmissionReview has no request; capture the API server's side of the call",
    );
    check(
        &admission_review(&json!({"operation": "PATCH"})),
        "request.operation is none of CREATE, UPDATE, DELETE and CONNECT",
    );
    check(
        &admission_review(&json!({"operation": "CREATE", "kind": kind})),
        "request.object is missing",
    );
    check(
        &admission_review(&json!({"operation": "CREATE", "object": {}})),
        "request.kind is missing",
    );
}

/// The violation's field is that of the file, whatever the injection puts before it.
#[test]
fn fields_are_those_that_the_author_wrote() {
    let text = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: piefed-web, namespace: piefed-application}
spec:
  template:
    spec:
      initContainers:
      - name: mine
        env:
        - name: PIEFED_INIT_CONTAINER
      containers:
      - {name: web, image: 'piefed:1'}
";
    let loaded = loaded(text);
    let report = review(&Config::default(), &loaded, None);
    let finding = report
        .findings
        .iter()
        .find(|f| f.code == Code::ForbiddenEnv)
        .expect("found");
    assert_eq!(
        finding.field.to_string(),
        "spec.template.spec.initContainers[0].env[0]"
    );
    assert_eq!(&text[report.span(finding).range()], "PIEFED_INIT_CONTAINER");
}

#[test]
fn a_reserved_name_is_the_only_thing_told_of_the_waiter() {
    let text = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: piefed-web, namespace: piefed-application}, \
                spec: {template: {spec: {containers: [{name: wait-for-migrations, image: 'a:1'}]}}}}";
    let codes = found(&Config::default(), text);
    assert!(codes.contains(&"reserved-name 1".to_owned()), "{codes:?}");
    assert!(!codes.contains(&"waiter-missing 1".to_owned()), "{codes:?}");
}

/// A stored object is reviewed as if its pod template changed, because the webhooks get no other
/// changes. The waiter of another release is then replaced.
#[test]
fn what_is_stored_is_reviewed_as_changed_next() {
    use migration_gate::review::rewrite;
    use migration_gate_core::decision::Outcome;
    let text = std::fs::read_to_string("examples/piefed/deployment-web.yaml").expect("example");
    let fresh = loaded(&text);
    let injected = rewrite::yaml(&review(&Config::default(), &fresh, None), 0);
    let mut newer = Config::default();
    newer.waiter.image = "migration-gate/migration-gate:99".to_owned();
    for stored in [true, false] {
        let loaded = [Loaded::new(SourceText {
            text: injected.clone(),
            stored,
            ..SourceText::default()
        })];
        let report = review(&newer, &loaded, None);
        assert_eq!(report.objects[0].outcome, Outcome::Replaced);
        assert!(report.objects[0].patched.is_some());
    }
}

/// Only the API server sets `deletionTimestamp`.
#[test]
fn a_deletion_that_is_written_down_is_ignored() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, deletionTimestamp: '2026-01-01T00:00:00Z'}\nspec: {containers: [{name: a, image: b, env: [{name: PIEFED_INIT_CONTAINER}]}]}\n";
    assert_eq!(super::found(&Config::default(), text), ["forbidden-env 4"]);
    // In an object from a cluster, and in a captured review, it counts.
    let stored = [Loaded::new(SourceText {
        text: text.to_owned(),
        stored: true,
        ..SourceText::default()
    })];
    let report = review(&Config::default(), &stored, None);
    assert!(report.findings.is_empty());
    let text = "{apiVersion: admission.k8s.io/v1, kind: AdmissionReview, request: {operation: CREATE, kind: {version: v1, kind: Pod}, object: {metadata: {deletionTimestamp: x}, spec: {containers: [{env: [{name: PIEFED_INIT_CONTAINER}]}]}}}}";
    assert!(super::found(&Config::default(), text).is_empty());
}
