//! Objects to decide on, and the two steps of admission in the API server's order.

use migration_gate_core::decision::Decision;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::{Operation, Request};
use migration_gate_core::validate::validate;
use serde_json::{Value, json};

/// `piefed-web` as its author writes it, the pod spec merged from `spec`.
pub fn deployment(spec: Value) -> Value {
    let mut pod_spec = json!({"containers": [{"name": "web", "image": "piefed/piefed:1.2.0"}]});
    merge(&mut pod_spec, spec);
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "piefed-web", "namespace": "piefed-application"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "piefed-web"}},
            "template": {"metadata": {"labels": {"app": "piefed-web"}}, "spec": pod_spec},
        },
    })
}

/// A workload of that kind around a pod spec.
pub fn workload(kind: HeldKind, spec: Value) -> Value {
    let pod_kind = kind.pod_kind();
    let (_, template) = pod_kind.path.split_last().unwrap();
    let body = template.iter().rev().fold(
        json!({"metadata": {"labels": {"v": "7"}}, "spec": spec}),
        |inner, field| json!({ *field: inner }),
    );
    let mut object = json!({
        "apiVersion": format!("{}/{}", kind.group(), pod_kind.version),
        "kind": kind.as_str(),
        "metadata": {"name": "web", "namespace": "shop"},
    });
    merge(&mut object, body);
    object
}

/// A gate that holds [`workload`] of every kind.
pub fn every_kind(settings: Value) -> Config {
    let workloads: Vec<Value> = HeldKind::ALL
        .iter()
        .map(|kind| json!({"kind": kind.as_str(), "name": "w*"}))
        .collect();
    let mut gate = json!({
        "name": "shop", "namespace": "shop", "serviceAccount": "waits",
        "jobs": [{"name": "migrate-*"}], "workloads": workloads,
    });
    merge(&mut gate, settings);
    let config: Config = serde_json::from_value(json!({"gates": [gate]})).unwrap();
    assert_eq!(config.problems(), []);
    config
}

/// Sets members of an object.
pub fn merge(object: &mut Value, members: Value) {
    let members = match members {
        Value::Object(members) => members,
        other => panic!("not an object: {other}"),
    };
    object.as_object_mut().unwrap().extend(members);
}

/// The pod spec of a Deployment.
pub fn pod_spec(deployment: &mut Value) -> &mut Value {
    &mut deployment["spec"]["template"]["spec"]
}

/// A configuration of another release of this program: its waiter has another image.
pub fn other_release() -> Config {
    let mut config = Config::default();
    config.waiter.image = "migration-gate/migration-gate:0.0.9".into();
    config
}

/// The request that brings `object`, in place of `old` if there is one.
pub fn request<'a>(object: &'a Value, old: Option<&'a Value>) -> Request<'a> {
    let mut request = Request::create(object, "default").unwrap();
    if old.is_some() {
        request.operation = Operation::Update;
        request.old = old;
    }
    request
}

/// The object after the mutation, and what was decided.
pub fn mutated(config: &Config, object: &Value, old: Option<&Value>) -> (Value, Decision) {
    let decision = mutate(config, &request(object, old));
    let mut result = object.clone();
    json_patch::patch(&mut result, &decision.patch).expect("the patch applies to its own object");
    (result, decision)
}

/// The object that would be stored. Fails the test if it is refused on the way.
pub fn admitted(config: &Config, object: &Value, old: Option<&Value>) -> Value {
    let (result, decision) = mutated(config, object, old);
    assert_eq!(decision.violations, [], "refused by mutate");
    let decision = validate(config, &request(&result, old));
    assert_eq!(decision.violations, [], "refused by validate");
    result
}

/// The fields for which an object is refused, after the mutation as in the API server.
pub fn refused(config: &Config, object: &Value, old: Option<&Value>) -> Vec<String> {
    let (result, mutation) = mutated(config, object, old);
    let validation = validate(config, &request(&result, old));
    mutation
        .violations
        .iter()
        .chain(&validation.violations)
        .map(|violation| violation.field.to_string())
        .collect()
}
