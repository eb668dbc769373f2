//! The state of gates and their problems, as a function of what was read from a cluster.
//!
//! [`overview`] is the entry point. For each held workload, it calls the function of the waiter's
//! decision. It does not judge objects that could not be read.

mod commands;
mod diagnosis;
mod grants;
mod installation;
mod jobs;
mod passage;
mod records;
mod seen;
#[cfg(test)]
mod tests;
mod workloads;

use jiff::Timestamp;
use serde::Serialize;

pub use commands::Flags;
pub use diagnosis::{Diagnosis, Grade, Remedy, TroubleCode};
pub use grants::{Grants, Right};
pub use records::doubtful_rights;
pub use seen::{
    Calling, Certificate, CertificateMaker, Installation, JobSeen, Lean, NamespaceSeen, PodSeen,
    Reduction, Server, Snapshot, WaiterPlace, Webhooks, WorkloadSeen,
};

use crate::gates::Gate;
use passage::View;

/// The state of gates. Its JSON is a stable interface: fields may be added.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// The installed release.
    pub release: Option<InstallationLine>,
    /// The gates, in the order of the configuration.
    pub gates: Vec<GateLine>,
    /// The problems, the worst first.
    pub troubles: Vec<Diagnosis>,
}

impl Overview {
    /// Whether one of the problems is an error.
    pub fn is_wrong(&self) -> bool {
        self.troubles.iter().any(|t| t.level == Grade::Error)
    }

    /// Whether no gate makes a pod wait.
    pub fn is_open(&self) -> bool {
        let mut gates = self.gates.iter();
        gates.all(|gate| matches!(gate.state, Passage::Open | Passage::Unused))
    }
}

/// An installed release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InstallationLine {
    /// The name of the release's objects.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its version.
    pub version: Option<String>,
    /// Number of wanted replicas.
    pub replicas: Option<u64>,
    /// Number of ready replicas.
    pub ready: Option<u64>,
    /// Whether the webhooks answer, if that could be tried.
    pub answers: Option<bool>,
    /// When the certificate expires.
    pub certificate_expires: Option<Timestamp>,
}

/// Whether pods of a gate may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Passage {
    /// The versions of all held workloads are migrated.
    Open,
    /// New pods of some workload wait.
    Waiting,
    /// New pods of some workload wait, and the Job has failed.
    Failed,
    /// The gate holds no existing workload.
    Unused,
    /// Jobs, workloads or the record could not be read, or a waiter is outdated.
    Unknown,
}

impl Passage {
    /// The state of a gate with this state so far, and a workload that cannot be judged.
    fn or_doubtful(self) -> Self {
        match self {
            Self::Open | Self::Unused | Self::Unknown => Self::Unknown,
            known => known,
        }
    }

    /// The word in text and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Unused => "unused",
            Self::Unknown => "unknown",
        }
    }
}

/// A gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct GateLine {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Whether new pods of its workloads may start.
    pub state: Passage,
    /// Its Jobs, including missing ones.
    pub jobs: Vec<JobLine>,
    /// Its record; `None` if there is none, or it could not be read.
    pub record: Option<RecordLine>,
    /// The held workloads.
    pub workloads: Vec<WorkloadLine>,
    /// The pods that wait.
    pub pods: Vec<PodLine>,
}

/// A Job of a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct JobLine {
    /// Its name, or the gate's pattern or selector if there is no such Job.
    pub name: String,
    /// Its state.
    pub state: &'static str,
    /// The version that it migrates for, in words.
    pub version: Option<String>,
    /// The number of this attempt.
    pub attempt: Option<u32>,
    /// The maximum number of attempts.
    pub attempts: Option<u32>,
    /// How long it has been running or ran, in seconds.
    pub seconds: Option<u64>,
    /// How long the last recorded migration took, in seconds.
    pub last_seconds: Option<u64>,
}

/// The record of a gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RecordLine {
    /// Number of versions.
    pub versions: usize,
    /// The last recorded version.
    pub last: Option<String>,
    /// When its migration completed.
    pub completed: Option<Timestamp>,
}

/// A held workload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadLine {
    /// Its kind.
    pub kind: &'static str,
    /// Its name.
    pub name: String,
    /// The version that it wants, as one word.
    pub wants: Option<String>,
    /// The versions that its ready pods run, if they are known.
    pub runs: Vec<String>,
    /// Number of wanted pods.
    pub replicas: u64,
    /// Number of ready pods.
    pub ready: u64,
    /// The state of its waiter.
    pub waiter: &'static str,
    /// Whether its new pods start; `None` if that is not known.
    pub open: Option<bool>,
    /// The reason why they start, or wait.
    pub why: Vec<String>,
}

/// A pod that waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLine {
    /// Its name.
    pub name: String,
    /// The version that it wants, as one word.
    pub wants: Option<String>,
    /// How long it has been waiting, in seconds.
    pub seconds: Option<u64>,
    /// When its waiter gives up, in seconds from now.
    pub gives_up_in: Option<u64>,
    /// Number of the waiter's restarts.
    pub restarts: u64,
    /// The reason for the wait.
    pub why: Vec<String>,
}

/// The state of the gates in `snapshot`, at the time `now`.
pub fn overview(snapshot: &Snapshot<'_>, now: Timestamp) -> Overview {
    let mut troubles = installation::diagnose(snapshot, now);
    troubles.extend(records::namespaces(snapshot));
    let gates = snapshot.gates.iter().map(|gate| {
        let view = View::new(snapshot, gate, now);
        jobs::diagnose(&view, &mut troubles);
        records::diagnose(&view, &mut troubles);
        workloads::diagnose(&view, &mut troubles);
        view.line()
    });
    let gates = gates.collect();
    workloads::unkept(snapshot, &mut troubles);
    troubles.sort_by(|a, b| {
        let key = |t: &Diagnosis| (t.level, t.gate.is_some());
        key(a).cmp(&key(b))
    });
    Overview {
        release: snapshot.release.as_ref().map(installation::line),
        gates,
        troubles,
    }
}

/// The gates with this name and in this namespace; `None` stands for any.
pub fn chosen<'c>(gates: &'c [Gate], name: Option<&str>, namespace: Option<&str>) -> Vec<&'c Gate> {
    let meant = |gate: &&Gate| {
        name.is_none_or(|name| gate.name == name)
            && namespace.is_none_or(|namespace| gate.namespace == namespace)
    };
    gates.iter().filter(meant).collect()
}
