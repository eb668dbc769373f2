//! The API server calls the webhooks for exactly the objects that the rules could refuse.
//!
//! A webhook that nobody answers, under `failurePolicy: Fail`, tells whether the API server would have called it.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject, PostParams};
use kube::discovery::ApiResource;
use migration_gate::config::{Config, LabelOperator, LabelRequirement, LabelSelector};
use migration_gate::core::mutate::holding;
use migration_gate::core::podspec::{POD_KINDS, PodKind};
use migration_gate::core::prefilter::{Prefilter, validating};
use migration_gate::core::request::{Operation, Request};
use migration_gate::core::validate::validate;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use crate::client::block_on;
use crate::cluster::Cluster;
use crate::harness::Test;

pub(crate) const TESTS: [Test; 1] = [Test::exclusive(
    "prefilter::the_api_server_sends_what_the_rules_refuse",
    the_api_server_sends_what_the_rules_refuse,
)];

const FORBIDDEN: &str = "PIEFED_INIT_CONTAINER";
/// For each kind.
const CASES: usize = 40;

/// Containers that set the variable or not, in odd ways too.
fn containers(stem: &'static str, min: usize) -> impl Strategy<Value = Value> {
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
    prop::collection::vec(prop::option::weighted(0.5, env), min..3).prop_map(move |list| {
        list.into_iter()
            .enumerate()
            .map(|(index, env)| {
                let mut container = json!({"name": format!("{stem}{index}"), "image": "i:1"});
                if let Some(env) = env {
                    container["env"] = json!(env);
                }
                container
            })
            .collect()
    })
}

/// Objects of one kind, some of them owned by the controller `owner`.
fn objects(kind: &'static PodKind, owner: &Value) -> impl Strategy<Value = Value> {
    let labels = prop::sample::select(vec![
        json!({"app": "x"}),
        json!({"app": "x", "tier": "web"}),
        json!({"app": "x", "tier": "cache"}),
    ]);
    let name = prop::sample::select(vec!["piefed-web", "another"]);
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

fn object(
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
    let version = if kind.group.is_empty() {
        "v1".to_owned()
    } else {
        format!("{}/v1", kind.group)
    };
    let mut object = json!({
        "apiVersion": version,
        "kind": kind.kind,
        "metadata": {
            "name": name,
            "labels": labels,
            // The name in an annotation is no offence.
            "annotations": {"kubectl.kubernetes.io/last-applied-configuration": FORBIDDEN},
        },
    });
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

/// A gate by name and one by label, so that both ways into `held` are walked.
fn config(namespace: &str) -> Config {
    let mut config = Config::default();
    namespace.clone_into(&mut config.gates[0].namespace);
    let mut labelled = config.gates[0].clone();
    labelled.name = "labelled".into();
    labelled.deployments.clear();
    labelled.selector = Some(LabelSelector {
        match_labels: BTreeMap::from([("app".to_owned(), "x".to_owned())]),
        match_expressions: vec![
            LabelRequirement {
                key: "tier".into(),
                operator: LabelOperator::Exists,
                values: vec![],
            },
            LabelRequirement {
                key: "tier".into(),
                operator: LabelOperator::NotIn,
                values: vec!["cache".into()],
            },
        ],
    });
    config.gates.push(labelled);
    config
}

/// The webhooks of the chart, but for the server: there is none.
fn configuration(name: &str, namespace: &str, config: &Config) -> String {
    let webhooks: Vec<Value> = validating()
        .into_iter()
        .map(|prefilter| {
            let Prefilter {
                name,
                rules,
                match_conditions,
            } = prefilter.of(config);
            json!({
                "name": format!("{name}.migration-gate.io"),
                "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://127.0.0.1:1/nobody"},
                "failurePolicy": "Fail",
                "sideEffects": "None",
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                "rules": rules,
                "matchConditions": match_conditions,
            })
        })
        .collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingWebhookConfiguration",
        "metadata": {"name": name},
        "webhooks": webhooks,
    })
    .to_string()
}

fn the_api_server_sends_what_the_rules_refuse(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("prefilter")?;
    let name = namespace.name.as_str();
    let config = config(name);
    let mut runner = TestRunner::deterministic();
    let mut counts = Counts::default();
    // An owner that exists, or the garbage collector would take what it owns.
    namespace.kubectl.run("create configmap owner")?;
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": true,
        "uid": namespace.kubectl.get("configmap owner")?["metadata"]["uid"],
    });
    // Old objects first, while nothing holds them up; of each kind two that offend, one of them controlled.
    for kind in &POD_KINDS {
        let main =
            json!([{"name": "main0", "image": "i:1", "env": [{"name": FORBIDDEN, "value": "1"}]}]);
        // Without the label that selectors here go by, what is free isn't adopted.
        for (name, label, owner) in [("old", "app", Some(&owner)), ("old-free", "free", None)] {
            let old = object(kind, &json!([]), &main, &json!({ label: "x" }), name, owner);
            namespace.kubectl.apply(&old.to_string())?;
        }
    }
    namespace
        .kubectl
        .apply(&configuration(name, name, &config))?;
    let outcome = (|| -> Result<()> {
        await_webhooks(cluster, name)?;
        for kind in &POD_KINDS {
            for index in 0..CASES {
                let object = objects(kind, &owner)
                    .new_tree(&mut runner)
                    .map_err(anyhow::Error::msg)?
                    .current();
                counts.add(compare(cluster, &config, kind, name, &object, None)?);
                let mut new = object;
                let old = if index % 2 == 0 { "old" } else { "old-free" };
                new["metadata"]["name"] = json!(old);
                counts.add(compare(cluster, &config, kind, name, &new, Some(old))?);
            }
        }
        Ok(())
    })();
    cluster
        .kubectl()
        .run(&format!("delete validatingwebhookconfiguration {name}"))?;
    outcome?;
    eprintln!("prefilter: {counts:?}");
    ensure!(counts.sent > 50 && counts.spared > 50, "{counts:?}");
    Ok(())
}

#[derive(Debug, Default)]
struct Counts {
    sent: usize,
    spared: usize,
    /// Refused by the API server's own validation, which comes first.
    invalid: usize,
}

impl Counts {
    fn add(&mut self, answer: Answer) {
        match answer {
            Answer::Sent => self.sent += 1,
            Answer::Spared => self.spared += 1,
            Answer::Invalid => self.invalid += 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Sent,
    Spared,
    Invalid,
}

/// A new configuration takes the API server a moment; an object that is certain to be sent tells when it has.
fn await_webhooks(cluster: &Cluster, namespace: &str) -> Result<()> {
    let kind = &POD_KINDS[0];
    let main = json!([{"name": "c", "image": "i:1", "env": [{"name": FORBIDDEN, "value": "1"}]}]);
    let canary = object(kind, &json!([]), &main, &json!({}), "canary", None);
    crate::poll::until(
        "the API server to know the webhooks",
        std::time::Duration::from_secs(30),
        || match dry_run(cluster, kind, namespace, &canary, None) {
            Ok((Answer::Sent, _)) => crate::poll::Look::Done(()),
            Ok((answer, _)) => crate::poll::Look::Pending(format!("{answer:?}")),
            Err(error) => crate::poll::Look::Failed(error),
        },
    )
}

fn compare(
    cluster: &Cluster,
    config: &Config,
    kind: &PodKind,
    namespace: &str,
    object: &Value,
    replaces: Option<&str>,
) -> Result<Answer> {
    let (answer, old) = dry_run(cluster, kind, namespace, object, replaces)?;
    if answer == Answer::Invalid {
        return Ok(answer);
    }
    let request = Request {
        operation: if old.is_some() {
            Operation::Update
        } else {
            Operation::Create
        },
        group: kind.group,
        kind: kind.kind,
        subresource: "",
        namespace,
        object,
        old: old.as_ref(),
    };
    // A held Deployment could be refused for want of its waiter; whether it would be is not for CEL to say.
    let expected =
        holding(config, &request).is_some() || !validate(config, &request).violations.is_empty();
    ensure!(
        expected == (answer == Answer::Sent),
        "the rules say {expected}, the API server {answer:?}: {object}"
    );
    Ok(answer)
}

/// Whether the API server would call a webhook, and what the object would have replaced.
fn dry_run(
    cluster: &Cluster,
    kind: &PodKind,
    namespace: &str,
    object: &Value,
    replaces: Option<&str>,
) -> Result<(Answer, Option<Value>)> {
    let resource = ApiResource {
        group: kind.group.into(),
        version: kind.version.into(),
        api_version: if kind.group.is_empty() {
            "v1".into()
        } else {
            format!("{}/v1", kind.group)
        },
        kind: kind.kind.into(),
        plural: kind.resource.into(),
    };
    let api: Api<DynamicObject> = Api::namespaced_with(cluster.client(), namespace, &resource);
    let dry = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let mut object: DynamicObject = serde_json::from_value(object.clone())?;
    block_on(async {
        let (result, old) = match replaces {
            None => (api.create(&dry, &object).await, None),
            Some(name) => {
                let old = api.get(name).await?;
                object
                    .metadata
                    .resource_version
                    .clone_from(&old.metadata.resource_version);
                let old = serde_json::to_value(old)?;
                (api.replace(name, &dry, &object).await, Some(old))
            }
        };
        let answer = match result {
            Ok(_) => Answer::Spared,
            Err(kube::Error::Api(status)) if status.message.contains("failed calling webhook") => {
                Answer::Sent
            }
            Err(kube::Error::Api(status)) if status.code == 422 || status.code == 403 => {
                Answer::Invalid
            }
            Err(error) => {
                return Err(error).context("a dry run that neither passed nor was refused");
            }
        };
        anyhow::Ok((answer, old))
    })
}
