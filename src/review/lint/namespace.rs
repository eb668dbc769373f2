//! Objects that say nothing of their namespace, and so miss their gate.

use super::World;
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;

/// A Deployment that its gate would hold in the gate's namespace.
pub(super) fn lint(world: &World<'_>) -> Vec<Finding> {
    let unheld = world.all().filter(|(_, object)| {
        let manifest = &object.manifest;
        object.gate.is_none() && !manifest.namespace_known && manifest.request.kind == "Deployment"
    });
    unheld
        .filter_map(|(index, object)| {
            let manifest = &object.manifest;
            let gates = &world.config.gates;
            let gate = gates.iter().find(|g| g.deployments.contains(manifest.name()))?;
            let message = format!(
                "it names no namespace, so it was reviewed in `{}`, where gate `{}` doesn't hold it; set metadata.namespace or review with `--namespace {}`",
                manifest.request.namespace, gate.name, gate.namespace
            );
            let field = FieldPath::from_iter(["metadata"]);
            Some(Finding::new(index, Code::NoNamespace, field, message))
        })
        .collect()
}
