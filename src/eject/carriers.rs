//! Waiting until no pod carries a gate's waiter.

use std::collections::BTreeSet;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::StreamExt as _;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::ListParams;
use serde::Deserialize;
use serde_json::Value;

use super::ejection::name_of;
use crate::api::Objects;
use crate::api::observe::{Delta, Object, Pacing, WatchError, observe_all};
use crate::cli::say::say;
use migration_gate_core::eject::{still_makes, still_waits};
use migration_gate_core::gates::Gate;

/// Waits until no pod of the gate's namespace carries its waiter, and no `ReplicaSet` would create
/// one. The `Deployment`s do not show that: an earlier run may have patched one, and a deleted one
/// may have left its pods.
pub(super) async fn gone(client: &Client, gate: &Gate, timeout: Duration) -> anyhow::Result<()> {
    let mut shown = Vec::new();
    let waited = tokio::time::timeout(timeout, wait(client, gate, &mut shown)).await;
    waited.unwrap_or_else(|_| {
        let namespace = &gate.namespace;
        bail!(
            "gate {}: after {timeout:?} its waiter is still in {}; nothing was deleted: see `kubectl -n {namespace} rollout status deployment` and `kubectl -n {namespace} get pods`, then run this again",
            gate.name,
            shown.join(", ")
        )
    })
}

async fn wait(client: &Client, gate: &Gate, shown: &mut Vec<String>) -> anyhow::Result<()> {
    let mut sets = Carriers::new(gate, "ReplicaSet", still_makes);
    let mut pods = Carriers::new(gate, "Pod", still_waits);
    let all_sets = Objects::namespaced::<ReplicaSet>(client, &gate.namespace);
    let all_pods = Objects::namespaced::<Pod>(client, &gate.namespace);
    let mut set_deltas = pin!(observe_all(all_sets.clone(), Pacing::default()));
    let mut pod_deltas = pin!(observe_all(all_pods.clone(), Pacing::default()));
    loop {
        let seen = tokio::select! {
            Some(delta) = set_deltas.next() => sets.see(delta),
            Some(delta) = pod_deltas.next() => pods.see(delta),
        };
        seen.with_context(|| {
            format!(
                "cannot determine whether a pod of namespace {} still waits; nothing was deleted",
                gate.namespace
            )
        })?;
        let (Some(waiting_sets), Some(waiting_pods)) = (&sets.names, &pods.names) else {
            continue;
        };
        let carriers: Vec<String> = waiting_sets.iter().chain(waiting_pods).cloned().collect();
        if carriers.is_empty() {
            // One of the two watches may lag: a ReplicaSet that is gone may have created a pod that
            // the other watch has not reported. If the ReplicaSets are listed first, the list of
            // pods has that pod.
            let sets_gone = sets.none_in(&all_sets).await;
            if sets_gone && pods.none_in(&all_pods).await {
                return Ok(());
            }
        } else if *shown != carriers {
            say(format_args!(
                "gate {}: waiting for {} to end",
                gate.name,
                carriers.join(", ")
            ));
            *shown = carriers;
        }
    }
}

/// An object with all its fields.
#[derive(Debug, Clone, Deserialize)]
#[serde(transparent)]
struct Whole(Value);

impl Object for Whole {
    fn resource_version(&self) -> &str {
        let version = &self.0["metadata"]["resourceVersion"];
        version.as_str().unwrap_or_default()
    }
}

/// The objects of one kind that carry the waiter.
struct Carriers<'g> {
    gate: &'g Gate,
    kind: &'static str,
    carries: fn(&Gate, &Value) -> bool,
    /// The objects as they are printed; `None` before the first list.
    names: Option<BTreeSet<String>>,
}

impl<'g> Carriers<'g> {
    fn new(gate: &'g Gate, kind: &'static str, carries: fn(&Gate, &Value) -> bool) -> Self {
        Self {
            gate,
            kind,
            carries,
            names: None,
        }
    }

    /// Applies an event of the watch. Fails if permission to list the objects is missing. If only
    /// permission to watch them is missing, goes on: the objects are then listed every few seconds.
    fn see(&mut self, delta: Delta<Whole>) -> Result<(), WatchError> {
        match delta {
            Delta::Listed(objects) => {
                let carrying = objects.iter().filter(|object| self.carries(object));
                self.names = Some(carrying.map(|object| self.name(object)).collect());
            }
            Delta::Present(object) => {
                let (name, carries) = (self.name(&object), self.carries(&object));
                let names = self.names.get_or_insert_default();
                if carries {
                    names.insert(name);
                } else {
                    names.remove(&name);
                }
            }
            Delta::Deleted(object) => {
                let name = self.name(&object);
                self.names.get_or_insert_default().remove(&name);
            }
            Delta::Failed(error @ WatchError::Denied(_)) if self.names.is_none() => {
                return Err(error);
            }
            // The watch recovers by itself, for example after the API server restarts.
            Delta::Failed(_) | Delta::Resumed | Delta::Cut | Delta::Restored => {}
        }
        Ok(())
    }

    /// Whether a list shows no such object now. `false` if the list fails.
    async fn none_in(&self, objects: &Objects) -> bool {
        let listed = objects.list::<Whole>(&ListParams::default()).await;
        listed.is_ok_and(|objects| !objects.iter().any(|object| self.carries(object)))
    }

    fn carries(&self, object: &Whole) -> bool {
        (self.carries)(self.gate, &object.0)
    }

    fn name(&self, object: &Whole) -> String {
        format!(
            "{} {}/{}",
            self.kind,
            self.gate.namespace,
            name_of(&object.0)
        )
    }
}
