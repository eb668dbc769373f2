//! YAML as Kubernetes reads it, with the place of every value in the text.
//!
//! `kubectl` and Flux turn a manifest into JSON with `sigs.k8s.io/yaml`, whose scalars follow YAML
//! 1.1 as Go's yaml.v2 understands it: `on`, `yes` and `y` are booleans, `0755` and `0o755` are
//! octal, `1_000` is a thousand. This crate reads what they would send, with one exception: a key
//! that occurs twice in a mapping is an error, as in kustomize, while `kubectl` silently keeps the
//! last one. JSON is read as YAML, and consecutive JSON values are documents of their own.
//!
//! No published crate does this: those that keep places (`serde-saphyr`, `marked-yaml`) read YAML
//! 1.2, or fill types that are known beforehand. The parser below is `granit-parser`'s.
//!
//! Nothing here panics, and memory is bounded by the text: [`MAX_DEPTH`] limits nesting, and
//! [`ALIAS_BUDGET`] limits the copies by aliases.

mod build;
mod json;
mod scalar;

use std::ops::Range;

use serde_json::Value;

use migration_gate_core::field::Step;

/// Maximum nesting of values, with resolved aliases. `serde_json`'s own limit.
pub const MAX_DEPTH: usize = 128;

/// Maximum size of the copies by anchors and aliases in one document, in bytes.
pub const ALIAS_BUDGET: usize = 16 << 20;

/// Maximum length of a text, in bytes: spans are 32 bits wide.
pub const MAX_TEXT: usize = u32::MAX as usize;

/// A place in the text, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span from the byte at `start` to the one before `end`.
    pub fn new(start: usize, end: usize) -> Self {
        // The text is at most MAX_TEXT long, so nothing is cut off.
        let narrow = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Self {
            start: narrow(start),
            end: narrow(end.max(start)),
        }
    }

    /// The first byte.
    pub fn start(self) -> usize {
        self.start as usize
    }

    /// The byte after the last.
    pub fn end(self) -> usize {
        self.end as usize
    }

    /// The bytes from start to end, to slice the text with.
    pub fn range(self) -> Range<usize> {
        self.start()..self.end()
    }
}

/// The style of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A scalar in any of its notations.
    Scalar,
    /// A collection whose structure is its indentation.
    Block,
    /// A collection in brackets or braces, as in JSON.
    Flow,
    /// An alias, `*name`: its value is written elsewhere.
    Alias,
}

/// The place of a value, and of its parts.
#[derive(Debug, Clone)]
pub struct Node {
    /// The place of the value's text; for an alias, of the alias itself. Empty for a null that is
    /// not written.
    pub span: Span,
    /// Its style.
    pub style: Style,
    /// The members or elements, in the value's order.
    pub children: Vec<Child>,
}

/// A member or an element.
#[derive(Debug, Clone)]
pub struct Child {
    /// The member's key; `None` for an element, and for a member that a merge key brought.
    pub key: Option<Span>,
    /// The value.
    pub node: Node,
}

/// One document of a text.
#[derive(Debug, Clone)]
pub struct Document {
    /// Its value.
    pub value: Value,
    /// Its place.
    pub node: Node,
    /// Its part of the text, from its `---` (if there is one) to the next.
    pub span: Span,
}

/// The result of following a path.
#[derive(Debug, Clone, Copy)]
pub struct Found<'d> {
    /// The value's key, if it has one.
    pub key: Option<Span>,
    /// The value's place.
    pub node: &'d Node,
    /// The value.
    pub value: &'d Value,
    /// Number of followed steps; fewer than all if the rest does not exist.
    pub steps: usize,
}

impl Document {
    /// Follows the steps to a value. If it does not exist, finds the last existing value on the
    /// way.
    pub fn find(&self, steps: &[Step]) -> Found<'_> {
        let mut found = Found {
            key: None,
            node: &self.node,
            value: &self.value,
            steps: 0,
        };
        for step in steps {
            let (index, value) = match (step, found.value) {
                (Step::Key(key), Value::Object(members)) => {
                    match members.iter().enumerate().find(|(_, (k, _))| *k == key) {
                        Some((index, (_, value))) => (index, value),
                        None => break,
                    }
                }
                (Step::Index(index), Value::Array(elements)) => match elements.get(*index) {
                    Some(value) => (*index, value),
                    None => break,
                },
                _ => break,
            };
            let Some(child) = found.node.children.get(index) else {
                break;
            };
            found = Found {
                key: child.key,
                node: &child.node,
                value,
                steps: found.steps + 1,
            };
        }
        found
    }
}

/// The error of a document that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SyntaxError {
    /// The problem.
    pub message: String,
    /// Where, in bytes from the text's start.
    pub offset: usize,
}

/// The documents of a text, in order. An error in one does not affect the others. As in `kubectl`,
/// `---` lines separate documents, and consecutive JSON values at the text's start are documents of
/// their own.
///
/// A document without a value (comments alone) is left out.
pub fn documents(text: &str) -> impl Iterator<Item = Result<Document, SyntaxError>> + '_ {
    parts(text).flat_map(move |part| documents_of(text, part))
}

/// The parts of a text, in order. [`documents_of`] reads each by itself.
pub fn parts(text: &str) -> impl Iterator<Item = Range<usize>> + '_ {
    // A text that is too long is a single part, whose one document is the error.
    let readable = if text.len() > MAX_TEXT { "" } else { text };
    let json = json::values(readable);
    let start = json.last().map_or(0, |value| value.end);
    let chunks = json.into_iter().chain(Chunks {
        text: readable,
        start,
    });
    let too_long = (text.len() > MAX_TEXT).then_some(0..0);
    too_long.into_iter().chain(chunks)
}

/// The documents in one of a text's [`parts`].
pub fn documents_of(
    text: &str,
    part: Range<usize>,
) -> impl Iterator<Item = Result<Document, SyntaxError>> + '_ {
    let too_long = text.len() > MAX_TEXT;
    let error = too_long.then(|| {
        Err(SyntaxError {
            message: format!("the text is longer than {MAX_TEXT} bytes"),
            offset: 0,
        })
    });
    let documents = (!too_long).then(|| build::documents(text, part));
    error.into_iter().chain(documents.into_iter().flatten())
}

/// The place of a byte order mark that only `---` and comments precede. `text` starts with a
/// document.
///
/// A template or a file that was saved with a mark has it there after it is rendered, or appended
/// to another file. The mark is skipped here, while `kubectl` reads it as a part of the first key.
pub fn inner_mark(text: &str) -> Option<Range<usize>> {
    let mut lines = text.split_inclusive('\n');
    let mut start = lines.next().filter(|line| is_bare(line))?.len();
    for line in lines {
        if line.starts_with(MARK) {
            return Some(start..start + MARK.len_utf8());
        }
        if !is_bare(line) {
            return None;
        }
        start += line.len();
    }
    None
}

/// Whether a line is blank, a comment or a bare separator. Its characters must be valid in YAML,
/// because no other code checks a skipped line.
fn is_bare(line: &str) -> bool {
    let is_allowed = |c: char| !c.is_control() || matches!(c, '\t' | '\r' | '\n' | '\u{85}');
    if !line.chars().all(is_allowed) {
        return false;
    }
    let line = line.trim_start_matches(MARK).trim();
    line.is_empty() || line.starts_with('#') || line == "---"
}

/// The byte order mark.
const MARK: char = '\u{feff}';

/// The parts of a text between its `---` lines. Each but the first starts with its own.
struct Chunks<'t> {
    text: &'t str,
    start: usize,
}

impl Iterator for Chunks<'_> {
    type Item = Range<usize>;

    fn next(&mut self) -> Option<Range<usize>> {
        if self.start >= self.text.len() {
            return None;
        }
        let mut from = self.start;
        let end = loop {
            match next_separator(self.text, from) {
                None => break self.text.len(),
                // Directives belong to the document that follows their separator.
                Some(at) if is_prefix(&self.text[self.start..at]) => from = at,
                Some(at) => break at,
            }
        };
        let chunk = self.start..end;
        self.start = end;
        Some(chunk)
    }
}

/// The start of the first separator line after the line of `from`.
fn next_separator(text: &str, from: usize) -> Option<usize> {
    text[from..]
        .match_indices("\n---")
        .map(|(at, found)| (from + at + 1, from + at + found.len()))
        .find(|(_, after)| {
            matches!(
                text.as_bytes().get(*after),
                None | Some(b' ' | b'\t' | b'\r' | b'\n')
            )
        })
        .map(|(start, _)| start)
}

/// Whether a text has directives, and otherwise only comments and blank lines.
fn is_prefix(text: &str) -> bool {
    let mut directives = false;
    for line in text.lines() {
        match line.trim_start_matches(MARK).bytes().next() {
            Some(b'%') => directives = true,
            None | Some(b'#') => {}
            Some(_) if line.trim().is_empty() => {}
            Some(_) => return false,
        }
    }
    directives
}

/// A line and a column, both from 1. Columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The column.
    pub column: usize,
}

/// Finds lines in a text.
#[derive(Debug, Clone)]
pub struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    /// The lines of a text, one more than it has line feeds.
    pub fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Self { text, starts }
    }

    /// The line and column of a byte. An offset past the end counts as the end.
    pub fn position(&self, offset: usize) -> Position {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        Position {
            line,
            column: self.text[start..offset].chars().count() + 1,
        }
    }

    /// The bytes of the lines from `first` to `last`, counted from 1, line feed included.
    pub fn range(&self, first: usize, last: usize) -> Range<usize> {
        let at = |line: usize| self.starts.get(line).copied().unwrap_or(self.text.len());
        let start = at(first.saturating_sub(1));
        start..at(last).max(start)
    }
}

#[cfg(test)]
mod tests;
