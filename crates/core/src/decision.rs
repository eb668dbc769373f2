//! The decision of the rules, independent of the wire format.

use json_patch::PatchOperation;

use super::field::FieldPath;
use super::gates::Mode;

/// Maximum number of offending fields in one decision; others are only counted.
///
/// An object of a few megabytes can have tens of thousands. A reader needs only the first screen,
/// and each takes many times the memory of its text.
pub const MOST_LISTED: usize = 256;

/// The answer of [`mutate`](super::mutate::mutate) or [`validate`](super::validate::validate)
/// for one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The gate that holds the object, if one does.
    pub gate: Option<String>,
    /// JSON Patch operations (RFC 6902) on the object of the request. Empty from `validate`.
    pub patch: Vec<PatchOperation>,
    /// Warnings for the author of an allowed object.
    pub warnings: Vec<Warning>,
    /// Why the object is denied; empty if it is allowed. Violations of the waiter come first, then
    /// the others in the order of the object's fields. At most [`MOST_LISTED`] in all.
    pub violations: Vec<Violation>,
    /// Number of fields that break a rule and are not listed in `violations` or `warnings`.
    pub unlisted: usize,
    /// The result, for logs, metrics and audit annotations.
    pub outcome: Outcome,
}

impl Decision {
    /// The decision with these violations: denied, or allowed with warnings, by the mode.
    pub(super) fn refused(mut self, mode: Mode, violations: Vec<Violation>) -> Self {
        match mode {
            Mode::Enforce => {
                self.outcome = Outcome::Denied;
                self.violations = violations;
            }
            Mode::Warn => {
                self.outcome = Outcome::Warned;
                self.warnings
                    .extend(violations.into_iter().map(Warning::from));
            }
        }
        self
    }
}

/// The decision as one word.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// No rule applies to the object.
    #[default]
    Untouched,
    /// The waiter was added.
    Injected,
    /// A hand-written or outdated waiter was replaced.
    Replaced,
    /// The waiter of another release was kept, so that nothing restarts.
    Kept,
    /// The waiter is already as wanted.
    InPlace,
    /// There are violations, and the mode allows them.
    Warned,
    /// There are violations.
    Denied,
}

impl Outcome {
    /// The word in logs, metrics and audit annotations.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Untouched => "untouched",
            Self::Injected => "injected",
            Self::Replaced => "replaced",
            Self::Kept => "kept",
            Self::InPlace => "in-place",
            Self::Warned => "warned",
            Self::Denied => "denied",
        }
    }
}

/// One field that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// The field's path.
    pub field: FieldPath,
    /// Which rule it breaks.
    pub rule: Rule,
    /// The problem and the next step, without the field's path.
    pub message: String,
}

/// One field that is allowed, but that its author should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The field's path.
    pub field: FieldPath,
    /// The reason for the warning.
    pub notice: Notice,
    /// The warning, without the field's path.
    pub message: String,
}

/// The reasons for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// A violation that the mode allows.
    Rule(Rule),
    /// The workload keeps its own ServiceAccount, which needs the waiter's permissions.
    AccountKept,
    /// A hand-written init container with the waiter's name is replaced.
    HandWrittenWaiter,
    /// The application's containers see the waiter's token.
    TokenVisible,
    /// The pods run on Windows, where the waiter cannot run.
    Windows,
    /// Several gates select the workload, and it waits for the first.
    TwoGates,
    /// The containers have several versions, and no annotation or setting says which one counts.
    WhichContainer,
    /// An init container of another name waits for the Job as well.
    AnotherWaiter,
    /// `envFrom` has a prefix that would make a forbidden variable of some key.
    PrefixedSource,
    /// A held Rollout takes its pod template from an object that no gate holds.
    WorkloadRef,
}

impl From<Violation> for Warning {
    /// The warning for a violation that the mode allows.
    fn from(violation: Violation) -> Self {
        Self {
            field: violation.field,
            notice: Notice::Rule(violation.rule),
            message: violation.message,
        }
    }
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}

/// The rules that can deny an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A container sets a forbidden environment variable.
    ForbiddenEnv,
    /// A ConfigMap in a gate's namespace has a key that `envFrom` would make such a variable.
    ForbiddenKey,
    /// A held workload would pass admission without a working waiter.
    WaiterMissing,
    /// Another container or volume has a name that the waiter needs.
    ReservedName,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
