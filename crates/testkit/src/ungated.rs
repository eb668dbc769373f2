//! The gate taken away: a test that is about it has to fail then.

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::suite::Test;
use crate::worker::TestOutcome;

/// The variable by which the process inside knows that the gate is taken away.
pub(crate) const UNGATED: &str = "MIGRATION_GATE_TEST_UNGATED";

/// The context of errors before there is anything to hold: these say nothing of the gate.
pub const SET_UP: &str = "setting up what is tested";

/// What else the chart's webhooks ask of a namespace then. None has it.
const NOWHERE: (&str, &str) = ("gated", "nowhere");

/// The chart's values by which its webhooks look at no namespace, where the gate is taken away.
/// Everything else is installed as ever.
pub fn values() -> Option<Value> {
    let (label, value) = NOWHERE;
    is_on().then(|| json!({"webhooks": {"namespaceSelector": {"matchLabels": {label: value}}}}))
}

/// The same as an option of Helm, with a space in front; empty where the gate is as ever.
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

/// A test, and what is known of it where the gate is taken away.
pub struct UngatedTest {
    /// The test.
    pub test: Test,
    /// Why it needn't fail then; it isn't run.
    pub exempt: Option<&'static str>,
}

/// What these tests have to come to, by their names.
pub(crate) struct Expected(HashMap<&'static str, Option<&'static str>>);

impl Expected {
    pub(crate) fn of(tests: &[UngatedTest]) -> Self {
        Self(tests.iter().map(|it| (it.test.name, it.exempt)).collect())
    }

    /// Runs a test, unless it is exempt; it has to fail.
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
