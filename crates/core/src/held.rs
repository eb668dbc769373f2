//! What is held: which gate holds an object, and what its pod template is to carry.

use serde_json::Value;

use super::gates::{Config, Gate};
use super::injection::Injection;
use super::request::Request;

/// The gate that holds the request's object: an `apps` Deployment that a gate of its namespace
/// names or selects, and that isn't being deleted.
pub fn holding<'c>(config: &'c Config, request: &Request<'_>) -> Option<&'c Gate> {
    if request.group != "apps"
        || request.kind != "Deployment"
        || !request.subresource.is_empty()
        || request.is_being_deleted()
    {
        return None;
    }
    config.gates.iter().find(|gate| {
        gate.namespace == request.namespace
            && (request
                .name()
                .is_some_and(|name| gate.deployments.contains(name))
                || gate
                    .selector
                    .as_ref()
                    .is_some_and(|selector| selector.matches(|key| request.label(key))))
    })
}

/// What the template is to carry, and whether that is what another release left there.
pub fn injection(
    config: &Config,
    gate: &Gate,
    request: &Request<'_>,
    template: &Value,
) -> (Injection, bool) {
    let wanted = Injection::wanted(gate, &config.waiter, template);
    request
        .old
        .and_then(self::template)
        .and_then(|old| Injection::kept(gate, old, template))
        .filter(|kept| *kept != wanted)
        .map_or((wanted, false), |kept| (kept, true))
}

/// A Deployment's pod template, if it has one with a spec.
pub fn template(deployment: &Value) -> Option<&Value> {
    deployment
        .get("spec")?
        .get("template")
        .filter(|template| template.get("spec").is_some_and(Value::is_object))
}
