//! The chart: what it renders, and how it arrives, changes and leaves.

mod lifecycle;
mod readme;
mod render;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};
use migration_gate::yaml;
use serde_json::Value;

use crate::harness::Test;
use crate::process;

/// All of them.
pub(crate) fn tests() -> impl Iterator<Item = Test> {
    render::TESTS
        .into_iter()
        .chain(readme::TESTS)
        .chain(lifecycle::TESTS)
}

/// Where the chart is.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/migration-gate");

/// Renders the chart with `values` over its own, as a release `migration-gate` in a namespace of that name.
pub(crate) fn template(helm: &Path, values: &Value) -> Result<String> {
    process::run(
        Command::new(helm).args([
            "template",
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--values=-",
            // What a cluster would say for itself.
            "--kube-version=1.36.3",
        ]),
        &values.to_string(),
        Duration::from_mins(1),
    )?
    .success()
}

/// The objects in rendered manifests.
pub(crate) fn objects(manifests: &str) -> Result<Vec<Value>> {
    yaml::documents(manifests)
        .map(|document| document.map(|found| found.value))
        .filter(|value| !matches!(value, Ok(Value::Null)))
        .collect::<Result<_, _>>()
        .map_err(|error| anyhow!("what the chart rendered is no YAML: {}", error.message))
}
