//! The Jobs that a gate waits for, and whether their version is that of the held workloads.

use serde_json::Value;

use super::{Gated, image_field, metadata};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::applier::Applier;
use migration_gate_core::field::FieldPath;
use migration_gate_core::gates::{Freshness, HeldKind, Requirement};
use migration_gate_core::image::{Relation, same_repository};
use migration_gate_core::podspec::{list, pod_kind};
use migration_gate_core::request::Request;
use migration_gate_core::version::{Containers, Contents, Wanted};

pub(super) fn no_job(gated: &Gated<'_>) -> Vec<Finding> {
    let gate = gated.gate;
    // A Job that is reviewed alone does not show whether the gate's other Jobs exist.
    let Some(workload) = gated.workloads.first() else {
        return Vec::new();
    };
    let missing = gated.jobs.iter().filter(|(_, jobs)| jobs.is_empty());
    missing
        .map(|(requirement, _)| {
            let message = format!(
                "gate `{}` waits for Job {}/{requirement}, which is not among the reviewed manifests; without it and without a record of this version no pod starts: review it together with them, or make sure that it comes from elsewhere",
                gate.name, gate.namespace
            );
            Finding::new(*workload, Code::NoJob, FieldPath::default(), message)
        })
        .collect()
}

pub(super) fn suspended(gated: &Gated<'_>) -> Vec<Finding> {
    let suspended = gated.all_jobs().filter(|job| {
        gated.world.object(*job).pointer("/spec/suspend") == Some(&Value::Bool(true))
    });
    suspended
        .map(|job| {
            let message = format!(
                "the Job is suspended, so the workloads of gate `{}` wait until it is resumed",
                gated.gate.name
            );
            let field = FieldPath::from_iter(["spec", "suspend"]);
            Finding::new(job, Code::JobSuspended, field, message)
        })
        .collect()
}

pub(super) fn mutable_tag(gated: &Gated<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, wanted) in gated.wanted() {
        let Wanted::Images { images, moving, .. } = &wanted else {
            continue;
        };
        // The version of a sidecar whose image no Job has is not compared.
        let compared = |image: &&str| *image == images.default || gated.has_repository(image);
        for image in images
            .all()
            .filter(compared)
            .filter(|image| moving.moves(image))
        {
            let message = format!(
                "`{image}` says nothing about its version, so a Job that completed for an older image of the same name opens gate `{}`; use a tag that is not moved, or a digest",
                gated.gate.name
            );
            let field = image_field(gated.world.request(index), image);
            findings.push(Finding::new(index, Code::MutableTag, field, message));
        }
    }
    findings
}

pub(super) fn version_mismatch(gated: &Gated<'_>) -> Vec<Finding> {
    let gate = gated.gate;
    let mut findings = Vec::new();
    for (index, wanted) in gated.wanted() {
        for (requirement, jobs) in &gated.jobs {
            if let Some(other) = gated.other_version(&wanted, jobs) {
                let kind = gated.world.request(index).kind;
                let (ours, theirs) = other;
                let message = format!(
                    "the Job {}/{requirement} migrates for {theirs}, and this {kind} runs {ours}: its new pods wait for a Job of {} and give up after {}s; change both together, or set `freshness: any` if their tags are unrelated",
                    gate.namespace,
                    wanted.version(),
                    gate.timeout.as_secs()
                );
                let image = ours.trim_matches('`');
                let field = image_field(gated.world.request(index), image);
                findings.push(Finding::new(index, Code::VersionMismatch, field, message));
            }
        }
    }
    findings
}

/// A Job's pod template is immutable, so a new version needs a new Job. How it gets one depends on
/// the applier.
pub(super) fn not_replaceable(gated: &Gated<'_>) -> Vec<Finding> {
    // A Job that has a new name in each release is replaced by the next one.
    let stays = gated
        .jobs
        .iter()
        .filter(|(requirement, _)| requirement.exact_name().is_some())
        .flat_map(|(_, jobs)| jobs.iter().copied())
        .filter(|job| !is_replaced(gated.world.object(*job)) && !is_forced(gated));
    let findings = stays.map(|job| {
        let message = format!(
            "a Job's pod template cannot be changed, so applying the next version fails on this Job and gate `{}` stays closed; {}",
            gated.gate.name,
            how_to_replace(gated.world.object(job))
        );
        let field = FieldPath::from_iter(["metadata", "annotations"]);
        Finding::new(job, Code::JobNotReplaceable, field, message)
    });
    findings.collect()
}

/// How to make the applier replace the Job: for the known applier, or for any.
fn how_to_replace(job: &Value) -> &'static str {
    match Applier::of(&job["metadata"]) {
        Applier::ArgoCd { .. } => {
            "let Argo CD replace it: annotate it with `argocd.argoproj.io/sync-options: Force=true,Replace=true`, or make it a hook, `argocd.argoproj.io/hook: PreSync`"
        }
        Applier::Flux { .. } => {
            "let Flux replace it: annotate it with `kustomize.toolkit.fluxcd.io/force: enabled`"
        }
        Applier::FluxRelease { .. } | Applier::Helm { .. } => {
            "let Helm replace it: annotate it with `helm.sh/hook: pre-install,pre-upgrade`"
        }
        Applier::Kubectl => "kubectl cannot replace it: delete it first",
        Applier::Unknown => {
            "tell the applier to replace it: annotate it with `kustomize.toolkit.fluxcd.io/force: enabled` (Flux), `argocd.argoproj.io/sync-options: Force=true,Replace=true` (Argo CD) or `helm.sh/hook: pre-install,pre-upgrade` (Helm); with kubectl, delete it first"
        }
    }
}

/// Whether the Job's annotations make Flux, Argo CD or Helm replace it.
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

/// Whether a Flux Kustomization beside the Job replaces objects that it cannot change.
fn is_forced(gated: &Gated<'_>) -> bool {
    gated.world.all().any(|(_, object)| {
        let request = &object.manifest.request;
        let spec = |field: &str| request.object.get("spec")?.get(field);
        (request.group, request.kind) == ("kustomize.toolkit.fluxcd.io", "Kustomization")
            && spec("force") == Some(&Value::Bool(true))
            && spec("targetNamespace").is_none_or(|target| *target == *gated.gate.namespace)
    })
}

/// A workload that runs a Job's own image beside the held ones: most likely forgotten.
pub(super) fn not_held(gated: &Gated<'_>) -> Vec<Finding> {
    let (gate, world) = (gated.gate, gated.world);
    let migrated: Vec<(&Requirement, String)> = gated
        .jobs
        .iter()
        .flat_map(|(requirement, jobs)| jobs.iter().map(move |job| (requirement, *job)))
        .filter_map(|(requirement, job)| {
            Some((requirement, gated.containers(job).default()?.image.clone()))
        })
        .collect();
    let mut findings = Vec::new();
    for (index, object) in world.all() {
        let request = &object.manifest.request;
        if object.gate.is_some() || request.namespace != gate.namespace || request.is_controlled() {
            continue;
        }
        if let Some((requirement, _)) = migrated.iter().find(|(_, image)| runs(request, image)) {
            let message = format!(
                "it runs the image of Job {}/{requirement}, but no gate holds it, so it may start before the migration has completed; add it to `workloads` of gate `{}`",
                gate.namespace, gate.name
            );
            findings.push(Finding::new(
                index,
                Code::NotHeld,
                FieldPath::default(),
                message,
            ));
        }
    }
    findings
}

/// Whether a workload that could be held has a container of this image.
fn runs(request: &Request<'_>, image: &str) -> bool {
    let kind = HeldKind::of(request.group, request.kind);
    let spec = kind.and_then(|kind| kind.pod_kind().pod_spec(request.object));
    spec.is_some_and(|spec| {
        let mut containers = list(spec, "containers").iter();
        containers.any(|container| container.get("image").and_then(Value::as_str) == Some(image))
    })
}

impl Gated<'_> {
    /// The workloads with the versions that they want, unless the gate accepts any version.
    fn wanted(&self) -> impl Iterator<Item = (usize, Wanted)> + '_ {
        let compares = self.gate.freshness != Freshness::Any;
        let workloads = self.workloads.iter().filter(move |_| compares);
        workloads.filter_map(|index| {
            let request = self.world.request(*index);
            let kind = pod_kind(request.group, request.kind)?;
            let wanted = Wanted::of(self.gate, kind.template(request.object)?).ok()?;
            Some((*index, wanted))
        })
    }

    /// The versions of a workload and of its Jobs in words, if no Job has the workload's version.
    fn other_version(&self, wanted: &Wanted, jobs: &[usize]) -> Option<(String, String)> {
        let mut other = None;
        for job in jobs {
            let contents = self.contents(*job);
            let (relation, compared) = wanted.compared(&contents);
            if relation != Relation::Different {
                return None;
            }
            other.get_or_insert(compared.sides());
        }
        other
    }

    fn contents(&self, job: usize) -> Contents {
        let object = self.world.object(job);
        let metadata = object.get("metadata").unwrap_or(&Value::Null);
        let template = object.pointer("/spec/template").unwrap_or(&Value::Null);
        Contents::of(metadata, template)
    }

    fn containers(&self, job: usize) -> Containers {
        self.contents(job).containers
    }

    /// Whether some Job has an image of the same repository.
    fn has_repository(&self, image: &str) -> bool {
        self.all_jobs().any(|job| {
            let containers = self.containers(job).all;
            containers
                .iter()
                .any(|container| same_repository(&container.image, image))
        })
    }
}
