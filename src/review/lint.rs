//! What will bite later, although admission lets it through.
//!
//! A lint sees the reviewed objects alone. What is not among them may well be in the cluster, so lints only warn, and say
//! what to check.

mod deadlock;
mod env_from;
mod job;
mod rbac;

use std::collections::HashMap;

use serde_json::Value;

use super::check::{Finding, Level, Reviewed};
use super::manifest::Manifest;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::{Config, Gate};
use migration_gate_core::podspec::{CONTAINER_LISTS, default_container, list, name, pod_kind};
use migration_gate_core::request::Request;

/// Every warning about these objects, in no particular order.
pub fn lints(config: &Config, objects: &[Reviewed<'_>]) -> Vec<Finding> {
    let world = World::new(config, objects);
    let mut findings = Vec::new();
    for gate in &config.gates {
        let held = world.held(gate);
        if !held.is_empty() {
            job::lint(&world, gate, &held, &mut findings);
            rbac::lint(&world, gate, &held, &mut findings);
            deadlock::lint(&world, gate, &held, &mut findings);
        }
    }
    env_from::lint(&world, &mut findings);
    namespaces(&world, &mut findings);
    findings
}

/// The reviewed objects, to be found by name.
struct World<'w, 'l> {
    config: &'w Config,
    objects: &'w [Reviewed<'l>],
    by_name: HashMap<(&'w str, &'w str, &'w str, &'w str), usize>,
}

impl<'w, 'l> World<'w, 'l> {
    fn new(config: &'w Config, objects: &'w [Reviewed<'l>]) -> Self {
        let by_name = objects
            .iter()
            .enumerate()
            .map(|(index, object)| {
                let request = &object.manifest.request;
                let name = request.name().unwrap_or_default();
                (
                    (request.group, request.kind, request.namespace, name),
                    index,
                )
            })
            .collect();
        Self {
            config,
            objects,
            by_name,
        }
    }

    fn manifest(&self, index: usize) -> &'w Manifest<'l> {
        &self.objects[index].manifest
    }

    fn request(&self, index: usize) -> &'w Request<'l> {
        &self.objects[index].manifest.request
    }

    fn object(&self, index: usize) -> &'w Value {
        self.objects[index].manifest.request.object
    }

    fn find(&self, group: &str, kind: &str, namespace: &str, name: &str) -> Option<usize> {
        self.by_name.get(&(group, kind, namespace, name)).copied()
    }

    /// The objects of a kind in a namespace.
    fn of_kind(
        &self,
        group: &'static str,
        kind: &'static str,
        namespace: &'w str,
    ) -> impl Iterator<Item = usize> + '_ {
        (0..self.objects.len()).filter(move |index| {
            let request = self.request(*index);
            (request.group, request.kind, request.namespace) == (group, kind, namespace)
        })
    }

    /// The Deployments that a gate holds.
    fn held(&self, gate: &Gate) -> Vec<usize> {
        (0..self.objects.len())
            .filter(|index| self.objects[*index].gate.as_ref() == Some(&gate.name))
            .collect()
    }

    /// What an object would be stored as.
    fn stored(&self, index: usize) -> &'w Value {
        let object = &self.objects[index];
        object
            .patched
            .as_ref()
            .unwrap_or(object.manifest.request.object)
    }
}

fn warning(manifest: usize, code: &'static str, field: FieldPath, message: String) -> Finding {
    Finding {
        manifest,
        level: Level::Warning,
        code,
        field,
        message,
    }
}

/// The image that a gate compares, and where it is: that of the template's default container.
fn guarded_image(workload: &Value) -> Option<(FieldPath, &str)> {
    let template = workload.get("spec")?.get("template")?;
    let container = default_container(template)?;
    let image = container.get("image")?.as_str()?;
    let index = list(template.get("spec")?, "containers")
        .iter()
        .position(|other| std::ptr::eq(other, container))?;
    let field = FieldPath::from_iter(["spec", "template", "spec", "containers"]);
    Some((field.index(index).key("image"), image))
}

/// Every container of an object that holds a pod spec, with its place.
fn containers<'v>(request: &Request<'v>) -> Vec<(FieldPath, &'v Value)> {
    let Some(kind) = pod_kind(request.group, request.kind) else {
        return Vec::new();
    };
    let Some(spec) = kind.pod_spec(request.object) else {
        return Vec::new();
    };
    CONTAINER_LISTS
        .iter()
        .flat_map(|field| {
            list(spec, field)
                .iter()
                .enumerate()
                .map(|(i, container)| (kind.field().key(*field).index(i), container))
        })
        .collect()
}

/// The value of an annotation or a label.
fn metadata<'v>(object: &'v Value, map: &str, key: &str) -> Option<&'v str> {
    object.get("metadata")?.get(map)?.get(key)?.as_str()
}

/// A Deployment that a gate would hold if it were in the gate's namespace, and that doesn't say where it goes.
fn namespaces(world: &World<'_, '_>, findings: &mut Vec<Finding>) {
    for (index, object) in world.objects.iter().enumerate() {
        let manifest = &object.manifest;
        if manifest.namespace_known || manifest.request.kind != "Deployment" {
            continue;
        }
        let gate = world
            .config
            .gates
            .iter()
            .find(|gate| gate.deployments.contains(manifest.name()));
        if let Some(gate) = gate.filter(|_| object.gate.is_none()) {
            findings.push(warning(
                index,
                "no-namespace",
                FieldPath::default().key("metadata"),
                format!(
                    "it names no namespace, so it was reviewed in `{}`, where gate `{}` doesn't hold it; set metadata.namespace or review with `--namespace {}`",
                    manifest.request.namespace, gate.name, gate.namespace
                ),
            ));
        }
    }
}

/// What may be names of other objects in a text: hosts, on their own or in a URL, and `kind/name`.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '/' | '_');
    text.split(move |c: char| !in_name(c)).flat_map(|word| {
        let host = match word.strip_prefix("//") {
            Some(authority) => authority.split('/').next(),
            None => word.split('/').next().filter(|host| *host != word),
        };
        [word].into_iter().chain(host)
    })
}

/// The texts in a container from which it learns of other workloads: command, arguments and the values of its variables.
fn texts(container: &Value) -> impl Iterator<Item = (FieldPath, &str)> {
    let strings = |field: &'static str| {
        list(container, field)
            .iter()
            .enumerate()
            .filter_map(move |(i, text)| {
                Some((FieldPath::default().key(field).index(i), text.as_str()?))
            })
    };
    let variables = list(container, "env")
        .iter()
        .enumerate()
        .filter_map(|(i, variable)| {
            let field = FieldPath::default().key("env").index(i).key("value");
            Some((field, variable.get("value")?.as_str()?))
        });
    strings("command").chain(strings("args")).chain(variables)
}

/// A path below another.
fn below(parent: &FieldPath, child: &FieldPath) -> FieldPath {
    use migration_gate_core::field::Step;
    child
        .steps()
        .iter()
        .fold(parent.clone(), |path, step| match step {
            Step::Key(key) => path.key(key.as_str()),
            Step::Index(index) => path.index(*index),
        })
}

/// An object's labels match a plain `matchLabels`-like map, which is not empty.
fn selects(selector: &Value, labels: Option<&Value>) -> bool {
    let Some(selector) = selector.as_object().filter(|map| !map.is_empty()) else {
        return false;
    };
    selector
        .iter()
        .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

/// The container's name in quotes, or its place in the list.
fn called(container: &Value) -> String {
    name(container).map_or_else(|| "without a name".to_owned(), |name| format!("`{name}`"))
}
