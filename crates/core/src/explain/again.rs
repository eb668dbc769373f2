//! The commands that create a migration Job again, by the tool that applies it.

use crate::applier::Applier;

/// How to create `job`, or create it again: words with a command at their end.
///
/// `None` for kubectl and an unknown tool: then delete and apply the Job.
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
            // Without `--values`, Helm would use those of the last successful revision, which is an
            // earlier one.
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

/// The sentence with a capital letter.
pub(crate) fn capital(sentence: &str) -> String {
    let mut rest = sentence.chars();
    let first = rest.next().map(|c| c.to_ascii_uppercase());
    first.into_iter().chain(rest).collect()
}
