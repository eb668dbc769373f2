//! Applications that another tool renders, so that their workloads aren't among the manifests.

use serde_json::Value;

use super::World;
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;

/// A Flux `HelmRelease` in the namespace of a gate whose Job is there and whose workloads are not.
pub(super) fn not_rendered(world: &World<'_>) -> Vec<Finding> {
    let releases = world.all().filter_map(|(index, object)| {
        let request = &object.manifest.request;
        if (request.group, request.kind) != ("helm.toolkit.fluxcd.io", "HelmRelease") {
            return None;
        }
        let target = request.object.pointer("/spec/targetNamespace");
        let target = target.and_then(Value::as_str).unwrap_or(request.namespace);
        let gates = &world.config.gates;
        let gate = gates
            .iter()
            .find(|gate| gate.namespace == target && waits_alone(world, gate))?;
        let message = format!(
            "it installs into the namespace of gate `{}`, whose Job is among the reviewed manifests and whose workloads are not; if they come from this chart, review what it renders: `helm template CHART | migration-gate review -`",
            gate.name
        );
        Some(Finding::new(index, Code::NotHeld, FieldPath::default(), message))
    });
    releases.collect()
}

/// Whether a gate's Job is there, and nothing that the gate holds.
fn waits_alone(world: &World<'_>, gate: &Gate) -> bool {
    world
        .gated(gate)
        .is_some_and(|gated| gated.all_jobs().next().is_some() && gated.workloads.is_empty())
}
