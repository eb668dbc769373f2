//! The commands that create a migration Job again, by the tool that applies it.

use crate::applier::Applier;

/// The sentence, with a command at its end, that creates `job`, or creates it again.
///
/// `None` if no tool is known, or if it is kubectl: then delete and apply it.
pub(crate) fn again(applier: &Applier, namespace: &str, job: Option<&str>) -> Option<String> {
    let (text, command) = match applier {
        Applier::ArgoCd { application, .. } => (
            "sync the whole Application, as a selective sync and self-heal run no hooks",
            format!("argocd app sync {application}"),
        ),
        Applier::Flux { namespace, name } => (
            "let Flux apply it",
            format!("flux reconcile kustomization {name} -n {namespace}"),
        ),
        Applier::FluxRelease { namespace, name } => (
            "let Flux upgrade the release",
            format!("flux reconcile helmrelease {name} -n {namespace} --force"),
        ),
        Applier::Helm { release } => (
            // Helm reuses the values of the last release that succeeded, which is an earlier one.
            "upgrade the release again, with its values",
            format!("helm upgrade {release} CHART -n {namespace} --values VALUES"),
        ),
        Applier::Kubectl | Applier::Unknown => return None,
    };
    let replaced = matches!(applier, Applier::ArgoCd { replaces: true, .. });
    Some(match job.filter(|_| !replaced) {
        Some(job) => {
            format!(
                "Delete the Job and {text}: kubectl delete job {job} -n {namespace} && {command}"
            )
        }
        None => format!("{}: {command}", capital(text)),
    })
}

/// The same with a capital letter in front.
pub(crate) fn capital(sentence: &str) -> String {
    let mut rest = sentence.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(rest).collect()
}
