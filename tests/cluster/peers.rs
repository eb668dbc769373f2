//! Tests beside other tools: `make test-peers`.
//!
//! The tools are real. `tests/cluster/peers.sh` builds them from pinned sources, but only for the
//! selected tests, because each build takes minutes. A peer is a module here, with the name that
//! the script uses.

mod argo_cd;
mod argo_rollouts;
mod cert_manager;
mod flux;

use std::sync::Mutex;

use anyhow::Result;
use serde_json::{Value, json};

use crate::stories::stage::{Cast, Stage, gate};
use crate::waiter::application::WEB;
use testkit::cluster::Cluster;
use testkit::suite::Test;

/// All tests beside other tools.
pub(crate) fn tests() -> Vec<Test> {
    [
        argo_cd::tests(),
        argo_cd::down::tests(),
        argo_cd::chart::tests(),
        argo_rollouts::tests(),
        cert_manager::tests(),
        flux::tests(),
        flux::cure::tests(),
    ]
    .concat()
}

/// The namespaces of the tests that share a release of migration-gate, each with a gate of the same
/// name.
static CAST: Cast = Cast {
    namespaces: &[
        argo_cd::ORDER,
        argo_cd::SELECTIVE,
        argo_cd::RACE,
        argo_cd::HOOKS,
        argo_rollouts::CANARY,
        argo_rollouts::BLUE_GREEN,
        argo_rollouts::REFERENCE,
        flux::cure::KUSTOMIZATION,
        flux::cure::RELEASE,
    ],
    gate: of_peer,
    scenery: Mutex::new(None),
};

fn of_peer(namespace: &str) -> Value {
    let mut gate = gate(namespace);
    if namespace.starts_with("rollouts-") {
        gate["workloads"] = json!([{"kind": "Rollout", "name": WEB}]);
    }
    gate
}

/// Joins the tests that share a release.
fn stage(cluster: &Cluster) -> Result<Stage> {
    Stage::enter_with(cluster, &CAST)
}
