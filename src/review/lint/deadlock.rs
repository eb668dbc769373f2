//! Circular waits: the pods wait for the Job, and the Job, or its applier, waits for the pods.

use std::collections::HashMap;

use serde_json::Value;

use super::{Gated, below, called, containers, metadata, selects, texts, words};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;
use migration_gate_core::podspec::list;

/// Argo CD goes on to the next wave when the objects of the last one are healthy.
const WAVE: &str = "argocd.argoproj.io/sync-wave";

/// Services that lead to a held Deployment, with the Deployment.
type Services<'w> = HashMap<&'w str, &'w str>;

/// Finds Jobs whose containers name a held Deployment, by a Service that leads to it or in a
/// command that waits for it.
pub(super) fn needs(gated: &Gated<'_>) -> Vec<Finding> {
    let services = services(gated);
    let mut findings = Vec::new();
    let jobs = gated.all_jobs();
    let containers = jobs.flat_map(|job| {
        containers(gated.world.request(job))
            .into_iter()
            .map(move |container| (job, container))
    });
    for (job, (place, container)) in containers {
        let mut add = |field: &FieldPath, text: &str, through: &str| {
            if let Some(dependency) = mentioned(gated, &services, text) {
                let message = explained(gated.gate, container, &dependency) + through;
                findings.push(Finding::new(
                    job,
                    Code::Deadlock,
                    below(&place, field),
                    message,
                ));
            }
        };
        for (field, text) in texts(container) {
            add(&field, text, "");
        }
        for (field, name, text) in config_maps(gated, container) {
            add(&field, text, &format!(" (through ConfigMap `{name}`)"));
        }
    }
    findings
}

/// Something that a Job needs and that waits for the Job.
struct Dependency<'w> {
    what: String,
    deployment: &'w str,
}

fn explained(gate: &Gate, container: &Value, dependency: &Dependency<'_>) -> String {
    format!(
        "container {} of the Job uses {}, but gate `{}` holds Deployment `{}` until the Job has completed, so on a first installation both wait for ever; take the Deployment out of the gate, unless the Job can do without it",
        called(container),
        dependency.what,
        gate.name,
        dependency.deployment
    )
}

fn services<'w>(gated: &Gated<'w>) -> Services<'w> {
    let world = gated.world;
    let name = |index: usize| world.request(index).name();
    world
        .of_kind("", "Service", &gated.gate.namespace)
        .filter_map(|service| {
            let selector = world.object(service).pointer("/spec/selector")?;
            let deployment = gated.workloads.iter().find(|deployment| {
                let object = world.object(**deployment);
                selects(selector, object.pointer("/spec/template/metadata/labels"))
            })?;
            Some((name(service)?, name(*deployment)?))
        })
        .collect()
}

fn mentioned<'w>(gated: &Gated<'w>, services: &Services<'w>, text: &str) -> Option<Dependency<'w>> {
    words(text).find_map(|word| {
        // A Service's name is a DNS label, so it ends at the first dot.
        let label = word.split('.').next().unwrap_or(word);
        if let Some((service, deployment)) = services.get_key_value(label)
            && is_host(word, service, &gated.gate.namespace)
        {
            return Some(Dependency {
                what: format!("Service `{service}`"),
                deployment,
            });
        }
        // `kubectl wait` and `kubectl rollout status` name objects in this way.
        let (kind, name) = word.split_once('/')?;
        if !matches!(
            kind,
            "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps"
        ) {
            return None;
        }
        gated
            .workloads
            .iter()
            .filter_map(|index| gated.world.manifest(*index).request.name())
            .find(|held| *held == name)
            .map(|deployment| Dependency {
                what: format!("`{word}`"),
                deployment,
            })
    })
}

/// Whether a word is a Service's host name, in any of the forms that the cluster's DNS answers.
fn is_host(word: &str, service: &str, namespace: &str) -> bool {
    let Some(rest) = word.strip_prefix(service) else {
        return false;
    };
    if rest.is_empty() {
        return true;
    }
    let Some(rest) = rest
        .strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(namespace))
    else {
        return false;
    };
    rest.is_empty() || rest == ".svc" || rest.starts_with(".svc.")
}

/// The values that a container gets from a reviewed ConfigMap, with the field that brings them and
/// the ConfigMap's name.
fn config_maps<'w>(gated: &Gated<'w>, container: &'w Value) -> Vec<(FieldPath, &'w str, &'w str)> {
    let world = gated.world;
    let data = |name: &str| {
        let index = world.find("", "ConfigMap", &gated.gate.namespace, name)?;
        world.object(index).get("data")?.as_object()
    };
    let mut values = Vec::new();
    for (i, source) in list(container, "envFrom").iter().enumerate() {
        let Some(name) = source.pointer("/configMapRef/name").and_then(Value::as_str) else {
            continue;
        };
        for value in data(name)
            .into_iter()
            .flatten()
            .filter_map(|(_, v)| v.as_str())
        {
            values.push((FieldPath::default().key("envFrom").index(i), name, value));
        }
    }
    for (i, variable) in list(container, "env").iter().enumerate() {
        let Some(reference) = variable.pointer("/valueFrom/configMapKeyRef") else {
            continue;
        };
        let text = |field: &str| reference.get(field).and_then(Value::as_str);
        if let (Some(name), Some(key)) = (text("name"), text("key"))
            && let Some(value) = data(name).and_then(|data| data.get(key)?.as_str())
        {
            values.push((FieldPath::default().key("env").index(i), name, value));
        }
    }
    values
}

/// Finds Jobs that the applier creates only once the Deployments are ready, which never happens.
pub(super) fn order(gated: &Gated<'_>) -> Vec<Finding> {
    gated
        .all_jobs()
        .filter_map(|job| late_hook(gated, job).or_else(|| late_wave(gated, job)))
        .collect()
}

fn annotation<'w>(gated: &Gated<'w>, index: usize, key: &str) -> Option<&'w str> {
    metadata(gated.world.object(index), "annotations", key)
}

fn at(key: &str) -> FieldPath {
    FieldPath::from_iter(["metadata", "annotations", key])
}

/// Hooks that run once the Deployments are ready.
const LATE_HOOKS: [(&str, &[&str], &str); 2] = [
    (
        "helm.sh/hook",
        &["post-install", "post-upgrade"],
        "Helm runs it after the Deployments are ready where it waits for them (`--wait`); use `pre-install,pre-upgrade`, with what the Job needs in hooks of a lower weight, or no hook at all",
    ),
    (
        HOOK,
        &["PostSync"],
        "Argo CD runs it after the Deployments are healthy; use `Sync`",
    ),
];

fn late_hook(gated: &Gated<'_>, job: usize) -> Option<Finding> {
    LATE_HOOKS.iter().find_map(|(key, late, advice)| {
        let hooks = annotation(gated, job, key)?.split(',').map(str::trim);
        let hook = hooks.into_iter().find(|hook| late.contains(hook))?;
        let message = format!(
            "as a `{hook}` hook the Job comes after the workloads of gate `{}`, which wait for it: {advice}",
            gated.gate.name
        );
        Some(Finding::new(job, Code::Deadlock, at(key), message))
    })
}

/// Argo CD's phases of a sync. Objects that are not hooks belong to `Sync`.
const PHASES: [&str; 3] = ["PreSync", "Sync", "PostSync"];
const HOOK: &str = "argocd.argoproj.io/hook";

/// When Argo CD applies an object: its phase, and its wave in that phase. `None` for hooks of other
/// phases, and for Helm's: of a release's hooks, Helm waits only for Jobs and Pods.
fn turn(gated: &Gated<'_>, index: usize) -> Option<(usize, i64)> {
    let phase = match (
        annotation(gated, index, HOOK),
        annotation(gated, index, "helm.sh/hook"),
    ) {
        (Some(hook), _) => PHASES
            .iter()
            .position(|phase| hook.split(',').any(|word| word.trim() == *phase))?,
        (None, Some(_)) => return None,
        (None, None) => 1,
    };
    let wave = annotation(gated, index, WAVE).and_then(|wave| wave.trim().parse().ok());
    Some((phase, wave.unwrap_or(0)))
}

/// Argo CD applies a workload in an earlier phase or wave than the Job, and doesn't go on before
/// the workload is healthy. A `CronJob` is healthy without having run.
fn late_wave(gated: &Gated<'_>, job: usize) -> Option<Finding> {
    let own = turn(gated, job)?;
    let mut workloads = gated.workloads.iter().copied();
    let (earlier, first) = workloads.find_map(|workload| {
        let turn = turn(gated, workload).filter(|turn| *turn < own)?;
        let waits = gated.world.request(workload).kind != "CronJob";
        waits.then_some((workload, turn))
    })?;
    let named = |index: usize| {
        let manifest = gated.world.manifest(index);
        format!("{} `{}`", manifest.request.kind, manifest.name())
    };
    if first.0 < own.0 {
        let message = format!(
            "Argo CD applies {} in phase {}, once this `{}` hook is healthy, which waits for the Job; make the Job a hook of this phase too, or this no hook",
            named(job),
            PHASES[own.0],
            PHASES[first.0]
        );
        return Some(Finding::new(earlier, Code::Deadlock, at(HOOK), message));
    }
    let message = format!(
        "Argo CD applies the Job in wave {}, once {} of wave {} is healthy, which waits for the Job; put the Job in the same wave or an earlier one",
        own.1,
        named(earlier),
        first.1
    );
    Some(Finding::new(job, Code::Deadlock, at(WAVE), message))
}
