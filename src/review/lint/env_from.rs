//! Forbidden variables that a container gets without naming them.

use serde_json::Value;

use super::{World, called, containers, warning};
use crate::review::check::Finding;
use migration_gate_core::podspec::list;

/// `envFrom` takes every key of a ConfigMap or Secret, behind a prefix if it has one. A key without
/// a prefix in a gate's namespace is refused already; the rest is let through, as admission sees one object at a time.
pub(super) fn lint(world: &World<'_, '_>, findings: &mut Vec<Finding>) {
    for index in 0..world.objects.len() {
        let request = world.request(index);
        for (place, container) in containers(request) {
            for (i, source) in list(container, "envFrom").iter().enumerate() {
                let prefix = source
                    .get("prefix")
                    .and_then(Value::as_str)
                    .unwrap_or_default();
                let Some((kind, name)) = reference(source) else {
                    continue;
                };
                let Some(loaded) = world.find("", kind, request.namespace, name) else {
                    continue;
                };
                let brought = world.config.forbidden_env.iter().find(|forbidden| {
                    forbidden
                        .strip_prefix(prefix)
                        .is_some_and(|key| has_key(world.object(loaded), key))
                });
                if let Some(forbidden) = brought {
                    findings.push(warning(
                        index,
                        "forbidden-env-from",
                        place.clone().key("envFrom").index(i),
                        format!(
                            "container {} gets `{forbidden}` from {kind} `{name}`; remove the key `{}` there",
                            called(container),
                            &forbidden[prefix.len()..]
                        ),
                    ));
                }
            }
        }
    }
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
