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

use super::{Outcome, Paint};
use crate::review::check::{Finding, Level, Report};
use crate::review::rewrite;
use migration_gate_yaml::{Lines, Span};

/// The longest line that is shown, in characters; of longer ones, the part around the place.
const MAX_LINE: usize = 160;

pub(super) fn write(outcome: Outcome<'_>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let report = outcome.report;
    let mut printer = Printer { paint, out };
    let mut findings = report.findings.iter().peekable();
    for source in 0..report.loaded.len() {
        for index in report.objects_of(source) {
            let object = &report.objects[index];
            if let (Some(gate), Some(_)) = (&object.gate, &object.patched) {
                writeln!(
                    printer.out,
                    "{}: {} by gate {gate}",
                    clean(&object.manifest.to_string()),
                    object.outcome.as_str(),
                )?;
            }
        }
        for diff in rewrite::diffs(report, source) {
            printer.diff(&diff)?;
        }
        let mut lines = None;
        while let Some(finding) =
            findings.next_if(|finding| report.objects[finding.manifest].manifest.source == source)
        {
            let text = &report.loaded[source].source.text;
            printer.finding(
                report,
                finding,
                lines.get_or_insert_with(|| Lines::new(text)),
            )?;
        }
        printer.bad_input(report, source)?;
    }
    printer.unreadable(outcome)?;
    writeln!(printer.out, "{}", outcome.summary())
}

/// Everything but the diffs.
pub(super) fn findings(outcome: Outcome<'_>, paint: Paint, out: &mut impl Write) -> io::Result<()> {
    let report = outcome.report;
    let mut printer = Printer { paint, out };
    let mut findings = report.findings.iter().peekable();
    for source in 0..report.loaded.len() {
        let mut lines = None;
        while let Some(finding) =
            findings.next_if(|finding| report.objects[finding.manifest].manifest.source == source)
        {
            let text = &report.loaded[source].source.text;
            printer.finding(
                report,
                finding,
                lines.get_or_insert_with(|| Lines::new(text)),
            )?;
        }
        printer.bad_input(report, source)?;
    }
    printer.unreadable(outcome)
}

struct Printer<'p, W> {
    paint: Paint,
    out: &'p mut W,
}

impl<W: Write> Printer<'_, W> {
    /// A diff with colours where findings have them.
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

    fn finding(
        &mut self,
        report: &Report<'_>,
        finding: &Finding,
        lines: &Lines<'_>,
    ) -> io::Result<()> {
        let manifest = &report.objects[finding.manifest].manifest;
        let severity = match finding.level {
            Level::Error => Severity::ERROR,
            Level::Warning => Severity::WARNING,
        };
        let title = format!("{manifest}: {}", finding.message);
        let source = &report.loaded[manifest.source].source;
        let title = severity.primary_title(clean(&title)).id(finding.code);
        self.excerpt(
            title,
            &source.name,
            &source.text,
            report.span(finding),
            &finding.field.to_string(),
            lines,
        )
    }

    fn bad_input(&mut self, report: &Report<'_>, source: usize) -> io::Result<()> {
        let all = &report.bad_input;
        let start = all.partition_point(|bad| bad.source < source);
        let end = all.partition_point(|bad| bad.source <= source);
        if start == end {
            return Ok(());
        }
        let text = &report.loaded[source].source;
        let lines = Lines::new(&text.text);
        for bad in &all[start..end] {
            let title = Severity::ERROR
                .primary_title(clean(&bad.message))
                .id(bad.code);
            self.excerpt(title, &text.name, &text.text, bad.span, "", &lines)?;
        }
        Ok(())
    }

    fn unreadable(&mut self, outcome: Outcome<'_>) -> io::Result<()> {
        for unreadable in outcome.unreadable {
            let title = Severity::ERROR
                .primary_title(clean(&unreadable.message))
                .id("unreadable");
            let origin = Origin::path(clean(&unreadable.name));
            let printed = self.render(title.element(origin));
            writeln!(self.out, "{printed}\n")?;
        }
        Ok(())
    }

    fn excerpt(
        &mut self,
        title: Title<'_>,
        name: &str,
        text: &str,
        span: Span,
        label: &str,
        lines: &Lines<'_>,
    ) -> io::Result<()> {
        let at = lines.position(span.start());
        let line = lines.range(at.line, at.line);
        let shown = text[line.clone()].trim_end();
        let start = shown.floor_char_boundary(span.start() - line.start);
        let end = shown.floor_char_boundary((span.end() - line.start).max(start));
        let window = window(shown, start);
        let end = end.clamp(start, window.end.max(start));
        let before = clean(&shown[window.start..start]);
        let marked = clean(&shown[start..end]);
        let after = clean(&shown[end..window.end.max(end)]);
        let mark = before.len()..before.len() + marked.len();
        let label = (!label.is_empty()).then(|| clean(label));
        let name = clean(name);
        let snippet = Snippet::source([before.as_str(), &marked, &after].concat())
            .line_start(at.line)
            .path(name.as_str())
            .annotation(AnnotationKind::Primary.span(mark).label(label));
        let printed = self.render(title.element(snippet));
        // The renderer counts columns in what it is given, which may be but a part of the line.
        let counted = format!("{name}:{}:{}", at.line, before.chars().count() + 1);
        let meant = format!("{name}:{}:{}", at.line, at.column);
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

/// The part of a line that is shown: all, or of a line of minified JSON, say, what is around the place.
fn window(line: &str, start: usize) -> Range<usize> {
    if line.chars().count() <= MAX_LINE {
        return 0..line.len();
    }
    let from = line.floor_char_boundary(start.saturating_sub(MAX_LINE / 4));
    from..line.ceil_char_boundary((start + MAX_LINE / 2).min(line.len()))
}

/// Text from a manifest without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => ' ',
            // Controls, and what turns the direction of text around so that it reads as something else.
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                char::REPLACEMENT_CHARACTER
            }
            c => c,
        })
        .collect()
}
