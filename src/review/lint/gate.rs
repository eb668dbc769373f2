//! A gate's own settings, and waiters of gates that don't hold their workload.

use serde_json::Value;

use super::{Gated, World};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Freshness;
use migration_gate_core::held::WorkloadRef;
use migration_gate_core::injection::{is_ours, waiter_of};
use migration_gate_core::podspec::{list, pod_kind};

/// A gate that accepts a completed Job of any version.
pub(super) fn freshness_any(gated: &Gated<'_>) -> Vec<Finding> {
    let gate = gated.gate;
    let first = gated.workloads.first();
    let finding = first.filter(|_| gate.freshness == Freshness::Any).map(|index| {
        let message = format!(
            "gate `{}` has `freshness: any`, so a Job that completed for the last version opens it for this one until the new Job replaces it",
            gate.name
        );
        Finding::new(*index, Code::FreshnessAny, FieldPath::default(), message)
    });
    finding.into_iter().collect()
}

/// A waiter in an object that no gate holds: nothing keeps its arguments up to date.
pub(super) fn stale_waiter(world: &World<'_>) -> Vec<Finding> {
    let unheld = world
        .all()
        .filter(|(_, object)| object.gate.is_none() && !object.manifest.request.is_controlled());
    let stale = unheld.filter_map(|(index, object)| {
        let request = &object.manifest.request;
        let kind = pod_kind(request.group, request.kind)?;
        let (at, waiter) = waiter_of(kind.pod_spec(request.object)?)?;
        if !is_ours(waiter) {
            return None;
        }
        let message = format!(
            "no gate holds it, so nothing keeps its waiter{} up to date: new versions may start before their migration, or wait for a version that never comes; add it to the gate, or take the waiter out with `migration-gate eject`",
            argument(waiter, "--gate=").map_or_else(String::new, |gate| format!(" of gate `{gate}`"))
        );
        let field = kind.field().key("initContainers").index(at);
        Some(Finding::new(index, Code::StaleWaiter, field, message))
    });
    stale.collect()
}

/// A held Rollout whose pods come from a reviewed Deployment that no gate holds. If the Deployment
/// is not among the manifests, admission warns by itself.
pub(super) fn workload_ref(gated: &Gated<'_>) -> Vec<Finding> {
    let rollouts = gated.workloads.iter().filter_map(|index| {
        let request = gated.world.request(*index);
        let reference = WorkloadRef::of(request)?;
        let deployment =
            gated
                .world
                .find("apps", reference.kind, request.namespace, reference.name)?;
        let held = gated.world.objects[deployment].gate.is_some();
        // If no gate may hold it, admission has warned already.
        (!held && reference.may_be_held(gated.world.config, request.namespace)).then(|| {
            let field = FieldPath::from_iter(["spec", "workloadRef"]);
            Finding::new(*index, Code::WorkloadRef, field, reference.not_held())
        })
    });
    rollouts.collect()
}

fn argument<'v>(waiter: &'v Value, flag: &str) -> Option<&'v str> {
    let mut arguments = list(waiter, "args").iter();
    arguments.find_map(|argument| argument.as_str()?.strip_prefix(flag))
}
