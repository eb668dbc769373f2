//! Tests of the chart: what it renders, and how it is installed, upgraded and uninstalled.

mod accepted;
mod certificates;
mod ejecting;
mod guard;
mod install;
mod lifecycle;
mod notes;
mod ownership;
mod packaging;
mod platforms;
mod preflight;
mod readme;
mod render;
mod shapes;
mod upgrading;
mod values;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, anyhow};
use migration_gate_yaml as yaml;
use serde_json::Value;

use testkit::process;
use testkit::suite::Test;

pub(crate) use self::accepted::define_other_operators_kinds;

/// All tests of the chart. The first one keeps a processor busy; the others mostly wait.
pub(crate) fn tests() -> Vec<Test> {
    [
        accepted::tests(),
        shapes::tests(),
        render::tests(),
        values::tests(),
        notes::tests(),
        readme::tests(),
        packaging::tests(),
        platforms::tests(),
        preflight::tests(),
        lifecycle::tests(),
        ownership::tests(),
        guard::tests(),
        install::tests(),
        certificates::tests(),
        upgrading::tests(),
        ejecting::tests(),
    ]
    .concat()
}

/// The long forms.
pub(crate) fn soaks() -> Vec<Test> {
    packaging::soaks()
}

/// The chart's folder.
const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/migration-gate");

pub(crate) const APPLICATION: &str = "piefed-application";
/// `examples/piefed` for a node without storage.
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/cluster/example");

/// A Deployment that the built-in gate holds.
pub(crate) const HELD: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: piefed-web}, spec: {selector: {matchLabels: {app: web}}, \
     template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'piefed/piefed:1.2.0', command: [flask, run]}]}}}}";

/// Renders the chart with `values`, as the release `migration-gate` in a namespace with the same
/// name.
pub(crate) fn template(helm: &Path, values: &Value) -> Result<String> {
    process::run(
        Command::new(helm).args([
            "template",
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--values=-",
            // The version that a cluster would report.
            "--kube-version=1.37.2",
        ]),
        &values.to_string(),
        Duration::from_mins(3),
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
