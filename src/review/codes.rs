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
        "List it in the gate's `extraAccounts` (the chart), or bind it to the gate's Role.",
    ),
    warning(
        "deadlock",
        "The Job, or whoever applies it, waits for a Deployment that waits for the Job.",
        "Take the Deployment out of the gate, or apply the Job no later than the Deployments.",
    ),
    warning(
        "forbidden-env-from",
        "A container gets a forbidden variable by `envFrom`.",
        "Remove the key from the ConfigMap or Secret.",
    ),
    warning(
        "hand-written-waiter",
        "A hand-written init container of the waiter's name is replaced.",
        "Remove it from the manifest.",
    ),
    warning(
        "job-not-replaceable",
        "The applier can't put a new version of the Job in place of the old one: a Job's pod template is immutable.",
        "Annotate the Job so that the applier replaces it.",
    ),
    warning(
        "job-suspended",
        "The Job is suspended.",
        "Remove `suspend: true`, unless somebody resumes the Job each time.",
    ),
    warning(
        "missing-rbac",
        "The account of a held pod may not see the Job, its pods' logs or the record.",
        "Bind it to a Role that allows what is listed.",
    ),
    warning(
        "mutable-tag",
        "A held Deployment's image has no tag, or `latest`: its version is unknown.",
        "Use a tag that isn't moved, or a digest.",
    ),
    warning(
        "no-account",
        "Rights are bound to a ServiceAccount that is not there.",
        "Add the ServiceAccount.",
    ),
    warning(
        "no-job",
        "The Job that a gate waits for is not among the manifests.",
        "Review it together with the Deployments.",
    ),
    warning(
        "no-namespace",
        "A Deployment that a gate names says nothing of its namespace, so no gate holds it.",
        "Set `metadata.namespace`, or review with `--namespace`.",
    ),
    warning(
        "not-held",
        "A workload runs the Job's image, and no gate holds it.",
        "Add it to the gate.",
    ),
    warning(
        "token-visible",
        "The application's containers see the token that is meant for the waiter.",
        "Remove `automountServiceAccountToken: true`, unless the application needs it.",
    ),
    warning(
        "version-mismatch",
        "Job and Deployment are of different versions.",
        "Change both tags together, or set `freshness: any`.",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The table in the documentation is this list; the test prints what it should say.
    #[test]
    fn every_code_is_documented() {
        let docs = include_str!("../../docs/review.md");
        for code in CODES {
            let row = format!("| `{}` | {} | {} |", code.code, code.about, code.help);
            assert!(docs.contains(&row), "docs/review.md lacks the row\n{row}");
        }
    }

    #[test]
    fn codes_are_unique_and_sorted_within_a_level() {
        assert!(CODES.windows(2).all(|pair| {
            (std::cmp::Reverse(pair[0].level), pair[0].code)
                < (std::cmp::Reverse(pair[1].level), pair[1].code)
        }));
    }
}
