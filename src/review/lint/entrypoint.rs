//! Held containers that may migrate by themselves.

use serde_json::Value;

use super::{Gated, called, containers};
use crate::review::codes::Code;
use crate::review::report::Finding;
use migration_gate_core::image::same_repository;
use migration_gate_core::podspec::list;

/// A container of the Job's image that runs the image's entrypoint. Many entrypoints migrate and
/// then run their arguments, so arguments alone do not help.
pub(super) fn migrates_itself(gated: &Gated<'_>) -> Vec<Finding> {
    let world = gated.world;
    let jobs = gated
        .all_jobs()
        .flat_map(|job| containers(world.request(job)));
    let migrated: Vec<&str> = jobs.filter_map(|(_, container)| image(container)).collect();
    let mut findings = Vec::new();
    for index in &gated.workloads {
        for (place, container) in containers(world.request(*index)) {
            let is_migrated = image(container)
                .is_some_and(|image| migrated.iter().any(|other| same_repository(image, other)));
            if !is_migrated || !list(container, "command").is_empty() {
                continue;
            }
            let message = format!(
                "container {} has the Job's image and no command, so it runs the image's entrypoint; if that migrates, every pod does: give the container a command that does not",
                called(container)
            );
            findings.push(Finding::new(*index, Code::MigratesItself, place, message));
        }
    }
    findings
}

fn image(container: &Value) -> Option<&str> {
    container.get("image")?.as_str()
}
