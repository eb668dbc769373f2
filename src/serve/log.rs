//! The log: JSON on standard error, many lines at a time.
//!
//! One write for each review would add a tenth to the time of the review. Lines wait for at most
//! [`PAUSE`]; a warning or error is written at once, with all lines before it.

use std::io::{self, Stderr, Write};
use std::panic;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use tracing::{Level, Metadata, error};
use tracing_subscriber::filter::{LevelFilter, ParseError, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// Maximum time that a line waits for others.
const PAUSE: Duration = Duration::from_millis(20);

/// Maximum number of bytes that wait. A line that exceeds it is written, with the others, before
/// its request goes on. So a log that is not read slows the server down instead of filling its
/// memory.
const MOST_WAITING: usize = 64 * 1024;

/// Parses the filter of `--log`. It is not an `EnvFilter`: nothing here filters by spans, and that
/// would add a regex engine.
///
/// The HTTP/2 library warns about frames of nine bytes that any client can send without end. A line
/// for each would fill the log and take all the processor time. So the library is silent unless the
/// filter names it.
pub(super) fn filter(text: &str) -> Result<Targets, ParseError> {
    let filter: Targets = text.parse()?;
    let is_named = filter.iter().any(|(target, _)| target.starts_with("h2"));
    Ok(if is_named {
        filter
    } else {
        filter.with_target("h2", LevelFilter::OFF)
    })
}

/// Starts the log of what passes the filter, until the returned value is dropped.
pub(super) fn start(filter: Targets) -> anyhow::Result<Flusher<Stderr>> {
    let (lines, flusher) = LogLines::to(io::stderr()).context("cannot start the log's thread")?;
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_target(false)
        .with_max_level(LevelFilter::TRACE)
        .with_writer(lines)
        .finish()
        .with(filter)
        .init();
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let cause = panic.payload_as_str();
        error!(place, cause, "panicked; please report it");
    }));
    Ok(flusher)
}

/// The lines that wait to be written to `W`. Clones share them.
pub(super) struct LogLines<W>(Arc<LogShared<W>>);

impl<W> Clone for LogLines<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

struct LogShared<W> {
    waiting: Mutex<Unwritten>,
    changed: Condvar,
    /// Locked before `waiting`, so that lines keep their order.
    out: Mutex<W>,
}

#[derive(Default)]
struct Unwritten {
    bytes: Vec<u8>,
    ended: bool,
}

/// Owns the thread that writes the waiting lines. Dropping it writes the last of them.
pub(super) struct Flusher<W: Write> {
    lines: LogLines<W>,
    thread: Option<JoinHandle<()>>,
}

impl<W: Write + Send + 'static> LogLines<W> {
    /// Lines that are written to `out` while the flusher lives.
    pub(super) fn to(out: W) -> io::Result<(Self, Flusher<W>)> {
        let lines = Self(Arc::new(LogShared {
            waiting: Mutex::default(),
            changed: Condvar::new(),
            out: Mutex::new(out),
        }));
        let own = lines.clone();
        let thread = thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || own.run())?;
        let flusher = Flusher {
            lines: lines.clone(),
            thread: Some(thread),
        };
        Ok((lines, flusher))
    }

    fn run(&self) {
        loop {
            let waiting = self
                .0
                .changed
                .wait_while(lock(&self.0.waiting), |w| w.bytes.is_empty() && !w.ended);
            let ended = waiting.unwrap_or_else(PoisonError::into_inner).ended;
            if ended {
                return;
            }
            thread::sleep(PAUSE);
            self.flush_all();
        }
    }
}

impl<W: Write> LogLines<W> {
    /// Adds a line. Returns `true` if the waiting lines must be written now.
    fn add(&self, line: &[u8]) -> bool {
        let mut waiting = lock(&self.0.waiting);
        if waiting.bytes.is_empty() {
            self.0.changed.notify_one();
        }
        waiting.bytes.extend_from_slice(line);
        waiting.ended || waiting.bytes.len() > MOST_WAITING
    }

    /// Writes the waiting lines. Errors are ignored: the server goes on without a log.
    fn flush_all(&self) {
        let mut out = lock(&self.0.out);
        let bytes = std::mem::take(&mut lock(&self.0.waiting).bytes);
        let _ = out.write_all(&bytes);
    }
}

impl<W: Write> Drop for Flusher<W> {
    fn drop(&mut self) {
        lock(&self.lines.0.waiting).ended = true;
        self.lines.0.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // Even if the thread has panicked, the rest is written below.
            let _ = thread.join();
        }
        self.lines.flush_all();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No panic under these locks leaves their data inconsistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the lines of one event.
pub(super) struct LogLine<'l, W: Write> {
    lines: &'l LogLines<W>,
    at_once: bool,
}

impl<W: Write> Write for LogLine<'_, W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.lines.add(line) || self.at_once {
            self.lines.flush_all();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'l, W: Write + 'l> MakeWriter<'l> for LogLines<W> {
    type Writer = LogLine<'l, W>;

    fn make_writer(&'l self) -> Self::Writer {
        LogLine {
            lines: self,
            at_once: true,
        }
    }

    fn make_writer_for(&'l self, meta: &Metadata<'_>) -> Self::Writer {
        LogLine {
            lines: self,
            at_once: *meta.level() <= Level::WARN,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    /// Sends a message for each write.
    struct Writes(Sender<Vec<u8>>);

    impl Write for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines() -> (LogLines<Writes>, Flusher<Writes>, Receiver<Vec<u8>>) {
        let (sender, writes) = channel();
        let (lines, flusher) = LogLines::to(Writes(sender)).unwrap();
        (lines, flusher, writes)
    }

    fn say(lines: &LogLines<Writes>, at_once: bool, line: &[u8]) {
        LogLine { lines, at_once }.write_all(line).unwrap();
    }

    #[test]
    fn a_line_is_written_although_no_other_follows() {
        let (lines, _flusher, writes) = lines();
        say(&lines, false, b"one\n");
        assert_eq!(writes.recv().unwrap(), b"one\n");
    }

    #[test]
    fn a_warning_takes_along_what_waits() {
        let (lines, flusher, writes) = lines();
        say(&lines, false, b"one\n");
        say(&lines, true, b"two\n");
        drop((lines, flusher));
        assert_eq!(
            writes.into_iter().collect::<Vec<_>>().concat(),
            b"one\ntwo\n"
        );
    }

    #[test]
    fn no_line_is_lost_at_the_end_or_after_it() {
        let (lines, flusher, writes) = lines();
        for _ in 0..1000 {
            say(&lines, false, b"one\n");
        }
        drop(flusher);
        say(&lines, false, b"two\n");
        drop(lines);
        let all = writes.into_iter().collect::<Vec<_>>().concat();
        assert_eq!(all, [b"one\n".repeat(1000), b"two\n".to_vec()].concat());
    }

    #[test]
    fn more_than_may_wait_is_written_by_the_one_who_adds_it() {
        let (lines, _flusher, writes) = lines();
        let held = lock(&lines.0.out);
        say(&lines, false, &vec![b'x'; MOST_WAITING]);
        assert!(lines.add(b"y"));
        drop(held);
        lines.flush_all();
        assert_eq!(
            writes.into_iter().take(1).next().unwrap().len(),
            MOST_WAITING + 1
        );
    }
}
