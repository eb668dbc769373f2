//! Applications that another tool renders, so that their workloads aren't among the manifests.

use serde_json::Value;

use super::World;
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;

/// An object by which another tool installs an application.
struct Installer {
    group: &'static str,
    kind: &'static str,
    /// The field with the target namespace, if that is not the object's own namespace.
    target: &'static str,
    /// How to review the manifests that it renders.
    rendered: &'static str,
}

const INSTALLERS: [Installer; 4] = [
    Installer {
        group: "helm.toolkit.fluxcd.io",
        kind: "HelmRelease",
        target: "/spec/targetNamespace",
        rendered: "`migration-gate review --helm CHART`",
    },
    Installer {
        group: "argoproj.io",
        kind: "Application",
        target: "/spec/destination/namespace",
        rendered: "`migration-gate review --helm CHART`, or `-k DIR`",
    },
    Installer {
        group: "argoproj.io",
        kind: "ApplicationSet",
        target: "/spec/template/spec/destination/namespace",
        rendered: "`migration-gate review --helm CHART`, or `-k DIR`",
    },
    Installer {
        group: "helm.cattle.io",
        kind: "HelmChart",
        target: "/spec/targetNamespace",
        rendered: "`migration-gate review --helm CHART`",
    },
];

/// An object that installs into the namespace of a gate whose Job is reviewed and whose workloads
/// are not.
pub(super) fn not_rendered(world: &World<'_>) -> Vec<Finding> {
    let releases = world.all().filter_map(|(index, object)| {
        let request = &object.manifest.request;
        let installer = INSTALLERS
            .iter()
            .find(|one| (one.group, one.kind) == (request.group, request.kind))?;
        let target = request.object.pointer(installer.target);
        let target = target.and_then(Value::as_str).unwrap_or(request.namespace);
        let gates = &world.config.gates;
        let gate = gates
            .iter()
            .find(|gate| gate.namespace == target && waits_alone(world, gate))?;
        let message = format!(
            "this {} installs into the namespace of gate `{}`, whose Job is among the reviewed manifests and whose workloads are not; if they come from it, review what it renders: {}",
            installer.kind, gate.name, installer.rendered
        );
        Some(Finding::new(index, Code::NotHeld, FieldPath::default(), message))
    });
    releases.collect()
}

/// Whether a gate's Job is among the manifests, and none of its workloads is.
fn waits_alone(world: &World<'_>, gate: &Gate) -> bool {
    world
        .gated(gate)
        .is_some_and(|gated| gated.all_jobs().next().is_some() && gated.workloads.is_empty())
}
