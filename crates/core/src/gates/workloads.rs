//! The workloads that a gate holds.

use serde::Deserialize;

use super::LabelSelector;
use crate::glob::Glob;
use crate::podspec::{PodKind, pod_kind};

/// A kind of workload that can be held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[allow(
    missing_docs,
    reason = "the names are Kubernetes' and Argo Rollouts' own"
)]
pub enum HeldKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    CronJob,
    Rollout,
}

impl HeldKind {
    /// All kinds, in the order of printed lists.
    pub const ALL: [Self; 5] = [
        Self::Deployment,
        Self::StatefulSet,
        Self::DaemonSet,
        Self::CronJob,
        Self::Rollout,
    ];

    /// The name of the kind.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deployment => "Deployment",
            Self::StatefulSet => "StatefulSet",
            Self::DaemonSet => "DaemonSet",
            Self::CronJob => "CronJob",
            Self::Rollout => "Rollout",
        }
    }

    /// The API group of the kind.
    pub fn group(self) -> &'static str {
        match self {
            Self::Deployment | Self::StatefulSet | Self::DaemonSet => "apps",
            Self::CronJob => "batch",
            Self::Rollout => "argoproj.io",
        }
    }

    /// The kind with this group and name, if it can be held.
    pub fn of(group: &str, kind: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|held| held.as_str() == kind && held.group() == group)
    }

    /// The path of the kind's pod spec.
    pub fn pod_kind(self) -> &'static PodKind {
        match pod_kind(self.group(), self.as_str()) {
            Some(kind) => kind,
            None => unreachable!("every kind that can be held is in POD_KINDS, as a test shows"),
        }
    }
}

/// One entry of a gate's `workloads`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenWorkload")]
pub struct Workload {
    /// The kind.
    pub kind: HeldKind,
    /// The workloads of this kind.
    pub which: Which,
}

/// The choice of workloads of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// By name, exact or with `*`.
    Name(Glob),
    /// By labels of the workload itself.
    Labels(LabelSelector),
}

impl Workload {
    /// Whether a workload with this kind, name and labels matches.
    pub fn matches<'a>(
        &self,
        kind: HeldKind,
        name: Option<&str>,
        label: impl Fn(&str) -> Option<&'a str>,
    ) -> bool {
        self.kind == kind
            && match &self.which {
                Which::Name(pattern) => name.is_some_and(|name| pattern.matches(name)),
                Which::Labels(selector) => selector.matches(label),
            }
    }
}

/// An entry of `workloads` in the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenWorkload {
    kind: HeldKind,
    #[serde(default)]
    name: Option<Glob>,
    #[serde(default)]
    selector: Option<LabelSelector>,
}

impl TryFrom<WrittenWorkload> for Workload {
    type Error = &'static str;

    fn try_from(entry: WrittenWorkload) -> Result<Self, Self::Error> {
        let which = match (entry.name, entry.selector) {
            (Some(name), None) => Which::Name(name),
            (None, Some(selector)) => Which::Labels(selector),
            (None, None) => return Err("set one of `name` and `selector`"),
            (Some(_), Some(_)) => return Err("set only one of `name` and `selector`"),
        };
        Ok(Self {
            kind: entry.kind,
            which,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_that_can_be_held_has_a_pod_spec() {
        for kind in HeldKind::ALL {
            assert_eq!(kind.pod_kind().kind, kind.as_str());
            assert_eq!(HeldKind::of(kind.group(), kind.as_str()), Some(kind));
        }
        assert_eq!(HeldKind::of("apps", "CronJob"), None);
    }
}
