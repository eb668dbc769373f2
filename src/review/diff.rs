//! Unified diffs.
//!
//! `similar` compares two texts. If the edits are known already, no search is needed, so
//! [`FileDiff::of_edits`] takes time in proportion to the file, which may be 256 MiB long.
//! `similar` cannot print differences that it has not found itself.

use std::fmt::Write as _;

use similar::algorithms::{Capture, Compact, Replace, myers};
use similar::{DiffOp, group_diff_ops};

use super::edit::Edit;

/// Lines of context around a change, as `diff -u` has them.
const CONTEXT: usize = 3;

/// One file before and after.
#[derive(Debug, Clone, Copy)]
pub struct FileDiff<'a> {
    /// The file's name, without `a/` or `b/`.
    pub name: &'a str,
    /// Its text before.
    pub old: &'a str,
    /// Its text after.
    pub new: &'a str,
}

impl FileDiff<'_> {
    /// The diff, made from the edits that lead from the old text to the new one.
    pub fn of_edits(&self, edits: &[Edit]) -> String {
        let old: Vec<&str> = self.old.split_inclusive('\n').collect();
        let new: Vec<&str> = self.new.split_inclusive('\n').collect();
        let mut ops = Vec::new();
        let (mut at, mut now) = (0, 0);
        for edit in edits {
            ops.push(DiffOp::Equal {
                old_index: at,
                new_index: now,
                len: edit.lines.start - at,
            });
            now += edit.lines.start - at;
            at = edit.lines.start;
            // A replacement may keep some of the lines that it replaces.
            let (gone, come) = (&old[edit.lines.clone()], &new[now..now + edit.new.len()]);
            ops.extend(
                compared(gone, come)
                    .into_iter()
                    .map(|op| shifted(op, at, now)),
            );
            at = edit.lines.end;
            now += edit.new.len();
        }
        ops.push(DiffOp::Equal {
            old_index: at,
            new_index: now,
            len: old.len() - at,
        });
        ops.retain(|op| !matches!(op, DiffOp::Equal { len: 0, .. }));
        self.print(&old, &new, ops)
    }

    /// The diff, found by comparing the two texts.
    pub fn of_texts(&self) -> String {
        let old: Vec<&str> = self.old.split_inclusive('\n').collect();
        let new: Vec<&str> = self.new.split_inclusive('\n').collect();
        let ops = compared(&old, &new);
        self.print(&old, &new, ops)
    }

    fn print(&self, old: &[&str], new: &[&str], ops: Vec<DiffOp>) -> String {
        let mut out = format!("--- a/{0}\n+++ b/{0}\n", self.name);
        for hunk in group_diff_ops(ops, CONTEXT) {
            let (Some(first), Some(last)) = (hunk.first(), hunk.last()) else {
                continue;
            };
            let range = |start: usize, end: usize| match end - start {
                // As in diff(1), an empty range has the number of the line before it.
                0 => format!("{start},0"),
                1 => format!("{}", start + 1),
                length => format!("{},{length}", start + 1),
            };
            let _ = writeln!(
                out,
                "@@ -{} +{} @@",
                range(first.old_range().start, last.old_range().end),
                range(first.new_range().start, last.new_range().end),
            );
            for op in hunk {
                if let DiffOp::Equal { .. } = op {
                    lines(&mut out, ' ', &old[op.old_range()]);
                } else {
                    lines(&mut out, '-', &old[op.old_range()]);
                    lines(&mut out, '+', &new[op.new_range()]);
                }
            }
        }
        out
    }
}

/// Does what `similar::capture_diff_slices` does with Myers' algorithm. That function takes the
/// algorithm as a value, so the binary would hold all five of them, which is 3 % of it.
fn compared(old: &[&str], new: &[&str]) -> Vec<DiffOp> {
    let mut found = Compact::new(Replace::new(Capture::new()), old, new);
    match myers::diff(&mut found, old, 0..old.len(), new, 0..new.len()) {
        Ok(()) => found.into_inner().into_inner().into_ops(),
        Err(never) => match never {},
    }
}

fn lines(out: &mut String, sign: char, lines: &[&str]) {
    for line in lines {
        out.push(sign);
        out.push_str(line);
        if !line.ends_with('\n') {
            out.push_str("\n\\ No newline at end of file\n");
        }
    }
}

fn shifted(op: DiffOp, old: usize, new: usize) -> DiffOp {
    match op {
        DiffOp::Equal {
            old_index,
            new_index,
            len,
        } => DiffOp::Equal {
            old_index: old_index + old,
            new_index: new_index + new,
            len,
        },
        DiffOp::Delete {
            old_index,
            old_len,
            new_index,
        } => DiffOp::Delete {
            old_index: old_index + old,
            old_len,
            new_index: new_index + new,
        },
        DiffOp::Insert {
            old_index,
            new_index,
            new_len,
        } => DiffOp::Insert {
            old_index: old_index + old,
            new_index: new_index + new,
            new_len,
        },
        DiffOp::Replace {
            old_index,
            old_len,
            new_index,
            new_len,
        } => DiffOp::Replace {
            old_index: old_index + old,
            old_len,
            new_index: new_index + new,
            new_len,
        },
    }
}
