//! Writes `docs/performance.md` from the results.

use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use testkit::assets::repository;

use super::figures::{Figure, OURS, Part, Results, folder};
use super::plot::{Curve, svg};
use super::{admission, crowd, launch, review, server, waiter};

/// The text of the page. Each `{{name}}` stands for a table, and `{{goal: …}}` for a word.
const TEMPLATE: &str = include_str!("page.md");

/// Writes the page and its plots.
pub(super) fn write(results: &Results) -> Result<()> {
    let mut page = String::new();
    for part in TEMPLATE.split_inclusive("}}") {
        let Some((text, mark)) = part.split_once("{{") else {
            page.push_str(part);
            continue;
        };
        page.push_str(text);
        let mark = mark.trim_end_matches("}}");
        let found = match mark.split_once(": ") {
            Some(("goal", goal)) => met(results, goal).with_context(|| goal.to_owned())?,
            _ => section(results, mark)?,
        };
        page.push_str(&found);
    }
    let path = repository().join("docs/performance.md");
    fs::write(&path, page).with_context(|| format!("writing {}", path.display()))
}

/// A benchmark's tables, with the machine and the commit of the measurements.
fn section(results: &Results, name: &str) -> Result<String> {
    let Some(part) = results.get(name) else {
        return Ok("Not measured yet.\n".to_owned());
    };
    let mut text = match name {
        "admission" => admission_table(part),
        "server" => server_table(part)?,
        "memory" => rows(
            part,
            &[
                "idle",
                "after a mixed load",
                "at its peak",
                "with 1,000 gates",
                "start to ready, with 1,000 gates",
            ],
            &[OURS],
        ),
        "waiter" => rows(
            part,
            &[
                "complete to exit",
                waiter::WRITE,
                "start to first line",
                "memory of a wait, at its peak",
            ],
            &[OURS, waiter::KUBECTL_WAIT, waiter::POLLING],
        ),
        "crowd" => crowd_table(part)?,
        "launch" => rows(part, &[launch::LAUNCH], &[OURS, launch::OTHER_INIT]),
        "review" => review_table(part)?,
        "instructions" => rows_of(part, &instructions(), &[OURS]),
        "start" => rows(
            part,
            &["image", "image, compressed", "binary", "start to ready"],
            &[OURS],
        ),
        other => anyhow::bail!("the page has a section {other} that is none"),
    };
    for note in part.notes() {
        let _ = writeln!(text, "\n{note}");
    }
    let _ = writeln!(text, "\n({})", part.origin());
    Ok(text)
}

/// Whether a goal is met: `PART | WHAT | WHO <= LIMIT`, or with `>=`. A `*` in the name stands for
/// any text; then all these figures must meet it.
fn met(results: &Results, goal: &str) -> Option<String> {
    let [part, what, rest] = goal.split(" | ").collect::<Vec<_>>().try_into().ok()?;
    let split = |sign| {
        rest.split_once(sign)
            .map(|(who, limit)| (who.trim(), sign, limit))
    };
    let (who, sign, limit) = ["<=", ">="].into_iter().find_map(split)?;
    let limit: f64 = limit.trim().parse().ok()?;
    let figures = results
        .get(part)
        .map_or_else(Vec::new, |part| part.find_all(what, who));
    let is_met = |figure: &&&Figure| match sign {
        "<=" => figure.median() <= limit,
        _ => figure.median() >= limit,
    };
    let reached = figures.iter().filter(is_met).count();
    let mut sorted = figures.clone();
    sorted.sort_by(|a, b| a.median().total_cmp(&b.median()));
    let range = match (sorted.first(), sorted.last()) {
        (Some(low), Some(high)) if sorted.len() > 1 => {
            format!("{} to {}", number(low.median()), value(high))
        }
        (Some(only), _) => value(only),
        _ => return Some("not measured".to_owned()),
    };
    Some(match figures.len() {
        all if all == reached => format!("met ({range})"),
        1 => format!("**missed** ({range})"),
        all => format!("**missed** by {} of {all} ({range})", all - reached),
    })
}

fn rows(part: &Part, whats: &[&str], whos: &[&str]) -> String {
    let whats: Vec<String> = whats.iter().map(|&what| what.to_owned()).collect();
    rows_of(part, &whats, whos)
}

/// A table with a row for each quantity and a column for each contender.
fn rows_of(part: &Part, whats: &[String], whos: &[&str]) -> String {
    let mut table = format!(
        "| | {} |\n|---|{}\n",
        whos.join(" | "),
        "---|".repeat(whos.len())
    );
    for what in whats {
        let cells: Vec<String> = whos.iter().map(|who| cell(part, what, who)).collect();
        let _ = writeln!(table, "| {what} | {} |", cells.join(" | "));
    }
    table
}

fn cell(part: &Part, what: &str, who: &str) -> String {
    part.find(what, who).map_or_else(|| "–".to_owned(), spread)
}

/// A figure with its quartiles, unless it was measured only once.
fn spread(figure: &Figure) -> String {
    let [low, _, high] = figure.quartiles;
    if figure.count == 1 {
        return value(figure);
    }
    format!("{} ({} to {})", value(figure), number(low), number(high))
}

fn value(figure: &Figure) -> String {
    let unit = &figure.unit;
    format!("{} {unit}", number(figure.median()))
}

/// A number with three significant digits.
fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".to_owned(),
        size if size >= 1000.0 => thousands(value),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) && !text.ends_with('-') {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn admission_table(part: &Part) -> String {
    let whos = [OURS, admission::POLICIES]
        .into_iter()
        .chain(admission::ENGINES.map(|(who, _)| who));
    let whos: Vec<&str> = whos.collect();
    let verb = |who| {
        if who == admission::POLICIES {
            "add"
        } else {
            "adds"
        }
    };
    let columns = whos.iter().map(|who| format!("{who} {}", verb(*who)));
    let columns: Vec<String> = columns.collect();
    let mut table = format!(
        "| | at a time | no admission | {} |\n|---|---|---|{}\n",
        columns.join(" | "),
        "---|".repeat(whos.len())
    );
    for (_, name) in admission::KINDS {
        for callers in [1, 8] {
            let what = format!("{name}, {callers} at a time");
            let none = cell(part, &what, admission::NONE);
            let added = format!("{what}: added");
            let cells: Vec<String> = whos.iter().map(|who| cell(part, &added, who)).collect();
            let cells = cells.join(" | ");
            let _ = writeln!(table, "| {name} | {callers} | {none} | {cells} |");
        }
    }
    let memory = whos.iter().map(|who| cell(part, admission::MEMORY, who));
    let memory: Vec<String> = memory.collect();
    let _ = writeln!(
        table,
        "| {} | | – | {} |",
        admission::MEMORY,
        memory.join(" | ")
    );
    table
}

fn server_table(part: &Part) -> Result<String> {
    let mut table = String::from(
        "| size | protocol | connections | bare server | migration-gate | share of it | by processor time | p99, of the bare server's |\n|---|---|---|---|---|---|---|---|\n",
    );
    for (size, _) in server::SIZES {
        for (protocol, _) in server::PROTOCOLS {
            for connections in server::CONNECTIONS {
                let what = format!("{size}, {protocol}, {connections}");
                let _ = writeln!(
                    table,
                    "| {size} | {protocol} | {connections} | {} | {} | {} | {} | {} |",
                    cell(part, &what, "bare"),
                    cell(part, &what, OURS),
                    cell(part, &format!("{what}: share"), OURS),
                    cell(part, &format!("{what}: by processor time"), OURS),
                    cell(part, &format!("{what}: p99 share"), OURS)
                );
            }
        }
    }
    let curve = |who: &str, protocol: &str| Curve {
        name: format!("{who}, {protocol}"),
        points: points(&server::CONNECTIONS, |connections| {
            part.find(&format!("2 KB, {protocol}, {connections}"), who)
        }),
    };
    let curves = [
        curve("bare", "HTTP/2"),
        curve(OURS, "HTTP/2"),
        curve("bare", "HTTP/1.1"),
        curve(OURS, "HTTP/1.1"),
    ];
    plot(
        "server",
        "reviews of 2 KB",
        "connections",
        "reviews in a second",
        &curves,
    )?;
    Ok(table + "\n![Reviews of 2 KB in a second, by connections](performance/server.svg)\n")
}

fn crowd_table(part: &Part) -> Result<String> {
    let columns = ["first to last exit", "memory each", "processor time each"];
    let mut table = format!("| waiters | {} |\n|---|---|---|---|\n", columns.join(" | "));
    for waiters in crowd::CROWDS {
        let cells = columns.map(|column| cell(part, &format!("{waiters} waiters: {column}"), OURS));
        let _ = writeln!(table, "| {waiters} | {} |", cells.join(" | "));
    }
    let line = Curve {
        name: OURS.to_owned(),
        points: points(&crowd::CROWDS, |waiters| {
            part.find(&format!("{waiters} waiters: first to last exit"), OURS)
        }),
    };
    plot(
        "crowd",
        "from the first waiter's exit to the last's",
        "waiters",
        "ms",
        &[line],
    )?;
    Ok(table + "\n![From the first waiter's exit to the last's](performance/crowd.svg)\n")
}

fn review_table(part: &Part) -> Result<String> {
    let whos = [OURS, review::GATOR, review::KUBECTL_VALIDATE];
    let whats: Vec<String> = ["time", "memory"]
        .iter()
        .flat_map(|what| review::COUNTS.map(|count| format!("{count} Deployments: {what}")))
        .collect();
    let mut text = rows_of(part, &whats, &whos);
    for (what, unit) in [("time", "ms"), ("memory", "MB")] {
        let curves = whos.map(|who| Curve {
            name: who.to_owned(),
            points: points(&review::COUNTS, |count| {
                part.find(&format!("{count} Deployments: {what}"), who)
            }),
        });
        let title = format!("{what} of a review");
        plot(
            &format!("review-{what}"),
            &title,
            "Deployments",
            unit,
            &curves,
        )?;
        let _ = writeln!(
            text,
            "\n![{title}, by Deployments](performance/review-{what}.svg)"
        );
    }
    Ok(text)
}

fn instructions() -> Vec<String> {
    let rules = review::RULES.iter().map(|rule| rule.join(", "));
    rules.chain(["review of a Deployment".to_owned()]).collect()
}

#[allow(clippy::cast_precision_loss, reason = "some thousand things")]
fn points<'p>(sizes: &[usize], figure: impl Fn(usize) -> Option<&'p Figure>) -> Vec<(f64, f64)> {
    let found = sizes
        .iter()
        .filter_map(|&size| Some((size as f64, figure(size)?.median())));
    found.filter(|point| point.1 > 0.0).collect()
}

fn plot(name: &str, title: &str, x: &str, y: &str, curves: &[Curve]) -> Result<()> {
    if curves.iter().all(|curve| curve.points.is_empty()) {
        return Ok(());
    }
    let curves: Vec<&Curve> = curves
        .iter()
        .filter(|curve| !curve.points.is_empty())
        .collect();
    fs::write(
        folder().join(format!("{name}.svg")),
        svg(title, x, y, &curves),
    )?;
    Ok(())
}
