//! The codes of findings, in one table: stable, so that people and programs can look them up.
//!
//! The tables in `docs/review.md` and the rules of a SARIF report are made from it.

use migration_gate_core::decision::{Notice, Rule};

/// The level of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The object is let through, and causes trouble later.
    Warning,
    /// The API server would refuse the object.
    Error,
}

impl Level {
    /// The word in JSON, in SARIF (3.27.10) and in GitHub's workflow commands.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

macro_rules! codes {
    ($($level:ident $name:ident $code:literal: $about:literal, $help:literal;)*) => {
        /// The code of a finding.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $about] $name,)*
        }

        impl Code {
            /// Every code, refusals first, each part in alphabetical order.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code in reports.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The code with this name.
            pub fn find(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.as_str() == code)
            }

            /// The level of its findings, unless the mode `warn` makes refusals warnings.
            pub fn level(self) -> Level {
                match self { $(Self::$name => Level::$level),* }
            }

            /// The subject of its findings, in one sentence.
            pub fn about(self) -> &'static str {
                match self { $(Self::$name => $about),* }
            }

            /// The remedy, in one sentence.
            pub fn help(self) -> &'static str {
                match self { $(Self::$name => $help),* }
            }
        }
    };
}

codes! {
    Error ForbiddenEnv "forbidden-env":
        "A container sets a variable that no container may set.",
        "Remove the variable; the migration Job does what it asked for.";
    Error ForbiddenKey "forbidden-key":
        "A ConfigMap in a gate's namespace has a key that `envFrom` would turn into a forbidden variable.",
        "Remove the key.";
    Error ReservedName "reserved-name":
        "A container or volume has a name that the injection needs.",
        "Rename it.";
    Error WaiterMissing "waiter-missing":
        "A held Deployment would be stored without a waiter that waits.",
        "Exempt the init container from the webhook that removes or changes it.";
    Warning AccountKept "account-kept":
        "A held Deployment has a ServiceAccount of its own, which the waiter has to use.",
        "List it in the gate's `extraAccounts` (the chart), or bind it to the gate's Role.";
    Warning AnotherWaiter "another-waiter":
        "An init container of another name waits for the Job too, and fails once the Job has been deleted.",
        "Remove it; the waiter does its work.";
    Warning Deadlock "deadlock":
        "The Job, or its applier, waits for a Deployment that waits for the Job.",
        "Take the Deployment out of the gate, or apply the Job no later than the Deployments.";
    Warning ForbiddenEnvFrom "forbidden-env-from":
        "A container gets a forbidden variable by `envFrom`, or may get one by its prefix.",
        "Remove the key from the ConfigMap or Secret, or change the prefix.";
    Warning FreshnessAny "freshness-any":
        "A gate accepts a completed Job of any version.",
        "Use one version for Job and workloads, and leave `freshness` out.";
    Warning HandWrittenWaiter "hand-written-waiter":
        "A hand-written init container of the waiter's name is replaced.",
        "Remove it from the manifest.";
    Warning HookPhase "hook-phase":
        "The Job is a hook of one phase only, so in the other there is no Job to wait for.",
        "Make it a hook of both, or add a Job for the other phase.";
    Warning JobDeletedAtOnce "job-deleted-at-once":
        "The Job is deleted as soon as it has ended.",
        "Raise `ttlSecondsAfterFinished`.";
    Warning JobNotReplaceable "job-not-replaceable":
        "The applier cannot replace the Job with a new version: a Job's pod template is immutable.",
        "Annotate the Job so that the applier replaces it.";
    Warning JobSuspended "job-suspended":
        "The Job is suspended.",
        "Remove `suspend: true`, unless the Job is resumed each time.";
    Warning MigratesItself "migrates-itself":
        "A held container runs the entrypoint of the Job's image, which may migrate.",
        "Give the container a command that does not migrate.";
    Warning MissingRbac "missing-rbac":
        "The account of a held pod may not see the Job, its pods' logs or the record.",
        "Bind it to a Role that allows what is listed.";
    Warning MutableTag "mutable-tag":
        "A held Deployment's image has no tag, or `latest`: its version is unknown.",
        "Use a tag that is not moved, or a digest.";
    Warning NoAccount "no-account":
        "Rights are bound to a ServiceAccount that is missing.",
        "Add the ServiceAccount.";
    Warning NoJob "no-job":
        "The Job that a gate waits for is not among the manifests.",
        "Review it together with the Deployments.";
    Warning NoNamespace "no-namespace":
        "An object names no namespace, so a rule that may apply to it is skipped.",
        "Set `metadata.namespace`, or review with `--namespace`.";
    Warning NotHeld "not-held":
        "A workload runs the Job's image, or may come from a `HelmRelease` or an Argo CD `Application`, and no gate holds it.",
        "Add it to the gate; review what a chart renders.";
    Warning ProgressDeadline "progress-deadline":
        "A held Deployment counts as failed before its waiters give up.",
        "Raise `progressDeadlineSeconds` to the gate's timeout.";
    Warning Recreate "recreate":
        "A roll-out stops old pods before new ones are ready, so while these wait fewer pods serve, or none.",
        "Use `RollingUpdate` with `maxUnavailable: 0`.";
    Warning StaleWaiter "stale-waiter":
        "An object that no gate holds has a waiter.",
        "Add it to the gate, or take the waiter out with `migration-gate eject`.";
    Warning TokenVisible "token-visible":
        "The application's containers see the token that is meant for the waiter.",
        "Remove `automountServiceAccountToken: true`, unless the application needs it.";
    Warning TwoGates "two-gates":
        "Several gates select a workload, and it waits only for the first of them.",
        "List the Jobs of all in one gate, or narrow the selectors.";
    Warning VersionMismatch "version-mismatch":
        "Job and Deployment are of different versions.",
        "Change both tags together, or set `freshness: any`.";
    Warning WhichContainer "which-container":
        "The containers run several versions, and nothing says which of them is the application's.",
        "Name the container by `container` in the gate, or by the annotation `kubectl.kubernetes.io/default-container`.";
    Warning Windows "windows":
        "A held workload's pods run Windows, where the waiter cannot run.",
        "Hold only Linux workloads.";
    Warning WorkloadRef "workload-ref":
        "A held Rollout takes its pods from a workload that no gate holds.",
        "Hold the Deployment that its `workloadRef` names.";
}

/// Why something could not be reviewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadCode {
    /// A document is neither YAML nor JSON.
    Syntax,
    /// A document is YAML but not a Kubernetes object.
    NotAnObject,
    /// A path can't be read.
    Unreadable,
}

impl BadCode {
    /// Every code.
    pub const ALL: &[Self] = &[Self::Syntax, Self::NotAnObject, Self::Unreadable];

    /// The code in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Syntax => "syntax",
            Self::NotAnObject => "not-an-object",
            Self::Unreadable => "unreadable",
        }
    }

    /// The subject, in a few words.
    pub fn about(self) -> &'static str {
        match self {
            Self::Syntax => "broken YAML or JSON",
            Self::NotAnObject => "no `apiVersion` or `kind`",
            Self::Unreadable => "a file or folder",
        }
    }
}

impl From<Rule> for Code {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::ForbiddenEnv => Self::ForbiddenEnv,
            Rule::ForbiddenKey => Self::ForbiddenKey,
            Rule::WaiterMissing => Self::WaiterMissing,
            Rule::ReservedName => Self::ReservedName,
        }
    }
}

impl From<Notice> for Code {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Rule(rule) => rule.into(),
            Notice::AccountKept => Self::AccountKept,
            Notice::HandWrittenWaiter => Self::HandWrittenWaiter,
            Notice::TokenVisible => Self::TokenVisible,
            Notice::Windows => Self::Windows,
            Notice::TwoGates => Self::TwoGates,
            Notice::WhichContainer => Self::WhichContainer,
            Notice::AnotherWaiter => Self::AnotherWaiter,
            Notice::PrefixedSource => Self::ForbiddenEnvFrom,
            Notice::WorkloadRef => Self::WorkloadRef,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `docs/review.md` has the table. `GENERATE=1 cargo test --lib codes` writes it.
    #[test]
    fn the_documentation_has_the_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/review.md");
        let found = std::fs::read_to_string(path).unwrap();
        let mut wanted = found.clone();
        // Each part starts after this text and ends with an empty line.
        for (start, part) in [
            (
                "Violations, exit code 1. The webhooks deny them:\n\n",
                rows(Level::Error),
            ),
            ("the cluster may have more:\n\n", rows(Level::Warning)),
            ("Not reviewable, exit code 2:\n\n", bad()),
        ] {
            let at = wanted.find(start).expect(start) + start.len();
            let length = wanted[at..].find("\n\n").expect("an empty line");
            wanted.replace_range(at..at + length, &part);
        }
        if std::env::var_os("GENERATE").is_some() {
            std::fs::write(path, &wanted).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap() == wanted,
            "{path} is out of date; run `GENERATE=1 cargo test --lib codes` and commit it"
        );
    }

    fn rows(level: Level) -> String {
        let codes = Code::ALL.iter().filter(|code| code.level() == level);
        let rows = codes.map(|code| {
            let (about, help) = (code.about(), code.help());
            format!("\n| [`{0}`](#{0}) | {about} | {help} |", code.as_str())
        });
        "| code | what | what to do |\n|---|---|---|".to_owned() + &rows.collect::<String>()
    }

    fn bad() -> String {
        let codes = BadCode::ALL.iter();
        let rows = codes.map(|code| format!("\n| `{}` | {} |", code.as_str(), code.about()));
        "| code | what |\n|---|---|".to_owned() + &rows.collect::<String>()
    }

    /// Each code has a section there, with an example that shows it. `tests/cmd.rs` runs them.
    #[test]
    fn every_code_is_explained_and_shown() {
        let docs = include_str!("../../docs/review.md");
        for code in Code::ALL {
            let name = code.as_str();
            let (_, section) = docs
                .split_once(&format!("\n### {name}\n"))
                .unwrap_or_else(|| panic!("docs/review.md has no section {name}"));
            let section = section.split("\n##").next().unwrap();
            // The injection adds the waiter; only another webhook can remove it.
            let shown =
                section.contains(&format!("title={name}::")) || *code == Code::WaiterMissing;
            assert!(shown, "no example in docs/review.md shows {name}");
        }
    }

    #[test]
    fn codes_are_unique_and_sorted_within_a_level() {
        assert!(Code::ALL.windows(2).all(|pair| {
            (std::cmp::Reverse(pair[0].level()), pair[0].as_str())
                < (std::cmp::Reverse(pair[1].level()), pair[1].as_str())
        }));
    }
}
