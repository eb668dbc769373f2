//! Random objects with and without the variable, and existing objects.

use anyhow::Result;
use migration_gate_core::podspec::{POD_KINDS, PodKind};
use proptest::prelude::*;
use serde_json::{Value, json};

use testkit::kubectl::Kubectl;

pub(super) const FORBIDDEN: &str = "PIEFED_INIT_CONTAINER";

/// The kind without a pod spec that has a rule.
pub(super) const CONFIG_MAP: PodKind = PodKind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    resource: "configmaps",
    path: &[],
};

/// Containers with and without the variable, which may be set in unusual ways.
pub(super) fn containers(stem: &'static str, min: usize) -> impl Strategy<Value = Value> {
    let env = prop::collection::vec(
        prop::sample::select(vec![
            json!({"name": FORBIDDEN, "value": "true"}),
            json!({"name": FORBIDDEN, "value": ""}),
            json!({"name": FORBIDDEN, "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}),
            json!({"name": "OTHER", "value": FORBIDDEN}),
            json!({"name": "piefed_init_container", "value": "true"}),
        ]),
        0..3,
    );
    let words = prop::sample::select(vec![
        json!({"command": ["env", "PIEFED_INIT_CONTAINER=1", "run"]}),
        json!({"args": ["-c", "export PIEFED_INIT_CONTAINER=; run"]}),
        json!({"command": ["unset", FORBIDDEN], "args": ["[ $PIEFED_INIT_CONTAINER = 1 ]"]}),
    ]);
    let container = (
        prop::option::weighted(0.5, env),
        prop::option::weighted(0.2, words),
    );
    prop::collection::vec(container, min..3).prop_map(move |list| {
        list.into_iter()
            .enumerate()
            .map(|(index, (env, words))| {
                let mut container = words.unwrap_or_else(|| json!({}));
                container["name"] = json!(format!("{stem}{index}"));
                container["image"] = json!(format!("{stem}{index}:1"));
                if let Some(env) = env {
                    container["env"] = json!(env);
                }
                container
            })
            .collect()
    })
}

/// Objects of one kind, some of them owned by the controller `owner`.
pub(super) fn objects(
    kind: &'static PodKind,
    owner: &Value,
) -> impl Strategy<Value = Value> + use<> {
    let labels = prop::sample::select(vec![
        json!({"app": "x"}),
        json!({"app": "x", "tier": "web"}),
        json!({"app": "x", "tier": "cache"}),
    ]);
    let name = prop::sample::select(vec![
        "by-name",
        "by-short-name",
        "by-a-p.ttern",
        "by-any-p.ttern-1",
        "by-a-pattern",
        "another",
        "generated-",
        "unheld",
        "unheld-",
    ]);
    (
        containers("init", 0),
        containers("main", 1),
        labels,
        name,
        prop::option::of(Just(owner.clone())),
    )
        .prop_map(|(init, main, labels, name, owner)| {
            object(kind, &init, &main, &labels, name, owner.as_ref())
        })
}

/// The `apiVersion` of the kind.
pub(super) fn api_version(kind: &PodKind) -> String {
    if kind.group.is_empty() {
        kind.version.to_owned()
    } else {
        format!("{}/{}", kind.group, kind.version)
    }
}

pub(super) fn object(
    kind: &PodKind,
    init: &Value,
    main: &Value,
    labels: &Value,
    name: &str,
    owner: Option<&Value>,
) -> Value {
    let restart = match kind.kind {
        "Job" | "CronJob" => "Never",
        _ => "Always",
    };
    let pod_spec = json!({"initContainers": init, "containers": main, "restartPolicy": restart});
    let template = json!({"metadata": {"labels": {"app": "x"}}, "spec": pod_spec});
    let mut object = json!({
        "apiVersion": api_version(kind),
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "labels": labels,
            // The name in an annotation is no violation.
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": FORBIDDEN},
        },
    });
    if name.ends_with('-') {
        object["metadata"]["name"] = Value::Null;
        object["metadata"]["generateName"] = json!(name);
    }
    if let Some(owner) = owner {
        object["metadata"]["ownerReferences"] = json!([owner]);
    }
    let selector = json!({"matchLabels": {"app": "x"}});
    match kind.kind {
        "Pod" => object["spec"] = pod_spec,
        "PodTemplate" => object["template"] = template,
        "ReplicationController" => {
            object["spec"] = json!({"replicas": 0, "selector": {"app": "x"}, "template": template});
        }
        "Job" => object["spec"] = json!({"suspend": true, "template": template}),
        "CronJob" => {
            object["spec"] = json!({
                "schedule": "0 0 1 1 *", "suspend": true,
                "jobTemplate": {"spec": {"template": template}},
            });
        }
        "StatefulSet" => {
            object["spec"] = json!({
                "replicas": 0, "serviceName": "x", "selector": selector, "template": template,
            });
        }
        "DaemonSet" => object["spec"] = json!({"selector": selector, "template": template}),
        _ => {
            object["spec"] = json!({"replicas": 0, "selector": selector, "template": template});
        }
    }
    object
}

/// `ConfigMap`s with and without the key.
pub(super) fn config_maps(owner: &Value) -> impl Strategy<Value = Value> + use<> {
    let data = || {
        prop::option::of(prop::sample::subsequence(
            vec![FORBIDDEN, "piefed_init_container", "OTHER"],
            0..=3,
        ))
    };
    (data(), data(), prop::option::of(Just(owner.clone()))).prop_map(|(data, binary, owner)| {
        // A key may be in only one of the two fields.
        let binary = binary.filter(|_| data.is_none());
        let mut object =
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "map"}});
        for (field, keys) in [("data", data), ("binaryData", binary)] {
            for key in keys.into_iter().flatten() {
                object[field][key] = json!("eA==");
            }
        }
        if let Some(owner) = owner {
            object["metadata"]["ownerReferences"] = json!([owner]);
        }
        object
    })
}

/// Creates objects before the webhooks exist. Of each kind, three have the variable: one with a
/// controller, one without, and one that is being deleted.
pub(super) fn prepare(kubectl: &Kubectl, owner: &Value) -> Result<()> {
    let main =
        json!([{"name": "main0", "image": "i:1", "env": [{"name": FORBIDDEN, "value": "1"}]}]);
    let (mut olds, mut leaving) = (Vec::new(), Vec::new());
    for kind in POD_KINDS.iter().chain([&CONFIG_MAP]) {
        for (name, owner) in [("old", Some(owner)), ("old-free", None), ("leaving", None)] {
            // Objects without a controller must not have the selectors' label, or they would be
            // adopted.
            let label = if owner.is_some() { "app" } else { "free" };
            let mut old = if kind.kind == "ConfigMap" {
                json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {FORBIDDEN: "1"}})
            } else {
                object(kind, &json!([]), &main, &json!({ label: "x" }), name, owner)
            };
            if let (Some(owner), "ConfigMap") = (owner, kind.kind) {
                old["metadata"]["ownerReferences"] = json!([owner]);
            }
            if name == "leaving" {
                old["metadata"]["finalizers"] = json!(["example.org/held"]);
            }
            olds.push(old.to_string());
        }
        leaving.push(format!("{}/leaving", kind.resource));
    }
    kubectl.apply(&olds.join("\n---\n"))?;
    kubectl.run(&format!("delete {} --wait=false", leaving.join(" ")))?;
    Ok(())
}
