//! Writing the record.

use kube::api::Patch;
use serde_json::json;

use super::error::ApiError;
use super::objects::Objects;
use migration_gate_core::names;
use migration_gate_core::record::{self, Record, Write};

/// Writes to the record of a gate, one of these `ConfigMap`s, and returns the record as stored.
pub async fn write(config_maps: &Objects, gate: &str, write: &Write) -> Result<Record, ApiError> {
    let name = names::record(gate);
    match write {
        Write::Create(data) => {
            let object = json!({
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name, "labels": record::labels()},
                "data": data,
            });
            config_maps.create(&object).await
        }
        Write::Patch(patch) => {
            let patch = Patch::Merge(patch.body());
            config_maps.patch(&name, &patch).await
        }
    }
}
