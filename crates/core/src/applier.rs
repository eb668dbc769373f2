//! The tool that applied an object, and so can apply it again.

use serde_json::{Map, Value};

use super::names::dns_subdomain;

/// The tool that applied an object, by its labels and annotations.
///
/// Only names that Kubernetes accepts are taken from there: they become words of commands that
/// people copy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Applier {
    /// An Application of Argo CD.
    ArgoCd {
        /// Its name; before it and a `/`, its namespace, where that is not Argo CD's own.
        application: String,
        /// A sync replaces the object: it is a hook that is deleted before it is created again.
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
    /// Nothing shows it.
    #[default]
    Unknown,
}

/// Argo CD's mark of the Application: `APPLICATION:GROUP/KIND:NAMESPACE/NAME`. See
/// <https://argo-cd.readthedocs.io/en/stable/user-guide/resource_tracking/>.
const TRACKING: &str = "argocd.argoproj.io/tracking-id";

/// The label that chart authors set, and by which Argo CD could mark its objects too.
const INSTANCE: &str = "app.kubernetes.io/instance";

/// Argo CD's hooks, and those of Helm, which it takes for hooks of its own. Beside each, when the
/// object is deleted, and the word for "before the next one", which is the default.
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
    /// By an object's metadata.
    pub fn of(metadata: &Value) -> Self {
        let text = |field: &str, key: &str| metadata[field][key].as_str();
        let annotation = |key| text("annotations", key);
        let object = |group: &str| {
            let part = |part| text("labels", &format!("{group}/{part}")).and_then(name);
            Some((part("namespace")?, part("name")?))
        };
        // The order matters: Argo CD also leaves kubectl's marks, and Flux those of Helm.
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

    /// This one, or `other` where nothing shows this one.
    #[must_use]
    pub fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        match self {
            Self::Unknown => other,
            _ => self,
        }
    }

    /// The word by which a waiter learns who applies its workload; [`Self::parse`] reads it. `None`
    /// for those that have no name.
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
        // An Application outside of Argo CD's namespace is marked `NAMESPACE_NAME`.
        return path(&application.replacen('_', "/", 1));
    }
    // Where labels track, only a hook tells Argo CD's label from a chart author's.
    annotations[HOOKS[0].0].as_str()?;
    name(metadata["labels"][INSTANCE].as_str()?)
}

/// Helm marks what it applies, but for its hooks. There the labels of a chart may show the release.
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

/// A name, perhaps with a namespace in front of it.
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
