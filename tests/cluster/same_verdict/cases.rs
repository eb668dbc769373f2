//! The gates, the objects and the changes that are compared.

use anyhow::{Context as _, Result};
use migration_gate::cli::config::parse;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::mutate::mutate;
use migration_gate_core::podspec::PodKind;
use migration_gate_core::request::Request;
use migration_gate_yaml as yaml;
use serde_json::{Value, json};

/// The namespace of the gates.
pub(super) const GATED: &str = "gated";

/// Names and labels by which each of the gates holds a workload, and one that no gate holds.
pub(super) const NAMES: [&str; 16] = [
    "named",
    "shop-by-pattern",
    "labelled",
    "short",
    "short-labelled",
    "jobs",
    "version-label",
    "version-annotation",
    "container",
    "moving",
    "accounts",
    "warned",
    "fresh",
    "twice",
    "twice-in-value",
    "unheld",
];

/// The configuration, as the server's text and parsed.
pub(super) fn gates() -> Result<(String, Config)> {
    let mut documents = yaml::documents(include_str!("gates.yaml"));
    let document = documents.next().context("a document")?;
    let mut gates = document
        .map_err(|error| anyhow::anyhow!(error.message))?
        .value;
    for gate in gates["gates"].as_array_mut().into_iter().flatten() {
        let which = gate["workloads"]["kinds"].clone();
        if which.is_null() {
            continue;
        }
        let every = HeldKind::ALL.map(|kind| {
            let mut workload = which.clone();
            workload["kind"] = json!(kind.as_str());
            workload
        });
        gate["workloads"] = every.into_iter().collect();
    }
    let text = gates.to_string();
    let config = parse(&text, "gates")?;
    Ok((text, config))
}

/// An object of a kind with a pod spec.
#[derive(Clone)]
pub(super) struct PodHolder {
    pub(super) kind: &'static PodKind,
    pub(super) value: Value,
}

impl PodHolder {
    /// An object as its author writes it.
    pub(super) fn new(kind: &'static PodKind, name: &str) -> Self {
        let run_once = ["Job", "CronJob"].contains(&kind.kind);
        let template = json!({
            "metadata": {
                "labels": {"app": "x", "version": "v1.2"},
                "annotations": {"example.org/version": "1.2"},
            },
            "spec": {
                "restartPolicy": if run_once { "Never" } else { "Always" },
                "containers": [{"name": "main", "image": "shop:1.2", "command": ["run"]}],
            },
        });
        let selector = json!({"matchLabels": {"app": "x"}});
        let own = match kind.kind {
            "Pod" => template,
            "PodTemplate" => json!({"template": template}),
            "Job" => json!({"spec": {"template": template}}),
            "CronJob" => json!({"spec": {
                "schedule": "0 0 1 1 *", "jobTemplate": {"spec": {"template": template}},
            }}),
            "ReplicationController" => {
                json!({"spec": {"selector": {"app": "x"}, "template": template}})
            }
            "StatefulSet" => json!({"spec": {
                "serviceName": "x", "selector": selector, "template": template,
            }}),
            _ => json!({"spec": {"selector": selector, "template": template}}),
        };
        let mut value = own;
        value["apiVersion"] = json!(match kind.group {
            "" => kind.version.to_owned(),
            group => format!("{group}/{}", kind.version),
        });
        value["kind"] = json!(kind.kind);
        let labels = match name {
            name if name.starts_with("labelled") => json!({"held": "labelled"}),
            name if name.starts_with("warned") => json!({"held": "warned"}),
            "short-labelled" => json!({"tier": "short"}),
            "twice" => json!({"twice": ""}),
            "twice-in-value" => json!({"twice": "yes"}),
            _ => json!({"app": "x"}),
        };
        value["metadata"]["name"] = json!(name);
        value["metadata"]["namespace"] = json!(GATED);
        value["metadata"]["labels"] = labels;
        Self { kind, value }
    }

    /// The object with `metadata` and `spec` of the pods.
    fn template(&mut self) -> &mut Value {
        let (_, parents) = self.kind.path.split_last().expect("a path");
        let steps = parents.iter();
        steps.fold(&mut self.value, |value, field| &mut value[*field])
    }

    fn spec(&mut self) -> &mut Value {
        &mut self.template()["spec"]
    }

    fn containers(&mut self) -> &mut Value {
        &mut self.spec()["containers"]
    }

    fn metadata(&mut self) -> &mut Value {
        &mut self.value["metadata"]
    }

    /// Injects the waiter of a configuration.
    fn inject(&mut self, config: &Config) -> Result<()> {
        let request = Request::create(&self.value, GATED).context("an object")?;
        let patch = mutate(config, &request).patch;
        json_patch::patch(&mut self.value, &patch)?;
        Ok(())
    }
}

/// A change of an object, with a name.
pub(super) type Change = (&'static str, fn(&mut PodHolder));

const FORBIDDEN: &str = "PIEFED_INIT_CONTAINER";

/// Changes that authors make, and that other webhooks make.
pub(super) const WRITTEN: [Change; 28] = [
    AS_IT_IS,
    ("on its way out", |object| {
        object.metadata()["deletionTimestamp"] = json!("2026-11-26T10:02:59Z");
        object.metadata()["deletionGracePeriodSeconds"] = json!(0);
    }),
    ("own account", |object| {
        object.spec()["serviceAccountName"] = json!("own");
    }),
    ("own account by its old name", |object| {
        object.spec()["serviceAccount"] = json!("own");
    }),
    ("account default", |object| {
        object.spec()["serviceAccountName"] = json!("default");
    }),
    ("the gate's account", |object| {
        object.spec()["serviceAccountName"] = json!("waits");
    }),
    ("moving tag", |object| {
        object.containers()[0]["image"] = json!("shop:main");
    }),
    ("digest", |object| {
        let image = format!("example.org:5000/shop:1.2@sha256:{}", "0".repeat(64));
        object.containers()[0]["image"] = json!(image);
    }),
    ("no version", |object| {
        object.template()["metadata"]["labels"] = json!({"app": "x"});
        object.template()["metadata"]["annotations"] = Value::Null;
    }),
    ("two versions", |object| {
        let main = object.containers()[0].clone();
        *object.containers() = json!([{"name": "proxy", "image": "proxy:7"}, main]);
    }),
    ("two versions, and one counts", |object| {
        let main = object.containers()[0].clone();
        *object.containers() = json!([{"name": "proxy", "image": "proxy:7"}, main]);
        object.template()["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] =
            json!("main");
    }),
    ("init containers", |object| {
        object.spec()["initContainers"] = json!([
            {"name": "assets", "image": "shop:1.2", "command": ["assets"]},
            {"name": "chown", "image": "busybox:1.37", "command": ["chown"]},
            {"name": "mesh", "image": "mesh:3", "restartPolicy": "Always"},
        ]);
    }),
    ("another waiter", |object| {
        object.spec()["initContainers"] = json!([
            {"name": "wait", "image": "groundnuty/k8s-wait-for:v2.0", "args": ["job", "migrate"]},
        ]);
    }),
    ("hand-written waiter", |object| {
        object.spec()["initContainers"] = json!([
            {"name": "first", "image": "busybox:1", "args": ["true"]},
            {"name": "wait-for-migrations", "image": "kubectl:1", "args": ["wait", "job/migrate"]},
        ]);
    }),
    ("token for all", |object| {
        object.spec()["automountServiceAccountToken"] = json!(true);
    }),
    ("no token, null lists", |object| {
        object.spec()["automountServiceAccountToken"] = json!(false);
        object.spec()["initContainers"] = Value::Null;
        object.spec()["volumes"] = Value::Null;
    }),
    ("windows", |object| {
        object.spec()["nodeSelector"] = json!({"kubernetes.io/os": "windows"});
    }),
    ("reserved container", |object| {
        let more = json!({"name": "wait-for-migrations", "image": "shop:1.2"});
        let main = object.containers()[0].clone();
        *object.containers() = json!([main, more]);
    }),
    ("reserved volume, and a variable", |object| {
        object.spec()["volumes"] = json!([{"name": "migration-gate-token", "emptyDir": {}}]);
        object.containers()[0]["env"] = json!([{"name": FORBIDDEN, "value": "1"}]);
    }),
    ("variable", |object| {
        object.containers()[0]["env"] = json!([
            {"name": "A", "value": FORBIDDEN}, {"name": FORBIDDEN, "value": "true"},
            {"name": "MIGRATE_ON_START", "value": ""},
        ]);
    }),
    ("variable without a value", |object| {
        object.containers()[0]["env"] = json!([{"name": FORBIDDEN}]);
    }),
    ("variable from elsewhere", |object| {
        let from = json!({"fieldRef": {"fieldPath": "metadata.name"}});
        object.containers()[0]["env"] = json!([{"name": "MIGRATE_ON_START", "valueFrom": from}]);
    }),
    ("variable in a command", |object| {
        object.containers()[0]["command"] = json!(["env", "PIEFED_INIT_CONTAINER=1", "run"]);
    }),
    ("variable in arguments", |object| {
        object.containers()[0]["args"] = json!(["--env=MIGRATE_ON_START=x"]);
    }),
    ("variable in a script", |object| {
        let script = "set -e\nexport A=b PIEFED_INIT_CONTAINER=\"yes\"\nexec run";
        object.containers()[0]["command"] = json!(["sh", "-c", script]);
    }),
    ("variable in an init container", |object| {
        object.spec()["initContainers"] = json!([
            {"name": "first", "image": "busybox:1"},
            {"name": "second", "image": "busybox:1", "env": [{"name": FORBIDDEN, "value": "1"}]},
        ]);
    }),
    ("variable that is only used", |object| {
        object.containers()[0]["args"] = json!([
            "[ $PIEFED_INIT_CONTAINER = 1 ]",
            "unset PIEFED_INIT_CONTAINER",
            "MY_MIGRATE_ON_START=1",
        ]);
        object.containers()[0]["env"] = json!([{"name": "piefed_init_container", "value": "1"}]);
    }),
    ("variable behind a prefix", |object| {
        object.containers()[0]["envFrom"] =
            json!([{"prefix": "PIEFED_", "configMapRef": {"name": "env"}}]);
    }),
];

/// An object without a change.
pub(super) const AS_IT_IS: Change = ("as it is", |_| {});

/// The names of the objects that are stored before the webhooks exist. The rest of a name says
/// which gate holds the object.
pub(super) const STORED: [&str; 11] = [
    "bare-by-pattern",
    "labelled-bare",
    "current-by-pattern",
    "older-by-pattern",
    "stale-by-pattern",
    "second-by-pattern",
    "by-hand-by-pattern",
    "offender-by-pattern",
    "owned-by-pattern",
    "leaving-by-pattern",
    "warned-before",
];

/// The names that are used for every kind.
pub(super) const STORED_UNHELD: [&str; 4] = [
    "bare-by-pattern",
    "offender-by-pattern",
    "owned-by-pattern",
    "leaving-by-pattern",
];

/// One of these objects, as it is stored.
pub(super) fn stored(kind: &'static PodKind, name: &str, config: &Config) -> Result<PodHolder> {
    let mut object = PodHolder::new(kind, name);
    let (how, _) = name.split_once("-by-pattern").unwrap_or((name, ""));
    let mut other = config.clone();
    "migration-gate/migration-gate:0.0.9".clone_into(&mut other.waiter.image);
    let variable = json!([{"name": FORBIDDEN, "value": "true"}]);
    match how {
        "current" => object.inject(config)?,
        "older" => object.inject(&other)?,
        "stale" => {
            object.inject(&other)?;
            object.spec()["initContainers"][0]["args"][3] = json!("--job=another");
        }
        "second" => {
            object.inject(&other)?;
            put_in_front(&mut object);
        }
        "by-hand" => {
            object.spec()["initContainers"] = json!([
                {"name": "wait-for-migrations", "image": "kubectl:1", "args": ["wait", "job/x"]},
            ]);
        }
        "offender" | "leaving" => object.containers()[0]["env"] = variable,
        "owned" => {
            object.containers()[0]["env"] = variable;
            object.metadata()["ownerReferences"] = json!([{
                "apiVersion": "example.org/v1", "kind": "Owner", "name": "x", "controller": true,
                "uid": "5b1f4f2e-0000-4000-8000-000000000000",
            }]);
        }
        "warned-before" => {
            object.inject(config)?;
            object.containers()[0]["env"] = variable;
        }
        _ => {}
    }
    if how == "leaving" {
        object.metadata()["finalizers"] = json!(["example.org/held"]);
    }
    Ok(object)
}

/// Changes of stored objects.
pub(super) const UPDATES: [Change; 13] = [
    AS_IT_IS,
    ("labelled", |object| {
        object.metadata()["labels"]["x"] = json!("y");
    }),
    ("no longer labelled", |object| {
        object.metadata()["labels"] = json!({"held": "no"});
    }),
    ("another image", |object| {
        object.containers()[0]["image"] = json!("shop:1.3");
    }),
    ("restarted", |object| {
        let annotations = &mut object.template()["metadata"]["annotations"];
        annotations["kubectl.kubernetes.io/restartedAt"] = json!("now");
    }),
    ("as its author wrote it", |object| {
        let spec = object.spec();
        for field in [
            "initContainers",
            "volumes",
            "serviceAccountName",
            "serviceAccount",
            "automountServiceAccountToken",
        ] {
            if let Some(spec) = spec.as_object_mut() {
                spec.shift_remove(field);
            }
        }
    }),
    ("put in front", put_in_front),
    ("blunted", |object| {
        for container in containers_of(object.spec(), "initContainers") {
            container["args"] = json!(["wait", "--job=nothing"]);
        }
    }),
    ("run by a shell", |object| {
        for container in containers_of(object.spec(), "initContainers") {
            container["command"] = json!(["sh", "-c", "true"]);
        }
    }),
    ("one more variable", |object| {
        let more = json!({"name": "MIGRATE_ON_START", "value": "1"});
        match object.containers()[0]["env"].as_array_mut() {
            Some(env) => env.insert(0, more),
            None => object.containers()[0]["env"] = json!([more]),
        }
    }),
    ("the variable goes", |object| {
        object.containers()[0]["env"] = json!([]);
        object.containers()[0]["args"] = json!(["serve"]);
    }),
    ("own account", |object| {
        object.spec()["serviceAccountName"] = json!("own");
        object.spec()["serviceAccount"] = json!("own");
    }),
    ("owned by no one", |object| {
        object.metadata()["ownerReferences"] = json!([]);
    }),
];

fn put_in_front(object: &mut PodHolder) {
    let spec = object.spec();
    let containers = &mut spec["initContainers"];
    if containers.is_null() {
        *containers = json!([]);
    }
    if let Some(containers) = containers.as_array_mut() {
        let name = format!("in-front-of-{}", containers.len());
        containers.insert(0, json!({"name": name, "image": "busybox:1"}));
    }
}

fn containers_of<'v>(spec: &'v mut Value, list: &str) -> impl Iterator<Item = &'v mut Value> {
    let list = spec.get_mut(list).and_then(Value::as_array_mut);
    list.into_iter().flatten()
}

/// Objects that only some kinds can be: Rollouts with references to their pod templates.
pub(super) fn references() -> [PodHolder; 3] {
    [
        ("Deployment", "short"),
        ("Deployment", "x"),
        ("ReplicaSet", "x"),
    ]
    .map(|(kind, name)| {
        let mut rollout = PodHolder::new(HeldKind::Rollout.pod_kind(), "named");
        rollout.value["spec"] =
            json!({"workloadRef": {"apiVersion": "apps/v1", "kind": kind, "name": name}});
        rollout
    })
}

/// Data of a ConfigMap, before and after an update.
pub(super) fn maps() -> [(Value, Value); 5] {
    let forbidden = json!({FORBIDDEN: "MQ=="});
    let more = json!({"MIGRATE_ON_START": "MQ==", FORBIDDEN: "MQ=="});
    let harmless = json!({"A": "MQ=="});
    [
        (harmless.clone(), harmless.clone()),
        (harmless, forbidden.clone()),
        (forbidden.clone(), forbidden.clone()),
        (forbidden.clone(), more),
        (forbidden, json!({})),
    ]
}
