//! Review and the API server with the webhooks give the same verdict: the stored objects, warnings
//! and violations agree, for every kind and every option of a gate, on creation and on update.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use migration_gate::review::codes::{Code, Level};
use migration_gate::review::engine::review;
use migration_gate::review::input::SourceText;
use migration_gate::review::manifest::Loaded;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::podspec::{POD_KINDS, PodKind};
use serde_json::{Value, json};
use testkit::poll::{Look, until};
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

mod cases;
pub(crate) mod served;

use self::cases::{AS_IT_IS, Change, GATED, NAMES, PodHolder, STORED, UPDATES, WRITTEN};
use self::served::{Sent, send};

testkit::tests! {
    standalone: review_says_what_the_api_server_does;
}

/// A namespace without webhooks, in which the objects that review shows are stored unchanged.
const SHOWN: &str = "shown";

/// The codes of admission. Only review has the others.
const OF_ADMISSION: [Code; 12] = [
    Code::ForbiddenEnv,
    Code::ForbiddenKey,
    Code::ReservedName,
    Code::WaiterMissing,
    Code::AccountKept,
    Code::AnotherWaiter,
    Code::HandWrittenWaiter,
    Code::TokenVisible,
    Code::TwoGates,
    Code::WhichContainer,
    Code::Windows,
    Code::WorkloadRef,
];

/// The kind without a pod spec that has a rule.
const CONFIG_MAP: PodKind = PodKind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    resource: "configmaps",
    path: &[],
};

fn review_says_what_the_api_server_does(sandbox: &Sandbox) -> Result<()> {
    review_says_the_same(sandbox, Plane::shared(sandbox)?, 18760)
}

/// Compares both on this API server. The webhooks' server uses two ports from `port` on.
pub(crate) fn review_says_the_same(sandbox: &Sandbox, plane: &Plane, port: u16) -> Result<()> {
    let (gates, config) = cases::gates()?;
    served::prepare(plane)?;
    let mut comparison = Comparisons {
        client: plane.client.clone(),
        config,
        counts: Counted::default(),
        differences: Vec::new(),
    };
    comparison.store()?;
    let _webhooks = served::install(sandbox, plane, port, &gates, &comparison.config)?;
    comparison.await_webhooks()?;
    comparison.creations();
    comparison.updates()?;
    comparison.ephemeral_containers()?;
    comparison.config_maps()?;
    let Comparisons {
        counts,
        differences,
        ..
    } = &comparison;
    eprintln!("same verdict: {counts:?}");
    let shown: Vec<&str> = differences.iter().take(5).map(String::as_str).collect();
    ensure!(
        shown.is_empty(),
        "{} differences, of which the first are\n{}",
        differences.len(),
        shown.join("\n")
    );
    // Every result must occur for many objects.
    let Counted {
        injected,
        left,
        warned,
        refused,
        invalid: _,
    } = *counts;
    let many = [injected, left, warned, refused]
        .iter()
        .all(|count| *count > 30);
    ensure!(many, "{counts:?}");
    Ok(())
}

/// Number of objects by their result.
#[derive(Debug, Default)]
struct Counted {
    injected: usize,
    left: usize,
    warned: usize,
    refused: usize,
    /// Refused by the API server's own validation, which comes before the validating webhooks.
    invalid: usize,
}

/// The verdict on an object, in words.
#[derive(Debug, Default, PartialEq)]
struct ComparedVerdict {
    /// The field and the words of each violation, if it is refused.
    refused: BTreeSet<(String, String)>,
    /// The field and the words of each warning.
    warned: BTreeSet<String>,
}

impl ComparedVerdict {
    fn refuse(&mut self, field: &str, message: &str) {
        let message = message.to_owned();
        self.refused.insert((without_places(field), message));
    }

    fn warn(&mut self, text: &str) {
        // Review knows whether the manifests have the key, and so has another text.
        let prefixed = text.split_once(": with this prefix, a key ");
        let text = prefixed.map_or_else(|| text.to_owned(), |(field, _)| by_prefix(field));
        self.warned.insert(without_places(&text));
    }
}

fn by_prefix(field: &str) -> String {
    format!("{field}: by its prefix")
}

/// Removes the indices of init containers: review uses those of the manifest, and the validating
/// webhook those after the injection.
fn without_places(text: &str) -> String {
    match text.split_once("initContainers[") {
        Some((before, rest)) => {
            let (_, rest) = rest.split_once(']').unwrap_or(("", rest));
            format!("{before}initContainers[]{}", without_places(rest))
        }
        None => text.to_owned(),
    }
}

/// Whether a pair of elements of two lists is tried with a kind: each pair is tried with one of
/// five kinds.
fn is_tried(kind: usize, pair: (usize, usize)) -> bool {
    (pair.0 + pair.1) % HeldKind::ALL.len() == kind
}

/// The kinds that a gate can hold.
fn held_kinds() -> impl Iterator<Item = &'static PodKind> {
    HeldKind::ALL.map(HeldKind::pod_kind).into_iter()
}

fn unheld_kinds() -> impl Iterator<Item = &'static PodKind> {
    let held = HeldKind::ALL.map(HeldKind::pod_kind);
    POD_KINDS.iter().filter(move |kind| !held.contains(kind))
}

struct Comparisons {
    client: kube::Client,
    config: Config,
    counts: Counted,
    differences: Vec<String>,
}

impl Comparisons {
    /// Stores the objects that exist before the webhooks.
    fn store(&self) -> Result<()> {
        let held = HeldKind::ALL.map(HeldKind::pod_kind);
        let held = held
            .iter()
            .flat_map(|kind| STORED.map(|name| (*kind, name)));
        let unheld = unheld_kinds().flat_map(|kind| cases::STORED_UNHELD.map(|name| (kind, name)));
        for (kind, name) in held.chain(unheld) {
            let object = cases::stored(kind, name, &self.config)?;
            let served = send(&self.client, kind, Sent::Created, &object.value)?;
            ensure!(served.code == 201, "{served:?}");
            if name.starts_with("leaving") {
                served::begin_to_delete(&self.client, kind, &object.value)?;
            }
        }
        for (index, (before, _)) in cases::maps().iter().enumerate() {
            let map = config_map(index, before);
            let served = send(&self.client, &CONFIG_MAP, Sent::Created, &map)?;
            ensure!(served.code == 201, "{served:?}");
        }
        Ok(())
    }

    /// Waits until the API server uses both configurations: one object is changed, and another one
    /// refused.
    fn await_webhooks(&self) -> Result<()> {
        let kind = HeldKind::Deployment.pod_kind();
        let held = PodHolder::new(kind, "named");
        let map = config_map(9, &json!({"PIEFED_INIT_CONTAINER": "MQ=="}));
        until("the webhooks to answer", Duration::from_secs(90), || {
            let tried = || -> Result<(Value, u16)> {
                let injected = send(&self.client, kind, Sent::Tried, &held.value)?;
                let spec = injected.body["spec"]["template"]["spec"].clone();
                let refused = send(&self.client, &CONFIG_MAP, Sent::Tried, &map)?;
                Ok((spec["initContainers"].clone(), refused.code))
            };
            match tried() {
                Ok((injected, 403)) if injected.is_array() => Look::Done(()),
                Ok(seen) => Look::Pending(format!("{seen:?}")),
                Err(error) => Look::Failed(error),
            }
        })
    }

    fn creations(&mut self) {
        for (index, kind) in held_kinds().enumerate() {
            for (i, name) in NAMES.iter().enumerate() {
                for (j, change) in WRITTEN.iter().enumerate() {
                    if change.0 == AS_IT_IS.0 || is_tried(index, (i, j)) {
                        self.creation(kind, name, change);
                    }
                }
            }
        }
        for (index, kind) in unheld_kinds().enumerate() {
            for (j, change) in WRITTEN.iter().enumerate() {
                if is_tried(index, (0, j)) {
                    self.creation(kind, "named", change);
                }
            }
        }
        let kind = HeldKind::Rollout.pod_kind();
        for rollout in cases::references() {
            self.compare("a Rollout by reference", kind, "", &rollout.value, None);
        }
    }

    fn creation(&mut self, kind: &'static PodKind, name: &str, change: &Change) {
        let mut object = PodHolder::new(kind, name);
        change.1(&mut object);
        let what = format!("creation of {} {name}: {}", kind.kind, change.0);
        self.compare(&what, kind, "", &object.value, None);
    }

    fn updates(&mut self) -> Result<()> {
        for (index, kind) in held_kinds().enumerate() {
            for (i, name) in STORED.iter().enumerate() {
                for (j, change) in UPDATES.iter().enumerate() {
                    if is_tried(index, (i, j)) {
                        self.update(kind, name, change)?;
                    }
                }
            }
        }
        for (index, kind) in unheld_kinds().enumerate() {
            for (i, name) in cases::STORED_UNHELD.iter().enumerate() {
                for (j, change) in UPDATES.iter().enumerate() {
                    if is_tried(index, (i, j)) {
                        self.update(kind, name, change)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn update(&mut self, kind: &'static PodKind, name: &str, change: &Change) -> Result<()> {
        let written = PodHolder::new(kind, name);
        let old = served::get(&self.client, kind, &written.value)?;
        let mut object = PodHolder {
            kind,
            value: old.clone(),
        };
        change.1(&mut object);
        let what = format!("update of {} {name}: {}", kind.kind, change.0);
        self.compare(&what, kind, "", &object.value, Some(&old));
        Ok(())
    }

    /// Compares ephemeral containers of a running pod, also of one that already has the variable.
    fn ephemeral_containers(&mut self) -> Result<()> {
        let kind = POD_KINDS
            .iter()
            .find(|kind| kind.kind == "Pod")
            .context("Pods")?;
        for name in cases::STORED_UNHELD {
            let old = served::get(&self.client, kind, &PodHolder::new(kind, name).value)?;
            for env in [
                json!([]),
                json!([{"name": "MIGRATE_ON_START", "value": "1"}]),
            ] {
                let mut object = old.clone();
                object["spec"]["ephemeralContainers"] =
                    json!([{"name": "debug", "image": "busybox:1", "env": env}]);
                let what = format!("debugging of Pod {name}");
                self.compare(&what, kind, "ephemeralcontainers", &object, Some(&old));
            }
        }
        Ok(())
    }

    fn config_maps(&mut self) -> Result<()> {
        for (index, (_, after)) in cases::maps().iter().enumerate() {
            let old = served::get(&self.client, &CONFIG_MAP, &config_map(index, after))?;
            for field in ["data", "binaryData"] {
                let mut object = config_map(index, &json!({}));
                object[field] = after.clone();
                self.compare(
                    "update of a ConfigMap",
                    &CONFIG_MAP,
                    "",
                    &object,
                    Some(&old),
                );
                object["metadata"]["name"] = json!("new");
                self.compare("creation of a ConfigMap", &CONFIG_MAP, "", &object, None);
            }
        }
        Ok(())
    }

    /// Compares both for an object that is new or replaces another one, and stores the differences.
    fn compare(
        &mut self,
        what: &str,
        kind: &'static PodKind,
        subresource: &'static str,
        object: &Value,
        old: Option<&Value>,
    ) {
        if let Err(error) = self.ask_both(kind, subresource, object, old) {
            self.differences.push(format!("{what}: {error:#}"));
        }
    }

    fn ask_both(
        &mut self,
        kind: &'static PodKind,
        subresource: &'static str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<()> {
        let sent = old.map_or(Sent::Tried, |_| Sent::TriedOver(subresource));
        let answer = send(&self.client, kind, sent, object)?;
        if answer.code == 422 {
            let can_be_held = HeldKind::of(kind.group, kind.kind).is_some();
            ensure!(!can_be_held, "the comparison says nothing: {}", answer.body);
            self.counts.invalid += 1;
            return Ok(());
        }
        let served = answer.verdict()?;
        let (mut reviewed, shown) = self.reviewed(kind, subresource, object, old)?;
        // Review reports all violations. The API server calls no further webhook after a denial.
        let reserved = |(_, message): &(String, String)| message.contains("migration-gate injects");
        if reviewed.refused.iter().any(reserved) {
            reviewed.refused.retain(reserved);
        }
        ensure!(
            served == reviewed,
            "the API server: {served:#?}\nreview: {reviewed:#?}\n{object}"
        );
        self.counts.warned += usize::from(!served.warned.is_empty());
        if answer.code >= 300 {
            self.counts.refused += 1;
            return Ok(());
        }
        let Some(mut shown) = shown else {
            self.counts.left += 1;
            return Ok(());
        };
        self.counts.injected += 1;
        // The object that review shows, stored without webhooks, must equal the stored one.
        let (name, labels) = (&object["metadata"]["name"], &object["metadata"]["labels"]);
        shown["metadata"] = json!({"name": name, "namespace": SHOWN, "labels": labels});
        let stored = send(&self.client, kind, Sent::Tried, &shown)?;
        ensure!(stored.code == 201, "{stored:?}\n{shown:#}");
        let (stored, answered) = (&stored.body["spec"], &answer.body["spec"]);
        ensure!(
            stored == answered,
            "stored: {answered:#}\nshown by review: {stored:#}"
        );
        Ok(())
    }

    /// Review's verdict on an object, and the changed object that it shows, if it changes it.
    fn reviewed(
        &self,
        kind: &PodKind,
        subresource: &str,
        object: &Value,
        old: Option<&Value>,
    ) -> Result<(ComparedVerdict, Option<Value>)> {
        // A manifest is always a new object. Only an AdmissionReview has the old object.
        let text = match old {
            None => object.to_string(),
            Some(old) => asked(kind, subresource, object, old).to_string(),
        };
        let loaded = [Loaded::new(SourceText {
            text,
            ..SourceText::default()
        })];
        let report = review(&self.config, &loaded, None);
        let [reviewed] = report.objects.as_slice() else {
            bail!("{}", report.summary());
        };
        let mut verdict = ComparedVerdict::default();
        for finding in &report.findings {
            let field = finding.field.to_string();
            match finding.level {
                _ if finding.code == Code::ForbiddenEnvFrom && reviewed.gate.is_some() => {
                    verdict.warn(&by_prefix(&field));
                }
                _ if !OF_ADMISSION.contains(&finding.code) => {}
                Level::Warning => verdict.warn(&format!("{field}: {}", finding.message)),
                Level::Error => verdict.refuse(&field, &finding.message),
            }
        }
        Ok((verdict, reviewed.patched.clone()))
    }
}

/// The AdmissionReview of an update.
fn asked(kind: &PodKind, subresource: &str, object: &Value, old: &Value) -> Value {
    json!({
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "u",
            "operation": "UPDATE",
            "namespace": GATED,
            "kind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
            "subResource": subresource,
            "object": object,
            "oldObject": old,
        },
    })
}

/// The ConfigMap with this number. Its values may be text or bytes.
fn config_map(number: usize, data: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": format!("map-{number}"), "namespace": GATED},
        "data": data,
    })
}
