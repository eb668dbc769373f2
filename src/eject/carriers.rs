//! Waiting until no pod carries a gate's waiter any more.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures::future::select;
use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams, WatchParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};

use crate::cli::say::say;
use migration_gate_core::eject::{still_makes, still_waits};
use migration_gate_core::gates::Gate;

/// A watch that the server ends after this is followed by another look. Seconds.
const WATCH: u32 = 30;

/// Before what has failed is tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// Waits until no pod of the gate's namespace carries its waiter, and no `ReplicaSet` would make
/// one. A `Deployment` alone doesn't tell: an earlier run may have patched it already, and another
/// may have been deleted and left its pods.
pub(super) async fn gone(client: &Client, gate: &Gate, timeout: Duration) -> anyhow::Result<()> {
    let mut seen = Vec::new();
    let waited = tokio::time::timeout(timeout, wait(client, gate, &mut seen)).await;
    waited.unwrap_or_else(|_| {
        let namespace = &gate.namespace;
        bail!(
            "gate {}: after {timeout:?} its waiter is still in {}; nothing was deleted: see `kubectl -n {namespace} rollout status deployment` and `kubectl -n {namespace} get pods`, then run this again",
            gate.name,
            seen.join(", ")
        )
    })
}

async fn wait(client: &Client, gate: &Gate, seen: &mut Vec<String>) -> anyhow::Result<()> {
    loop {
        match look(client, gate).await {
            Ok(found) if found.carriers.is_empty() => return Ok(()),
            Ok(found) => {
                if *seen != found.carriers {
                    say(format_args!(
                        "gate {}: waiting for the end of {}",
                        gate.name,
                        found.carriers.join(", ")
                    ));
                    *seen = found.carriers;
                }
                let pods = changed(client, gate, pods(), &found.pods);
                let sets = changed(client, gate, sets(), &found.sets);
                // Whichever comes first; a watch that fails is a reason to look again, too.
                if select(Box::pin(pods), Box::pin(sets))
                    .await
                    .factor_first()
                    .0
                    .is_err()
                {
                    tokio::time::sleep(PAUSE).await;
                }
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 401 | 403) => {
                let denied = kube::Error::Api(status);
                return Err(denied).with_context(|| {
                    format!(
                        "cannot tell whether a pod of namespace {} still waits; nothing was deleted",
                        gate.namespace
                    )
                });
            }
            // An API server that restarts is no reason to begin anew.
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// What was there, and from where a watch goes on.
struct Found {
    carriers: Vec<String>,
    pods: String,
    sets: String,
}

async fn look(client: &Client, gate: &Gate) -> kube::Result<Found> {
    let list = async |kind: &ApiResource| {
        Api::<DynamicObject>::namespaced_with(client.clone(), &gate.namespace, kind)
            .list(&ListParams::default())
            .await
    };
    // ReplicaSets first: a pod that one of them made after the look is among the pods.
    let sets = list(&sets()).await?;
    let pods = list(&pods()).await?;
    let mut carriers = Vec::new();
    for (kind, objects) in [("ReplicaSet", &sets.items), ("Pod", &pods.items)] {
        for object in objects {
            let value = serde_json::to_value(object).map_err(kube::Error::SerdeError)?;
            let waits = match kind {
                "Pod" => still_waits(gate, &value),
                _ => still_makes(gate, &value),
            };
            if waits {
                carriers.push(format!("{kind} {}/{}", gate.namespace, object.name_any()));
            }
        }
    }
    let version = |of: Option<String>| of.unwrap_or_default();
    Ok(Found {
        carriers,
        pods: version(pods.metadata.resource_version),
        sets: version(sets.metadata.resource_version),
    })
}

/// Ends with the first change of an object of this kind, or when the server ends the watch.
async fn changed(client: &Client, gate: &Gate, kind: ApiResource, since: &str) -> kube::Result<()> {
    let api = Api::<DynamicObject>::namespaced_with(client.clone(), &gate.namespace, &kind);
    let params = WatchParams::default().timeout(WATCH).disable_bookmarks();
    let mut events = api.watch(&params, since).await?.boxed();
    events.try_next().await.map(drop)
}

fn pods() -> ApiResource {
    ApiResource::erase::<Pod>(&())
}

fn sets() -> ApiResource {
    ApiResource::erase::<ReplicaSet>(&())
}
