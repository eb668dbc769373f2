//! The progress of a long review, as a line on the terminal.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// Shorter work shows no progress.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often the line changes.
const PAUSE: Duration = Duration::from_millis(200);

/// Runs `work`, which counts in `done` how many of `all` documents are read. If that takes long and
/// standard error is a terminal, a line there shows the count meanwhile.
pub(super) fn shown<R>(done: &AtomicUsize, all: usize, work: impl FnOnce() -> R) -> R {
    let errors = io::stderr();
    if !errors.is_terminal() {
        return work();
    }
    thread::scope(|scope| {
        let (working, over) = mpsc::channel::<()>();
        scope.spawn(move || {
            // If the terminal does not take the line, the review continues.
            let _ = show(&over, PATIENCE, done, all, &mut errors.lock());
        });
        let result = work();
        // A panic of the work drops it, too, which ends the line.
        drop(working);
        result
    })
}

/// Shows the count from `patience` on, until the sender of `over` is dropped.
fn show(
    over: &Receiver<()>,
    patience: Duration,
    done: &AtomicUsize,
    all: usize,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut pause = patience;
    let mut shown = false;
    while over.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        let done = done.load(Ordering::Relaxed);
        write!(out, "\rread {done} of {all} documents")?;
        out.flush()?;
        (pause, shown) = (PAUSE, true);
    }
    if shown {
        // Clears the line.
        write!(out, "\r\x1b[K")?;
        out.flush()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The output of work that counts to 3 and ends after the first line has been written.
    fn written(patience: Duration) -> String {
        let done = AtomicUsize::new(3);
        let (working, over) = mpsc::channel();
        let mut out = UntilWritten {
            text: Vec::new(),
            working: Some(working),
        };
        if patience == Duration::MAX {
            out.working = None;
        }
        show(&over, patience, &done, 7, &mut out).expect("a Vec takes it");
        String::from_utf8(out.text).expect("text")
    }

    /// Takes text, and ends the work once it has some.
    struct UntilWritten {
        text: Vec<u8>,
        working: Option<mpsc::Sender<()>>,
    }

    impl Write for UntilWritten {
        fn write(&mut self, text: &[u8]) -> io::Result<usize> {
            self.text.write(text)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.working = None;
            Ok(())
        }
    }

    #[test]
    fn a_long_work_is_shown_and_the_line_is_cleared() {
        let shown = written(Duration::from_millis(1));
        assert_eq!(shown, "\rread 3 of 7 documents\r\u{1b}[K");
    }

    #[test]
    fn of_a_short_work_there_is_no_word() {
        assert_eq!(written(Duration::MAX), "");
    }
}
