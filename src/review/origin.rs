//! Finds the line from which Helm or kustomize has rendered a line.
//!
//! Neither program names it. A line of a template is found by its text, a field of a manifest by
//! its path. If that leads to no line, or to several, the line is unknown.

mod by_path;
mod by_text;

use std::ops::Range;

use migration_gate_yaml::Position;

/// The file from which a source was rendered.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A template of a chart, with its text; empty if the file cannot be read.
    Template(String),
    /// A manifest that a kustomization lists.
    Manifest {
        /// The file's text.
        text: String,
        /// Where the object is in it.
        part: Range<usize>,
    },
    /// A kustomization that generates the object, or loads it from elsewhere.
    Kustomization,
}

impl Origin {
    /// For each line of the rendered text, the line of the file, both counted from 1.
    pub fn lines(&self, rendered: &str) -> Vec<Option<usize>> {
        match self {
            Self::Template(template) => by_text::lines(template, rendered),
            Self::Manifest { text, part } => by_path::lines(text, part, rendered),
            Self::Kustomization => Vec::new(),
        }
    }

    /// The start and end of a line without its indentation; the file's start if the line is
    /// unknown.
    pub fn columns(&self, line: Option<usize>) -> (Position, Position) {
        let at = |line, column| Position { line, column };
        let text = match self {
            Self::Template(text) | Self::Manifest { text, .. } => text,
            Self::Kustomization => "",
        };
        let known = line.and_then(|line| Some((line, text.lines().nth(line - 1)?)));
        let Some((line, text)) = known else {
            return (at(1, 1), at(1, 1));
        };
        let all = text.trim_end().chars().count();
        let indentation = all - text.trim().chars().count();
        (at(line, indentation + 1), at(line, all + 1))
    }
}
