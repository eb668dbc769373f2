//! The workloads and Jobs of the gates, without problems and with them.

use serde_json::{Value, json};

use testkit::image::BUSYBOX;

pub(super) const SHOP: &str = "status-shop";
/// A namespace whose quota allows no pod.
pub(super) const QUOTA: &str = "status-quota";
/// A namespace that is created again after the installation.
pub(super) const AGAIN: &str = "status-again";
/// A namespace that the chart creates, and that is deleted.
pub(super) const GONE: &str = "status-gone";

/// An image that is pushed later.
pub(super) const PUSHED: &str = "127.0.0.1:1/status/shop:1";

/// Objects that are in no namespace of the test.
pub(super) const UNNAMED: &str = "namespace/status-gone persistentvolume/status-data \
    customresourcedefinition/workloads.kueue.x-k8s.io \
    customresourcedefinition/localqueues.kueue.x-k8s.io";

/// The workloads of the gate `plain`.
const PLAIN: [&str; 6] = ["bare", "stale", "second", "offender", "twice", "bystander"];

/// Gates that hold a Deployment and wait for a Job, both with the gate's name.
const OWN_JOBS: [&str; 10] = [
    "failed",
    "missing",
    "other",
    "suspended",
    "queued",
    "image",
    "volume",
    "secret",
    "slow",
    "backoff",
];

/// Gates that wait for the Job `done`, each with a ServiceAccount of its own.
const DONE: [&str; 5] = ["role", "binding", "account", "immutable", "corrupt"];

/// The gates: each holds the Deployment of its name.
pub(super) fn gates() -> Value {
    let gate = |name: &str, namespace: &str, job: &str| {
        json!({"name": name, "namespace": namespace, "job": job, "deployments": [name],
               "serviceAccount": "waiter", "version": {"label": "version"}})
    };
    let mut gates: Vec<Value> = Vec::new();
    for name in OWN_JOBS {
        let mut gate = gate(name, SHOP, name);
        if name == "slow" {
            gate.as_object_mut().map(|gate| gate.remove("job"));
            gate["jobs"] = json!([{"anyOf": [{"name": "done"}, {"name": "slow"}]}]);
        }
        if name == "backoff" {
            gate["timeout"] = json!("1s");
        }
        gates.push(gate);
    }
    for name in DONE {
        let mut gate = gate(name, SHOP, "done");
        gate["serviceAccount"] = json!(name);
        gates.push(gate);
    }
    let mut plain = gate("plain", SHOP, "done");
    plain["deployments"] = json!(PLAIN);
    let mut both = gate("both", SHOP, "done");
    both["selector"] = json!({"matchLabels": {"held": "twice"}});
    both.as_object_mut().map(|gate| gate.remove("deployments"));
    gates.extend([plain, both]);
    for namespace in [QUOTA, AGAIN, GONE] {
        let name = namespace.trim_start_matches("status-");
        gates.push(gate(name, namespace, name));
    }
    gates.into()
}

/// A Job of a version, with further fields in its `spec`.
pub(super) fn job(name: &str, version: &str, spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": SHOP, "labels": {"version": version}},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "migrate", "image": BUSYBOX, "command": ["true"]}],
        }}},
    });
    json_patch::merge(&mut job["spec"], spec);
    job
}

/// A Job whose status the test writes.
fn by_hand(name: &str, version: &str) -> Value {
    job(
        name,
        version,
        &json!({"managedBy": "migration-gate.test/by-hand"}),
    )
}

/// A Job of version 1 whose pod is something else.
fn job_of(name: &str, pod: &Value) -> Value {
    job(name, "1", &json!({"template": {"spec": pod}}))
}

fn deployment(name: &str, version: &str, replicas: u8) -> Value {
    let labels = json!({"app": name, "version": version});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": SHOP},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": BUSYBOX}],
            }},
        },
    })
}

fn list(items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "items": items})
}

/// The objects without problems: Deployments without pods whose version is migrated.
pub(super) fn well() -> Value {
    let mut items: Vec<Value> = DONE
        .iter()
        .chain(&PLAIN)
        .map(|name| deployment(name, "1", 0))
        .collect();
    items.push(by_hand("done", "1"));
    items.push(in_again(deployment("again", "1", 0)));
    items.push(in_again(by_hand("again", "1")));
    list(&items)
}

/// Workloads that wait for Jobs with problems, and these Jobs.
pub(super) fn broken() -> Value {
    let mut suspended = deployment("suspended", "1", 1);
    suspended["spec"]["progressDeadlineSeconds"] = json!(1);
    let mut queued = job("queued", "1", &json!({"suspend": true}));
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("batch");
    let mut quota = deployment("quota", "1", 1);
    quota["metadata"]["namespace"] = json!(QUOTA);
    let mut refused = job("quota", "1", &json!({}));
    refused["metadata"]["namespace"] = json!(QUOTA);
    let mut items = vec![
        suspended,
        quota,
        refused,
        deployment("slow", "2", 0),
        deployment("other", "2", 0),
        deployment("backoff", "1", 1),
        job("other", "1", &json!({"suspend": true})),
        job("suspended", "1", &json!({"suspend": true})),
        queued,
        by_hand("slow", "2"),
        job_of("failed", &reads_a_key()),
        job_of(
            "image",
            &json!({"containers": [{"name": "migrate", "image": PUSHED, "command": ["true"]}]}),
        ),
        job_of(
            "volume",
            &mounts(
                "data",
                &json!({"persistentVolumeClaim": {"claimName": "data"}}),
            ),
        ),
        job_of(
            "secret",
            &mounts("key", &json!({"secret": {"secretName": "credentials"}})),
        ),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "migrated", "namespace": SHOP}}),
        at_work(),
    ];
    let waits = ["failed", "missing", "queued", "image", "volume", "secret"];
    items.extend(waits.map(|name| deployment(name, "1", 0)));
    items.extend(["workloads", "localqueues"].map(definition));
    list(&items)
}

/// A pod that fails until a key exists.
fn reads_a_key() -> Value {
    let from = json!({"configMapKeyRef": {"name": "migrated", "key": "failed", "optional": true}});
    let command = "echo looking for the schema; test -n \"$SCHEMA\"";
    json!({"containers": [{
        "name": "migrate", "image": BUSYBOX, "command": ["sh", "-c", command],
        "env": [{"name": "SCHEMA", "valueFrom": from}],
    }]})
}

fn mounts(name: &str, source: &Value) -> Value {
    let mut volume = source.clone();
    volume["name"] = json!(name);
    json!({
        "volumes": [volume],
        "containers": [{
            "name": "migrate", "image": BUSYBOX, "command": ["true"],
            "volumeMounts": [{"name": name, "mountPath": "/data"}],
        }],
    })
}

/// A pod that works for the Job `slow`, which has no controller.
fn at_work() -> Value {
    let command = "echo waiting for a lock; exec sleep 3600";
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "slow", "namespace": SHOP,
                     "labels": {"batch.kubernetes.io/job-name": "slow"}},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [
            {"name": "migrate", "image": BUSYBOX, "command": ["sh", "-c", command]},
        ]},
    })
}

/// A CRD of a kind of Kueue, with the fields that kubectl needs.
fn definition(plural: &str) -> Value {
    let singular = plural.trim_end_matches('s');
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.kueue.x-k8s.io"), "annotations": {
            "api-approved.kubernetes.io": "unapproved, for a test"}},
        "spec": {
            "group": "kueue.x-k8s.io", "scope": "Namespaced",
            "names": {"plural": plural, "singular": singular, "kind": format!("Test{singular}")},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {
                "openAPIV3Schema": {"type": "object"}}}],
        },
    })
}

/// The object that Kueue creates for a Job that must wait.
pub(super) fn in_the_queue() -> Value {
    json!({"apiVersion": "kueue.x-k8s.io/v1", "kind": "Testworkload",
           "metadata": {"name": "waiting-for-room", "namespace": SHOP}})
}

/// Patches that the webhooks would deny or undo, by the Deployments' names.
pub(super) fn waiters() -> [(&'static str, Value); 4] {
    let spec = "/spec/template/spec";
    let waiter = format!("{spec}/initContainers/0");
    let variable = json!([{"name": "PIEFED_INIT_CONTAINER", "value": "1"}]);
    [
        (
            "bare",
            json!([{"op": "remove", "path": format!("{spec}/initContainers")}]),
        ),
        (
            "stale",
            json!([{"op": "replace", "path": format!("{waiter}/args/1"), "value": "--gate=none"}]),
        ),
        (
            "second",
            json!([{"op": "add", "path": waiter, "value": {"name": "first", "image": BUSYBOX}}]),
        ),
        (
            "offender",
            json!([{"op": "add", "path": format!("{spec}/containers/0/env"), "value": variable}]),
        ),
    ]
}

/// An object without the fields that the API server adds.
fn bare(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({
        "apiVersion": object["apiVersion"], "kind": object["kind"],
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"]},
        "spec": object["spec"],
    })
}

/// A Deployment with its unchanged waiter, and its Job.
pub(super) fn kept(deployment: &Value) -> Value {
    list(&[bare(deployment), in_again(by_hand("again", "1"))])
}

fn in_again(mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(AGAIN);
    object
}

/// The same object with a name that no gate holds.
pub(super) fn stray(object: &Value) -> Value {
    let mut stray = bare(object);
    stray["metadata"]["name"] = json!("stray");
    stray
}

/// A `PersistentVolume` and its claim.
pub(super) fn volume() -> Value {
    let capacity = json!({"storage": "1Mi"});
    let modes = json!(["ReadWriteOnce"]);
    list(&[
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "status-data"},
            "spec": {"capacity": capacity, "accessModes": modes, "storageClassName": "",
                     "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": "/tmp"}},
        }),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data", "namespace": SHOP},
            "spec": {"accessModes": modes, "storageClassName": "", "volumeName": "status-data",
                     "resources": {"requests": capacity}},
        }),
    ])
}
