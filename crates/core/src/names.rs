//! Names that Kubernetes accepts, and names that this program uses.

use super::glob::Glob;

/// The injected init container.
pub const WAITER_CONTAINER: &str = "wait-for-migrations";

/// The volume that holds the waiter's token.
pub const TOKEN_VOLUME: &str = "migration-gate-token";

/// The directory of the token in a pod.
pub const TOKEN_MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// The environment variable with the name of the waiter's pod.
pub const POD_NAME: &str = "POD_NAME";

/// The environment variable with the tool that applies the waiter's workload, if it is known.
pub const APPLIED_BY: &str = "APPLIED_BY";

/// The chart's label with the name of the gate for which it created an object.
pub const GATE_LABEL: &str = "migration-gate.io/gate";

/// The name of a gate's record: the ConfigMap in its namespace with the completed versions.
pub fn record(gate: &str) -> String {
    format!("migration-gate-{gate}")
}

/// Checks that a name is an RFC 1123 label, such as the name of a namespace. The error says what is
/// wrong.
pub fn dns_label(name: &str) -> Result<(), String> {
    let alphanumeric = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let valid = name.len() <= 63
        && name.starts_with(alphanumeric)
        && name.ends_with(alphanumeric)
        && name.chars().all(|c| alphanumeric(c) || c == '-');
    if valid {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is not a DNS label: at most 63 of a-z, 0-9 and `-`, a letter or digit at both ends"
        ))
    }
}

/// Checks that a name is an RFC 1123 subdomain, such as the names of most objects. The error says
/// what is wrong.
pub fn dns_subdomain(name: &str) -> Result<(), String> {
    if name.len() <= 253 && name.split('.').all(|label| dns_label(label).is_ok()) {
        Ok(())
    } else {
        Err(format!(
            "`{name}` is not an object's name: at most 253 of a-z, 0-9, `-` and `.`, a letter or digit at both ends"
        ))
    }
}

/// Checks that a pattern is a name, or can match one. `*` is its only wildcard. The error says what
/// is wrong.
pub fn pattern(name: &Glob) -> Result<(), String> {
    let text = name.as_str();
    let example = text.replace('*', "x");
    dns_subdomain(&example).map_err(|cause| match name.literal() {
        Some(_) => cause,
        None => format!(
            "`{text}` is not a pattern for objects' names: a-z, 0-9, `-`, `.`, and `*` for any part of it"
        ),
    })
}
