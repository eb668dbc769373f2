//! The report for people.

use super::found::{StatusReport, Unread, place};
use super::screen::{Screen, Tone};
use crate::api::client::ClusterAccess;
use migration_gate_core::explain::duration;
use migration_gate_core::status::{
    Diagnosis, GateLine, Grade, InstallationLine, JobLine, Passage, PodLine,
};
use migration_gate_core::text::printable;

/// Maximum number of gates that are shown in full without being asked for by name.
const FEW: usize = 5;

/// Maximum number of a gate's waiting pods that are shown.
const MOST_PODS: usize = 10;

/// A cell of a table.
type Cell = (String, Option<Tone>);

/// The lines of the report. No sentence is wider than the screen; commands are one line each, so
/// that they can be copied.
pub(super) fn lines(
    report: &StatusReport,
    cluster: &ClusterAccess,
    detailed: bool,
    screen: &Screen,
) -> Vec<String> {
    let overview = &report.overview;
    let mut page = Sheet {
        screen,
        lines: Vec::new(),
    };
    page.sentence("", &format!("In {cluster}"), None);
    if let Some(release) = &overview.release {
        page.sentence("", &installation(release), None);
    }
    page.blank();
    page.gates(&overview.gates);
    let few = overview.gates.len() <= FEW;
    for gate in &overview.gates {
        let is_well = matches!(gate.state, Passage::Open | Passage::Unused);
        if detailed || few || !is_well {
            page.gate(gate);
        }
    }
    for trouble in &overview.troubles {
        page.trouble(trouble);
    }
    page.unread(&report.unread);
    page.blank();
    page.end(&overview.troubles, report.unread.is_empty());
    page.lines
}

fn installation(release: &InstallationLine) -> String {
    if release.name.is_empty() {
        return "The installed release could not be read.".to_owned();
    }
    let expires = release.certificate_expires.map(|time| time.to_string());
    let day = expires.as_deref().and_then(|time| time.split('T').next());
    let parts = [
        Some(format!(
            "Release {} in namespace {}",
            release.name, release.namespace
        )),
        release
            .version
            .as_ref()
            .map(|version| format!("version {version}")),
        release
            .ready
            .zip(release.replicas)
            .map(|(ready, replicas)| format!("{ready} of {replicas} replicas ready")),
        release.answers.map(|answers| {
            let not = if answers { "" } else { "do not " };
            format!("webhooks {not}answer")
        }),
        day.map(|day| format!("certificate until {day}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn seconds(seconds: u64) -> String {
    duration(std::time::Duration::from_secs(seconds))
}

fn tone(state: Passage) -> Tone {
    match state {
        Passage::Open => Tone::Good,
        Passage::Failed => Tone::Bad,
        Passage::Waiting | Passage::Unknown => Tone::Doubtful,
        Passage::Unused => Tone::Faint,
    }
}

fn job(job: &JobLine) -> String {
    let is_complete = job.state == "complete";
    let attempt = job.attempt.zip(job.attempts).filter(|_| !is_complete);
    let took = job.seconds.filter(|_| job.state != "suspended");
    let last = job.last_seconds.filter(|_| job.state == "running");
    let parts = [
        Some(format!("{} {}", job.name, job.state)),
        attempt.map(|(attempt, of)| format!("{attempt}/{of}")),
        took.map(seconds),
        last.map(|last| format!("(last {})", seconds(last))),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

struct Sheet<'s> {
    screen: &'s Screen,
    lines: Vec<String>,
}

impl Sheet<'_> {
    fn blank(&mut self) {
        if self.lines.last().is_some_and(|line| !line.is_empty()) {
            self.lines.push(String::new());
        }
    }

    /// A sentence, broken between words where the screen ends.
    fn sentence(&mut self, indent: &str, text: &str, tone: Option<Tone>) {
        let room = self.screen.width().saturating_sub(indent.len());
        let mut line = String::new();
        let mut broken = Vec::new();
        let text = printable(text);
        let most = self.screen.table_width().saturating_sub(indent.len());
        for word in text.split(' ').flat_map(|word| pieces(word, most)) {
            let length = line.chars().count() + 1 + word.chars().count();
            if !line.is_empty() && length > room {
                broken.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&word);
        }
        broken.push(line);
        for line in broken {
            let line = tone.map_or(line.clone(), |tone| self.screen.paint(&line, tone));
            self.lines.push(format!("{indent}{line}"));
        }
    }

    /// A table, whose widest columns are cut where the screen ends.
    fn table(&mut self, indent: &str, titles: &[&str], mut rows: Vec<Vec<Cell>>) {
        for (text, _) in rows.iter_mut().flatten() {
            *text = printable(text);
        }
        let rows = &rows;
        let columns = 0..titles.len();
        let length = |text: &str| text.chars().count();
        let mut widths: Vec<usize> = columns
            .map(|column| {
                let cells = rows.iter().map(|row| length(&row[column].0));
                cells
                    .chain([length(titles[column])])
                    .max()
                    .unwrap_or_default()
            })
            .collect();
        let gaps = indent.len() + 2 * (titles.len() - 1);
        let room = self.screen.table_width().saturating_sub(gaps);
        while widths.iter().sum::<usize>() > room {
            let Some(widest) = widths.iter_mut().max_by_key(|width| **width) else {
                break;
            };
            if *widest <= 8 {
                break;
            }
            *widest -= 1;
        }
        let titles: Vec<Cell> = titles
            .iter()
            .map(|title| ((*title).to_owned(), Some(Tone::Faint)))
            .collect();
        for row in std::iter::once(&titles).chain(rows) {
            let mut line = indent.to_owned();
            for (column, (text, tone)) in row.iter().enumerate() {
                let text = cut(text, widths[column]);
                let padding = if column + 1 == row.len() {
                    0
                } else {
                    widths[column] + 2 - length(&text)
                };
                line += &tone.map_or(text.clone(), |tone| self.screen.paint(&text, tone));
                line.extend(std::iter::repeat_n(' ', padding));
            }
            self.lines.push(line.trim_end().to_owned());
        }
    }

    fn gates(&mut self, gates: &[GateLine]) {
        let rows: Vec<Vec<Cell>> = gates
            .iter()
            .map(|gate| {
                let jobs: Vec<String> = gate.jobs.iter().map(job).collect();
                let record = match &gate.record {
                    Some(record) => record.last.clone().unwrap_or_else(|| "empty".to_owned()),
                    None if gate.state == Passage::Unknown => "?".to_owned(),
                    None => "none".to_owned(),
                };
                let ready = gate.workloads.iter().map(|w| w.ready).sum::<u64>();
                let replicas = gate.workloads.iter().map(|w| w.replicas).sum::<u64>();
                vec![
                    (gate.name.clone(), Some(Tone::Strong)),
                    (gate.namespace.clone(), None),
                    (gate.state.as_str().to_owned(), Some(tone(gate.state))),
                    (jobs.join(", "), None),
                    (record, None),
                    (format!("{ready}/{replicas}"), None),
                    (gate.pods.len().to_string(), None),
                ]
            })
            .collect();
        let titles = [
            "GATE",
            "NAMESPACE",
            "STATE",
            "JOB",
            "RECORDED",
            "READY",
            "WAITING",
        ];
        self.table("", &titles, rows);
    }

    fn gate(&mut self, gate: &GateLine) {
        if gate.workloads.is_empty() && gate.pods.is_empty() {
            return;
        }
        self.blank();
        let title = format!("Gate {}", gate.name);
        self.lines.push(self.screen.paint(&title, Tone::Strong));
        let rows: Vec<Vec<Cell>> = gate
            .workloads
            .iter()
            .map(|workload| {
                let open = match workload.open {
                    Some(true) => ("open", Tone::Good),
                    Some(false) => ("waits", Tone::Doubtful),
                    None => ("unknown", Tone::Doubtful),
                };
                vec![
                    (format!("{} {}", workload.kind, workload.name), None),
                    (
                        workload.wants.clone().unwrap_or_else(|| "?".to_owned()),
                        None,
                    ),
                    (workload.runs.join(", "), None),
                    (format!("{}/{}", workload.ready, workload.replicas), None),
                    (workload.waiter.to_owned(), None),
                    (open.0.to_owned(), Some(open.1)),
                ]
            })
            .collect();
        let titles = ["WORKLOAD", "WANTS", "RUNS", "READY", "WAITER", "NEW PODS"];
        if !rows.is_empty() {
            self.table("  ", &titles, rows);
        }
        let mut told: Vec<&str> = Vec::new();
        for why in gate.workloads.iter().flat_map(|workload| &workload.why) {
            if !told.contains(&why.as_str()) {
                told.push(why);
                self.sentence("  ", why, Some(Tone::Faint));
            }
        }
        self.pods(&gate.pods);
    }

    fn pods(&mut self, pods: &[PodLine]) {
        if pods.is_empty() {
            return;
        }
        let cell = |value: Option<u64>| value.map_or_else(String::new, seconds);
        let rows: Vec<Vec<Cell>> = pods
            .iter()
            .take(MOST_PODS)
            .map(|pod| {
                vec![
                    (pod.name.clone(), None),
                    (pod.wants.clone().unwrap_or_default(), None),
                    (cell(pod.seconds), None),
                    (cell(pod.gives_up_in), None),
                    (pod.restarts.to_string(), None),
                ]
            })
            .collect();
        let titles = ["WAITING POD", "WANTS", "FOR", "GIVES UP IN", "RESTARTS"];
        self.table("  ", &titles, rows);
        if pods.len() > MOST_PODS {
            let more = format!("  … and {} more", pods.len() - MOST_PODS);
            self.lines.push(more);
        }
    }

    fn trouble(&mut self, trouble: &Diagnosis) {
        self.blank();
        let tone = match trouble.level {
            Grade::Error => Tone::Bad,
            Grade::Warning => Tone::Doubtful,
        };
        let level = trouble.level.as_str();
        let title = format!("{level}[{}]: {}", trouble.code.as_str(), place(trouble));
        self.sentence("", &title, Some(tone));
        self.sentence("  ", &trouble.cause, None);
        for line in &trouble.details {
            self.sentence("  | ", line, Some(Tone::Faint));
        }
        for remedy in &trouble.remedies {
            self.sentence("  ", &remedy.text, None);
            if let Some(command) = &remedy.command {
                let command = self.screen.paint(&printable(command), Tone::Strong);
                self.lines.push(format!("    {command}"));
            }
        }
    }

    fn unread(&mut self, unread: &[Unread]) {
        if !unread.is_empty() {
            self.blank();
        }
        for Unread { what, why } in unread {
            self.sentence("", &format!("Not read: {what}: {why}"), Some(Tone::Faint));
        }
    }

    fn end(&mut self, troubles: &[Diagnosis], is_all_read: bool) {
        let count = |level| {
            troubles
                .iter()
                .filter(|trouble| trouble.level == level)
                .count()
        };
        let (errors, warnings) = (count(Grade::Error), count(Grade::Warning));
        let of = |count: usize, word: &str| match count {
            1 => format!("1 {word}"),
            count => format!("{count} {word}s"),
        };
        let (text, tone) = match (errors, warnings) {
            (0, 0) if is_all_read => ("Nothing is wrong.".to_owned(), Tone::Good),
            (0, 0) => {
                let text = "Nothing is wrong, as far as it could be read.";
                (text.to_owned(), Tone::Doubtful)
            }
            (0, _) => (of(warnings, "warning") + ".", Tone::Doubtful),
            (_, 0) => (of(errors, "error") + ".", Tone::Bad),
            _ => {
                let text = format!("{}, {}.", of(errors, "error"), of(warnings, "warning"));
                (text, Tone::Bad)
            }
        };
        self.sentence("", &text, Some(tone));
    }
}

/// A word in pieces of at most `most` characters.
fn pieces(word: &str, most: usize) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    if characters.len() <= most {
        return vec![word.to_owned()];
    }
    let parts = characters.chunks(most.max(1));
    parts.map(|part| part.iter().collect()).collect()
}

/// A text cut to at most `width` characters.
fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(line: &str) -> String {
        let mut parts = line.split("\x1b[");
        let first = parts.next().unwrap_or_default().to_owned();
        parts.fold(first, |text, part| {
            text + part.split_once('m').map_or(part, |(_, rest)| rest)
        })
    }

    #[test]
    fn what_is_no_command_fits_the_screen() {
        let long = "a-name-that-is-longer-than-anyone-would-like-it-to-be";
        let gate = GateLine {
            name: long.to_owned(),
            namespace: long.to_owned(),
            state: Passage::Waiting,
            jobs: Vec::new(),
            record: None,
            workloads: Vec::new(),
            pods: vec![PodLine {
                name: format!("{long}-{long}"),
                wants: Some("1.2.3".to_owned()),
                seconds: Some(61),
                gives_up_in: Some(539),
                restarts: 1,
                why: Vec::new(),
            }],
        };
        let screen = Screen::of_width(80);
        let mut page = Sheet {
            screen: &screen,
            lines: Vec::new(),
        };
        page.gates(&[gate.clone(), gate.clone()]);
        page.gate(&gate);
        page.sentence("  ", &format!("{long} waits for {long}. ").repeat(3), None);
        page.sentence("", &"word ".repeat(40), Some(Tone::Bad));
        page.sentence("  | ", &"x".repeat(300), None);
        assert!(page.lines.len() > 12, "{:#?}", page.lines);
        for line in &page.lines {
            assert!(plain(line).chars().count() <= 80, "{line}");
        }
        let titles = plain(&page.lines[0]);
        let columns = ["NAMESPACE", "STATE", "WAITING"].map(|title| titles.find(title));
        let row = plain(&page.lines[1]);
        for column in columns {
            let (gap, cell) = row
                .char_indices()
                .nth(titles[..column.unwrap()].chars().count() - 1)
                .map(|(at, gap)| (gap, &row[at + gap.len_utf8()..]))
                .unwrap();
            assert!(gap == ' ' && !cell.starts_with(' '), "{titles}\n{row}");
        }
    }
}
