//! Beside the tools that people use: `make test-peers`.
//!
//! They are as real as the node is. `tests/cluster/peers.sh` builds them from pinned sources, for the
//! tests that are selected alone, since each takes minutes. A peer is a module here, of the name that
//! the script knows it by.

mod argo_cd;

use std::sync::Mutex;

use anyhow::Result;

use crate::stories::stage::{Cast, Stage, gate};
use testkit::cluster::Cluster;
use testkit::suite::Test;

/// All of them.
pub(crate) fn tests() -> Vec<Test> {
    [
        argo_cd::tests(),
        argo_cd::down::tests(),
        argo_cd::chart::tests(),
    ]
    .concat()
}

/// The namespaces of the tests that share a release of migration-gate, each with a gate of that name.
static CAST: Cast = Cast {
    namespaces: &[
        argo_cd::ORDER,
        argo_cd::SELECTIVE,
        argo_cd::RACE,
        argo_cd::HOOKS,
    ],
    gate,
    scenery: Mutex::new(None),
};

/// Joins the tests that share a release.
fn stage(cluster: &Cluster) -> Result<Stage> {
    Stage::enter_with(cluster, &CAST)
}
