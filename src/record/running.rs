//! The versions that held workloads run, and those in their pod templates.

use anyhow::{Context as _, bail, ensure};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Client;
use kube::api::ListParams;
use serde_json::Value;

use crate::api::Objects;
use crate::api::objects::workload;
use migration_gate_core::gates::{Gate, HeldKind};
use migration_gate_core::podspec::list;
use migration_gate_core::record::Recorded;
use migration_gate_core::version::Contents;

/// The versions of the running pods. While a Deployment's roll-out hangs, they are those of its
/// older `ReplicaSet`s, not of its template.
pub(super) async fn versions(client: &Client, gate: &Gate) -> anyhow::Result<Vec<Recorded>> {
    let namespace = gate.namespace.as_str();
    let sets = all(&Objects::namespaced::<ReplicaSet>(client, namespace)).await?;
    let mut versions = Vec::new();
    for (kind, object) in held(client, gate).await? {
        match kind {
            HeldKind::Deployment | HeldKind::Rollout => {
                let running = sets.iter().filter(|set| {
                    owned_by(set, &object) && set["status"]["readyReplicas"].as_u64() > Some(0)
                });
                versions.extend(running.map(|set| version(gate, set, &set["spec"]["template"])));
            }
            HeldKind::StatefulSet | HeldKind::DaemonSet | HeldKind::CronJob => {
                ensure!(
                    is_rolled_out(kind, &object["status"]),
                    "{} {namespace}/{} is being rolled out, so it runs several versions; name the version instead of using --running",
                    kind.as_str(),
                    object["metadata"]["name"].as_str().unwrap_or_default()
                );
                if let Some(template) = kind.pod_kind().template(&object) {
                    versions.push(version(gate, &object, template));
                }
            }
        }
    }
    versions.dedup();
    if versions.is_empty() {
        bail!("no workload of gate {} has running pods", gate.name);
    }
    Ok(versions)
}

/// The versions in the pod templates.
pub(super) async fn wanted(client: &Client, gate: &Gate) -> anyhow::Result<Vec<Recorded>> {
    let held = held(client, gate).await?;
    let templates = held
        .iter()
        .filter_map(|(kind, object)| Some((object, kind.pod_kind().template(object)?)));
    let mut versions: Vec<Recorded> = templates
        .map(|(object, template)| version(gate, object, template))
        .collect();
    versions.dedup();
    ensure!(
        !versions.is_empty(),
        "gate {} holds nothing that is there",
        gate.name
    );
    Ok(versions)
}

/// The workloads that a gate holds.
async fn held(client: &Client, gate: &Gate) -> anyhow::Result<Vec<(HeldKind, Value)>> {
    let mut held = Vec::new();
    for kind in gate.kinds() {
        let objects = Objects::of(client, workload(kind.pod_kind()), Some(&gate.namespace));
        held.extend(all(&objects).await?.into_iter().filter_map(|object| {
            let metadata = &object["metadata"];
            gate.holds(kind, metadata["name"].as_str(), |key| {
                metadata["labels"][key].as_str()
            })
            .then_some((kind, object))
        }));
    }
    Ok(held)
}

fn version(gate: &Gate, object: &Value, template: &Value) -> Recorded {
    let mut contents = Contents::of(&object["metadata"], template);
    contents.keep_only(gate.version.as_ref());
    Recorded::Contents(contents)
}

fn owned_by(object: &Value, owner: &Value) -> bool {
    list(&object["metadata"], "ownerReferences")
        .iter()
        .any(|reference| reference["uid"] == owner["metadata"]["uid"])
}

fn is_rolled_out(kind: HeldKind, status: &Value) -> bool {
    match kind {
        HeldKind::StatefulSet => status["currentRevision"] == status["updateRevision"],
        HeldKind::DaemonSet => status["updatedNumberScheduled"] == status["currentNumberScheduled"],
        HeldKind::Deployment | HeldKind::CronJob | HeldKind::Rollout => true,
    }
}

async fn all(objects: &Objects) -> anyhow::Result<Vec<Value>> {
    match objects.list(&ListParams::default()).await {
        // The kind is not installed.
        Err(error) if error.code() == Some(404) => Ok(Vec::new()),
        listed => listed.with_context(|| format!("cannot list {}", objects.kind().plural)),
    }
}
