//! Runs without a gate, in which a test of the gate must fail.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::suite::Test;
use crate::worker::TestOutcome;

/// The variable that tells the process inside to run without a gate.
pub(crate) const UNGATED: &str = "MIGRATION_GATE_TEST_UNGATED";

/// The context of errors before the actual test. A test must not fail with these.
pub const SET_UP: &str = "setting up what is tested";

/// The label that the chart's webhooks then require of a namespace. No namespace has it.
const NOWHERE: (&str, &str) = ("gated", "nowhere");

/// The chart's values with which its webhooks match no namespace, in a run without a gate.
/// Everything else is installed as usual.
pub fn values() -> Option<Value> {
    let (label, value) = NOWHERE;
    is_on().then(|| json!({"webhooks": {"namespaceSelector": {"matchLabels": {label: value}}}}))
}

/// The same as an option of Helm, with a space in front; empty in other runs.
pub(crate) fn option() -> String {
    let (label, value) = NOWHERE;
    if is_on() {
        format!(" --set=webhooks.namespaceSelector.matchLabels.{label}={value}")
    } else {
        String::new()
    }
}

fn is_on() -> bool {
    std::env::var_os(UNGATED).is_some()
}

/// A test, and whether it must fail without a gate.
pub struct UngatedTest {
    /// The test.
    pub test: Test,
    /// The reason why it need not fail. Such a test is not run.
    pub exempt: Option<&'static str>,
}

/// The expected results of these tests, by name.
pub(crate) struct Expected(HashMap<&'static str, Option<&'static str>>);

impl Expected {
    pub(crate) fn of(tests: &[UngatedTest]) -> Self {
        Self(tests.iter().map(|it| (it.test.name, it.exempt)).collect())
    }

    /// Runs a test, which must fail, unless it is exempt.
    pub(crate) fn check(
        &self,
        name: &str,
        run: impl FnOnce() -> Result<TestOutcome, String>,
    ) -> Result<TestOutcome, String> {
        if let Some(reason) = self.0.get(name).copied().flatten() {
            return Ok(TestOutcome::Skipped(reason.to_owned()));
        }
        Ok(match run()? {
            TestOutcome::Passed => {
                TestOutcome::Failed("it passes where no gate holds anything".to_owned())
            }
            TestOutcome::Failed(error) if error.contains(SET_UP) => TestOutcome::Failed(error),
            TestOutcome::Failed(error) => {
                let why = error.lines().find(|line| !line.is_empty());
                let why = why.unwrap_or_default();
                eprintln!("cluster: without the gate, {name} fails: {why}");
                TestOutcome::Passed
            }
            skipped @ TestOutcome::Skipped(_) => skipped,
        })
    }
}
