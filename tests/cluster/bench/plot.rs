//! Plots of growth: a few lines on logarithmic axes, as SVG.

use std::fmt::Write as _;

use crate::svg::document;

/// A line: its name and its points.
pub(super) struct Curve {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 360.0;
/// Room for the axes' numbers, and for the names after the lines' ends.
const MARGIN: [f64; 4] = [70.0, 150.0, 40.0, 45.0];
/// Colours that people with colour blindness can distinguish (Okabe and Ito, 2008).
const COLOURS: [&str; 5] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#777777"];

/// The plot. Both axes are logarithmic, with a mark at each power of ten.
pub(super) fn svg(title: &str, x: &str, y: &str, curves: &[&Curve]) -> String {
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let decades = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::INFINITY, f64::min).log10();
        let high = values.iter().copied().fold(0.0, f64::max).log10();
        (low.floor(), high.ceil().max(low.floor() + 1.0))
    };
    let across = decades(points().map(|point| point.0).collect());
    let up = decades(points().map(|point| point.1).collect());
    let [left, right, top, bottom] = MARGIN;
    let place = |value: f64, (low, high): (f64, f64)| (value.log10() - low) / (high - low);
    let at_x = |value: f64| left + place(value, across) * (WIDTH - left - right);
    let at_y = |value: f64| HEIGHT - bottom - place(value, up) * (HEIGHT - top - bottom);
    let mut svg = format!(
        r##"<text x="{left}" y="20" font-size="14">{title}</text>
<text x="{left}" y="{}" fill="#555">{x}</text>
<text x="8" y="{}" fill="#555">{y}</text>
"##,
        HEIGHT - 8.0,
        top - 4.0
    );
    // Writing to a String cannot fail.
    for value in powers(across) {
        let (x, y) = (at_x(value), HEIGHT - bottom);
        let _ = writeln!(
            svg,
            r##"<path d="M{x:.1} {top}V{y:.1}" stroke="#ddd"/><text x="{x:.1}" y="{:.1}" text-anchor="middle">{}</text>"##,
            y + 15.0,
            number(value)
        );
    }
    for value in powers(up) {
        let (x, y) = (WIDTH - right, at_y(value));
        let _ = writeln!(
            svg,
            r##"<path d="M{left} {y:.1}H{x:.1}" stroke="#ddd"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"##,
            left - 5.0,
            y + 4.0,
            number(value)
        );
    }
    for (Curve { name, points }, colour) in curves.iter().copied().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> = points
            .iter()
            .map(|(x, y)| format!("{:.1} {:.1}", at_x(*x), at_y(*y)))
            .collect();
        let _ = writeln!(
            svg,
            r#"<path d="M{}" stroke="{colour}" stroke-width="2" fill="none"/>"#,
            path.join("L")
        );
        for (x, y) in points {
            let _ = writeln!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="{colour}"/>"#,
                at_x(*x),
                at_y(*y)
            );
        }
        if let Some((x, y)) = points.last() {
            let _ = writeln!(
                svg,
                r#"<text x="{:.1}" y="{:.1}" fill="{colour}">{name}</text>"#,
                at_x(*x) + 8.0,
                at_y(*y) + 4.0
            );
        }
    }
    let style = "font-family=\"sans-serif\" font-size=\"12\"";
    document((WIDTH, HEIGHT), style, "white", &svg)
}

/// The exponents from `low` to `high`.
fn powers((low, high): (f64, f64)) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(low), |exponent| Some(exponent + 1.0))
        .take_while(move |exponent| *exponent <= high)
        .map(|exponent| 10f64.powf(exponent))
}

/// The number as it is printed.
fn number(value: f64) -> String {
    if value < 1.0 {
        format!("{value}")
    } else {
        format!("{value:.0}")
    }
}
