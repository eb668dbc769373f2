//! Objects that name no namespace, and so miss their gate.

use super::World;
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;
use migration_gate_core::mutate::mutate;
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;

/// An object that a rule would concern in a gate's namespace.
pub(super) fn lint(world: &World<'_>) -> Vec<Finding> {
    let unheld = world
        .all()
        .filter(|(_, object)| object.gate.is_none() && !object.manifest.namespace_known);
    let findings = unheld.filter_map(|(index, object)| {
        let request = &object.manifest.request;
        let gates = &world.config.gates;
        let gate = gates.iter().find(|gate| concerns(world, gate, request))?;
        let message = format!(
            "it names no namespace, so it was reviewed in `{}`, where gate `{}` does not hold it; set metadata.namespace or review with `--namespace {}`",
            request.namespace, gate.name, gate.namespace
        );
        let field = FieldPath::from_iter(["metadata"]);
        Some(Finding::new(index, Code::NoNamespace, field, message))
    });
    findings.collect()
}

/// Whether the gate's namespace would change the object's treatment: it would be held, or refused.
fn concerns(world: &World<'_>, gate: &Gate, request: &Request<'_>) -> bool {
    let there = Request {
        namespace: &gate.namespace,
        ..*request
    };
    let refused = |request| {
        let decision = validate(world.config, request);
        !decision.violations.is_empty() || !decision.warnings.is_empty()
    };
    if request.kind == "ConfigMap" {
        return refused(&there) && !refused(request);
    }
    mutate(world.config, &there).gate.as_ref() == Some(&gate.name)
}
