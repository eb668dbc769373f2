//! The kinds that contain a pod spec, and its path in each.

use serde_json::Value;

use super::field::FieldPath;

/// A kind that holds a pod spec.
#[derive(Debug, PartialEq, Eq)]
pub struct PodKind {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// The API version in the webhooks' rules.
    pub version: &'static str,
    /// The kind.
    pub kind: &'static str,
    /// The resource's plural name, as in webhook rules.
    pub resource: &'static str,
    /// The fields that lead from the object to its pod spec.
    pub path: &'static [&'static str],
}

const fn kind(
    group: &'static str,
    kind: &'static str,
    resource: &'static str,
    path: &'static [&'static str],
) -> PodKind {
    PodKind {
        group,
        version: "v1",
        kind,
        resource,
        path,
    }
}

const IN_TEMPLATE: &[&str] = &["spec", "template", "spec"];

/// Every kind that holds a pod spec. Rules, webhook configurations
/// and review use this one list.
pub const POD_KINDS: [PodKind; 10] = [
    kind("", "Pod", "pods", &["spec"]),
    kind("", "PodTemplate", "podtemplates", &["template", "spec"]),
    kind(
        "",
        "ReplicationController",
        "replicationcontrollers",
        IN_TEMPLATE,
    ),
    kind("apps", "ReplicaSet", "replicasets", IN_TEMPLATE),
    kind("apps", "Deployment", "deployments", IN_TEMPLATE),
    kind("apps", "StatefulSet", "statefulsets", IN_TEMPLATE),
    kind("apps", "DaemonSet", "daemonsets", IN_TEMPLATE),
    kind("batch", "Job", "jobs", IN_TEMPLATE),
    kind(
        "batch",
        "CronJob",
        "cronjobs",
        &["spec", "jobTemplate", "spec", "template", "spec"],
    ),
    // Argo Rollouts defines this kind by a CRD. Without it, there are no such objects.
    PodKind {
        version: "v1alpha1",
        ..kind("argoproj.io", "Rollout", "rollouts", IN_TEMPLATE)
    },
];

/// The fields of a pod spec that list containers, in the order of violations.
pub const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// The entry of a kind, if it holds a pod spec.
pub fn pod_kind(group: &str, kind: &str) -> Option<&'static PodKind> {
    POD_KINDS
        .iter()
        .find(|known| known.group == group && known.kind == kind)
}

impl PodKind {
    /// Whether a CRD defines the kind, so that a cluster may not have it.
    pub fn is_custom(&self) -> bool {
        // The built-in groups with pod specs have no domain in their names.
        self.group.contains('.')
    }

    /// The object's pod spec, if it has one.
    pub fn pod_spec<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        self.path
            .iter()
            .try_fold(object, |value, field| value.get(field))
    }

    /// The object's pod template, if it has one with a pod spec. `None` for a Pod.
    pub fn template<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        let (_, parents) = self.path.split_last()?;
        parents
            .iter()
            .try_fold(object, |value, field| value.get(field))
            .filter(|_| !parents.is_empty())
            .filter(|template| template.get("spec").is_some_and(Value::is_object))
    }

    /// The path of the pod spec.
    pub fn field(&self) -> FieldPath {
        self.path.iter().copied().collect()
    }
}

/// The elements of a list field; empty if the field is absent, null or not a list.
pub fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value
        .get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// The `name` of a container, volume or variable.
pub fn name(value: &Value) -> Option<&str> {
    value.get("name")?.as_str()
}

/// The annotation of a pod that names its main container. See
/// <https://kubernetes.io/docs/reference/labels-annotations-taints/#kubectl-kubernetes-io-default-container>.
pub const DEFAULT_CONTAINER: &str = "kubectl.kubernetes.io/default-container";

/// The default container: the one that the annotation
/// `kubectl.kubernetes.io/default-container` names, or else the first.
pub fn default_container(template: &Value) -> Option<&Value> {
    let containers = list(template.get("spec")?, "containers");
    let annotated = template
        .get("metadata")
        .and_then(|m| m.get("annotations"))
        .and_then(|a| a.get(DEFAULT_CONTAINER))
        .and_then(Value::as_str);
    containers
        .iter()
        .find(|container| annotated.is_some() && name(container) == annotated)
        .or_else(|| containers.first())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_default_container_is_the_annotated_one_or_the_first() {
        let template = |annotation: Option<&str>| {
            let mut template =
                json!({"spec": {"containers": [{"name": "proxy"}, {"name": "web"}]}});
            if let Some(name) = annotation {
                template["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"] =
                    json!(name);
            }
            template
        };
        let check = |template: Value, expect: Option<&str>| {
            assert_eq!(default_container(&template).and_then(name), expect);
        };
        check(template(None), Some("proxy"));
        check(template(Some("web")), Some("web"));
        check(template(Some("gone")), Some("proxy"));
        check(json!({"spec": {"containers": null}}), None);
        check(json!({}), None);
    }
}
