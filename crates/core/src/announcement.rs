//! The Kubernetes Events of a gate: on which object, when, and how often.
//!
//! [`Announcements::due`] decides. An Event's name is made from its content, so two replicas with
//! the same announcement create the same object, and the second one finds that it exists.

mod budget;
mod facts;
mod told;

use jiff::Timestamp;
use serde_json::{Value, json};

pub use self::told::Announcements;
use super::dependent::Dependent;
use super::text::{fnv1a, shorten, truncate};

/// Maximum size of an Event's note, in bytes, that the API server accepts.
const NOTE: usize = 1024;

/// The name of the program in an Event.
pub const CONTROLLER: &str = "migration-gate";

/// What has happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EventReason {
    /// A migration for which workloads wait has failed.
    MigrationFailed,
    /// A migration has completed after a failure.
    MigrationCompleted,
    /// A migration has been running for longer than the gate's timeout.
    MigrationOverdue,
}

impl EventReason {
    /// The value of the Event's `reason`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MigrationFailed => "MigrationFailed",
            Self::MigrationCompleted => "MigrationCompleted",
            Self::MigrationOverdue => "MigrationOverdue",
        }
    }

    /// The value of the Event's `action`: the gate's state.
    fn action(self) -> &'static str {
        match self {
            Self::MigrationFailed | Self::MigrationOverdue => "HoldPods",
            Self::MigrationCompleted => "StartPods",
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Self::MigrationFailed | Self::MigrationOverdue => "Warning",
            Self::MigrationCompleted => "Normal",
        }
    }
}

/// An object that an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// Its API group and version.
    pub api_version: String,
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
}

impl About {
    fn job(name: &str, uid: &str) -> Self {
        Self {
            api_version: "batch/v1".to_owned(),
            kind: "Job",
            name: name.to_owned(),
            uid: uid.to_owned(),
        }
    }

    fn workload(workload: &Dependent) -> Self {
        let kind = workload.kind.pod_kind();
        Self {
            api_version: format!("{}/{}", kind.group, kind.version),
            kind: kind.kind,
            name: workload.name.clone(),
            uid: workload.uid.clone(),
        }
    }

    fn reference(&self, namespace: &str) -> Value {
        json!({"apiVersion": self.api_version, "kind": self.kind, "namespace": namespace,
               "name": self.name, "uid": self.uid})
    }
}

/// One Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announcement {
    /// The Event's name: the same in every replica for the same announcement about the same object.
    pub name: String,
    /// What has happened.
    pub reason: EventReason,
    /// The object.
    pub regarding: About,
    /// The Job, if the object is a workload.
    pub related: Option<About>,
    /// The text of the Event.
    pub note: String,
}

impl Announcement {
    fn new(
        reason: EventReason,
        regarding: About,
        related: Option<About>,
        key: &str,
        (what, advice): (String, String),
    ) -> Self {
        Self {
            name: name(&regarding, reason, key),
            reason,
            regarding,
            related,
            note: note(&what, &advice),
        }
    }

    /// The object to create in `namespace`, at the time `at`, by the replica `instance`
    /// (`events.k8s.io/v1`).
    pub fn event(&self, namespace: &str, instance: &str, at: Timestamp) -> Value {
        let mut event = json!({
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self.name, "namespace": namespace},
            "eventTime": format!("{at:.6}"),
            "reportingController": CONTROLLER,
            "reportingInstance": shorten(instance, 120),
            "action": self.reason.action(),
            "reason": self.reason.as_str(),
            "type": self.reason.kind(),
            "regarding": self.regarding.reference(namespace),
            "note": self.note,
        });
        if let Some(related) = &self.related {
            event["related"] = related.reference(namespace);
        }
        event
    }
}

/// The object's name, as far as it fits, and a hash of everything that distinguishes two Events.
fn name(about: &About, reason: EventReason, key: &str) -> String {
    let all = format!("{}\n{}\n{key}", about.uid, reason.as_str());
    let hash = fnv1a(all.as_bytes());
    let name = truncate(&about.name, 200).trim_end_matches(['-', '.']);
    format!("{name}.{hash:016x}")
}

/// What has happened and the remedy, both shortened if necessary.
fn note(what: &str, advice: &str) -> String {
    let advice = shorten(advice, NOTE / 2);
    // 8 bytes for the space between them and their two ellipses.
    let what = shorten(what, NOTE / 2 - 8);
    format!("{what} {advice}").trim_end().to_owned()
}

#[cfg(test)]
mod tests;
