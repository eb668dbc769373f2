//! The record as it is stored.

use anyhow::Context as _;
use kube::Client;

use crate::api::Objects;
use migration_gate_core::gates::Gate;
use migration_gate_core::names;
use migration_gate_core::record::Record;

/// The record of a gate, if it has one yet.
pub(super) async fn read(client: &Client, gate: &Gate) -> anyhow::Result<Option<Record>> {
    Objects::config_maps(client, &gate.namespace)
        .get(&names::record(&gate.name))
        .await
        .with_context(|| format!("cannot get {}", shown(gate)))
}

/// The record's `ConfigMap`, as it is printed.
pub(super) fn shown(gate: &Gate) -> String {
    format!("ConfigMap {}/{}", gate.namespace, names::record(&gate.name))
}
