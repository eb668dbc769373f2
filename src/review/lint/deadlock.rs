//! What would wait in a circle: the pods for the Job, and the Job, or whoever applies it, for the pods.

use std::collections::HashMap;

use serde_json::Value;

use super::{World, below, called, containers, metadata, selects, texts, warning, words};
use crate::review::check::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Gate;
use migration_gate_core::podspec::list;

const CODE: &str = "deadlock";

/// Argo CD goes on to the next wave when what is in the last one is healthy.
const WAVE: &str = "argocd.argoproj.io/sync-wave";

/// Services that lead to a held Deployment, with the Deployment.
type Services<'w> = HashMap<&'w str, &'w str>;

pub(super) fn lint(
    world: &World<'_, '_>,
    gate: &Gate,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    let Some(job) = world.find("batch", "Job", &gate.namespace, &gate.job) else {
        return;
    };
    needs(world, gate, job, held, findings);
    order(world, gate, job, held, findings);
}

/// The Job's containers speak of a held Deployment: by a Service that leads to it, or in a command
/// that waits for it.
fn needs(
    world: &World<'_, '_>,
    gate: &Gate,
    job: usize,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    let services = services(world, gate, held);
    for (place, container) in containers(world.request(job)) {
        for (field, text) in texts(container) {
            if let Some(need) = mentioned(world, gate, &services, held, text) {
                findings.push(warning(
                    job,
                    CODE,
                    below(&place, &field),
                    told(gate, container, &need),
                ));
            }
        }
        for (field, name, text) in config_maps(world, gate, container) {
            if let Some(need) = mentioned(world, gate, &services, held, text) {
                findings.push(warning(
                    job,
                    CODE,
                    below(&place, &field),
                    format!(
                        "{} (through ConfigMap `{name}`)",
                        told(gate, container, &need)
                    ),
                ));
            }
        }
    }
}

/// What a Job needs that waits for the Job.
struct Need<'w> {
    what: String,
    deployment: &'w str,
}

fn told(gate: &Gate, container: &Value, need: &Need<'_>) -> String {
    format!(
        "container {} of the Job uses {}, but gate `{}` holds Deployment `{}` until the Job has completed, so on a first installation both wait for ever; take the Deployment out of the gate, unless the Job can do without it",
        called(container),
        need.what,
        gate.name,
        need.deployment
    )
}

fn services<'w>(world: &World<'w, '_>, gate: &'w Gate, held: &[usize]) -> Services<'w> {
    let name = |index: usize| world.request(index).name();
    world
        .of_kind("", "Service", &gate.namespace)
        .filter_map(|service| {
            let selector = world.object(service).pointer("/spec/selector")?;
            let deployment = held.iter().find(|deployment| {
                let object = world.object(**deployment);
                selects(selector, object.pointer("/spec/template/metadata/labels"))
            })?;
            Some((name(service)?, name(*deployment)?))
        })
        .collect()
}

fn mentioned<'w>(
    world: &World<'w, '_>,
    gate: &Gate,
    services: &Services<'w>,
    held: &[usize],
    text: &str,
) -> Option<Need<'w>> {
    words(text).find_map(|word| {
        // A Service's name is a DNS label, so what follows the first dot isn't of it.
        let label = word.split('.').next().unwrap_or(word);
        if let Some((service, deployment)) = services.get_key_value(label)
            && is_host(word, service, &gate.namespace)
        {
            return Some(Need {
                what: format!("Service `{service}`"),
                deployment,
            });
        }
        // As `kubectl wait` and `kubectl rollout status` name it.
        let (kind, name) = word.split_once('/')?;
        if !matches!(
            kind,
            "deployment" | "deployments" | "deploy" | "deployment.apps" | "deployments.apps"
        ) {
            return None;
        }
        held.iter()
            .filter_map(|index| world.manifest(*index).request.name())
            .find(|held| *held == name)
            .map(|deployment| Need {
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

/// What reaches a container from a reviewed ConfigMap: the field that brings it, the ConfigMap, the value.
fn config_maps<'w>(
    world: &World<'w, '_>,
    gate: &Gate,
    container: &'w Value,
) -> Vec<(FieldPath, &'w str, &'w str)> {
    let data = |name: &str| {
        let index = world.find("", "ConfigMap", &gate.namespace, name)?;
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

/// The applier creates the Job only once the Deployments are ready, and they never are.
fn order(
    world: &World<'_, '_>,
    gate: &Gate,
    job: usize,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    let annotation = |index: usize, key: &str| metadata(world.object(index), "annotations", key);
    let at = |key: &str| FieldPath::from_iter(["metadata", "annotations", key]);
    let late = [
        (
            "helm.sh/hook",
            ["post-install", "post-upgrade"].as_slice(),
            "Helm runs it after the Deployments are ready where it waits for them (`--wait`); use `pre-install,pre-upgrade`, with what the Job needs in hooks of a lower weight, or no hook at all",
        ),
        (
            "argocd.argoproj.io/hook",
            ["PostSync"].as_slice(),
            "Argo CD runs it after the Deployments are healthy; use `Sync`",
        ),
    ];
    for (key, hooks, advice) in late {
        let hook = annotation(job, key).and_then(|value| {
            value
                .split(',')
                .map(str::trim)
                .find(|hook| hooks.contains(hook))
        });
        if let Some(hook) = hook {
            findings.push(warning(
                job,
                CODE,
                at(key),
                format!(
                    "as a `{hook}` hook the Job comes after the Deployments of gate `{}`, which wait for it: {advice}",
                    gate.name
                ),
            ));
            return;
        }
    }
    let wave = |index: usize| -> i64 {
        annotation(index, WAVE)
            .and_then(|wave| wave.trim().parse().ok())
            .unwrap_or(0)
    };
    if annotation(job, "argocd.argoproj.io/hook").is_some_and(|hook| hook.contains("PreSync")) {
        return;
    }
    if let Some(deployment) = held.iter().find(|index| wave(**index) < wave(job)) {
        findings.push(warning(
            job,
            CODE,
            at(WAVE),
            format!(
                "Argo CD applies the Job in wave {}, once Deployment `{}` of wave {} is healthy, which waits for the Job; put the Job in the same wave or an earlier one",
                wave(job),
                world.manifest(*deployment).name(),
                wave(*deployment)
            ),
        ));
    }
}
