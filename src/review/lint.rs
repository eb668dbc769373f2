//! Problems that admission allows and that appear later.
//!
//! A lint sees only the reviewed objects. Others may well be in the cluster, so lints only warn,
//! and say what to check. A lint is a function in one of the two lists here, and a row in the table
//! of [`codes`](super::codes).

mod deadlock;
mod entrypoint;
mod env_from;
mod gate;
mod job;
mod lifetime;
mod namespace;
mod rbac;
mod release;
mod rollout;

use std::collections::HashMap;

use serde_json::Value;

use super::codes::Code;
use super::manifest::Manifest;
use super::report::{Finding, Reviewed};
use migration_gate_core::field::{FieldPath, Step};
use migration_gate_core::gates::{Config, Gate, Requirement};
use migration_gate_core::names::WAITER_CONTAINER;
use migration_gate_core::podspec::{CONTAINER_LISTS, list, name, pod_kind};
use migration_gate_core::request::Request;

/// Lints of one gate whose Jobs or workloads are among the objects.
const OF_GATES: [fn(&Gated<'_>) -> Vec<Finding>; 16] = [
    job::mutable_tag,
    job::no_job,
    job::version_mismatch,
    job::not_replaceable,
    job::suspended,
    job::not_held,
    rbac::lint,
    deadlock::needs,
    deadlock::order,
    lifetime::hook_phase,
    lifetime::deleted_at_once,
    rollout::progress_deadline,
    rollout::recreate,
    entrypoint::migrates_itself,
    gate::freshness_any,
    gate::workload_ref,
];

/// Lints of all objects, held or not.
const OF_OBJECTS: [fn(&World<'_>) -> Vec<Finding>; 4] = [
    env_from::lint,
    namespace::lint,
    gate::stale_waiter,
    release::not_rendered,
];

/// Groups and kinds that lints look for in any namespace. An empty kind stands for all kinds of the
/// group.
const LOOKED_FOR: [(&str, &str); 8] = [
    ("", "ConfigMap"),
    ("", "Secret"),
    ("rbac.authorization.k8s.io", ""),
    ("kustomize.toolkit.fluxcd.io", "Kustomization"),
    ("helm.toolkit.fluxcd.io", "HelmRelease"),
    ("argoproj.io", "Application"),
    ("argoproj.io", "ApplicationSet"),
    ("helm.cattle.io", "HelmChart"),
];

/// Whether a lint may report an object, or look for it. If not, the object's name is enough.
pub fn looks_at(config: &Config, manifest: &Manifest<'_>) -> bool {
    let request = &manifest.request;
    let mut gates = config.gates.iter();
    let mut kinds = LOOKED_FOR.iter();
    !manifest.namespace_known
        || gates.any(|gate| gate.namespace == request.namespace)
        || kinds.any(|(group, kind)| {
            *group == request.group && (kind.is_empty() || *kind == request.kind)
        })
        || containers(request).iter().any(|(_, container)| {
            name(container) == Some(WAITER_CONTAINER) || container.get("envFrom").is_some()
        })
}

/// The reviewed objects, indexed by name.
pub struct World<'w> {
    config: &'w Config,
    objects: &'w [Reviewed<'w>],
    by_name: HashMap<(&'w str, &'w str, &'w str, &'w str), usize>,
}

/// A gate with the objects that concern it.
struct Gated<'w> {
    world: &'w World<'w>,
    gate: &'w Gate,
    /// The requirement, with the indices of its Jobs among the objects.
    jobs: Vec<(Requirement, Vec<usize>)>,
    /// The indices of the workloads that it holds.
    workloads: Vec<usize>,
}

impl<'w> World<'w> {
    /// Indexes the objects.
    pub fn new(config: &'w Config, objects: &'w [Reviewed<'w>]) -> Self {
        let by_name = objects
            .iter()
            .enumerate()
            .filter(|(_, object)| !object.manifest.fragment)
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

    /// Every warning about the objects, in no particular order.
    pub fn lints(&self) -> Vec<Finding> {
        let gated = self.config.gates.iter().filter_map(|gate| self.gated(gate));
        let of_gates =
            gated.flat_map(|gated| OF_GATES.map(|lint| lint(&gated)).into_iter().flatten());
        let of_objects = OF_OBJECTS.iter().flat_map(|lint| lint(self));
        of_gates.chain(of_objects).collect()
    }

    /// Whether the objects show that a warning of the rules has been heeded.
    pub fn heeds(&self, finding: &Finding) -> bool {
        let index = finding.manifest;
        let gates = &self.config.gates;
        let holding = gates
            .iter()
            .find(|gate| self.objects[index].gate.as_ref() == Some(&gate.name));
        let held = holding.and_then(|gate| self.gated(gate));
        finding.code == Code::AccountKept
            && held.is_some_and(|gated| rbac::is_granted(&gated, index))
    }

    /// All objects but the fragments.
    fn all(&self) -> impl Iterator<Item = (usize, &'w Reviewed<'w>)> + 'w {
        let all = self.objects.iter().enumerate();
        all.filter(|(_, object)| !object.manifest.fragment)
    }

    fn manifest(&self, index: usize) -> &'w Manifest<'w> {
        &self.objects[index].manifest
    }

    fn request(&self, index: usize) -> &'w Request<'w> {
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
        let of_kind = self.all().filter(move |(_, object)| {
            let request = &object.manifest.request;
            (request.group, request.kind, request.namespace) == (group, kind, namespace)
        });
        of_kind.map(|(index, _)| index)
    }

    /// A gate with its objects; `None` if there are none.
    fn gated<'s>(&'s self, gate: &'s Gate) -> Option<Gated<'s>> {
        let workloads: Vec<usize> = (0..self.objects.len())
            .filter(|index| self.objects[*index].gate.as_ref() == Some(&gate.name))
            .collect();
        let jobs = self.jobs(gate);
        let some_job = jobs.iter().any(|(_, jobs)| !jobs.is_empty());
        (some_job || !workloads.is_empty()).then_some(Gated {
            world: self,
            gate,
            jobs,
            workloads,
        })
    }

    fn jobs(&'w self, gate: &'w Gate) -> Vec<(Requirement, Vec<usize>)> {
        let of = |requirement: &Requirement| {
            self.of_kind("batch", "Job", &gate.namespace)
                .filter(|index| {
                    // A generated name is complete only once the Job is created.
                    let name = self.manifest(*index).name();
                    requirement.matches(name, |key| self.request(*index).label(key))
                })
                .collect()
        };
        let requirements = gate.requirements().into_iter();
        requirements
            .map(|requirement| {
                let jobs = of(&requirement);
                (requirement, jobs)
            })
            .collect()
    }

    /// The object as it would be stored.
    fn stored(&self, index: usize) -> &'w Value {
        let object = &self.objects[index];
        object
            .patched
            .as_ref()
            .unwrap_or(object.manifest.request.object)
    }
}

impl Gated<'_> {
    /// The indices of all its Jobs.
    fn all_jobs(&self) -> impl Iterator<Item = usize> + '_ {
        self.jobs.iter().flat_map(|(_, jobs)| jobs.iter().copied())
    }
}

/// The container of an object that has this image, and where the image is.
fn image_field(request: &Request<'_>, wanted: &str) -> FieldPath {
    let image = |container: &Value| container.get("image").and_then(Value::as_str) == Some(wanted);
    let containers = containers(request);
    let found = containers
        .into_iter()
        .find(|(_, container)| image(container));
    found.map_or_else(FieldPath::default, |(field, _)| field.key("image"))
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

/// Words of a text that may name other objects: hosts, on their own or in a URL, and `kind/name`.
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

/// The texts in a container that may name other workloads: its command, its arguments and the
/// values of its variables.
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

/// The path of `child` within `parent`.
fn below(parent: &FieldPath, child: &FieldPath) -> FieldPath {
    child
        .steps()
        .iter()
        .fold(parent.clone(), |path, step| match step {
            Step::Key(key) => path.key(key.as_str()),
            Step::Index(index) => path.index(*index),
        })
}

/// Whether labels match a map such as `matchLabels`. An empty map matches nothing.
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
