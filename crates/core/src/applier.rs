//! The tool that applied an object, and so can apply it again.

use serde_json::{Map, Value};

use super::names::dns_subdomain;

/// The tool that applied an object, by its labels and annotations.
///
/// Only names that Kubernetes accepts are used: they become words of commands that people copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Applier {
    /// An Application of Argo CD.
    ArgoCd {
        /// Its name, or `NAMESPACE/NAME` if it is not in Argo CD's own namespace.
        application: String,
        /// Whether a sync replaces the object: it is a hook that Argo CD deletes before it creates
        /// it again.
        replaces: bool,
    },
    /// A Kustomization of Flux.
    Flux {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A `HelmRelease` of Flux.
    FluxRelease {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// A release of Helm.
    Helm {
        /// Its name.
        release: String,
    },
    /// `kubectl apply`, which leaves the manifest in an annotation.
    Kubectl,
    /// The metadata does not show the tool.
    #[default]
    Unknown,
}

/// Argo CD's annotation with the Application: `APPLICATION:GROUP/KIND:NAMESPACE/NAME`. See
/// <https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/>.
const TRACKING: &str = "argocd.argoproj.io/tracking-id";

/// A label that chart authors set. Argo CD can be configured to track its objects by it.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// The annotations of Argo CD's hooks, and of Helm's, which Argo CD treats as its own. Each with
/// the annotation of its deletion policy, and that policy's value for "before the next one is
/// created", which is the default.
const HOOKS: [(&str, &str, &str); 2] = [
    (
        "argocd.argoproj.io/hook",
        "argocd.argoproj.io/hook-delete-policy",
        "BeforeHookCreation",
    ),
    (
        "helm.sh/hook",
        "helm.sh/hook-delete-policy",
        "before-hook-creation",
    ),
];

impl Applier {
    /// Determines the tool from an object's `metadata`.
    pub fn of(metadata: &Value) -> Self {
        let text = |field: &str, key: &str| metadata[field][key].as_str();
        let annotation = |key| text("annotations", key);
        let object = |group: &str| {
            let part = |part| text("labels", &format!("{group}/{part}")).and_then(name);
            Some((part("namespace")?, part("name")?))
        };
        // The order matters: Argo CD also leaves kubectl's annotation, and Flux leaves Helm's.
        if let Some(application) = argo_cd(metadata) {
            let replaces = HOOKS.iter().any(|(hook, policy, replaced)| {
                let policy = annotation(policy).unwrap_or(replaced);
                annotation(hook).is_some() && policy.split(',').any(|word| word.trim() == *replaced)
            });
            return Self::ArgoCd {
                application,
                replaces,
            };
        }
        if let Some((namespace, name)) = object("kustomize.toolkit.fluxcd.io") {
            return Self::Flux { namespace, name };
        }
        if let Some((namespace, name)) = object("helm.toolkit.fluxcd.io") {
            return Self::FluxRelease { namespace, name };
        }
        if let Some(release) = helm(metadata) {
            return Self::Helm { release };
        }
        match annotation("kubectl.kubernetes.io/last-applied-configuration") {
            Some(_) => Self::Kubectl,
            None => Self::Unknown,
        }
    }

    /// This tool, or `other` if this one is unknown.
    #[must_use]
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        match self {
            Self::Unknown => other,
            _ => self,
        }
    }

    /// The word that tells a waiter which tool applies its workload. [`Self::parse`] reads it.
    /// `None` for kubectl and an unknown tool.
    pub fn word(&self) -> Option<String> {
        Some(match self {
            Self::ArgoCd { application, .. } => format!("argo-cd:{application}"),
            Self::Flux { namespace, name } => format!("flux:{namespace}/{name}"),
            Self::FluxRelease { namespace, name } => format!("flux-release:{namespace}/{name}"),
            Self::Helm { release } => format!("helm:{release}"),
            Self::Kubectl | Self::Unknown => return None,
        })
    }

    /// The inverse of [`Self::word`].
    pub fn parse(word: &str) -> Self {
        let object = |text: &str| {
            let (namespace, object) = text.split_once('/')?;
            Some((name(namespace)?, name(object)?))
        };
        let known = match word.split_once(':') {
            Some(("argo-cd", text)) => path(text).map(|application| Self::ArgoCd {
                application,
                replaces: false,
            }),
            Some(("flux", text)) => {
                object(text).map(|(namespace, name)| Self::Flux { namespace, name })
            }
            Some(("flux-release", text)) => {
                object(text).map(|(namespace, name)| Self::FluxRelease { namespace, name })
            }
            Some(("helm", text)) => name(text).map(|release| Self::Helm { release }),
            _ => None,
        };
        known.unwrap_or_default()
    }
}

fn argo_cd(metadata: &Value) -> Option<String> {
    let annotations = &metadata["annotations"];
    let tracked = annotations[TRACKING].as_str();
    if let Some((application, _)) = tracked.and_then(|text| text.split_once(':')) {
        // The annotation names an Application outside of Argo CD's namespace `NAMESPACE_NAME`.
        return path(&application.replacen('_', "/", 1));
    }
    // With tracking by label, only a hook's annotation shows that the label is Argo CD's and not a
    // chart author's.
    annotations[HOOKS[0].0].as_str()?;
    name(metadata["labels"][INSTANCE].as_str()?)
}

/// Helm annotates the objects that it applies, except for its hooks. For a hook, the chart's labels
/// may show the release.
fn helm(metadata: &Value) -> Option<String> {
    let empty = Map::new();
    let labels = metadata["labels"].as_object().unwrap_or(&empty);
    let annotations = &metadata["annotations"];
    let marked = annotations["meta.helm.sh/release-name"].as_str();
    let hook = annotations[HOOKS[1].0].as_str();
    let labelled = || labels.get(INSTANCE)?.as_str().filter(|_| hook.is_some());
    name(marked.or_else(labelled)?)
}

fn name(text: &str) -> Option<String> {
    dns_subdomain(text).ok().map(|()| text.to_owned())
}

/// `NAME` or `NAMESPACE/NAME`, if Kubernetes accepts the names.
fn path(text: &str) -> Option<String> {
    let parts: Option<Vec<String>> = text.splitn(2, '/').map(name).collect();
    parts.map(|parts| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(labels: &Value, annotations: &Value) -> Applier {
        Applier::of(&json!({"labels": labels, "annotations": annotations}))
    }

    fn argo_cd(application: &str, replaces: bool) -> Applier {
        Applier::ArgoCd {
            application: application.into(),
            replaces,
        }
    }

    #[test]
    fn each_applier_leaves_marks() {
        let none = json!({});
        let last_applied = "kubectl.kubernetes.io/last-applied-configuration";
        let tracked = json!({TRACKING: "shop:batch/Job:shop/migrate", last_applied: "{}"});
        assert_eq!(of(&none, &tracked), argo_cd("shop", false));
        let apart = json!({TRACKING: "team_shop:batch/Job:shop/migrate"});
        assert_eq!(of(&none, &apart), argo_cd("team/shop", false));
        let flux = |group: &str| {
            json!({format!("{group}.toolkit.fluxcd.io/name"): "shop",
                   format!("{group}.toolkit.fluxcd.io/namespace"): "flux-system"})
        };
        let (namespace, name) = ("flux-system".to_owned(), "shop".to_owned());
        let helm = json!({"meta.helm.sh/release-name": "shop"});
        let release = Applier::FluxRelease {
            namespace: namespace.clone(),
            name: name.clone(),
        };
        assert_eq!(of(&flux("helm"), &helm), release);
        assert_eq!(
            of(&flux("kustomize"), &none),
            Applier::Flux { namespace, name }
        );
        let release = Applier::Helm {
            release: "shop".into(),
        };
        assert_eq!(of(&none, &helm), release);
        let hook = json!({"helm.sh/hook": "pre-upgrade"});
        assert_eq!(of(&json!({INSTANCE: "shop"}), &hook), release);
        assert_eq!(of(&none, &json!({last_applied: "{}"})), Applier::Kubectl);
        assert_eq!(of(&json!({INSTANCE: "shop"}), &none), Applier::Unknown);
    }

    #[test]
    fn a_sync_replaces_hooks_unless_they_are_deleted_at_another_time() {
        let hook = |key: &str, policy: Option<&str>| {
            let mut annotations = json!({TRACKING: "shop:batch/Job:shop/migrate", key: "x"});
            if let Some(policy) = policy {
                annotations[format!("{key}-delete-policy")] = json!(policy);
            }
            of(&json!({}), &annotations)
        };
        let (argo, helm) = (HOOKS[0].0, HOOKS[1].0);
        assert_eq!(hook(argo, None), argo_cd("shop", true));
        assert_eq!(
            hook(argo, Some("HookFailed, BeforeHookCreation")),
            argo_cd("shop", true)
        );
        assert_eq!(hook(argo, Some("HookSucceeded")), argo_cd("shop", false));
        assert_eq!(
            hook(helm, Some("before-hook-creation")),
            argo_cd("shop", true)
        );
        assert_eq!(hook(helm, Some("hook-succeeded")), argo_cd("shop", false));
        let by_label = of(&json!({INSTANCE: "shop"}), &json!({argo: "PreSync"}));
        assert_eq!(by_label, argo_cd("shop", true));
    }

    #[test]
    fn what_is_no_name_becomes_no_word_of_a_command() {
        for mark in ["$(reboot)", "a b", "shop; rm", "", "../x", "a_b_c"] {
            let tracking = json!({TRACKING: format!("{mark}:batch/Job:a/b")});
            assert_eq!(of(&json!({}), &tracking), Applier::Unknown, "{mark}");
            let release = json!({"meta.helm.sh/release-name": mark});
            assert_eq!(of(&json!({}), &release), Applier::Unknown, "{mark}");
            assert_eq!(Applier::parse(&format!("helm:{mark}")), Applier::Unknown);
            assert_eq!(Applier::parse(&format!("argo-cd:{mark}")), Applier::Unknown);
        }
    }

    #[test]
    fn a_word_can_be_read_again() {
        let namespace = || "ns".to_owned();
        let name = || "shop".to_owned();
        let all = [
            argo_cd("team/shop", false),
            Applier::Flux {
                namespace: namespace(),
                name: name(),
            },
            Applier::FluxRelease {
                namespace: namespace(),
                name: name(),
            },
            Applier::Helm { release: name() },
        ];
        for applier in all {
            let word = applier.word().expect("a word");
            assert_eq!(Applier::parse(&word), applier, "{word}");
        }
        assert_eq!(Applier::Kubectl.word(), None);
        assert_eq!(Applier::parse("what"), Applier::Unknown);
    }
}
