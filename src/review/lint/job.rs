//! The Job that a gate waits for, and whether its version is that of the held Deployments.

use serde_json::Value;

use super::{Gated, guarded_image, metadata};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::Freshness;
use migration_gate_core::image::{Version, same_version};
use migration_gate_core::podspec::{list, pod_kind};
use migration_gate_core::request::Request;

pub(super) fn no_job(gated: &Gated<'_>) -> Vec<Finding> {
    if gated.job.is_some() {
        return Vec::new();
    }
    let gate = gated.gate;
    let message = format!(
        "gate `{}` waits for Job {}/{}, which is not among the reviewed manifests; without it and without a record of this version no pod starts: review it together with them, or make sure that it comes from elsewhere",
        gate.name, gate.namespace, gate.job
    );
    vec![Finding::new(
        gated.workloads[0],
        Code::NoJob,
        FieldPath::default(),
        message,
    )]
}

pub(super) fn suspended(gated: &Gated<'_>) -> Vec<Finding> {
    let suspended = gated.job.filter(|job| {
        gated.world.object(*job).pointer("/spec/suspend") == Some(&Value::Bool(true))
    });
    let finding = suspended.map(|job| {
        let message = format!(
            "the Job is suspended, so the Deployments of gate `{}` wait until somebody resumes it",
            gated.gate.name
        );
        let field = FieldPath::from_iter(["spec", "suspend"]);
        Finding::new(job, Code::JobSuspended, field, message)
    });
    finding.into_iter().collect()
}

pub(super) fn mutable_tag(gated: &Gated<'_>) -> Vec<Finding> {
    if gated.gate.freshness == Freshness::Any {
        return Vec::new();
    }
    let mutable = gated
        .images()
        .filter(|(_, _, image)| Version::of(image).is_mutable());
    mutable
        .map(|(index, field, image)| {
            let message = format!(
                "`{image}` says nothing about its version, so a Job that completed for an older image of the same name opens gate `{}`; use a tag other than `latest`, or a digest",
                gated.gate.name
            );
            Finding::new(index, Code::MutableTag, field, message)
        })
        .collect()
}

pub(super) fn version_mismatch(gated: &Gated<'_>) -> Vec<Finding> {
    let gate = gated.gate;
    let Some(migrated) = gated
        .migrated()
        .filter(|_| gate.freshness != Freshness::Any)
    else {
        return Vec::new();
    };
    let other = gated
        .images()
        .filter(|(_, _, image)| !same_version(image, migrated));
    other
        .map(|(index, field, image)| {
            let message = format!(
                "the Job {}/{} migrates for `{migrated}`, and this Deployment runs `{image}`: its new pods wait for a Job of version `{}` and give up after {}s; change both together, or set `freshness: any` if their tags are unrelated",
                gate.namespace,
                gate.job,
                Version::of(image),
                gate.timeout.as_secs()
            );
            Finding::new(index, Code::VersionMismatch, field, message)
        })
        .collect()
}

/// A Job's pod template is immutable, so a new version needs a new Job. How it gets one depends on
/// the applier.
pub(super) fn not_replaceable(gated: &Gated<'_>) -> Vec<Finding> {
    let stays = gated
        .job
        .filter(|job| !is_replaced(gated.world.object(*job)) && !is_forced(gated));
    let finding = stays.map(|job| {
        let message = format!(
            "a Job's pod template can't be changed, so applying the next version fails on this Job and gate `{}` stays shut; tell the applier to replace it: annotate it with `kustomize.toolkit.fluxcd.io/force: enabled` (Flux), `argocd.argoproj.io/sync-options: Force=true,Replace=true` (Argo CD) or `helm.sh/hook: pre-install,pre-upgrade` (Helm); with kubectl, delete it first",
            gated.gate.name
        );
        let field = FieldPath::from_iter(["metadata", "annotations"]);
        Finding::new(job, Code::JobNotReplaceable, field, message)
    });
    finding.into_iter().collect()
}

/// Whether the Job says to Flux, Argo CD or Helm that it is to be replaced.
fn is_replaced(job: &Value) -> bool {
    let says =
        |key: &str| metadata(job, "annotations", key).or_else(|| metadata(job, "labels", key));
    let flux = says("kustomize.toolkit.fluxcd.io/force")
        .is_some_and(|value| value.eq_ignore_ascii_case("enabled"));
    let sync_options = says("argocd.argoproj.io/sync-options").unwrap_or_default();
    let argo = says("argocd.argoproj.io/hook").is_some()
        || sync_options
            .split(',')
            .any(|option| option.trim() == "Force=true");
    flux || argo || says("helm.sh/hook").is_some()
}

/// Whether a Flux Kustomization beside the Job replaces what it can't change.
fn is_forced(gated: &Gated<'_>) -> bool {
    gated.world.all().any(|(_, object)| {
        let request = &object.manifest.request;
        let spec = |field: &str| request.object.get("spec")?.get(field);
        (request.group, request.kind) == ("kustomize.toolkit.fluxcd.io", "Kustomization")
            && spec("force") == Some(&Value::Bool(true))
            && spec("targetNamespace").is_none_or(|target| *target == *gated.gate.namespace)
    })
}

/// A workload that runs the Job's own image beside the held ones: most likely forgotten.
pub(super) fn not_held(gated: &Gated<'_>) -> Vec<Finding> {
    let (gate, world) = (gated.gate, gated.world);
    let Some(migrated) = gated.migrated() else {
        return Vec::new();
    };
    let forgotten = world.all().filter(|(_, object)| {
        let request = &object.manifest.request;
        object.gate.is_none()
            && request.namespace == gate.namespace
            && !request.is_controlled()
            && runs(request, migrated)
    });
    forgotten
        .map(|(index, object)| {
            let advice = if object.manifest.request.kind == "Deployment" {
                format!("add it to `deployments` of gate `{}`", gate.name)
            } else {
                "only Deployments are held; make it one, or let it wait by itself".to_owned()
            };
            let message = format!(
                "it runs the image of Job {}/{}, but no gate holds it, so it may start before the migration has completed; {advice}",
                gate.namespace, gate.job
            );
            Finding::new(index, Code::NotHeld, FieldPath::default(), message)
        })
        .collect()
}

/// Whether a workload that keeps pods running has a container of this image.
fn runs(request: &Request<'_>, image: &str) -> bool {
    let spec = match (request.group, request.kind) {
        ("apps", "Deployment" | "StatefulSet" | "DaemonSet") => {
            pod_kind(request.group, request.kind).and_then(|kind| kind.pod_spec(request.object))
        }
        _ => None,
    };
    spec.is_some_and(|spec| {
        let mut containers = list(spec, "containers").iter();
        containers.any(|container| container.get("image").and_then(Value::as_str) == Some(image))
    })
}

impl<'w> Gated<'w> {
    /// The image that the Job migrates for.
    fn migrated(&self) -> Option<&'w str> {
        Some(guarded_image(self.world.object(self.job?))?.1)
    }

    /// The workloads with the image that the gate compares, and its place.
    fn images(&self) -> impl Iterator<Item = (usize, FieldPath, &'w str)> + '_ {
        self.workloads.iter().filter_map(|index| {
            let (field, image) = guarded_image(self.world.object(*index))?;
            Some((*index, field, image))
        })
    }
}
