//! The decision of the rules, independent of the wire format.

use json_patch::PatchOperation;

use super::field::FieldPath;
use super::gates::Mode;

/// Maximum number of offending fields in one decision; others are only counted.
///
/// An object of a few megabytes can hold tens of thousands. A reader needs no more than the first
/// screen, and each takes many times the memory of its text.
pub const MOST_LISTED: usize = 256;

/// The answer of [`mutate`](super::mutate::mutate) or [`validate`](super::validate::validate)
/// for one object.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// The gate that holds the object, if one does.
    pub gate: Option<String>,
    /// JSON Patch operations (RFC 6902) on the object as it came. Empty from `validate`.
    pub patch: Vec<PatchOperation>,
    /// A warning for the author of an allowed object.
    pub warnings: Vec<Warning>,
    /// Why the object is refused; empty if it is not. What is wrong with the waiter comes first,
    /// then the rest in the order of the object's fields, at most [`MOST_LISTED`] in all.
    pub violations: Vec<Violation>,
    /// How many more fields break a rule than are listed, in `violations` or in `warnings`.
    pub unlisted: usize,
    /// The result, for logs, metrics and audit annotations.
    pub outcome: Outcome,
}

impl Decision {
    /// The decision with these violations, as the mode has it.
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

/// The decision, in one word.
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
    /// The waiter is there as wanted.
    InPlace,
    /// Violations, in a mode that lets them through.
    Warned,
    /// Violations.
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
    /// Its place.
    pub field: FieldPath,
    /// Which rule it breaks.
    pub rule: Rule,
    /// The problem and the next step, without the field's path.
    pub message: String,
}

/// One field that is let through, but that its author should know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Its place.
    pub field: FieldPath,
    /// The reason, as reports name it.
    pub notice: Notice,
    /// The warning, without the field's path.
    pub message: String,
}

/// The reasons for a warning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Notice {
    /// A violation, in a mode that lets it through.
    Rule(Rule),
    /// The workload's own ServiceAccount stays, so it needs the waiter's rights.
    AccountKept,
    /// A hand-written init container of the waiter's name is replaced.
    HandWrittenWaiter,
    /// The application's containers see the waiter's token.
    TokenVisible,
    /// The pods run Windows, where the waiter can't.
    Windows,
    /// Several gates select the workload, and it waits for the first.
    TwoGates,
    /// Containers of several versions, and nothing that says which one counts.
    WhichContainer,
    /// An init container of another name waits for the Job as well.
    AnotherWaiter,
    /// `envFrom` puts a prefix before keys that would make one of them a forbidden variable.
    PrefixedSource,
    /// A held Rollout takes its pods from an object that no gate holds.
    WorkloadRef,
}

impl From<Violation> for Warning {
    /// In a mode that lets violations through.
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

/// The rules that can refuse an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// A container sets a forbidden environment variable.
    ForbiddenEnv,
    /// A ConfigMap in a gate's namespace has a key that `envFrom` would turn into one.
    ForbiddenKey,
    /// A held Deployment would leave admission without a waiter that waits.
    WaiterMissing,
    /// A name that the waiter needs is used by something else.
    ReservedName,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.message)
    }
}
