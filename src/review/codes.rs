//! The codes of findings: stable, so that people can look them up and programs can go by them.

use super::check::Level;

/// What is known of a code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The code.
    pub code: &'static str,
    /// How bad a finding of it is, unless the configuration's mode is `warn`.
    pub level: Level,
    /// What it is about, in one sentence.
    pub about: &'static str,
    /// What to do.
    pub help: &'static str,
}

const fn refusal(code: &'static str, about: &'static str, help: &'static str) -> Code {
    Code {
        code,
        level: Level::Error,
        about,
        help,
    }
}

const fn warning(code: &'static str, about: &'static str, help: &'static str) -> Code {
    Code {
        code,
        level: Level::Warning,
        about,
        help,
    }
}

/// Every code, refusals first.
pub const CODES: &[Code] = &[
    refusal(
        "forbidden-env",
        "A container sets a variable that no container may set.",
        "Remove the variable; the migration Job does what it asked for.",
    ),
    refusal(
        "forbidden-key",
        "A ConfigMap in a gate's namespace has a key that `envFrom` would turn into a forbidden variable.",
        "Remove the key.",
    ),
    refusal(
        "reserved-name",
        "A container or volume has a name that the injection needs.",
        "Rename it.",
    ),
    refusal(
        "waiter-missing",
        "A held Deployment would be stored without a waiter that waits.",
        "Exempt the init container from whatever removes or changes it.",
    ),
    warning(
        "account-kept",
        "A held Deployment has a ServiceAccount of its own, which the waiter has to use.",
        "Add the account to the subjects of the gate's RoleBinding.",
    ),
    warning(
        "hand-written-waiter",
        "A hand-written init container of the waiter's name is replaced.",
        "Remove it from the manifest.",
    ),
    warning(
        "token-visible",
        "The application's containers see the token that is meant for the waiter.",
        "Remove `automountServiceAccountToken: true`, unless the application needs it.",
    ),
];
