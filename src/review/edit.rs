//! A patch, as edits of the lines that its author wrote.
//!
//! Unlike a diff of two renderings, a diff of the file itself can be read, reviewed and even
//! applied: line numbers, comments and notation are the author's. Block YAML is edited in whole
//! lines. Other notations (JSON, flow collections, aliases) are not edited at all.
//!
//! [`rewrite`](super::rewrite) reads the edited text again and compares, so an edit is shown only
//! if it is exactly the patch. The crate `yamlpatch` makes such edits too. But it parses with
//! tree-sitter, which may read YAML differently from the reader that the rules depend on, and it
//! leaves the comparison to its caller. So the edits here are made from the places that
//! [`migration_gate_yaml`] notes.

use std::ops::Range;

use json_patch::PatchOperation;
use serde_json::{Value, json};

use super::render;
use migration_gate_core::field::Step;
use migration_gate_yaml::{Child, Document, Lines, Node, Style};

/// Lines that take the place of others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// The lines to remove, counted from 0. An empty range inserts before its line.
    pub lines: Range<usize>,
    /// The lines to insert, without their line ends.
    pub new: Vec<String>,
}

/// The edits that apply `patch` to the object at `at`, in the order of their lines. `None` if the
/// text has a notation that is not edited.
pub fn edits(
    text: &str,
    lines: &Lines<'_>,
    document: &Document,
    at: &[Step],
    patch: &[PatchOperation],
) -> Option<Vec<Edit>> {
    let editor = Editor {
        text,
        lines,
        document,
    };
    let mut edits = patch
        .iter()
        .map(|operation| editor.operation(at, operation))
        .collect::<Option<Vec<_>>>()?;
    edits.sort_by_key(|edit| (edit.lines.start, edit.lines.end));
    Some(edits)
}

/// Turns edits of a text into edits of its part that starts at line `first`, counted from 0. `None`
/// if one of them is before that part.
pub fn moved_up(mut edits: Vec<Edit>, first: usize) -> Option<Vec<Edit>> {
    for edit in &mut edits {
        edit.lines = edit.lines.start.checked_sub(first)?..edit.lines.end - first;
    }
    Some(edits)
}

impl Edit {
    /// The opposite of [`moved_up`].
    pub fn move_down(&mut self, first: usize) {
        self.lines = self.lines.start + first..self.lines.end + first;
    }
}

/// Joins edits of one text: `None` if they overlap.
pub fn join(text: &str, edits: Vec<Edit>) -> Option<Vec<Edit>> {
    let mut joined: Vec<Edit> = Vec::new();
    for edit in edits {
        match joined.last_mut() {
            Some(last) if last.lines.is_empty() && last.lines == edit.lines => {
                last.new.extend(edit.new);
            }
            Some(last) if last.lines.end > edit.lines.start => return None,
            _ => joined.push(edit),
        }
    }
    // A last line without a line feed gets one, so it changes too, unless it goes anyway.
    let taken = joined.iter().rev().nth(1).map_or(0, |edit| edit.lines.end);
    if let Some(last) = joined.last_mut()
        && last.lines.is_empty()
        && !text.is_empty()
        && !text.ends_with('\n')
        && let Some((count, line)) = text.lines().enumerate().last()
        && last.lines.start == count + 1
        && taken <= count
    {
        last.lines.start = count;
        last.new.insert(0, line.to_owned());
    }
    Some(joined)
}

/// The text with the edits made.
pub fn apply(text: &str, edits: &[Edit]) -> String {
    let ending = line_ending(text);
    let mut result = String::with_capacity(text.len() + edits.len() * 64);
    let mut lines = text.split_inclusive('\n');
    let mut next = 0;
    for edit in edits {
        for line in lines.by_ref().take(edit.lines.start - next) {
            result.push_str(line);
        }
        for line in &edit.new {
            result.push_str(line);
            result.push_str(ending);
        }
        let gone = edit.lines.len();
        lines.by_ref().take(gone).for_each(drop);
        next = edit.lines.end;
    }
    result.extend(lines);
    result
}

/// How the text ends its lines.
pub fn line_ending(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text[..at].ends_with('\r') => "\r\n",
        _ => "\n",
    }
}

struct Editor<'a> {
    text: &'a str,
    lines: &'a Lines<'a>,
    document: &'a Document,
}

/// The parent of the value that a JSON pointer names, and the pointer's last step.
struct Slot<'d> {
    node: &'d Node,
    value: &'d Value,
    last: Step,
}

impl Editor<'_> {
    fn operation(&self, at: &[Step], operation: &PatchOperation) -> Option<Edit> {
        let (pointer, value, replace) = match operation {
            PatchOperation::Add(add) => (&add.path, &add.value, false),
            PatchOperation::Replace(replace) => (&replace.path, &replace.value, true),
            _ => return None,
        };
        let tokens: Vec<String> = pointer.tokens().map(|t| t.decoded().into_owned()).collect();
        let slot = self.slot(at, &tokens)?;
        if slot.node.style != Style::Block {
            return None;
        }
        match &slot.last {
            Step::Index(index) => {
                let element = slot.node.children.get(*index)?;
                let (line, indent) = self.dash(element)?;
                let end = if replace {
                    self.line_after(&element.node)
                } else {
                    line
                };
                Some(Edit {
                    lines: line..end,
                    new: render(&json!([value]), indent)?,
                })
            }
            Step::Key(key) => self.member(&slot, key, value),
        }
    }

    /// Follows a JSON pointer to its parent. `None` if the way leaves block YAML, where lines can
    /// be edited.
    fn slot(&self, at: &[Step], tokens: &[String]) -> Option<Slot<'_>> {
        let (last, way) = tokens.split_last()?;
        let mut node = &self.document.node;
        let mut value = &self.document.value;
        let mut enter = |step: Step| {
            if node.style != Style::Block {
                return None;
            }
            let index = match (&step, value) {
                (Step::Index(index), Value::Array(elements)) => {
                    value = elements.get(*index)?;
                    *index
                }
                (Step::Key(key), Value::Object(members)) => {
                    let (index, (_, member)) =
                        members.iter().enumerate().find(|(_, (k, _))| *k == key)?;
                    value = member;
                    index
                }
                _ => return None,
            };
            node = &node.children.get(index)?.node;
            Some(value.is_array())
        };
        let mut in_list = self.document.value.is_array();
        for step in at {
            in_list = enter(step.clone())?;
        }
        let step = |token: &String, in_list: bool| {
            if in_list {
                token.parse().ok().map(Step::Index)
            } else {
                Some(Step::Key(token.clone()))
            }
        };
        for token in way {
            in_list = enter(step(token, in_list)?)?;
        }
        Some(Slot {
            node,
            value,
            last: step(last, in_list)?,
        })
    }

    fn member(&self, slot: &Slot<'_>, key: &str, value: &Value) -> Option<Edit> {
        let members = slot.value.as_object()?;
        let member = json!({ key: value });
        if let Some(index) = members.keys().position(|k| k == key) {
            let child = slot.node.children.get(index)?;
            let (line, indent) = self.first_on_line(child.key?.start())?;
            return Some(Edit {
                lines: line..self.line_after(&child.node),
                new: render(&member, indent)?,
            });
        }
        let last = slot.node.children.last()?;
        // Init containers read best before the containers that they precede.
        let before = (key == "initContainers")
            .then(|| members.keys().position(|k| k == "containers"))
            .flatten()
            .and_then(|index| slot.node.children.get(index)?.key)
            .and_then(|key| self.first_on_line(key.start()));
        let (line, indent) = if let Some((line, indent)) = before {
            (self.above_comments(line), indent)
        } else {
            let first = slot.node.children.first()?.key?;
            let column = self.lines.position(first.start()).column;
            (self.line_after(&last.node), column - 1)
        };
        Some(Edit {
            lines: line..line,
            new: render(&member, indent)?,
        })
    }

    /// The line of an element's dash, and the dash's column, both from 0.
    fn dash(&self, element: &Child) -> Option<(usize, usize)> {
        let position = self.lines.position(element.node.span.start());
        let line = &self.text[self.lines.range(position.line, position.line)];
        let indent = line.len() - line.trim_start_matches(' ').len();
        (line[indent..].starts_with("- ") && indent + 1 < position.column)
            .then_some((position.line - 1, indent))
    }

    /// The line and column of an offset, from 0. `None` unless only spaces precede it on its line.
    fn first_on_line(&self, offset: usize) -> Option<(usize, usize)> {
        let position = self.lines.position(offset);
        let start = self.lines.range(position.line, position.line).start;
        self.text[start..offset]
            .bytes()
            .all(|byte| byte == b' ')
            .then_some((position.line - 1, position.column - 1))
    }

    /// The line after the last one of a node, from 0. A block scalar's span takes in the blank
    /// lines after it.
    fn line_after(&self, node: &Node) -> usize {
        let end = self.text[..node.span.end()].trim_end().len();
        self.lines
            .position(end.max(node.span.start().min(end)))
            .line
    }

    /// The first of the comment lines right above a line, or that line.
    fn above_comments(&self, mut line: usize) -> usize {
        while line > 0
            && self.text[self.lines.range(line, line)]
                .trim_start()
                .starts_with('#')
        {
            line -= 1;
        }
        line
    }
}

fn render(value: &Value, indent: usize) -> Option<Vec<String>> {
    let indent = " ".repeat(indent);
    Some(
        render::yaml(value)?
            .lines()
            .map(|line| {
                if line.is_empty() {
                    String::new()
                } else {
                    format!("{indent}{line}")
                }
            })
            .collect(),
    )
}
