//! The Job that a gate waits for, and whether its version is that of the held Deployments.

use serde_json::Value;

use super::{World, guarded_image, metadata, warning};
use crate::review::check::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::{Freshness, Gate};
use migration_gate_core::image::{Version, same_version};
use migration_gate_core::podspec::{list, pod_kind};

pub(super) fn lint(
    world: &World<'_, '_>,
    gate: &Gate,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    mutable_tags(world, gate, held, findings);
    let Some(job) = world.find("batch", "Job", &gate.namespace, &gate.job) else {
        findings.push(warning(
            held[0],
            "no-job",
            FieldPath::default(),
            format!(
                "gate `{}` waits for Job {}/{}, which is not among the reviewed manifests; without it and without a record of this version no pod starts: review it together with them, or make sure that it comes from elsewhere",
                gate.name, gate.namespace, gate.job
            ),
        ));
        return;
    };
    versions(world, gate, job, held, findings);
    replaceable(world, gate, job, findings);
    if world.object(job).pointer("/spec/suspend") == Some(&Value::Bool(true)) {
        findings.push(warning(
            job,
            "job-suspended",
            FieldPath::from_iter(["spec", "suspend"]),
            format!(
                "the Job is suspended, so the Deployments of gate `{}` wait until somebody resumes it",
                gate.name
            ),
        ));
    }
    not_held(world, gate, job, findings);
}

fn mutable_tags(world: &World<'_, '_>, gate: &Gate, held: &[usize], findings: &mut Vec<Finding>) {
    if gate.freshness == Freshness::Any {
        return;
    }
    for index in held {
        if let Some((field, image)) = guarded_image(world.object(*index))
            && Version::of(image).is_mutable()
        {
            findings.push(warning(
                *index,
                "mutable-tag",
                field,
                format!(
                    "`{image}` says nothing about its version, so a Job that completed for an older image of the same name opens gate `{}`; use a tag other than `latest`, or a digest",
                    gate.name
                ),
            ));
        }
    }
}

fn versions(
    world: &World<'_, '_>,
    gate: &Gate,
    job: usize,
    held: &[usize],
    findings: &mut Vec<Finding>,
) {
    let Some((_, migrated)) = guarded_image(world.object(job)) else {
        return;
    };
    if gate.freshness == Freshness::Any {
        return;
    }
    for index in held {
        if let Some((field, image)) = guarded_image(world.object(*index))
            && !same_version(image, migrated)
        {
            findings.push(warning(
                *index,
                "version-mismatch",
                field,
                format!(
                    "the Job {}/{} migrates for `{migrated}`, and this Deployment runs `{image}`: its new pods wait for a Job of version `{}` and give up after {}s; change both together, or set `freshness: any` if their tags are unrelated",
                    gate.namespace,
                    gate.job,
                    Version::of(image),
                    gate.timeout.as_secs()
                ),
            ));
        }
    }
}

/// A Job's pod template is immutable, so a new version needs a new Job. What does that differs from applier to applier.
fn replaceable(world: &World<'_, '_>, gate: &Gate, job: usize, findings: &mut Vec<Finding>) {
    let object = world.object(job);
    let says = |key: &str| {
        metadata(object, "annotations", key).or_else(|| metadata(object, "labels", key))
    };
    let flux = says("kustomize.toolkit.fluxcd.io/force")
        .is_some_and(|value| value.eq_ignore_ascii_case("enabled"));
    let sync_options = says("argocd.argoproj.io/sync-options").unwrap_or_default();
    let argo = says("argocd.argoproj.io/hook").is_some()
        || sync_options
            .split(',')
            .any(|option| option.trim() == "Force=true");
    let helm = says("helm.sh/hook").is_some();
    if flux || argo || helm {
        return;
    }
    findings.push(warning(
        job,
        "job-not-replaceable",
        FieldPath::from_iter(["metadata", "annotations"]),
        format!(
            "a Job's pod template can't be changed, so applying the next version fails on this Job and gate `{}` stays shut; tell the applier to replace it: annotate it with `kustomize.toolkit.fluxcd.io/force: enabled` (Flux), `argocd.argoproj.io/sync-options: Force=true,Replace=true` (Argo CD) or `helm.sh/hook: pre-install,pre-upgrade` (Helm); with kubectl, delete it first",
            gate.name
        ),
    ));
}

/// A workload that runs the Job's own image beside the held ones: most likely somebody forgot to list it.
fn not_held(world: &World<'_, '_>, gate: &Gate, job: usize, findings: &mut Vec<Finding>) {
    let Some((_, migrated)) = guarded_image(world.object(job)) else {
        return;
    };
    for (index, object) in world.objects.iter().enumerate() {
        let request = &object.manifest.request;
        if object.gate.is_some()
            || request.namespace != gate.namespace
            || request.is_controlled()
            || !matches!(
                (request.group, request.kind),
                ("apps", "Deployment" | "StatefulSet" | "DaemonSet")
            )
        {
            continue;
        }
        let runs_it = pod_kind(request.group, request.kind)
            .and_then(|kind| kind.pod_spec(request.object))
            .is_some_and(|spec| {
                list(spec, "containers").iter().any(|container| {
                    container.get("image").and_then(Value::as_str) == Some(migrated)
                })
            });
        if runs_it {
            let advice = if request.kind == "Deployment" {
                format!("add it to `deployments` of gate `{}`", gate.name)
            } else {
                "only Deployments are held; make it one, or let it wait by itself".to_owned()
            };
            findings.push(warning(
                index,
                "not-held",
                FieldPath::default(),
                format!(
                    "it runs the image of Job {}/{}, but no gate holds it, so it may start before the migration has completed; {advice}",
                    gate.namespace, gate.job
                ),
            ));
        }
    }
}
