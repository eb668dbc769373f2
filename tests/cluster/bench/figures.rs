//! Figures: how they are stored, and how two programs' figures are compared.
//!
//! A benchmark's figures are one part of `docs/performance/results.json`, from which the page is
//! written. So a run of one benchmark does not change the figures of others.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use testkit::assets::repository;
use testkit::image;
use testkit::process;

use super::page;

/// The name of this working tree's program in figures.
pub(super) const OURS: &str = "migration-gate";
/// The name in figures of the program of the commit `COMPARE`.
pub(super) const OTHER: &str = "other";

/// The environment variable with the folder of the tools from `tools.sh`.
const TOOLS: &str = "BENCH_TOOLS";

/// A tool from `tools.sh`, if that could provide it.
pub(super) fn tool(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os(TOOLS)?;
    let path = PathBuf::from(folder).join(name);
    path.exists().then_some(path)
}

/// The release build of the program, and the one to compare it with, if there is one.
pub(super) fn programs() -> Result<Vec<(&'static str, PathBuf)>> {
    let ours = (OURS, image::released_binary()?);
    let other = tool(OTHER).map(|path| (OTHER, path));
    Ok([ours].into_iter().chain(other).collect())
}

/// Units for which more is better: a rate, a share of another rate, and a factor of speed.
const MORE: [&str; 3] = ["/s", "of it", "times"];

/// A quantity that was measured several times.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Figure {
    /// The quantity.
    pub(super) what: String,
    /// The contender.
    pub(super) who: String,
    /// The unit. More is better for those in [`MORE`], less for all others.
    pub(super) unit: String,
    /// The quartiles: a quarter of the measurements was less than the first, and a quarter more
    /// than the last.
    pub(super) quartiles: [f64; 3],
    /// Number of measurements.
    pub(super) count: usize,
}

impl Figure {
    pub(super) fn median(&self) -> f64 {
        self.quartiles[1]
    }

    /// By how much this is worse than the other, as a share. `None` within the noise: if the middle
    /// halves of their measurements overlap.
    fn worse_than(&self, other: &Self) -> Option<f64> {
        let sign = if MORE.contains(&self.unit.as_str()) {
            -1.0
        } else {
            1.0
        };
        let [low, median, high] = self.quartiles;
        let apart = low > other.quartiles[2] || high < other.quartiles[0];
        let worse = sign * (median / other.median() - 1.0);
        (apart && worse > 0.05).then_some(worse)
    }
}

/// The figures of one benchmark.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Part {
    machine: String,
    commit: String,
    /// Notes, such as what was left out and why.
    notes: Vec<String>,
    figures: Vec<Figure>,
}

impl Part {
    /// Adds a figure, unless there are no measurements.
    pub(super) fn add(&mut self, what: &str, who: &str, unit: &str, measured: &[f64]) {
        let mut sorted = measured.to_vec();
        sorted.sort_by(f64::total_cmp);
        let Some(last) = sorted.len().checked_sub(1) else {
            return;
        };
        // Between two measurements in proportion, so that also two of them show their spread.
        let at = |quarter: usize| {
            let place = last * quarter;
            let (below, above) = (sorted[place / 4], sorted[place.div_ceil(4)]);
            below + (above - below) * [0.0, 0.25, 0.5, 0.75][place % 4]
        };
        self.figures.push(Figure {
            what: what.to_owned(),
            who: who.to_owned(),
            unit: unit.to_owned(),
            quartiles: [at(1), at(2), at(3)],
            count: sorted.len(),
        });
    }

    pub(super) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    pub(super) fn notes(&self) -> &[String] {
        &self.notes
    }

    pub(super) fn find(&self, what: &str, who: &str) -> Option<&Figure> {
        let mut figures = self.figures.iter();
        figures.find(|figure| figure.what == what && figure.who == who)
    }

    /// The figures of a contender whose names match `what`, in which `*` stands for any text.
    pub(super) fn find_all(&self, what: &str, who: &str) -> Vec<&Figure> {
        let (start, end) = what.split_once('*').unwrap_or((what, ""));
        let whole = !what.contains('*');
        let fits = |name: &str| {
            let middle = name
                .strip_prefix(start)
                .and_then(|rest| rest.strip_suffix(end));
            middle.is_some_and(|middle| middle.is_empty() || !whole)
        };
        let figures = self.figures.iter();
        figures
            .filter(|figure| figure.who == who && fits(&figure.what))
            .collect()
    }

    /// The machine and the commit of the measurements.
    pub(super) fn origin(&self) -> String {
        format!("{}; commit {}", self.machine, self.commit)
    }

    /// Stores the figures under a name and writes the page again. With two programs, prints which
    /// of their figures differ, and stores none.
    pub(super) fn keep(mut self, name: &str) -> Result<()> {
        self.print();
        if tool(OTHER).is_some() {
            self.compare();
            return Ok(());
        }
        self.machine = machine()?;
        self.commit = commit()?;
        let mut results = read()?;
        results.insert(name.to_owned(), self);
        let path = folder().join("results.json");
        fs::create_dir_all(folder())?;
        fs::write(&path, serde_json::to_string_pretty(&results)? + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
        page::write(&results)
    }

    fn print(&self) {
        for Figure {
            what,
            who,
            unit,
            quartiles: [low, median, high],
            count,
        } in &self.figures
        {
            println!(
                "{what:<48} {who:<24} {median:>10.3} {unit:<6} ({low:.3} to {high:.3}, {count} times)"
            );
        }
        for note in &self.notes {
            println!("{note}");
        }
    }

    fn compare(&self) {
        let ours = self.figures.iter().filter(|figure| figure.who == OURS);
        let worse: Vec<String> = ours
            .filter_map(|figure| {
                let worse = figure.worse_than(self.find(&figure.what, OTHER)?)?;
                Some(format!("WORSE by {:.0} %: {}", worse * 100.0, figure.what))
            })
            .collect();
        println!(
            "{}",
            if worse.is_empty() {
                "nothing is worse by more than 5 % and more than its noise".to_owned()
            } else {
                worse.join("\n")
            }
        );
    }
}

/// All results, by the names of the benchmarks.
pub(super) type Results = BTreeMap<String, Part>;

/// The folder of the results and the plots.
pub(super) fn folder() -> PathBuf {
    repository().join("docs/performance")
}

fn read() -> Result<Results> {
    let path = folder().join("results.json");
    if !path.exists() {
        return Ok(Results::new());
    }
    let text = fs::read_to_string(&path)?;
    serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
}

/// A description of the machine, without its name.
fn machine() -> Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| path.to_owned());
    let cores = std::thread::available_parallelism()?;
    let memory = read("/proc/meminfo")?;
    let kilobytes: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
        .context("no MemTotal")?
        .parse()?;
    let kernel = read("/proc/sys/kernel/osrelease")?;
    let numbers = kernel.trim().split(['-', '+']).next().unwrap_or_default();
    Ok(format!(
        "{cores} cores, {:.0} GiB of memory, Linux {numbers}",
        kilobytes / f64::from(1 << 20)
    ))
}

/// The commit, and whether the working tree has changes besides these results.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| {
        let mut command = std::process::Command::new("git");
        command.arg("-C").arg(repository()).args(arguments);
        process::run(&mut command, "", std::time::Duration::from_secs(30))?.success()
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changes = git(&["status", "--porcelain", "--", ".", ":!docs/performance*"])?;
    let note = if changes.is_empty() {
        ""
    } else {
        ", with changes"
    };
    Ok(format!("{}{note}", commit.trim()))
}
