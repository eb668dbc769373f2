//! The commands on a page.

use std::fs;

use anyhow::{Context as _, Result};

use testkit::assets::repository;

/// A command on a page, and the output that the page shows.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The heading of its section.
    pub(crate) section: String,
    /// The command, on one line.
    pub(crate) command: String,
    pub(crate) printed: String,
}

/// The beginnings of commands in code in a table.
const PROGRAMS: [&str; 5] = ["migration-gate ", "kubectl ", "helm ", "ctr ", "crane "];

/// The commands on a page, in their order: those after `$` in `console` blocks, and those in a
/// table's column `command`.
pub(crate) fn commands(page: &str) -> Result<Vec<Shown>> {
    let text = fs::read_to_string(repository().join(page)).context(page.to_owned())?;
    let mut reading = Reading::default();
    for line in text.replace("\\\n", "").lines() {
        reading.line(line);
    }
    Ok(reading.shown)
}

#[derive(Default)]
struct Reading {
    section: String,
    /// The indentation of the current block.
    block: Option<usize>,
    in_table: bool,
    shown: Vec<Shown>,
}

impl Reading {
    fn line(&mut self, line: &str) {
        let trimmed = line.trim_start();
        if let Some(indent) = self.block {
            if trimmed.starts_with("```") {
                self.block = None;
                return;
            }
            let line = line.get(indent..).unwrap_or_default();
            match (line.strip_prefix("$ "), self.shown.last_mut()) {
                (Some(command), _) => self.push(command),
                (None, Some(last)) => last.printed.push_str(line),
                (None, None) => {}
            }
        } else if trimmed.starts_with("```console") {
            self.block = Some(line.len() - trimmed.len());
        } else if let Some(heading) = line.strip_prefix('#') {
            heading
                .trim_start_matches('#')
                .trim()
                .clone_into(&mut self.section);
        } else if line.starts_with('|') {
            self.row(line);
        } else {
            self.in_table = false;
        }
    }

    fn row(&mut self, line: &str) {
        if line.ends_with("| command |") {
            self.in_table = true;
        } else if self.in_table {
            let last = line.trim_end_matches('|').rsplit('|').next();
            for code in last.unwrap_or_default().split('`').skip(1).step_by(2) {
                if PROGRAMS.iter().any(|program| code.starts_with(program)) {
                    self.push(code);
                }
            }
        }
    }

    fn push(&mut self, command: &str) {
        self.shown.push(Shown {
            section: self.section.clone(),
            // The command in one line, without the page's line breaks.
            command: command.split_whitespace().collect::<Vec<_>>().join(" "),
            printed: String::new(),
        });
    }
}
