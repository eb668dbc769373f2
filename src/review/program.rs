//! Runs programs that render manifests, with a deadline and bounded output.

use std::ffi::OsStr;
use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long a program may take. A chart may have to be downloaded.
const DEADLINE: Duration = Duration::from_mins(2);

/// How often to check whether a program that has closed its outputs has exited.
const PAUSE: Duration = Duration::from_millis(5);

/// Maximum size of the part of standard error that is kept, in bytes.
const MAX_ERRORS: usize = 64 << 10;

/// Maximum number of lines of standard error that are shown, the last ones.
const SHOWN: usize = 12;

/// Why a program's output cannot be reviewed.
#[derive(Debug)]
pub(super) enum NoOutput {
    /// There is no such program in `PATH`.
    NotFound,
    /// Any other failure, in words.
    Failed(String),
}

/// Runs a program and returns its standard output. More than `limit` bytes are an error.
pub(super) fn output(
    program: &str,
    arguments: &[impl AsRef<OsStr>],
    limit: u64,
) -> Result<Vec<u8>, NoOutput> {
    output_within(DEADLINE, program, arguments, limit)
}

fn output_within(
    deadline: Duration,
    program: &str,
    arguments: &[impl AsRef<OsStr>],
    limit: u64,
) -> Result<Vec<u8>, NoOutput> {
    let ends = Instant::now() + deadline;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => NoOutput::NotFound,
            _ => NoOutput::Failed(format!("`{program}` cannot be run: {error}")),
        })?;
    let out = child
        .stdout
        .take()
        .map(|out| read(move || first(out, limit + 1)));
    let errors = child
        .stderr
        .take()
        .map(|errors| read(move || last(errors, MAX_ERRORS)));
    let awaited = |reader: Option<mpsc::Receiver<Vec<u8>>>| {
        let left = ends.saturating_duration_since(Instant::now());
        reader.and_then(|reader| reader.recv_timeout(left).ok())
    };
    let out = awaited(out);
    let too_long = out.as_ref().is_some_and(|out| out.len() as u64 > limit);
    let errors = if out.is_some() && !too_long {
        awaited(errors)
    } else {
        None
    };
    let mut status = None;
    while errors.is_some() && status.is_none() && Instant::now() < ends {
        status = child.try_wait().ok().flatten();
        if status.is_none() {
            thread::sleep(PAUSE);
        }
    }
    // The program may have ended by itself meanwhile.
    let _ = child.kill();
    let _ = child.wait();
    match (out, status) {
        (Some(_), _) if too_long => Err(NoOutput::Failed(format!(
            "`{program}` printed more than {} MiB; review the manifests in parts",
            limit >> 20
        ))),
        (Some(out), Some(status)) if status.success() => Ok(out),
        (Some(_), Some(status)) => Err(NoOutput::Failed(format!(
            "`{program}` failed ({status}): {}",
            tail(&errors.unwrap_or_default())
        ))),
        _ => Err(NoOutput::Failed(format!(
            "`{program}` has not ended after {} s; pipe what it prints: `{program} … | migration-gate review -`",
            deadline.as_secs()
        ))),
    }
}

/// Reads in a thread of its own, so that neither output blocks the other.
fn read(read: impl FnOnce() -> Vec<u8> + Send + 'static) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        // This fails if the caller has stopped waiting at the deadline.
        let _ = sender.send(read());
    });
    receiver
}

/// Reads at most `limit` bytes. An error ends the input.
fn first(from: impl Read, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = from.take(limit).read_to_end(&mut bytes);
    bytes
}

/// Keeps at least the last `limit` bytes. Reads everything, because the program would block
/// otherwise.
fn last(mut from: impl Read, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut chunk) {
        bytes.extend_from_slice(&chunk[..read]);
        if bytes.len() > 2 * limit {
            bytes.drain(..bytes.len() - limit);
        }
    }
    bytes
}

/// The last lines of a program's standard error.
fn tail(errors: &[u8]) -> String {
    let text = String::from_utf8_lossy(errors);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    match lines.len() {
        0 => "it printed no reason".to_owned(),
        count => lines[count.saturating_sub(SHOWN)..].join("\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, deadline: Duration, limit: u64) -> Result<String, String> {
        match output_within(deadline, "sh", &["-c", script], limit) {
            Ok(out) => Ok(String::from_utf8(out).unwrap()),
            Err(NoOutput::Failed(message)) => Err(message),
            Err(NoOutput::NotFound) => Err("not found".to_owned()),
        }
    }

    const LONG: Duration = Duration::from_mins(1);

    #[test]
    fn the_output_of_a_program_that_succeeds() {
        assert_eq!(sh("echo a; echo b >&2", LONG, 2), Ok("a\n".to_owned()));
        // Neither output waits for the other.
        let both = "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; echo done";
        assert_eq!(sh(both, LONG, 100), Ok("done\n".to_owned()));
    }

    #[test]
    fn the_words_of_one_that_fails() {
        let error = sh("echo a; echo 'no such chart' >&2; exit 3", LONG, 100).unwrap_err();
        assert_eq!(error, "`sh` failed (exit status: 3): no such chart");
        let silent = sh("exit 3", LONG, 100).unwrap_err();
        assert!(silent.ends_with("it printed no reason"), "{silent}");
    }

    #[test]
    fn one_that_does_not_end_or_stop() {
        let error = sh("exec sleep 1000", Duration::from_millis(50), 100).unwrap_err();
        assert!(error.starts_with("`sh` has not ended"), "{error}");
        let closed = sh(
            "exec >&- 2>&-; exec sleep 1000",
            Duration::from_millis(50),
            100,
        )
        .unwrap_err();
        assert!(closed.starts_with("`sh` has not ended"), "{closed}");
        let endless = sh("while :; do echo y; done", LONG, 1 << 20).unwrap_err();
        assert!(
            endless.starts_with("`sh` printed more than 1 MiB"),
            "{endless}"
        );
    }

    #[test]
    fn one_that_is_not_there() {
        let missing = output("no-such-program-anywhere", &["x"], 1);
        assert!(matches!(missing, Err(NoOutput::NotFound)), "{missing:?}");
    }
}
