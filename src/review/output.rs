//! Reports in all output formats.

mod github;
mod human;
mod json;
mod junit;
mod sarif;

use std::io::{self, Write};

use super::input::SourceText;
use super::report::{Finding, Report};
use super::rewrite;
use migration_gate_yaml::{Lines, Position, Span};

/// The form of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Diffs, and findings with excerpts, for a terminal.
    Human,
    /// Unified diffs for git apply; findings go to standard error.
    Diff,
    /// The injected manifests for kubectl apply; findings go to standard error.
    Yaml,
    /// A versioned JSON document.
    Json,
    /// SARIF 2.1.0, for code scanning.
    Sarif,
    /// JUnit XML, for test reports.
    Junit,
    /// Workflow commands that annotate a pull request on GitHub.
    Github,
}

/// The writers of a report, and their colours.
#[derive(Debug)]
pub struct Sinks<O, E> {
    /// The report itself.
    pub out: O,
    /// Findings, if the format has no place for them in `out`.
    pub err: E,
    /// The colours of findings in `out`.
    pub out_paint: Paint,
    /// The colours of findings in `err`.
    pub err_paint: Paint,
}

/// Whether text for people has colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paint {
    /// Without colours.
    Plain,
    /// With ANSI escape codes.
    Coloured,
}

/// Writes a report.
pub fn write<O: Write, E: Write>(
    format: Format,
    report: &Report<'_>,
    sinks: &mut Sinks<O, E>,
) -> io::Result<()> {
    match format {
        Format::Human => human::write(report, sinks.out_paint, &mut sinks.out),
        Format::Diff => {
            for source in 0..report.loaded.len() {
                for diff in rewrite::diffs(report, source) {
                    sinks.out.write_all(diff.as_bytes())?;
                }
            }
            human::findings(report, sinks.err_paint, &mut sinks.err)
        }
        Format::Yaml => {
            for source in 0..report.loaded.len() {
                sinks
                    .out
                    .write_all(rewrite::yaml(report, source).as_bytes())?;
            }
            human::findings(report, sinks.err_paint, &mut sinks.err)
        }
        Format::Json => json::write(report, &mut sinks.out),
        Format::Sarif => sarif::write(report, &mut sinks.out),
        Format::Junit => junit::write(report, &mut sinks.out),
        Format::Github => github::write(report, &mut sinks.out),
    }
}

/// The places of findings, in lines and columns. The lines of a source are counted once, and only
/// if it has a finding.
struct Places<'r> {
    report: &'r Report<'r>,
    lines: Vec<Option<Lines<'r>>>,
    /// For each rendered source, the file's line of each of its lines.
    origins: Vec<Option<Vec<Option<usize>>>>,
}

/// A stretch of a source: its start, and the place after its end.
#[derive(Debug, Clone, Copy)]
struct Stretch<'r> {
    file: &'r str,
    start: Position,
    end: Position,
}

impl<'r> Places<'r> {
    fn new(report: &'r Report<'r>) -> Self {
        Self {
            report,
            lines: report.loaded.iter().map(|_| None).collect(),
            origins: vec![None; report.loaded.len()],
        }
    }

    fn lines(&mut self, source: usize) -> &Lines<'r> {
        let text = &self.report.loaded[source].source.text;
        self.lines[source].get_or_insert_with(|| Lines::new(text))
    }

    fn of(&mut self, source: usize, span: Span) -> Stretch<'r> {
        let report = self.report;
        let lines = self.lines(source);
        let (start, end) = (lines.position(span.start()), lines.position(span.end()));
        let place = |start, end| Stretch {
            file: &report.loaded[source].source.name,
            start,
            end,
        };
        let Some(origin) = &report.loaded[source].source.origin else {
            return place(start, end);
        };
        let line = self.line(source, start.line);
        let (start, end) = origin.columns(line);
        place(start, end)
    }

    /// The line of the file from which a line of a rendered source comes, both counted from 1.
    fn line(&mut self, source: usize, line: usize) -> Option<usize> {
        let SourceText { text, origin, .. } = &self.report.loaded[source].source;
        let origin = origin.as_ref()?;
        let lines = self.origins[source].get_or_insert_with(|| origin.lines(text));
        lines.get(line - 1).copied().flatten()
    }

    fn of_finding(&mut self, finding: &Finding) -> Stretch<'r> {
        let source = self.report.objects[finding.manifest].manifest.source;
        self.of(source, self.report.span(finding))
    }
}
