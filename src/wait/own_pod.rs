//! The waiter's own pod, which shows whether the waiter was restarted.

use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::ListParams;
use migration_gate_core::names::{POD_NAME, WAITER_CONTAINER};
use serde::Deserialize;

use crate::api::Objects;

/// Whether the waiter has already run in this pod and was restarted. `false` outside of a pod, and
/// if the pod cannot be read.
pub(super) async fn was_restarted(client: &Client, namespace: &str) -> bool {
    let Ok(name) = std::env::var(POD_NAME) else {
        return false;
    };
    // The waiter's Role permits `list` of pods, but not `get`.
    let params = ListParams::default().fields(&format!("metadata.name={name}"));
    let pods = Objects::namespaced::<Pod>(client, namespace)
        .list::<OwnPod>(&params)
        .await;
    pods.is_ok_and(|pods| pods.iter().any(OwnPod::was_restarted))
}

#[derive(Deserialize)]
struct OwnPod {
    #[serde(default)]
    status: OwnStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnStatus {
    init_container_statuses: Option<Vec<OwnContainer>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OwnContainer {
    name: String,
    restart_count: u32,
}

impl OwnPod {
    fn was_restarted(&self) -> bool {
        let containers = self.status.init_container_statuses.iter().flatten();
        let mut waiters = containers.filter(|container| container.name == WAITER_CONTAINER);
        waiters.any(|waiter| waiter.restart_count > 0)
    }
}
