//! The last lines of a log that may be endless, in bounded memory.

use std::collections::VecDeque;

use migration_gate_core::mask;
use migration_gate_core::text::printable;

/// Maximum length of a line, in bytes; the rest is cut.
const LINE: usize = 4096;

/// The last lines of the pushed text, with passwords masked and control characters replaced. It
/// holds at most `max_bytes` bytes of text, and one more line.
#[derive(Debug)]
pub(crate) struct Tail {
    max_lines: usize,
    max_bytes: usize,
    lines: VecDeque<String>,
    bytes: usize,
    dropped: u64,
    blocks: mask::Blocks,
    current: Vec<u8>,
    /// The length of the current line in bytes, including what is cut.
    length: usize,
}

impl Tail {
    pub(crate) fn new(max_lines: usize, max_bytes: usize) -> Self {
        Self {
            max_lines,
            max_bytes,
            lines: VecDeque::new(),
            bytes: 0,
            dropped: 0,
            blocks: mask::Blocks::default(),
            current: Vec::new(),
            length: 0,
        }
    }

    /// Adds the next piece, which may begin and end within a line.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        let mut lines = piece.split(|byte| *byte == b'\n');
        if let Some(first) = lines.next() {
            self.extend(first);
        }
        for line in lines {
            self.end_line();
            self.extend(line);
        }
    }

    /// The lines, oldest first, and the number of lines before them that were dropped.
    pub(crate) fn finish(mut self) -> (Vec<String>, u64) {
        if self.length > 0 {
            self.end_line();
        }
        (self.lines.into(), self.dropped)
    }

    fn extend(&mut self, part: &[u8]) {
        let room = LINE.saturating_sub(self.current.len());
        self.current.extend(part.iter().take(room));
        self.length += part.len();
    }

    fn end_line(&mut self) {
        let cut = self.length - self.current.len();
        let text = String::from_utf8_lossy(&self.current);
        // Mask the whole line before anything else is dropped: a part of a URL cannot be
        // recognized.
        let text = text.trim_end_matches('\r');
        let mut line = if self.blocks.hides(text) {
            mask::HIDDEN.to_owned()
        } else {
            printable(&mask::passwords(text, cut > 0))
        };
        if cut > 0 {
            line = format!("{line} ({cut} more bytes)");
        }
        self.current.clear();
        self.length = 0;
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.max_lines || self.bytes > self.max_bytes {
            let Some(oldest) = self.lines.pop_front() else {
                break;
            };
            self.bytes -= oldest.len();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(max_lines: usize, max_bytes: usize, pieces: &[&[u8]]) -> (Vec<String>, u64) {
        let mut tail = Tail::new(max_lines, max_bytes);
        for piece in pieces {
            tail.push(piece);
        }
        tail.finish()
    }

    #[test]
    fn lines_are_joined_over_pieces() {
        let (lines, dropped) = tail(9, 99, &[b"on", b"e\r\nt", b"wo\n\nthree"]);
        assert_eq!(lines, ["one", "two", "", "three"]);
        assert_eq!(dropped, 0);
        assert_eq!(tail(9, 99, &[]).0, Vec::<String>::new());
        assert_eq!(tail(9, 99, &[b"one\n"]).0, ["one"]);
    }

    #[test]
    fn the_last_lines_stay() {
        assert_eq!(
            tail(2, 99, &[b"1\n2\n3\n"]),
            (vec!["2".into(), "3".into()], 1)
        );
        assert_eq!(tail(9, 5, &[b"123\n456\n78\n"]).0, ["456", "78"]);
    }

    #[test]
    fn a_line_without_end_takes_bounded_memory() {
        let mut tail = Tail::new(9, 99_999);
        for _ in 0..1000 {
            tail.push(&[b'x'; 1000]);
            assert!(tail.current.len() <= LINE);
        }
        let (lines, _) = tail.finish();
        assert_eq!(
            lines[0],
            format!("{} (995904 more bytes)", "x".repeat(LINE))
        );
    }

    #[test]
    fn passwords_are_masked_even_where_the_line_is_cut() {
        assert_eq!(tail(9, 99, &[b"a://u:sec", b"ret@h\n"]).0, ["a://u:***@h"]);
        let mut long = "x".repeat(LINE - 10);
        long.push_str("a://u:secret@h");
        assert!(!tail(9, 9999, &[long.as_bytes()]).0[0].contains("sec"));
    }

    #[test]
    fn what_is_not_utf8_is_shown_as_well_as_it_can_be() {
        assert_eq!(tail(9, 99, &[b"a\xffb\n"]).0, ["a\u{fffd}b"]);
    }
}
