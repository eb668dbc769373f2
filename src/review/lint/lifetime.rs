//! Jobs of a gate that exist only in one phase of a release, or only for a moment.

use serde_json::Value;

use super::{Gated, metadata};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::field::FieldPath;

const HELM: &str = "helm.sh/hook";
const ARGO: &str = "argocd.argoproj.io/hook";

/// Finds requirements whose Jobs are all hooks, and together miss a phase that starts pods.
pub(super) fn hook_phase(gated: &Gated<'_>) -> Vec<Finding> {
    let requirements = gated.jobs.iter();
    requirements
        .flat_map(|(_, jobs)| of_requirement(gated, jobs))
        .collect()
}

fn of_requirement(gated: &Gated<'_>, jobs: &[usize]) -> Vec<Finding> {
    let phases: Vec<(usize, Phases)> = jobs
        .iter()
        .map(|job| (*job, Phases::of(gated.world.object(*job))))
        .collect();
    let covered = phases
        .iter()
        .fold(Phases::default(), |all, (_, one)| Phases {
            install: all.install || one.install,
            upgrade: all.upgrade || one.upgrade,
            ..all
        });
    let missing = match (covered.install, covered.upgrade) {
        (true, true) => return Vec::new(),
        (false, true) => "a first installation",
        (true, false) => "an upgrade",
        (false, false) => "an installation or upgrade",
    };
    let findings = phases.iter().filter_map(|(job, one)| {
        let key = one.by?;
        let message = format!(
            "as a hook of this phase only, the Job is not created by {missing}, so new pods of gate `{}` wait for a Job that never comes; {}",
            gated.gate.name,
            if key == HELM {
                "use `pre-install,pre-upgrade`, or no hook at all"
            } else {
                "use `PreSync` or `Sync`"
            }
        );
        let field = FieldPath::from_iter(["metadata", "annotations", key]);
        Some(Finding::new(*job, Code::HookPhase, field, message))
    });
    findings.collect()
}

/// The phases of a release in which a Job is created.
#[derive(Default)]
struct Phases {
    install: bool,
    upgrade: bool,
    /// The annotation that names the phases.
    by: Option<&'static str>,
}

impl Phases {
    fn of(job: &Value) -> Self {
        let hooks = |key| {
            let hooks = metadata(job, "annotations", key)?.split(',');
            Some(hooks.map(str::trim).collect::<Vec<_>>())
        };
        // Argo CD runs Helm's hooks, unless the object has hooks of Argo CD's own.
        if let Some(hooks) = hooks(ARGO) {
            let syncs = ["PreSync", "Sync", "PostSync"];
            let synced = hooks.iter().any(|hook| syncs.contains(hook));
            return Self {
                install: synced,
                upgrade: synced,
                by: Some(ARGO),
            };
        }
        match hooks(HELM) {
            Some(hooks) => Self {
                install: hooks
                    .iter()
                    .any(|hook| hook.ends_with("-install") || *hook == "crd-install"),
                upgrade: hooks.iter().any(|hook| hook.ends_with("-upgrade")),
                by: Some(HELM),
            },
            None => Self {
                install: true,
                upgrade: true,
                by: None,
            },
        }
    }
}

/// A Job that is deleted as soon as it ends.
pub(super) fn deleted_at_once(gated: &Gated<'_>) -> Vec<Finding> {
    const FIELD: &str = "ttlSecondsAfterFinished";
    let gone = gated.all_jobs().filter(|job| {
        let ttl = gated
            .world
            .object(*job)
            .pointer("/spec/ttlSecondsAfterFinished");
        ttl.and_then(Value::as_i64) == Some(0)
    });
    gone.map(|job| {
        let message = format!(
            "the Job is deleted as soon as it has ended, so its logs are lost when it fails, and new pods of gate `{}` depend on its record alone; keep it for a while, such as 86400 seconds",
            gated.gate.name
        );
        let field = FieldPath::from_iter(["spec", FIELD]);
        Finding::new(job, Code::JobDeletedAtOnce, field, message)
    })
    .collect()
}
