//! Problems, their causes, and the commands that fix them.

use serde::{Serialize, Serializer};

/// A present or future problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnosis {
    /// Its code.
    pub code: TroubleCode,
    /// Its level.
    pub level: Grade,
    /// The gate's name; `None` if the problem concerns all gates.
    pub gate: Option<String>,
    /// The namespace of the object; `None` for an object without one.
    pub namespace: Option<String>,
    /// The object, such as `Job migrate`.
    pub object: String,
    /// The problem, in a sentence or two.
    pub cause: String,
    /// Lines from elsewhere that show it, such as the end of a log. They are masked and safe to
    /// print.
    pub details: Vec<String>,
    /// The remedies, the likeliest first.
    pub remedies: Vec<Remedy>,
}

/// One remedy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Remedy {
    /// What to do, in words.
    pub text: String,
    /// The command, which can be run as it is.
    pub command: Option<String>,
}

/// The level of a problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grade {
    /// Pods do not start, or start too early, or the next new pod would.
    Error,
    /// It will do harm later, or does harm now that ends by itself.
    Warning,
}

impl Grade {
    /// The word in text and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// Defines the codes and their meanings, which the documentation lists.
macro_rules! codes {
    ($($variant:ident $code:literal $means:literal,)+) => {
        /// The kinds of problems. Their words are stable.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum TroubleCode {
            $(#[doc = $means] $variant,)+
        }

        impl TroubleCode {
            /// All codes.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The code's word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $code,)+
                }
            }

            /// The code's meaning.
            pub fn meaning(self) -> &'static str {
                match self {
                    $(Self::$variant => $means,)+
                }
            }
        }
    };
}

codes! {
    JobFailed "job-failed" "The Job of the wanted version has failed, and the version is not recorded.",
    JobMissing "job-missing" "The gate has no Job, and the wanted version is not recorded.",
    JobOfAnotherVersion "job-of-another-version" "The Job is for another version than the workload's.",
    JobSuspended "job-suspended" "The Job is suspended.",
    JobQueued "job-queued" "The Job is suspended until its queue admits it.",
    JobNoPod "job-no-pod" "The Job has had no pod for 10 seconds: a quota, an admission webhook, a missing account.",
    JobPodBlocked "job-pod-blocked" "The Job's pod cannot start: its image, a volume, its network, no room on a node.",
    JobSlow "job-slow" "The Job has been running for far longer than the last one, or than the gate's timeout.",
    JobCrashing "job-crashing" "The Job's pod fails, and is restarted repeatedly.",
    JobEmpty "job-empty" "The Job is complete, but asks for no completions, so it ran nothing.",
    JobForgotten "job-forgotten" "The Job is complete, but its completion was forgotten with `record forget`.",
    JobDeleting "job-deleting" "The Job has been terminating for a minute.",
    RecordCorrupt "record-corrupt" "Entries of the record cannot be read.",
    RecordImmutable "record-immutable" "The record's ConfigMap is immutable, so nothing can be added.",
    RecordIncomplete "record-incomplete" "A completed Job is missing from the record.",
    ServerRights "server-rights" "The server may not watch the Jobs or write the record.",
    WaiterRights "waiter-rights" "The waiter's account may not watch the Job or the record.",
    AccountMissing "account-missing" "The ServiceAccount of the held pods does not exist.",
    NamespaceMissing "namespace-missing" "The gate's namespace does not exist.",
    NamespaceNew "namespace-new" "The gate's namespace was created after the release, and lacks the chart's objects.",
    WaiterMissing "waiter-missing" "A held workload has no waiter yet.",
    WaiterStale "waiter-stale" "A held workload has an outdated waiter, which waits for something else.",
    WaiterNotFirst "waiter-not-first" "A held workload has another init container before the waiter.",
    WaiterUnkept "waiter-unkept" "A workload has a waiter, but no gate holds it.",
    VersionUnknown "version-unknown" "The version of the workload's pod template cannot be determined.",
    TwoGates "two-gates" "Several gates hold the workload, and it waits only for the first.",
    Offender "offender" "A workload sets a forbidden variable.",
    ProgressDeadline "progress-deadline" "The workload has exceeded its progressDeadlineSeconds.",
    PodsRefused "pods-refused" "The workload's pods cannot be created.",
    PodBlocked "pod-blocked" "A waiter cannot start: its image, a volume, its network, its memory, no room on a node.",
    PodOutdated "pod-outdated" "A pod waits for a version that its workload no longer wants, and is not replaced.",
    WaiterCutOff "waiter-cut-off" "The gate is open, but a running waiter does not see it.",
    PodBackOff "pod-back-off" "The gate is open, but the waiter restarts only in minutes.",
    NotInstalled "not-installed" "No release is installed.",
    ServerMissing "server-missing" "The server's Deployment does not exist.",
    ServerNotReady "server-not-ready" "No replica of the server is ready.",
    WebhookMissing "webhook-missing" "A webhook configuration does not exist.",
    WebhookUntrusted "webhook-untrusted" "A webhook configuration does not trust the server's certificate.",
    WebhookNotAnswering "webhook-not-answering" "The API server cannot call the webhooks.",
    WebhookNotCalled "webhook-not-called" "The API server does not call the webhooks for a held workload.",
    CertificateExpiring "certificate-expiring" "The server's certificate expires soon, or has expired.",
}

impl Serialize for TroubleCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl Diagnosis {
    /// A problem of an object in a gate's namespace.
    pub(super) fn new(
        code: TroubleCode,
        object: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            code,
            level: Grade::Error,
            gate: None,
            namespace: None,
            object: object.into(),
            cause: cause.into(),
            details: Vec::new(),
            remedies: Vec::new(),
        }
    }

    pub(super) fn of_gate(mut self, gate: &str) -> Self {
        self.gate = Some(gate.to_owned());
        self
    }

    pub(super) fn within(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// Makes it a warning if `mild` is true.
    pub(super) fn milder_if(mut self, mild: bool) -> Self {
        if mild {
            self.level = Grade::Warning;
        }
        self
    }

    pub(super) fn with(mut self, details: &[String]) -> Self {
        self.details.extend_from_slice(details);
        self
    }

    /// Adds a remedy with a command.
    pub(super) fn fix(mut self, text: impl Into<String>, command: impl Into<String>) -> Self {
        self.remedies.push(Remedy {
            text: text.into(),
            command: Some(command.into()),
        });
        self
    }

    /// Adds a remedy without a command.
    pub(super) fn advise(mut self, text: impl Into<String>) -> Self {
        self.remedies.push(Remedy {
            text: text.into(),
            command: None,
        });
        self
    }
}
