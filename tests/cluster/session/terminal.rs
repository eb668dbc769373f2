//! A terminal as a picture, which is dark on light and dark pages.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts of what is drawn, far below 2^52"
)]

use std::fmt::Write as _;

use crate::svg::{document, escaped};

/// The width in characters. Longer lines are broken, as in a terminal.
const COLUMNS: usize = 100;
/// The size of a character, in pixels.
const WIDTH: f64 = 7.83;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 16.0;

const BACKGROUND: &str = "#0d1117";
const PLAIN: &str = "#c9d1d9";
const COMMAND: &str = "#79c0ff";
const REMARK: &str = "#8b949e";
const TROUBLE: &str = "#ff7b72";
const GOOD: &str = "#7ee787";

#[derive(Default)]
pub(super) struct Terminal {
    lines: Vec<(&'static str, String)>,
}

impl Terminal {
    /// Adds a remark.
    pub(super) fn remark(&mut self, text: &str) {
        self.gap();
        self.line(REMARK, &format!("# {text}"));
    }

    /// Adds a command and what it printed.
    pub(super) fn command(&mut self, command: &str, printed: &str) {
        self.line(COMMAND, &format!("$ {command}"));
        for line in printed.trim_end().lines() {
            let is_good = ["open: ", "0 errors"]
                .iter()
                .any(|part| line.contains(part));
            let colour = match line {
                _ if line.starts_with("error") => TROUBLE,
                _ if is_good => GOOD,
                _ => PLAIN,
            };
            self.line(colour, line);
        }
    }

    /// The picture.
    pub(super) fn svg(&self) -> String {
        let mut body = String::new();
        for (number, (colour, line)) in self.lines.iter().enumerate() {
            let y = MARGIN + HEIGHT * (number as f64 + 0.75);
            // Writing to a String cannot fail.
            let _ = writeln!(
                body,
                "<text x=\"{MARGIN}\" y=\"{y}\" fill=\"{colour}\" xml:space=\"preserve\">{}</text>",
                escaped(line)
            );
        }
        let size = (
            2.0 * MARGIN + WIDTH * COLUMNS as f64,
            2.0 * MARGIN + HEIGHT * self.lines.len() as f64,
        );
        let style = "font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"13\"";
        document(size, style, BACKGROUND, &body)
    }

    fn gap(&mut self) {
        if !self.lines.is_empty() {
            self.lines.push((PLAIN, String::new()));
        }
    }

    fn line(&mut self, colour: &'static str, text: &str) {
        let mut rest: Vec<char> = text.chars().collect();
        while rest.len() > COLUMNS {
            let after = rest.split_off(COLUMNS);
            self.lines.push((colour, rest.into_iter().collect()));
            rest = after;
        }
        self.lines.push((colour, rest.into_iter().collect()));
    }
}
