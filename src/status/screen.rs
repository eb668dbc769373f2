//! The terminal, if there is one.

use std::io::{self, IsTerminal as _, Write as _};

/// Width of lines if nothing else is known, in columns.
const WIDTH: usize = 80;

/// The properties of standard output.
pub(super) struct Screen {
    terminal: bool,
    coloured: bool,
    width: usize,
    columns: usize,
    height: usize,
}

/// How a text stands out.
#[derive(Clone, Copy)]
pub(super) enum Tone {
    Good,
    Bad,
    Doubtful,
    Strong,
    Faint,
}

impl Screen {
    /// A terminal of this width, with colours.
    #[cfg(test)]
    pub(super) fn of_width(width: usize) -> Self {
        Self {
            terminal: true,
            coloured: true,
            width,
            columns: width,
            height: 25,
        }
    }

    pub(super) fn of_standard_output() -> Self {
        let terminal = io::stdout().is_terminal();
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let size = terminal.then(terminal_size::terminal_size).flatten();
        let (width, height) = size.map_or((WIDTH, usize::MAX), |(width, height)| {
            (usize::from(width.0), usize::from(height.0))
        });
        Self {
            terminal,
            coloured: terminal && !no_color,
            width: width.clamp(40, WIDTH),
            columns: width.max(1),
            height,
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Maximum width of sentences, in columns.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Maximum width of tables, in columns. Tables for programs are not cut.
    pub(super) fn table_width(&self) -> usize {
        if self.terminal {
            self.width
        } else {
            usize::MAX
        }
    }

    pub(super) fn paint(&self, text: &str, tone: Tone) -> String {
        let code = match tone {
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Doubtful => "33",
            Tone::Strong => "1",
            Tone::Faint => "2",
        };
        if self.coloured && !text.is_empty() {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    /// Replaces the lines on the screen. The last time, all lines are shown, however many there
    /// are.
    ///
    /// Lines that do not fit are omitted: a screen that scrolls would no longer start at its top.
    pub(super) fn redraw(&self, lines: &[String], is_last: bool) {
        let mut out = io::stdout();
        let _ = out.write_all(self.frame(lines, is_last).as_bytes());
        let _ = out.flush();
    }

    fn frame(&self, lines: &[String], is_last: bool) -> String {
        let mut room = self.height.saturating_sub(2);
        let mut fits = |line: &&String| {
            let rows = length(line).div_ceil(self.columns).max(1);
            let fits = is_last || rows <= room;
            room = room.saturating_sub(rows);
            fits
        };
        let shown: Vec<&String> = lines.iter().take_while(|line| fits(line)).collect();
        // Terminals that support synchronized output (mode 2026) show it in one piece.
        let mut text = "\x1b[?2026h\x1b[H\x1b[J".to_owned();
        for line in &shown {
            text.push_str(line);
            text.push('\n');
        }
        if shown.len() < lines.len() {
            let more = match lines.len() - shown.len() {
                1 => "… and 1 more line\n".to_owned(),
                more => format!("… and {more} more lines\n"),
            };
            text.push_str(&more);
        }
        text + "\x1b[?2026l"
    }
}

/// The width of a line, in columns, without its colour codes.
fn length(line: &str) -> usize {
    let mut parts = line.split("\x1b[");
    let first = parts.next().map_or(0, |part| part.chars().count());
    let rest = parts.map(|part| {
        part.split_once('m')
            .map_or(0, |(_, rest)| rest.chars().count())
    });
    first + rest.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_has_no_more_rows_than_the_terminal_however_its_lines_wrap() {
        let mut screen = Screen::of_width(40);
        screen.height = 10;
        let long = screen.paint(&"x".repeat(100), Tone::Bad);
        let short = "y".to_owned();
        // Two lines of three rows and two of one row, the line that counts the rest, and the
        // cursor's row: ten.
        let lines = [&long, &long, &short, &short, &short].map(Clone::clone);
        let frame = screen.frame(&lines, false);
        assert_eq!(frame.matches('x').count(), 200, "{frame}");
        assert_eq!(frame.matches('y').count(), 2, "{frame}");
        assert!(frame.contains("… and 1 more line"), "{frame}");
        let last = screen.frame(&lines, true);
        assert_eq!(last.matches('y').count(), 3, "{last}");
    }
}
