//! What holds for every object.

use migration_gate_core::gates::{Config, Mode};
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::{Operation, Request};
use migration_gate_core::validate::validate;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fixtures::{deployment, merge, mutated, other_release, request};

/// Any JSON, with the words that the rules look for more often than chance would have it.
fn any_json() -> impl Strategy<Value = Value> {
    let word = prop::sample::select(vec![
        "metadata",
        "spec",
        "template",
        "name",
        "namespace",
        "containers",
        "initContainers",
        "env",
        "volumes",
        "wait-for-migrations",
        "piefed-web",
        "piefed-application",
        "PIEFED_INIT_CONTAINER",
        "serviceAccountName",
        "args",
        "wait",
        "--job=x",
        "data",
        "a/b~c",
        "deletionTimestamp",
        "ownerReferences",
        "controller",
        "volumeMounts",
        "",
    ])
    .prop_map(str::to_owned);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        word.clone().prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word.clone(), inner), 0..6)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Pod specs as authors write them, odd ones included.
fn pod_specs() -> impl Strategy<Value = Value> {
    let containers = |names: &'static [&'static str]| {
        prop::sample::subsequence(names.to_vec(), 0..=names.len()).prop_map(|names| {
            names
                .into_iter()
                .map(
                    |name| json!({"name": name, "image": format!("{name}:1"), "x-unknown": [name]}),
                )
                .collect::<Vec<_>>()
        })
    };
    let init = prop_oneof![
        Just(None),
        Just(Some(Value::Null)),
        (containers(&["a", "wait-for-migrations", "b"])).prop_map(|list| Some(json!(list))),
    ];
    let volumes = prop_oneof![
        Just(None),
        Just(Some(json!([]))),
        Just(Some(json!([{"name": "media", "emptyDir": {}}]))),
    ];
    let account = prop::sample::select(vec![
        None,
        Some(json!("")),
        Some(json!("default")),
        Some(json!("cloud")),
        Some(json!("piefed-init-checker")),
        Some(Value::Null),
    ]);
    let automount = prop::sample::select(vec![None, Some(json!(true)), Some(json!(false))]);
    (
        init,
        containers(&["web", "proxy"]),
        volumes,
        account.clone(),
        account,
        automount,
        any_json(),
    )
        .prop_map(
            |(init, containers, volumes, name, deprecated, automount, unknown)| {
                let mut spec = json!({"containers": containers, "x-future": unknown});
                for (field, value) in [
                    ("initContainers", init),
                    ("volumes", volumes),
                    ("serviceAccountName", name),
                    ("serviceAccount", deprecated),
                    ("automountServiceAccountToken", automount),
                ] {
                    if let Some(value) = value {
                        merge(&mut spec, json!({ field: value }));
                    }
                }
                spec
            },
        )
}

/// What the injection may not touch: everything but its own container, volume and fields.
fn foreign(object: &Value) -> Value {
    let mut object = object.clone();
    let spec = object["spec"]["template"]["spec"].as_object_mut().unwrap();
    for field in [
        "serviceAccountName",
        "serviceAccount",
        "automountServiceAccountToken",
    ] {
        spec.remove(field);
    }
    for (field, own) in [
        ("initContainers", "wait-for-migrations"),
        ("volumes", "migration-gate-token"),
    ] {
        let kept: Vec<Value> = spec
            .remove(field)
            .and_then(|list| list.as_array().cloned())
            .unwrap_or_default()
            .into_iter()
            .filter(|element| element["name"] != own)
            .collect();
        spec.insert(field.into(), kept.into());
    }
    object
}

proptest! {
    #[test]
    fn mutating_twice_is_mutating_once(spec in pod_specs()) {
        let config = Config::default();
        let (once, _) = mutated(&config, &deployment(spec), None);
        let (twice, second) = mutated(&config, &once, None);
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(second.patch, vec![]);
        // And so it is when the object is written again over itself, by this release or the next.
        for config in [config, other_release()] {
            let (again, _) = mutated(&config, &once, Some(&once));
            prop_assert_eq!(&again, &once);
        }
    }

    #[test]
    fn what_is_not_ours_survives_in_its_order(
        spec in pod_specs(),
        old in prop::option::of(pod_specs()),
        same in any::<bool>(),
        upgraded in any::<bool>(),
    ) {
        let before = deployment(spec.clone());
        let release = if upgraded { other_release() } else { Config::default() };
        // An update of something else, or a PUT of what the author wrote over what was stored.
        let old = old.map(|old| if same { spec } else { old });
        let old = old.map(|old| mutated(&release, &deployment(old), None).0);
        let (after, _) = mutated(&Config::default(), &before, old.as_ref());
        prop_assert_eq!(foreign(&after), foreign(&before));
    }

    #[test]
    fn validate_never_asks_for_what_mutate_should_have_done(
        spec in pod_specs(),
        old in prop::option::of(pod_specs()),
        upgraded in any::<bool>(),
    ) {
        let before = if upgraded { other_release() } else { Config::default() };
        let old = old.map(|old| mutated(&before, &deployment(old), None).0);
        let config = Config::default();
        let (after, _) = mutated(&config, &deployment(spec), old.as_ref());
        let decision = validate(&config, &request(&after, old.as_ref()));
        prop_assert_eq!(decision.violations, vec![]);
    }

    #[test]
    fn nothing_panics_on_arbitrary_json(
        object in any_json(),
        old in prop::option::of(any_json()),
        kind in prop::sample::select(vec![
            ("apps", "Deployment"), ("", "Pod"), ("batch", "CronJob"), ("", "ConfigMap"), ("x", "Y"),
        ]),
        held in any::<bool>(),
        mode in prop::sample::select(vec![Mode::Enforce, Mode::Warn]),
    ) {
        let mut object = object;
        if held {
            let metadata = json!({"name": "piefed-web"});
            object = json!({"metadata": metadata, "spec": {"template": {"spec": object}}});
        }
        let request = Request {
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            group: kind.0,
            kind: kind.1,
            subresource: "",
            namespace: "piefed-application",
            object: &object,
            old: old.as_ref(),
        };
        let config = Config { mode, ..Config::default() };
        let decision = mutate(&config, &request);
        let mut patched = object.clone();
        json_patch::patch(&mut patched, &decision.patch).expect("the patch applies");
        validate(&config, &request);
        validate(&config, &Request { object: &patched, ..request });
    }
}
