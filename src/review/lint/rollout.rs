//! Roll-outs of held workloads that do not work well with waiting.

use serde_json::Value;

use super::Gated;
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::request::Request;

/// The default of `progressDeadlineSeconds` in a Deployment (apps/v1) or a Rollout, in seconds.
const PROGRESS_DEADLINE: u64 = 600;

/// Finds Deployments that count as failed before the gate's waiters give up.
pub(super) fn progress_deadline(gated: &Gated<'_>) -> Vec<Finding> {
    let timeout = gated.gate.timeout.as_secs();
    let called_failed = held(gated, &["Deployment", "Rollout"]).filter_map(|(index, request)| {
        let deadline = request.object.pointer("/spec/progressDeadlineSeconds");
        let deadline = deadline.map_or(Some(PROGRESS_DEADLINE), Value::as_u64)?;
        (deadline < timeout).then(|| {
            let message = format!(
                "the {} counts as failed after {deadline}s without progress, while gate `{}` waits for up to {timeout}s: Flux, Helm and Argo CD give up on a migration that is still running; make it {timeout} or more",
                request.kind, gated.gate.name
            );
            let field = FieldPath::from_iter(["spec", "progressDeadlineSeconds"]);
            Finding::new(index, Code::ProgressDeadline, field, message)
        })
    });
    called_failed.collect()
}

/// Finds roll-outs that stop old pods before new ones are ready. While the new ones wait, nothing
/// serves, or less than before.
pub(super) fn recreate(gated: &Gated<'_>) -> Vec<Finding> {
    let deployments = held(gated, &["Deployment"]).filter_map(|(index, request)| {
        let (field, how) = stops_early(request.object)?;
        let message = format!(
            "{how} before new ones are ready, and new ones wait for the migration, so fewer pods serve until it has completed; use `RollingUpdate` with `maxUnavailable: 0`, unless old pods cannot run beside the migration"
        );
        Some(Finding::new(index, Code::Recreate, field, message))
    });
    deployments.collect()
}

/// The field by which a Deployment stops pods early, and what it stops.
fn stops_early(deployment: &Value) -> Option<(FieldPath, String)> {
    let replicas = deployment.pointer("/spec/replicas").and_then(Value::as_u64);
    if replicas == Some(0) {
        return None;
    }
    let strategy = deployment.pointer("/spec/strategy")?;
    let field = FieldPath::from_iter(["spec", "strategy"]);
    if strategy.get("type").and_then(Value::as_str) == Some("Recreate") {
        let how = "the strategy `Recreate` stops all old pods".to_owned();
        return Some((field.key("type"), how));
    }
    let rolling = strategy.get("rollingUpdate")?;
    let field = field.key("rollingUpdate");
    let is = |value: &Value, number: u64| {
        value.as_u64() == Some(number) || value.as_str() == Some(&format!("{number}%"))
    };
    if rolling.get("maxSurge").is_some_and(|surge| is(surge, 0)) {
        let how = "with `maxSurge: 0`, a roll-out stops old pods".to_owned();
        return Some((field.key("maxSurge"), how));
    }
    let unavailable = rolling.get("maxUnavailable")?;
    let all = unavailable.as_str() == Some("100%")
        || replicas.is_some_and(|replicas| unavailable.as_u64() >= Some(replicas));
    all.then(|| {
        let how = format!("with `maxUnavailable: {unavailable}`, a roll-out stops all old pods");
        (field.key("maxUnavailable"), how)
    })
}

/// The held workloads of these kinds. The other kinds have other rules.
fn held<'w>(
    gated: &Gated<'w>,
    kinds: &'static [&'static str],
) -> impl Iterator<Item = (usize, &'w Request<'w>)> {
    let world = gated.world;
    let held = gated
        .workloads
        .iter()
        .map(|index| (*index, world.request(*index)));
    held.filter(|(_, request)| kinds.contains(&request.kind))
        .collect::<Vec<_>>()
        .into_iter()
}
