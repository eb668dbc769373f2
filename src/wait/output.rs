//! The waiter's output: lines on standard output, and the container's termination message.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde_json::{Value, json};

use migration_gate_core::gates::LogFormat;
use migration_gate_core::text::{printable, truncate};

/// Maximum size of a termination message, in bytes: the kubelet truncates a longer one. See
/// <https://kubernetes.io/docs/tasks/debug/debug-application/determine-reason-pod-failure/>.
const TERMINATION_LIMIT: usize = 4096;

/// The prefix of a quoted line, so that no line of a container's log looks like one of the waiter.
const QUOTED: &str = "| ";

/// The level of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Severity {
    Info,
    Warn,
    Error,
}

impl Severity {
    fn as_str(self) -> &'static str {
        match self {
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

/// The waiter's output. All lines go to standard output, in their order: the lines of two streams
/// would reach `kubectl logs` in any order.
#[derive(Debug)]
pub(crate) struct Output {
    format: LogFormat,
    gate: String,
    termination_log: PathBuf,
    /// The end of the newest failed container's log, for the termination message.
    pub(crate) tail: Vec<String>,
}

impl Output {
    pub(crate) fn new(format: LogFormat, gate: &str, termination_log: PathBuf) -> Self {
        Self {
            format,
            gate: gate.to_owned(),
            termination_log,
            tail: Vec::new(),
        }
    }

    /// Prints a line of the waiter.
    pub(crate) fn say(&self, level: Severity, message: &str) {
        match self.format {
            LogFormat::Human => self.print(&printable(message)),
            LogFormat::Json => {
                self.print_json(level, &json!({ "message": printable(message) }));
            }
        }
    }

    /// Prints a line of a container's log.
    pub(crate) fn quote(&self, pod: &str, container: &str, line: &str) {
        match self.format {
            LogFormat::Human => self.print(&format!("{QUOTED}{line}")),
            LogFormat::Json => self.print_json(
                Severity::Error,
                &json!({"pod": pod, "container": container, "log": line}),
            ),
        }
    }

    fn print_json(&self, level: Severity, fields: &Value) {
        let mut object = json!({
            "time": Timestamp::now(),
            "level": level.as_str(),
            "gate": self.gate,
        });
        if let (Some(object), Some(fields)) = (object.as_object_mut(), fields.as_object()) {
            object.extend(fields.clone());
        }
        self.print(&object.to_string());
    }

    /// Errors are ignored: if the reader has gone away, the waiter still waits.
    #[allow(clippy::unused_self, reason = "all output goes through the one object")]
    fn print(&self, line: &str) {
        let mut stdout = std::io::stdout().lock();
        let _ = writeln!(stdout, "{line}").and_then(|()| stdout.flush());
    }

    /// Writes the reason for a failure to standard output, and to the container's termination
    /// message, which `kubectl describe pod` shows.
    pub(crate) fn give_up(&self, reason: &str) {
        self.say(Severity::Error, reason);
        let message = termination_message(&printable(reason), &self.tail);
        if let Err(error) = write_termination_message(&self.termination_log, &message) {
            self.say(
                Severity::Warn,
                &format!(
                    "cannot write the termination message to {}: {error}",
                    self.termination_log.display()
                ),
            );
        }
    }
}

/// Writes the termination message, at most [`TERMINATION_LIMIT`] bytes. If the file does not exist,
/// as outside of a container, does not create it.
pub(super) fn write_termination_message(path: &Path, message: &str) -> std::io::Result<()> {
    let file = OpenOptions::new().write(true).truncate(true).open(path);
    match file.and_then(|mut file| file.write_all(truncate(message, TERMINATION_LIMIT).as_bytes()))
    {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

/// The reason, and as many of the last log lines as fit.
fn termination_message(reason: &str, tail: &[String]) -> String {
    let mut message = truncate(reason, TERMINATION_LIMIT).to_owned();
    let mut room = TERMINATION_LIMIT - message.len();
    let mut from = tail.len();
    let begin = '\n'.len_utf8() + QUOTED.len();
    while from > 0 && tail[from - 1].len() + begin <= room {
        from -= 1;
        room -= tail[from].len() + begin;
    }
    // If even the last line is too long, keep its beginning.
    let least = begin + '…'.len_utf8();
    if from == tail.len()
        && let Some(line) = tail.last()
        && room > least
    {
        message.push('\n');
        message.push_str(QUOTED);
        message.push_str(truncate(line, room - least));
        message.push('…');
    }
    for line in &tail[from..] {
        message.push('\n');
        message.push_str(QUOTED);
        message.push_str(line);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_termination_message_is_the_reason_and_the_end_of_the_log() {
        let tail = ["one".to_owned(), "two".to_owned()];
        assert_eq!(termination_message("failed", &tail), "failed\n| one\n| two");
        assert_eq!(termination_message("failed", &[]), "failed");
    }

    #[test]
    fn a_termination_message_is_never_too_long() {
        let tail: Vec<_> = (0..1000).map(|i| format!("line {i} ä")).collect();
        let message = termination_message("failed", &tail);
        assert!(message.len() <= TERMINATION_LIMIT && message.len() > TERMINATION_LIMIT - 20);
        assert!(message.starts_with("failed\n| line"));
        assert!(message.ends_with("\n| line 998 ä\n| line 999 ä"));
        let long = "ä".repeat(TERMINATION_LIMIT);
        assert_eq!(termination_message(&long, &tail).len(), TERMINATION_LIMIT);
        let exact = "x".repeat(TERMINATION_LIMIT - 5);
        assert_eq!(
            termination_message(&exact, &["ab".into()]).len(),
            TERMINATION_LIMIT
        );
        assert_eq!(
            termination_message(&exact, &["abc".into()]).len(),
            TERMINATION_LIMIT - 5
        );
    }

    #[test]
    fn of_a_last_line_that_is_too_long_the_beginning_is_told() {
        let tail = ["one".to_owned(), "ä".repeat(TERMINATION_LIMIT)];
        let message = termination_message("failed", &tail);
        assert!(message.starts_with("failed\n| ää") && message.ends_with("ä…"));
        assert!(message.len() <= TERMINATION_LIMIT && message.len() > TERMINATION_LIMIT - 2);
    }
}
