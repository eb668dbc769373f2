//! No pod spec sets a forbidden variable, and no held Deployment goes without its waiter.

use migration_gate_core::decision::{Decision, Outcome};
use migration_gate_core::gates::{Config, Freshness, LogFormat, Mode};
use migration_gate_core::glob::Glob;
use migration_gate_core::podspec::{POD_KINDS, PodKind, pod_kind};
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;
use serde_json::{Value, json};

use crate::fixtures::{
    admitted, deployment, merge, mutated, other_release, pod_spec, refused, request,
};

const FORBIDDEN: &str = "PIEFED_INIT_CONTAINER";

/// An object of a kind around a pod spec.
fn object(kind: &PodKind, spec: &Value) -> Value {
    let path = kind.path.iter().rev();
    let mut object = path.fold(spec.clone(), |inner, field| json!({ *field: inner }));
    let members = json!({
        "apiVersion": if kind.group.is_empty() { "v1".to_owned() } else { format!("{}/v1", kind.group) },
        "kind": kind.kind, "metadata": {"name": "x", "namespace": "anywhere"},
    });
    merge(&mut object, members);
    object
}

fn pod(env: Value) -> Value {
    let spec = json!({"containers": [{"name": "c", "image": "i", "env": env}]});
    object(pod_kind("", "Pod").unwrap(), &spec)
}

/// What an object without a predecessor is refused for.
fn refuses(object: &Value) -> Vec<String> {
    refused(&Config::default(), object, None)
}

/// The fields of what is decided on, in their order.
fn violations(decision: &Decision) -> Vec<String> {
    let violations = decision.violations.iter();
    violations
        .map(|violation| violation.field.to_string())
        .collect()
}

fn controlled(mut object: Value) -> Value {
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u", "controller": true}]);
    object
}

fn offender() -> Value {
    pod(json!([{"name": FORBIDDEN, "value": "true"}]))
}

#[test]
fn every_kind_and_every_list_of_containers() {
    assert_eq!(POD_KINDS.len(), 10);
    for kind in &POD_KINDS {
        let env = json!([{"name": "A", "value": "1"}, {"name": FORBIDDEN, "value": "true"}]);
        let spec = json!({
            "initContainers": [{"name": "i", "env": env}],
            "containers": [{"name": "a"}, {"name": "b", "env": env}],
            "ephemeralContainers": [{"name": "e", "env": env}],
        });
        let object = object(kind, &spec);
        let at = kind.path.join(".");
        assert_eq!(
            refuses(&object),
            [
                format!("{at}.initContainers[0].env[1]"),
                format!("{at}.containers[1].env[1]"),
                format!("{at}.ephemeralContainers[0].env[1]"),
            ],
            "{}",
            kind.kind
        );
    }
}

#[test]
fn whatever_the_value() {
    for variable in [
        json!({"name": FORBIDDEN}),
        json!({"name": FORBIDDEN, "value": ""}),
        json!({"name": FORBIDDEN, "value": "false"}),
        json!({"name": FORBIDDEN, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
    ] {
        let object = pod(json!([variable]));
        assert_eq!(refuses(&object), ["spec.containers[0].env[0]"]);
    }
    let twice = pod(json!([{"name": FORBIDDEN}, {"name": FORBIDDEN, "value": "1"}]));
    assert_eq!(
        refuses(&twice),
        ["spec.containers[0].env[0]", "spec.containers[0].env[1]"]
    );
}

#[test]
fn a_flood_is_counted_and_only_its_beginning_told() {
    let config = Config::default();
    let variable = json!({"name": FORBIDDEN});
    let object = pod(json!(vec![variable.clone(); 1000]));
    let decision = validate(&config, &request(&object, None));
    assert_eq!((decision.violations.len(), decision.unlisted), (256, 744));
    let last = decision.violations[255].field.to_string();
    assert_eq!(last, "spec.containers[0].env[255]");
    let config = Config {
        mode: Mode::Warn,
        ..config
    };
    let decision = validate(&config, &request(&object, None));
    assert_eq!((decision.warnings.len(), decision.unlisted), (256, 744));

    // What is there already doesn't count, however much it is and in whatever order.
    let container = |i: usize| json!({"name": format!("c{i}"), "env": [variable]});
    let of = |order: &mut dyn Iterator<Item = usize>| {
        let mut object = controlled(pod(json!([])));
        object["spec"]["containers"] = order.map(container).collect();
        object
    };
    let old = of(&mut (0..20_000));
    let new = of(&mut (0..20_001).rev());
    assert_eq!(
        refused(&Config::default(), &new, Some(&old)),
        ["spec.containers[0].env[0]"]
    );
}

#[test]
fn the_name_elsewhere_is_no_offence() {
    let mut object = pod(json!([
        {"name": "piefed_init_container"},
        {"name": "X", "value": FORBIDDEN},
    ]));
    object["metadata"]["annotations"] = json!({
        "kubectl.kubernetes.io/last-applied-configuration":
            "{\"env\":[{\"name\":\"PIEFED_INIT_CONTAINER\"}]}",
        FORBIDDEN: "true",
    });
    object["spec"]["containers"][0]["args"] = json!([FORBIDDEN]);
    assert_eq!(refuses(&object), [""; 0]);
}

/// `env NAME=1 …`, `sh -c 'export NAME=1; …'` and what is like them.
#[test]
fn a_command_that_sets_the_variable_is_refused() {
    let config = Config::default();
    let with = |member: &str, words: Value| {
        let mut object = pod(json!([]));
        object["spec"]["containers"][0][member] = words;
        object
    };
    let check = |member: &str, words: Value, expect: &[&str]| {
        assert_eq!(refused(&config, &with(member, words), None), expect);
    };
    let command = "spec.containers[0].command[1]";
    check(
        "command",
        json!(["env", "PIEFED_INIT_CONTAINER=1", "flask"]),
        &[command],
    );
    check(
        "args",
        json!(["-c", "export PIEFED_INIT_CONTAINER=1; exec ./run"]),
        &["spec.containers[0].args[1]"],
    );
    check(
        "command",
        json!(["sh", "PIEFED_INIT_CONTAINER= ./run"]),
        &[command],
    );
    check(
        "command",
        json!(["x", "--env=PIEFED_INIT_CONTAINER=1"]),
        &[command],
    );
    check(
        "command",
        json!(["sh", "A=$PIEFED_INIT_CONTAINER PIEFED_INIT_CONTAINER=1"]),
        &[command],
    );
    // Using it, naming it and other names are no offence.
    for words in [
        json!(["unset PIEFED_INIT_CONTAINER", 1, null]),
        json!(["test x$PIEFED_INIT_CONTAINER=x"]),
        json!(["[ \"$PIEFED_INIT_CONTAINER\" = 1 ]"]),
        json!([
            "env",
            "MY_PIEFED_INIT_CONTAINER=1",
            "PIEFED_INIT_CONTAINERS=1"
        ]),
    ] {
        check("command", words, &[]);
    }
    // What a controller finds there may stay, and it doesn't excuse a variable.
    let old = controlled(with("command", json!(["env", "PIEFED_INIT_CONTAINER=1"])));
    let mut new = controlled(with("args", json!(["PIEFED_INIT_CONTAINER=2"])));
    assert_eq!(refused(&config, &new, Some(&old)), [""; 0]);
    new["spec"]["containers"][0]["env"] = json!([{"name": FORBIDDEN}]);
    assert_eq!(
        refused(&config, &new, Some(&old)),
        ["spec.containers[0].env[0]"]
    );
}

#[test]
fn the_message_names_the_variable_and_what_replaced_it() {
    let mut config = Config::default();
    config.gates[0].namespace = "anywhere".into();
    let object = offender();
    let decision = validate(&config, &request(&object, None));
    assert_eq!(decision.outcome, Outcome::Denied);
    let text = decision.violations[0].to_string();
    for part in [
        "spec.containers[0].env[0]: ",
        FORBIDDEN,
        "Job anywhere/piefed-db-init",
    ] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn other_objects_and_malformed_ones_are_let_through() {
    for odd in [
        json!({"apiVersion": "v1", "kind": "Service", "spec": {"containers": [{"env": [{"name": FORBIDDEN}]}]}}),
        json!({"apiVersion": "example.org/v1", "kind": "Deployment", "spec": {"template": {"spec": {"containers": [{"env": [{"name": FORBIDDEN}]}]}}}}),
        json!({"apiVersion": "v1", "kind": "Pod"}),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": {"env": []}}}),
        json!({"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [null, 1, {"env": "x"}, {"env": [null, FORBIDDEN]}]}}),
    ] {
        assert_eq!(refuses(&odd), [""; 0]);
    }
}

#[test]
fn a_config_map_in_a_gates_namespace_may_not_carry_the_key() {
    let config = Config::default();
    let map = |namespace: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "env", "namespace": namespace},
            "data": {FORBIDDEN: "true", "OTHER": FORBIDDEN},
            "binaryData": {FORBIDDEN: "dHJ1ZQ=="},
        })
    };
    let fields = refused(&config, &map("piefed-application"), None);
    let both = ["data", "binaryData"].map(|field| format!("{field}.{FORBIDDEN}"));
    assert_eq!(fields, both);
    assert_eq!(refused(&config, &map("elsewhere"), None), [""; 0]);
}

#[test]
fn nothing_that_is_being_deleted_is_held_up() {
    let old = offender();
    let mut new = old.clone();
    new["metadata"]["deletionTimestamp"] = json!("2026-11-22T12:00:00Z");
    assert_eq!(refused(&Config::default(), &new, Some(&old)), [""; 0]);
}

#[test]
fn a_controller_may_go_on_with_what_exists() {
    let config = Config::default();
    let old = controlled(offender());
    let mut new = old.clone();
    new["metadata"]["annotations"] = json!({"deployment.kubernetes.io/desired-replicas": "0"});
    assert_eq!(refused(&config, &new, Some(&old)), [""; 0]);

    // Reordered, and owned only before or only after: an orphan is released or adopted.
    new["spec"]["containers"][0]["env"] = json!([{"name": "NEW"}, {"name": FORBIDDEN}]);
    assert_eq!(refused(&config, &new, Some(&old)), [""; 0]);
    assert_eq!(refused(&config, &offender(), Some(&old)), [""; 0]);
    assert_eq!(refused(&config, &old, Some(&offender())), [""; 0]);
}

#[test]
fn a_controller_may_not_bring_the_variable() {
    let config = Config::default();
    assert_eq!(refused(&config, &controlled(offender()), None).len(), 1);

    let clean = controlled(pod(json!([])));
    let offender = controlled(offender());
    assert_eq!(refused(&config, &offender, Some(&clean)).len(), 1);

    let mut moved = offender.clone();
    moved["spec"]["containers"][0]["name"] = json!("another");
    assert_eq!(refused(&config, &moved, Some(&offender)).len(), 1);
}

#[test]
fn without_a_controller_an_update_must_be_clean() {
    let old = offender();
    assert_eq!(
        refused(&Config::default(), &old, Some(&old)),
        ["spec.containers[0].env[0]"]
    );
    // An owner that doesn't control is not at work on the object.
    let mut owned = offender();
    owned["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "n", "uid": "u"}]);
    assert_eq!(refused(&Config::default(), &owned, Some(&owned)).len(), 1);
}

#[test]
fn a_pod_that_sets_it_already_can_still_be_debugged() {
    let config = Config::default();
    let old = offender();
    let check = |env: Value, expect: &[&str]| {
        let mut new = old.clone();
        new["spec"]["ephemeralContainers"] = json!([{"name": "debugger", "env": env}]);
        let request = Request {
            subresource: "ephemeralcontainers",
            ..request(&new, Some(&old))
        };
        assert_eq!(violations(&validate(&config, &request)), expect);
    };
    check(json!([]), &[]);
    check(
        json!([{"name": FORBIDDEN}]),
        &["spec.ephemeralContainers[0].env[0]"],
    );
}

#[test]
fn in_warn_mode_the_same_is_only_warned_of() {
    let config = Config {
        mode: Mode::Warn,
        ..Config::default()
    };
    let object = offender();
    let decision = validate(&config, &request(&object, None));
    assert_eq!(decision.violations, []);
    assert_eq!(decision.outcome, Outcome::Warned);
    let warning = decision.warnings[0].to_string();
    assert!(warning.starts_with("spec.containers[0].env[0]: "));
}

/// The mutating webhook names it, in the same words, and no one took the waiter out.
#[test]
fn a_reserved_name_is_to_blame_for_the_missing_waiter() {
    let mut object = deployment(json!({}));
    pod_spec(&mut object)["volumes"] = json!([{"name": "migration-gate-token", "emptyDir": {}}]);
    let decision = validate(&Config::default(), &request(&object, None));
    assert_eq!(
        violations(&decision),
        ["spec.template.spec.volumes[0].name"]
    );
    let config = Config {
        mode: Mode::Warn,
        ..Config::default()
    };
    let request = request(&object, None);
    assert_eq!(
        validate(&config, &request).warnings,
        migration_gate_core::mutate::mutate(&config, &request).warnings
    );
}

/// What another webhook may leave of the waiter.
fn tampered(change: impl Fn(&mut Value)) -> Vec<String> {
    let config = Config::default();
    let mut object = admitted(&config, &deployment(json!({})), None);
    change(pod_spec(&mut object));
    violations(&validate(&config, &request(&object, None)))
}

#[test]
fn a_removed_or_blunted_waiter_is_refused() {
    let at = |field: &str| [format!("spec.template.spec.initContainers[0].{field}")];
    assert_eq!(tampered(|_| ()), [""; 0]);
    assert_eq!(
        tampered(|spec| spec["initContainers"] = json!([])),
        ["spec.template.spec.initContainers"]
    );
    let set = |field: &'static str, value: Value| {
        tampered(move |spec| spec["initContainers"][0][field] = value.clone())
    };
    assert_eq!(set("command", json!(["true"])), at("command"));
    assert_eq!(set("restartPolicy", json!("Always")), at("restartPolicy"));
    assert_eq!(set("image", json!("busybox:1")), at("image"));
    assert_eq!(set("args", json!(["--version"])), at("args"));
    assert_eq!(set("volumeMounts", json!([])), at("volumeMounts"));
    assert_eq!(
        tampered(|spec| spec["initContainers"][0]["args"][3] = json!("--job=other")),
        at("args")
    );
}

#[test]
fn what_other_webhooks_may_rightly_do_is_let_through() {
    let image = format!("mirror:5000/{}", Config::default().waiter.image);
    let clean = |change: &dyn Fn(&mut Value)| assert_eq!(tampered(change), [""; 0]);
    clean(&|spec| spec["initContainers"][0]["image"] = json!(image));
    clean(&|spec| {
        let env = spec["initContainers"][0]["env"].as_array_mut().unwrap();
        env.push(json!({"name": "HTTP_PROXY"}));
    });
    clean(&|spec| spec["initContainers"][0]["resources"]["limits"]["cpu"] = json!("1"));
    clean(&|spec| {
        let last = json!({"name": "mesh-init", "image": "mesh:1"});
        spec["initContainers"].as_array_mut().unwrap().push(last);
    });
    // A digest was pinned after the waiter had been told the tag.
    clean(&|spec| spec["containers"][0]["image"] = json!("piefed/piefed:1.2.0@sha256:ab"));
}

/// What runs before the waiter runs before the migration.
#[test]
fn what_another_webhook_puts_in_front_of_the_waiter_is_refused() {
    let fields = tampered(|spec| {
        let first = json!({"name": "mesh-init", "image": "mesh:1"});
        let init = spec["initContainers"].as_array_mut().unwrap();
        init.insert(0, first);
    });
    assert_eq!(fields, ["spec.template.spec.initContainers[1]"]);
}

/// While a new release rolls out, one replica mutates an object and another validates it.
#[test]
fn what_a_replica_of_another_release_injected_is_in_place() {
    let mut other = other_release();
    other.gates[0].timeout = std::time::Duration::from_secs(90);
    other.gates[0].freshness = Freshness::Any;
    other.waiter.log_format = LogFormat::Json;
    let config = Config::default();
    for (mutating, validating) in [(&other, &config), (&config, &other)] {
        let (object, _) = mutated(mutating, &deployment(json!({})), None);
        let decision = validate(validating, &request(&object, None));
        assert_eq!(decision.violations, []);
    }
    // Which Job that is must not differ.
    other.gates[0].job = Glob::parse("another").ok();
    let (object, _) = mutated(&other, &deployment(json!({})), None);
    let decision = validate(&config, &request(&object, None));
    let message = decision.violations[0].to_string();
    assert!(message.contains("--job=another"), "{message}");
    assert!(message.contains("apply again"), "{message}");
}

#[test]
fn a_kept_waiter_of_another_release_is_in_place() {
    let stored = admitted(&other_release(), &deployment(json!({})), None);
    let config = Config::default();
    let kept = validate(&config, &request(&stored, Some(&stored)));
    assert_eq!(kept.violations, []);
    // But a new template must not leave with the old one.
    let mut next = stored.clone();
    pod_spec(&mut next)["containers"][0]["image"] = json!("piefed/piefed:1.3.0");
    let left = validate(&config, &request(&next, Some(&stored)));
    assert_eq!(left.violations.len(), 1);
}
