//! The dashboard as a picture: its panels in their places, drawn from the results of their queries.

#![allow(
    clippy::cast_precision_loss,
    reason = "counts of what is drawn, far below 2^52"
)]

use std::fmt::Write as _;

use serde_json::Value;

use super::prometheus::Series;
use crate::svg::{document, escaped};

/// Sizes are in pixels.
const COLUMN: f64 = 50.0;
const ROW: f64 = 26.0;
const GAP: f64 = 4.0;
const COLOURS: [&str; 6] = [
    "#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#b877d9", "#f2495c",
];

#[derive(Default)]
pub(super) struct Picture {
    body: String,
    height: f64,
}

/// The area of a panel's figure, and the range of its axes.
struct Frame {
    left: f64,
    top: f64,
    width: f64,
    height: f64,
    seconds: f64,
}

impl Frame {
    fn x(&self, time: f64) -> f64 {
        self.left + self.width * (time / self.seconds).clamp(0.0, 1.0)
    }
}

impl Picture {
    /// Adds a panel of the dashboard's JSON, with the series of its queries.
    pub(super) fn panel(&mut self, panel: &Value, series: &[Series]) {
        let grid = &panel["gridPos"];
        let at = |key: &str| grid[key].as_f64().unwrap_or_default();
        let (left, top) = (at("x") * COLUMN, at("y") * ROW);
        let (width, height) = (at("w") * COLUMN - GAP, at("h") * ROW - GAP);
        self.height = self.height.max(top + height + GAP);
        self.rectangle(left, top, width, height, "#181b1f", "");
        let title = panel["title"].as_str().unwrap_or_default();
        self.text(left + 8.0, top + 17.0, "start", "#ccccdc", 13.0, title);
        let times = series.iter().flat_map(|series| &series.points);
        let is_timeline = panel["type"] == "state-timeline";
        let margin = if is_timeline { 110.0 } else { 52.0 };
        let frame = Frame {
            left: left + margin,
            top: top + 28.0,
            width: width - margin - 12.0,
            height: height - 66.0,
            seconds: times.map(|point| point.0).fold(1.0, f64::max),
        };
        let unit = panel["fieldConfig"]["defaults"]["unit"]
            .as_str()
            .unwrap_or_default();
        let mappings = &panel["fieldConfig"]["defaults"]["mappings"][0]["options"];
        match panel["type"].as_str() {
            Some("state-timeline") => self.states(&frame, series, mappings),
            Some("stat") => {
                let lines = series.iter().filter_map(|series| {
                    let (_, value) = series.points.last()?;
                    Some(format!("{} {}", series.name, written(*value, unit)))
                });
                for (number, line) in lines.enumerate() {
                    let y = top + height / 2.0 + 22.0 * number as f64;
                    self.text(left + width / 2.0, y, "middle", COLOURS[0], 16.0, &line);
                }
            }
            _ => self.lines(&frame, series, unit),
        }
    }

    /// The whole picture, as SVG.
    pub(super) fn svg(&self) -> String {
        let size = (24.0 * COLUMN, self.height);
        document(size, "font-family=\"sans-serif\"", "#111217", &self.body)
    }

    fn states(&mut self, frame: &Frame, series: &[Series], mappings: &Value) {
        let row = (frame.height / series.len().max(1) as f64).min(40.0);
        for (number, series) in series.iter().enumerate() {
            let top = frame.top + row * number as f64;
            let name = &series.name;
            for (time, value, until) in spans(&series.points) {
                let state = &mappings[value.to_string()];
                let colour = match state["color"].as_str() {
                    Some("green") => "#73bf69",
                    Some("yellow") => "#f2cc0c",
                    Some("red") => "#f2495c",
                    _ => "#b877d9",
                };
                let (from, to) = (frame.x(time), frame.x(until));
                let text = state["text"].as_str().unwrap_or_default();
                self.rectangle(
                    from,
                    top,
                    to - from,
                    row - 4.0,
                    colour,
                    &format!("{name}: {text}"),
                );
                if to - from > 50.0 {
                    self.text(
                        f64::midpoint(from, to),
                        top + row / 2.0 + 2.0,
                        "middle",
                        "#111217",
                        11.0,
                        text,
                    );
                }
            }
            let (x, y) = (frame.left - 6.0, top + row / 2.0 + 2.0);
            self.text(x, y, "end", "#ccccdc", 11.0, name);
        }
        self.times(frame);
    }

    fn lines(&mut self, frame: &Frame, series: &[Series], unit: &str) {
        let values = series.iter().flat_map(|series| &series.points);
        let most = values.map(|point| point.1).fold(0.0, f64::max);
        let most = if most > 0.0 { most * 1.1 } else { 1.0 };
        for part in 0..=2 {
            let share = f64::from(part) / 2.0;
            let y = frame.top + frame.height * (1.0 - share);
            let _ = writeln!(
                self.body,
                "<path d=\"M{:.1} {y:.1}h{:.1}\" stroke=\"#2c3035\"/>",
                frame.left, frame.width
            );
            let mark = written(most * share, unit);
            self.text(frame.left - 4.0, y + 4.0, "end", "#8e8e9e", 10.0, &mark);
        }
        let mut legend = frame.left;
        for (series, colour) in series.iter().zip(COLOURS.iter().cycle()) {
            let mut path = String::new();
            for (number, (time, value)) in series.points.iter().enumerate() {
                let command = if number == 0 { 'M' } else { 'L' };
                let y = frame.top + frame.height * (1.0 - value / most);
                let _ = write!(path, "{command}{:.1} {y:.1}", frame.x(*time));
            }
            let _ = writeln!(
                self.body,
                "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"
            );
            let y = frame.top + frame.height + 30.0;
            self.text(legend, y, "start", colour, 10.0, &series.name);
            legend += 14.0 + 5.6 * series.name.chars().count() as f64;
        }
        self.times(frame);
    }

    fn times(&mut self, frame: &Frame) {
        let y = frame.top + frame.height + 14.0;
        self.text(frame.left, y, "start", "#8e8e9e", 10.0, "0 s");
        let end = written(frame.seconds, "s");
        self.text(frame.left + frame.width, y, "end", "#8e8e9e", 10.0, &end);
    }

    fn rectangle(&mut self, x: f64, y: f64, width: f64, height: f64, fill: &str, title: &str) {
        let _ = writeln!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"2\" \
             fill=\"{fill}\"><title>{}</title></rect>",
            escaped(title)
        );
    }

    fn text(&mut self, x: f64, y: f64, anchor: &str, fill: &str, size: f64, text: &str) {
        let _ = writeln!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{fill}\" \
             font-size=\"{size}\">{}</text>",
            escaped(text)
        );
    }
}

/// The spans of time in which a series has the same value.
fn spans(points: &[(f64, f64)]) -> Vec<(f64, f64, f64)> {
    let mut spans: Vec<(f64, f64, f64)> = Vec::new();
    for &(time, value) in points {
        match spans.last_mut() {
            Some((_, last, until)) if (*last - value).abs() < f64::EPSILON => *until = time,
            last => {
                if let Some((_, _, until)) = last {
                    *until = time;
                }
                spans.push((time, value, time));
            }
        }
    }
    spans
}

/// A value with its unit, as short as possible.
fn written(value: f64, unit: &str) -> String {
    let scaled = |units: &[(f64, &str)]| {
        let fits = units.iter().find(|(size, _)| value >= *size);
        let (size, name) = fits.or(units.last()).copied().unwrap_or((1.0, ""));
        format!("{} {name}", short(value / size))
    };
    match unit {
        "s" => scaled(&[
            (86400.0, "d"),
            (3600.0, "h"),
            (60.0, "min"),
            (1.0, "s"),
            (0.001, "ms"),
        ]),
        "bytes" => scaled(&[(1_048_576.0, "MiB"), (1024.0, "KiB"), (1.0, "B")]),
        _ => short(value),
    }
}

fn short(value: f64) -> String {
    let digits = match value {
        0.1..10.0 => 2,
        0.0001..0.1 => 4,
        _ => 0,
    };
    let text = format!("{value:.digits$}");
    if text.contains('.') {
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    } else {
        text
    }
}
