//! Forbidden variables that a container gets without naming them.

use serde_json::Value;

use super::{World, called, containers};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::podspec::list;
use migration_gate_core::request::Request;

/// `envFrom` takes every key of a ConfigMap or Secret, with a prefix if it has one. A key without a
/// prefix in a gate's namespace is refused already. The rest is let through, because admission sees
/// one object at a time.
pub(super) fn lint(world: &World<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, object) in world.all() {
        let request = &object.manifest.request;
        for (place, container) in containers(request) {
            for (i, source) in list(container, "envFrom").iter().enumerate() {
                if let Some(message) = brought(world, request, container, source) {
                    let field = place.clone().key("envFrom").index(i);
                    let code = Code::ForbiddenEnvFrom;
                    findings.push(Finding::new(index, code, field, message));
                }
            }
        }
    }
    findings
}

/// The forbidden variable that a source brings, as a message.
fn brought(
    world: &World<'_>,
    request: &Request<'_>,
    container: &Value,
    source: &Value,
) -> Option<String> {
    let prefix = source.get("prefix").and_then(Value::as_str);
    let (kind, name) = reference(source)?;
    let Some(loaded) = world.find("", kind, request.namespace, name) else {
        return by_prefix(world, container, prefix?);
    };
    world.config.forbidden_env.iter().find_map(|forbidden| {
        let key = forbidden.strip_prefix(prefix.unwrap_or_default())?;
        has_key(world.object(loaded), key).then(|| {
            format!(
                "container {} gets `{forbidden}` from {kind} `{name}`; remove the key `{key}` there",
                called(container)
            )
        })
    })
}

/// The forbidden variable that a source outside of the manifests would set, if one of its keys is
/// the rest of the variable's name. Such a prefix is deliberate.
fn by_prefix(world: &World<'_>, container: &Value, prefix: &str) -> Option<String> {
    let (forbidden, key) = world.config.completes(prefix)?;
    Some(format!(
        "container {} would get `{forbidden}` from a key `{key}` by this prefix, and what it is put before is not among the reviewed manifests; make sure that it has no such key, or use another prefix",
        called(container)
    ))
}

fn reference(source: &Value) -> Option<(&'static str, &str)> {
    [("configMapRef", "ConfigMap"), ("secretRef", "Secret")]
        .into_iter()
        .find_map(|(field, kind)| Some((kind, source.get(field)?.get("name")?.as_str()?)))
}

fn has_key(object: &Value, key: &str) -> bool {
    ["data", "binaryData", "stringData"].iter().any(|field| {
        object
            .get(field)
            .is_some_and(|data| data.get(key).is_some())
    })
}
