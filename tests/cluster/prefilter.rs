//! The API server calls the webhooks for exactly the objects that the rules could refuse.
//!
//! A webhook without a server and with `failurePolicy: Fail` shows whether the API server would
//! have called it.

use anyhow::{Context as _, Result, ensure};
use kube::api::{Api, DynamicObject, PostParams};
use kube::discovery::ApiResource;
use migration_gate::cli::config::parse;
use migration_gate_core::decision::Outcome;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::held::held;
use migration_gate_core::injection::waiter_of;
use migration_gate_core::mutate::mutate;
use migration_gate_core::podspec::{POD_KINDS, PodKind};
use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use migration_gate_core::request::{Operation, Request};
use migration_gate_core::validate::validate;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use testkit::client::block_on;
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;

mod objects;

use crate::chart::define_other_operators_kinds;

use self::objects::{
    CONFIG_MAP, FORBIDDEN, api_version, config_maps, containers, object, objects, prepare,
};

testkit::tests! {
    exclusive: the_api_server_sends_what_the_rules_refuse;
}

/// Number of random objects for each kind.
const CASES: usize = 25;

/// Of every kind, one gate holds workloads by name, one by pattern, and one by label. Deployments
/// are also held by the short forms.
fn config(namespace: &str) -> Result<Config> {
    let labels = json!({
        "matchLabels": {"app": "x"},
        "matchExpressions": [
            {"key": "tier", "operator": "Exists"},
            {"key": "tier", "operator": "NotIn", "values": ["cache"]},
        ],
    });
    let every = |key: &str, which: &Value| -> Value {
        let of = |kind: HeldKind| json!({"kind": kind.as_str(), key: which});
        HeldKind::ALL.map(of).into_iter().collect()
    };
    let gate = |name: &str, holds: &[(&str, Value)]| {
        let mut gate = json!({
            "name": name, "namespace": namespace, "jobs": [{"name": "migrate"}],
            "serviceAccount": "waits",
        });
        for (key, value) in holds {
            gate[*key] = value.clone();
        }
        gate
    };
    let config = json!({"gates": [
        gate("named", &[("workloads", every("name", &json!("by-name")))]),
        gate("short", &[
            ("deployments", json!(["by-short-name"])), ("selector", labels.clone()),
            ("container", json!("main0")),
        ]),
        gate("pattern", &[
            ("workloads", every("name", &json!("by-*-p.ttern"))),
            ("jobs", json!([
                {"name": "prepare-*"},
                {"anyOf": [{"name": "install"}, {"selector": {"matchLabels": {"step": "up"}}}]},
            ])),
            ("movingTags", json!(["v[0-9]", "main"])), ("timeout", json!("1h30m")),
        ]),
        gate("existing", &[
            ("workloads", every("name", &json!("old-*"))), ("freshness", json!("any")),
        ]),
        gate("generated", &[("workloads", every("name", &json!("generated-*")))]),
        gate("labelled", &[
            ("workloads", every("selector", &labels)), ("version", json!({"label": "app"})),
        ]),
    ], "waiter": {"logFormat": "json"}});
    parse(&config.to_string(), "gates").map_err(anyhow::Error::from)
}

/// The chart's webhooks, without a server.
fn configuration(asked: WebhookKind, namespace: &str, config: &Config) -> String {
    let webhooks: Vec<Value> = asked
        .prefilters()
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
                "clientConfig": {"url": "https://127.0.0.1:1/unserved"},
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
        "kind": asked.kind(),
        "metadata": {"name": namespace},
        "webhooks": webhooks,
    })
    .to_string()
}

/// Which of the two configurations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WebhookKind {
    ToMutate,
    ToValidate,
}

impl WebhookKind {
    fn kind(self) -> &'static str {
        match self {
            Self::ToMutate => "MutatingWebhookConfiguration",
            Self::ToValidate => "ValidatingWebhookConfiguration",
        }
    }

    fn prefilters(self) -> Vec<Prefilter> {
        match self {
            Self::ToMutate => mutating(),
            Self::ToValidate => validating(),
        }
    }

    /// What the API server may do with the request, by the rules.
    fn allowed(self, config: &Config, request: &Request<'_>) -> &'static [Effect] {
        let held = held(config, request).filter(|held| !held.template_stays());
        let refused = || !validate(config, request).violations.is_empty();
        match (self, held) {
            (Self::ToValidate, _) if refused() => &[Effect::Sent],
            (_, None) => &[Effect::Spared],
            // CEL need not recognize that the waiter is in place.
            (Self::ToValidate, Some(held)) if held.template().is_some_and(has_waiter) => {
                &[Effect::Sent, Effect::Spared]
            }
            (_, Some(_)) => &[Effect::Sent],
        }
    }
}

fn the_api_server_sends_what_the_rules_refuse(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("prefilter")?;
    // The kind Rollout must be defined first.
    define_other_operators_kinds(cluster)?;
    sends_what_the_rules_refuse(cluster.client(), &namespace.kubectl, &namespace.name)
}

/// Runs the comparison in a namespace that has a ServiceAccount `default`. The API server must know
/// the kind Rollout.
pub(crate) fn sends_what_the_rules_refuse(
    client: kube::Client,
    kubectl: &Kubectl,
    namespace: &str,
) -> Result<()> {
    let config = config(namespace)?;
    // The owner must exist, or the garbage collector would delete its objects.
    kubectl.run("create configmap owner")?;
    let owner = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "controller": true,
        "uid": kubectl.get("configmap owner")?["metadata"]["uid"],
    });
    prepare(kubectl, &owner)?;
    let scene = Comparison {
        client,
        namespace,
        config,
        owner,
    };
    let mut outcome = Ok(());
    for asked in [WebhookKind::ToValidate, WebhookKind::ToMutate] {
        let configuration = configuration(asked, namespace, &scene.config);
        outcome = kubectl.apply(&configuration).and_then(|_| {
            let compared = scene.compare_all(asked);
            kubectl.run(&format!("delete {} {namespace}", asked.kind()))?;
            compared
        });
        if outcome.is_err() {
            break;
        }
    }
    // Remove the finalizers of objects that are being deleted, or the namespace could not be
    // deleted.
    for kind in POD_KINDS.iter().chain([&CONFIG_MAP]) {
        let let_go = r#"--type=json --patch=[{"op":"remove","path":"/metadata/finalizers"}]"#;
        kubectl.run(&format!("patch {} leaving {let_go}", kind.resource))?;
    }
    outcome
}

fn has_waiter(template: &Value) -> bool {
    waiter_of(&template["spec"]).is_some()
}

/// Changes of a pod spec with a waiter.
const CHANGES: [fn(&mut Value); 14] = [
    |spec| spec["initContainers"][0]["image"] = json!("other/waiter:1"),
    |spec| spec["initContainers"][0]["command"] = json!(["true"]),
    |spec| spec["initContainers"][0]["restartPolicy"] = json!("Always"),
    |spec| spec["initContainers"][0]["args"] = json!([]),
    |spec| spec["initContainers"][0]["args"][1] = json!("--gate=other"),
    |spec| spec["initContainers"][0]["args"][2] = json!("--namespace=other"),
    |spec| spec["initContainers"][0]["args"][3] = json!("--job=other"),
    |spec| spec["initContainers"][0]["volumeMounts"] = json!([]),
    |spec| spec["initContainers"][0]["name"] = json!("another-name"),
    |spec| spec["containers"][0]["image"] = json!("main0:2"),
    |spec| {
        let args = spec["initContainers"][0]["args"].as_array_mut();
        if let Some(args) = args {
            args.retain(|arg| !arg.as_str().is_some_and(|arg| arg.starts_with("--image=")));
        }
    },
    |spec| {
        let first = json!({"name": "first", "image": "first:1"});
        if let Some(containers) = spec["initContainers"].as_array_mut() {
            containers.insert(0, first);
        }
    },
    |spec| {
        let more =
            (0..100).map(|i| json!({"name": format!("more{i}"), "image": format!("more{i}:1")}));
        if let Some(containers) = spec["containers"].as_array_mut() {
            containers.extend(more);
        }
    },
    |spec| spec["os"] = json!({"name": "windows"}),
];

/// What one run of comparisons uses.
struct Comparison<'a> {
    client: kube::Client,
    namespace: &'a str,
    config: Config,
    owner: Value,
}

impl Comparison<'_> {
    fn compare_all(&self, asked: WebhookKind) -> Result<()> {
        let mut runner = TestRunner::deterministic();
        self.await_webhooks(asked)?;
        for kind in POD_KINDS.iter().chain([&CONFIG_MAP]) {
            let can_be_held = HeldKind::of(kind.group, kind.kind).is_some();
            let concerned = asked == WebhookKind::ToValidate || can_be_held;
            let (mut creates, mut updates) = (Counts::default(), Counts::default());
            let mut held = 0;
            for index in 0..CASES {
                let objects = if kind.kind == "ConfigMap" {
                    config_maps(&self.owner).boxed()
                } else {
                    objects(kind, &self.owner).boxed()
                };
                let object = objects.new_tree(&mut runner).map_err(anyhow::Error::msg)?;
                let object = object.current();
                if asked == WebhookKind::ToValidate && can_be_held {
                    held += self.compare_injected(kind, &object)?;
                }
                creates.add(self.compare(asked, kind, &object, Put::New)?);
                let old = ["old", "old-free"][index % 2];
                updates.add(self.compare(asked, kind, &object, Put::Over(old))?);
            }
            for old in ["old", "old-free"] {
                // Only labels can be changed on objects that are otherwise immutable, or being
                // deleted.
                let relabelled = self.compare(asked, kind, &Value::Null, Put::Label(old))?;
                updates.add(relabelled);
                if can_be_held {
                    let retouched = self.compare(asked, kind, &Value::Null, Put::Retouch(old))?;
                    updates.add(retouched);
                    // No container changes, so only the gate can cause a call.
                    let expected = match (asked, old) {
                        (WebhookKind::ToMutate, "old") => [Effect::Spared, Effect::Spared],
                        (WebhookKind::ToMutate, _) => [Effect::Spared, Effect::Sent],
                        // It has the variable, and no controller.
                        (WebhookKind::ToValidate, "old-free") => [Effect::Sent, Effect::Sent],
                        (WebhookKind::ToValidate, _) => [Effect::Spared, Effect::Spared],
                    };
                    ensure!(
                        [relabelled, retouched] == expected,
                        "{asked:?} {} {old}: {relabelled:?}, {retouched:?}",
                        kind.kind
                    );
                }
            }
            let leaving = self.compare(asked, kind, &Value::Null, Put::Label("leaving"))?;
            ensure!(leaving == Effect::Spared, "{}: {leaving:?}", kind.kind);
            eprintln!(
                "prefilter: {asked:?} {}: created {creates:?}, updated {updates:?}, {held} with a waiter in place",
                kind.kind
            );
            ensure!(
                (held > 0) == (asked == WebhookKind::ToValidate && can_be_held),
                "{asked:?} {}: {held} were held",
                kind.kind
            );
            for counts in [creates, updates] {
                let both = (counts.sent > 0) == concerned && counts.spared > 0;
                ensure!(both, "{asked:?} {}: {counts:?}", kind.kind);
            }
        }
        if asked == WebhookKind::ToValidate {
            self.compare_ephemeral_containers(&mut runner)?;
        }
        Ok(())
    }

    /// Compares ephemeral containers of a pod that already has the variable, with and without an
    /// owner.
    fn compare_ephemeral_containers(&self, runner: &mut TestRunner) -> Result<()> {
        let kind = &POD_KINDS[0];
        let mut counts = Counts::default();
        for index in 0..CASES {
            let added = containers("debug", 0)
                .new_tree(runner)
                .map_err(anyhow::Error::msg)?;
            let pod = ["old", "old-free", "leaving"][index % 3];
            let (asked, put) = (WebhookKind::ToValidate, Put::Debug(pod));
            counts.add(self.compare(asked, kind, &added.current(), put)?);
        }
        eprintln!("prefilter: ephemeral containers: {counts:?}");
        ensure!(counts.sent > 0 && counts.spared > 0, "{counts:?}");
        Ok(())
    }

    /// Waits until the API server uses a new configuration: it then calls the webhook for an object
    /// that matches.
    fn await_webhooks(&self, asked: WebhookKind) -> Result<()> {
        let Some(kind) = POD_KINDS.iter().find(|kind| kind.kind == "Deployment") else {
            anyhow::bail!("no Deployments");
        };
        let main = json!([{"name": "c", "image": "i:1"}]);
        let canary = object(kind, &json!([]), &main, &json!({}), "by-name", None);
        testkit::poll::until(
            "the API server to know the webhooks",
            std::time::Duration::from_secs(90),
            || match self.dry_run(kind, &canary, Put::New) {
                Ok((Effect::Sent, ..)) => testkit::poll::Look::Done(()),
                Ok((answer, ..)) => testkit::poll::Look::Pending(format!("{asked:?}: {answer:?}")),
                Err(error) => testkit::poll::Look::Failed(error),
            },
        )
    }

    fn compare(
        &self,
        asked: WebhookKind,
        kind: &PodKind,
        object: &Value,
        put: Put,
    ) -> Result<Effect> {
        let (answer, old, object) = self.dry_run(kind, object, put)?;
        if answer == Effect::Invalid {
            return Ok(answer);
        }
        let update = old.as_ref().map(|_| Operation::Update);
        let debug = matches!(put, Put::Debug(_)).then_some("ephemeralcontainers");
        let request = Request {
            operation: update.unwrap_or(Operation::Create),
            group: kind.group,
            kind: kind.kind,
            subresource: debug.unwrap_or_default(),
            namespace: self.namespace,
            object: &object,
            old: old.as_ref(),
        };
        let allowed = asked.allowed(&self.config, &request);
        ensure!(
            allowed.contains(&answer),
            "{asked:?}, {put:?}: the rules allow {allowed:?}, the API server {answer:?}: {object}"
        );
        Ok(answer)
    }

    /// Checks that an object that `/mutate` has injected is not sent again, unless it was changed
    /// since. Returns the number of held objects.
    fn compare_injected(&self, kind: &PodKind, object: &Value) -> Result<usize> {
        let mut injected = object.clone();
        let request = Request {
            operation: Operation::Create,
            group: kind.group,
            kind: kind.kind,
            subresource: "",
            namespace: self.namespace,
            object,
            old: None,
        };
        let decision = mutate(&self.config, &request);
        if decision.outcome != Outcome::Injected {
            return Ok(0);
        }
        json_patch::patch(&mut injected, &decision.patch)?;
        let answer = self.compare(WebhookKind::ToValidate, kind, &injected, Put::New)?;
        let injected_text = injected.to_string();
        let offends = [format!("\"name\":\"{FORBIDDEN}\""), format!("{FORBIDDEN}=")]
            .iter()
            .any(|offence| injected_text.contains(offence));
        ensure!(
            offends || answer != Effect::Sent,
            "{}: the waiter is in place, and the webhook was called: {injected}",
            kind.kind
        );
        for change in CHANGES {
            let mut changed = injected.clone();
            let spec = kind
                .path
                .iter()
                .fold(&mut changed, |value, field| &mut value[*field]);
            change(spec);
            if changed != injected {
                self.compare(WebhookKind::ToValidate, kind, &changed, Put::New)?;
            }
        }
        Ok(1)
    }

    /// Sends a dry run. Returns whether the API server would call a webhook, the object that would
    /// be replaced, and the resulting object.
    fn dry_run(
        &self,
        kind: &PodKind,
        object: &Value,
        put: Put,
    ) -> Result<(Effect, Option<Value>, Value)> {
        let resource = ApiResource {
            group: kind.group.into(),
            version: kind.version.into(),
            api_version: api_version(kind),
            kind: kind.kind.into(),
            plural: kind.resource.into(),
        };
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), self.namespace, &resource);
        let dry = PostParams {
            dry_run: true,
            ..PostParams::default()
        };
        block_on(async {
            let mut object = object.clone();
            let mut old = None;
            if let Put::Over(name) | Put::Label(name) | Put::Retouch(name) | Put::Debug(name) = put
            {
                let now = serde_json::to_value(api.get(name).await?)?;
                match put {
                    Put::Label(_) => {
                        object = now.clone();
                        // With this label, a gate selects it, but no pod starts because of that.
                        object["metadata"]["labels"]["tier"] = json!("web");
                    }
                    Put::Retouch(_) => {
                        object = now.clone();
                        let (_, template) = kind.path.split_last().context("a pod template")?;
                        let template = template
                            .iter()
                            .fold(&mut object, |value, field| &mut value[*field]);
                        template["metadata"]["annotations"]["changed"] = json!("yes");
                    }
                    Put::Debug(_) => {
                        let added = object.take();
                        object = now.clone();
                        object["spec"]["ephemeralContainers"] = added;
                    }
                    _ => {
                        object["metadata"]["name"] = json!(name);
                        object["metadata"]["resourceVersion"] =
                            now["metadata"]["resourceVersion"].clone();
                    }
                }
                old = Some(now);
            }
            let sent: DynamicObject = serde_json::from_value(object.clone())?;
            let result = match put {
                Put::New => api.create(&dry, &sent).await,
                Put::Over(name) | Put::Label(name) | Put::Retouch(name) => {
                    api.replace(name, &dry, &sent).await
                }
                Put::Debug(name) => {
                    api.replace_subresource("ephemeralcontainers", name, &dry, &sent)
                        .await
                }
            };
            let answer = match result {
                Ok(_) => Effect::Spared,
                Err(kube::Error::Api(status))
                    if status.message.contains("failed calling webhook") =>
                {
                    Effect::Sent
                }
                Err(kube::Error::Api(status)) if status.code == 422 || status.code == 403 => {
                    Effect::Invalid
                }
                // A controller was faster.
                Err(kube::Error::Api(status)) if status.code == 409 => Effect::Invalid,
                Err(error) => {
                    return Err(error).context("a dry run that neither passed nor was refused");
                }
            };
            anyhow::Ok((answer, old, object))
        })
    }
}

/// How an object is sent.
#[derive(Debug, Clone, Copy)]
enum Put {
    New,
    /// As a replacement of the object with this name.
    Over(&'static str),
    /// The object with this name, with another label.
    Label(&'static str),
    /// The object with this name, with another annotation in its pod template.
    Retouch(&'static str),
    /// The pod with this name, with further ephemeral containers.
    Debug(&'static str),
}

#[derive(Debug, Default)]
struct Counts {
    sent: usize,
    spared: usize,
    /// Refused by the API server's own validation, which comes first.
    invalid: usize,
}

impl Counts {
    fn add(&mut self, answer: Effect) {
        match answer {
            Effect::Sent => self.sent += 1,
            Effect::Spared => self.spared += 1,
            Effect::Invalid => self.invalid += 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Sent,
    Spared,
    Invalid,
}
