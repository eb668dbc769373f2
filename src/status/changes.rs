//! Changes since the last look, for output that is not a terminal.

use std::collections::BTreeSet;

use super::found::{StatusReport, place};
use migration_gate_core::status::{Diagnosis, GateLine};
use migration_gate_core::text::printable;

/// Remembers what was printed.
#[derive(Default)]
pub(super) struct Changes {
    told: BTreeSet<String>,
}

impl Changes {
    /// The new lines, and the problems that are fixed.
    pub(super) fn lines(&mut self, report: &StatusReport) -> Vec<String> {
        let now: Vec<String> = lines(report);
        let mut changed: Vec<String> = Vec::new();
        let gone = |line: &&String| line.starts_with(TROUBLES) && !now.contains(line);
        let fixed = self.told.iter().filter(gone);
        changed.extend(fixed.map(|line| format!("fixed: {}", line.trim_start_matches(TROUBLES))));
        changed.extend(
            now.iter()
                .filter(|line| !self.told.contains(*line))
                .cloned(),
        );
        self.told = now.into_iter().collect();
        changed
    }

    /// Whether the report has changed.
    pub(super) fn any(&mut self, report: &StatusReport) -> bool {
        !self.lines(report).is_empty()
    }
}

const TROUBLES: &str = "trouble: ";

/// All lines of a report, without values that change with the time alone.
fn lines(report: &StatusReport) -> Vec<String> {
    let overview = &report.overview;
    let gates = overview.gates.iter().flat_map(gate);
    let unread = report.unread.iter();
    let unread = unread.map(|unread| format!("not read: {}: {}", unread.what, unread.why));
    gates
        .chain(overview.troubles.iter().map(trouble))
        .chain(unread)
        .map(|line| printable(&line))
        .collect()
}

fn gate(gate: &GateLine) -> Vec<String> {
    let name = &gate.name;
    let mut lines = vec![format!("gate {name}: {}", gate.state.as_str())];
    for job in &gate.jobs {
        let attempt = match (job.attempt, job.attempts) {
            (Some(attempt), Some(of)) if job.state != "complete" => {
                format!(" (attempt {attempt} of {of})")
            }
            _ => String::new(),
        };
        lines.push(format!(
            "gate {name}: Job {} {}{attempt}",
            job.name, job.state
        ));
    }
    for workload in gate.workloads.iter().filter(|w| w.open == Some(false)) {
        let why = workload.why.join("; ");
        lines.push(format!(
            "gate {name}: {} {} waits: {why}",
            workload.kind, workload.name
        ));
    }
    lines
}

fn trouble(trouble: &Diagnosis) -> String {
    let fixes = trouble
        .remedies
        .iter()
        .find_map(|remedy| remedy.command.as_deref());
    let fixes = fixes.map_or_else(String::new, |command| format!(" Fix: {command}"));
    format!(
        "{TROUBLES}{} {}: {}: {}{fixes}",
        trouble.level.as_str(),
        trouble.code.as_str(),
        place(trouble),
        trouble.cause
    )
}
