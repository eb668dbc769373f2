//! The commands that a page shows.

use std::fs;

use anyhow::{Context as _, Result};

use testkit::assets::repository;

/// A command of a page, and what the page says that it prints.
#[derive(Debug)]
pub(crate) struct Shown {
    /// The heading above it.
    pub(crate) section: String,
    /// The command, on one line.
    pub(crate) command: String,
    pub(crate) printed: String,
}

/// What begins a command that a table shows in code.
const PROGRAMS: [&str; 5] = ["migration-gate ", "kubectl ", "helm ", "ctr ", "crane "];

/// The commands of a page, in its order: those behind `$` in its `console` blocks, and those that
/// fill a table's column `command`.
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
    /// How far the block is indented that is being read.
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
            // Words in one line, wherever the page broke it.
            command: command.split_whitespace().collect::<Vec<_>>().join(" "),
            printed: String::new(),
        });
    }
}
