//! For people: diffs, then findings with the lines that they are about.

use std::io::{self, Write};
use std::ops::Range;

use annotate_snippets::renderer::{
    DEFAULT_ADDITION_STYLE, DEFAULT_CONTEXT_STYLE, DEFAULT_EMPHASIS_STYLE, DEFAULT_REMOVAL_STYLE,
    Style,
};
use annotate_snippets::{
    AnnotationKind, Group, Level as Severity, Origin, Renderer, Snippet, Title,
};

use super::{Paint, Places};
use crate::review::codes::{BadCode, Level};
use crate::review::manifest::Skipped;
use crate::review::report::Report;
use crate::review::rewrite;
use migration_gate_core::text::printable;
use migration_gate_yaml::{Lines, Span};

/// Maximum length of a shown line, in characters. Of a longer one, the part around the place is
/// shown.
const MAX_LINE: usize = 160;

/// Diffs, then findings.
pub(super) fn write(report: &Report<'_>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let mut printer = Printer {
        report,
        places: Places::new(report),
        paint,
        out,
    };
    for source in 0..report.loaded.len() {
        printer.changes(source)?;
        printer.source(source)?;
    }
    printer.unreadable()?;
    writeln!(printer.out, "{}", report.summary())
}

/// Everything but the diffs.
pub(super) fn findings(report: &Report<'_>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let mut printer = Printer {
        report,
        places: Places::new(report),
        paint,
        out,
    };
    for source in 0..report.loaded.len() {
        printer.source(source)?;
    }
    printer.unreadable()
}

struct Printer<'p, W> {
    report: &'p Report<'p>,
    places: Places<'p>,
    paint: Paint,
    out: &'p mut W,
}

impl<W: Write> Printer<'_, W> {
    /// The injections into a source, with their diffs.
    fn changes(&mut self, source: usize) -> io::Result<()> {
        for object in &self.report.objects[self.report.objects_of(source)] {
            if let (Some(gate), Some(_)) = (&object.gate, &object.patched) {
                writeln!(
                    self.out,
                    "{}: {} by gate {gate}",
                    clean(&object.manifest.to_string()),
                    object.outcome.as_str(),
                )?;
            }
        }
        let diffs = rewrite::diffs(self.report, source);
        diffs.iter().try_for_each(|diff| self.diff(diff))
    }

    /// The findings in a source, then the documents in it that aren't manifests.
    fn source(&mut self, index: usize) -> io::Result<()> {
        for skipped in self.report.skipped_in(index) {
            self.skipped(skipped)?;
        }
        let (findings, bad) = (
            self.report.findings_in(index),
            self.report.bad_input_in(index),
        );
        if findings.is_empty() && bad.is_empty() {
            return Ok(());
        }
        let lines = Lines::new(&self.report.loaded[index].source.text);
        for finding in findings {
            let manifest = &self.report.objects[finding.manifest].manifest;
            let severity = match finding.level {
                Level::Error => Severity::ERROR,
                Level::Warning => Severity::WARNING,
            };
            let title = clean(&format!("{manifest}: {}", finding.message));
            let title = severity.primary_title(title).id(finding.code.as_str());
            let span = self.report.span(finding);
            self.excerpt(title, index, span, &finding.field.to_string(), &lines)?;
        }
        for bad in bad {
            let title = Severity::ERROR.primary_title(clean(&bad.message));
            self.excerpt(title.id(bad.code.as_str()), index, bad.span, "", &lines)?;
        }
        Ok(())
    }

    /// Writes a diff, in colours if findings have them.
    fn diff(&mut self, diff: &str) -> io::Result<()> {
        for line in diff.lines() {
            let style = match (self.paint, line.as_bytes()) {
                (Paint::Plain, _) => Style::new(),
                (_, [b'-', b'-', b'-', ..] | [b'+', b'+', b'+', ..]) => DEFAULT_EMPHASIS_STYLE,
                (_, [b'@', ..]) => DEFAULT_CONTEXT_STYLE,
                (_, [b'+', ..]) => DEFAULT_ADDITION_STYLE,
                (_, [b'-', ..]) => DEFAULT_REMOVAL_STYLE,
                _ => Style::new(),
            };
            writeln!(self.out, "{style}{}{style:#}", clean(line))?;
        }
        Ok(())
    }

    fn skipped(&mut self, skipped: &Skipped) -> io::Result<()> {
        let source = &self.report.loaded[skipped.source].source;
        let at = Lines::new(&source.text).position(skipped.span.start());
        let title = Severity::NOTE.primary_title(skipped.part.message());
        let origin = Origin::path(clean(&source.name)).line(at.line);
        let printed = self.render(title.id(skipped.part.as_str()).element(origin));
        writeln!(self.out, "{printed}\n")
    }

    fn unreadable(&mut self) -> io::Result<()> {
        for unreadable in &self.report.unreadable {
            let title = Severity::ERROR
                .primary_title(clean(&unreadable.message))
                .id(BadCode::Unreadable.as_str());
            let origin = Origin::path(clean(&unreadable.name));
            let printed = self.render(title.element(origin));
            writeln!(self.out, "{printed}\n")?;
        }
        Ok(())
    }

    /// A finding with the line that it is about.
    fn excerpt(
        &mut self,
        title: Title<'_>,
        index: usize,
        span: Span,
        label: &str,
        lines: &Lines<'_>,
    ) -> io::Result<()> {
        let report = self.report;
        let source = &report.loaded[index].source;
        let at = lines.position(span.start());
        // For a rendered source, the rendered line is shown, with its place in the file.
        let (name, number) = match (&source.origin, self.places.line(index, at.line)) {
            (None, _) => (clean(&source.name), at.line),
            (Some(_), Some(line)) => (clean(&source.name), line),
            (Some(_), None) => (format!("{} (as rendered)", clean(&source.name)), at.line),
        };
        let line = lines.range(at.line, at.line);
        let shown = source.text[line.clone()].trim_end();
        let start = shown.floor_char_boundary(span.start() - line.start);
        let end = shown.floor_char_boundary((span.end() - line.start).max(start));
        let window = window(shown, start);
        let end = end.clamp(start, window.end.max(start));
        let before = clean(&shown[window.start..start]);
        let marked = clean(&shown[start..end]);
        let after = clean(&shown[end..window.end.max(end)]);
        let mark = before.len()..before.len() + marked.len();
        let label = (!label.is_empty()).then(|| clean(label));
        let snippet = Snippet::source([before.as_str(), &marked, &after].concat())
            .line_start(number)
            .path(name.as_str())
            .annotation(AnnotationKind::Primary.span(mark).label(label));
        // annotate-snippets (0.12.17) counts columns in the text that it gets, which may be only a
        // part of the line. An `Origin` of its own would print the right column, but on one more
        // line.
        let printed = self.render(title.element(snippet));
        let counted = format!("{name}:{number}:{}", before.chars().count() + 1);
        let meant = format!("{name}:{number}:{}", at.column);
        writeln!(self.out, "{}\n", printed.replacen(&counted, &meant, 1))
    }

    fn render(&self, group: Group<'_>) -> String {
        match self.paint {
            Paint::Plain => Renderer::plain(),
            Paint::Coloured => Renderer::styled(),
        }
        .render(&[group])
    }
}

/// The part of a line that is shown: all of it, or the surroundings of the place if the line is
/// long, such as minified JSON.
fn window(line: &str, start: usize) -> Range<usize> {
    if line.chars().count() <= MAX_LINE {
        return 0..line.len();
    }
    let from = line.floor_char_boundary(start.saturating_sub(MAX_LINE / 4));
    from..line.ceil_char_boundary((start + MAX_LINE / 2).min(line.len()))
}

/// Text from a manifest without terminal escape sequences.
fn clean(text: &str) -> String {
    printable(text).replace('\t', " ")
}
