//! What holds for every object.

use jiff::Timestamp;
use migration_gate_core::eject::eject;
use migration_gate_core::gates::{Config, HeldKind, Mode};
use migration_gate_core::injection::waiter_of;
use migration_gate_core::job::Job;
use migration_gate_core::mutate::mutate;
use migration_gate_core::record::{Entry, Record};
use migration_gate_core::request::{Operation, Request};
use migration_gate_core::validate::validate;
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::fixtures::{deployment, every_kind, merge, mutated, other_release, request, workload};

/// The kinds that can be held, and some that can't.
fn kinds() -> Vec<(&'static str, &'static str)> {
    let held = HeldKind::ALL.map(|kind| (kind.group(), kind.as_str()));
    [&held[..], &[("", "Pod"), ("", "ConfigMap"), ("x", "Y")]].concat()
}

/// Any JSON, with the words that the rules look for more often than chance would have it.
fn any_json() -> impl Strategy<Value = Value> {
    // The last is empty.
    let words = "metadata spec template name namespace containers initContainers env volumes \
                 wait-for-migrations web shop PIEFED_INIT_CONTAINER serviceAccountName args wait \
                 --job=x data a/b~c deletionTimestamp ownerReferences controller volumeMounts ";
    let words: Vec<&str> = words.split(' ').collect();
    let word = prop::sample::select(words).prop_map(str::to_owned);
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

/// Gates that tell versions in every way.
fn configs() -> impl Strategy<Value = Config> {
    prop::sample::select(vec![
        json!({}),
        json!({"container": "web"}),
        json!({"container": "gone"}),
        json!({"version": {"label": "v"}}),
        json!({"version": {"annotation": "v"}}),
        json!({"movingTags": ["v[0-9]"]}),
        json!({"freshness": "any"}),
    ])
    .prop_map(every_kind)
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

    /// Of every kind, however the gate tells versions.
    #[test]
    fn every_kind_leaves_with_its_waiter_in_front(
        spec in pod_specs(),
        old in prop::option::of(pod_specs()),
        kind in prop::sample::select(HeldKind::ALL.to_vec()),
        config in configs(),
        upgraded in any::<bool>(),
    ) {
        let object = workload(kind, spec);
        let mut before = config.clone();
        if upgraded {
            before.waiter.image = "migration-gate/migration-gate:0.0.9".into();
        }
        let old = old.map(|old| mutated(&before, &workload(kind, old), None).0);
        let (once, first) = mutated(&config, &object, old.as_ref());
        prop_assert_eq!(first.violations, vec![]);
        let accepted = validate(&config, &request(&once, old.as_ref()));
        prop_assert_eq!(accepted.violations, vec![]);
        let (twice, second) = mutated(&config, &once, old.as_ref());
        prop_assert_eq!(&twice, &once);
        prop_assert_eq!(second.patch, vec![]);
        // And again over itself: no drift.
        let (again, third) = mutated(&config, &once, Some(&once));
        prop_assert_eq!(&again, &once);
        prop_assert_eq!(third.patch, vec![]);
        let template = kind.pod_kind().template(&once).unwrap();
        prop_assert_eq!(&template["spec"]["initContainers"][0]["name"], "wait-for-migrations");
        // What was taken in is taken out.
        let mut ejected = once.clone();
        let patch = eject(&config.gates[0], kind, &once);
        json_patch::patch(&mut ejected, &patch).unwrap();
        let template = kind.pod_kind().template(&ejected).unwrap();
        prop_assert!(waiter_of(&template["spec"]).is_none());
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
        kind in prop::sample::select(kinds()),
        held in any::<bool>(),
        mode in prop::sample::select(vec![Mode::Enforce, Mode::Warn]),
        config in configs(),
    ) {
        let mut object = object;
        if held {
            let metadata = json!({"name": "web"});
            object = json!({"metadata": metadata, "spec": {
                "template": {"spec": object.clone()},
                "jobTemplate": {"spec": {"template": {"spec": object}}},
            }});
        }
        let request = Request {
            operation: if old.is_some() { Operation::Update } else { Operation::Create },
            group: kind.0,
            kind: kind.1,
            subresource: "",
            namespace: "shop",
            object: &object,
            old: old.as_ref(),
        };
        let config = Config { mode, ..config };
        let decision = mutate(&config, &request);
        let mut patched = object.clone();
        json_patch::patch(&mut patched, &decision.patch).expect("the patch applies");
        validate(&config, &request);
        validate(&config, &Request { object: &patched, ..request });
        if let Some(kind) = HeldKind::of(kind.0, kind.1) {
            let patch = eject(&config.gates[0], kind, &patched);
            json_patch::patch(&mut patched, &patch).expect("the patch applies");
        }
        // Jobs and records come from others as well.
        if let Ok(job) = serde_json::from_value::<Job>(object.clone()) {
            Entry::of(&job, None, Timestamp::UNIX_EPOCH);
        }
        let _ = serde_json::from_value::<Record>(object);
    }
}
