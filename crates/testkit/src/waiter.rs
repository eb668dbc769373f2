//! The waiter as a process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use crate::process::program;

/// Time limit of each wait. Only a failing test waits for so long.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// A running waiter. Dropping it kills it.
pub struct Waiter {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
    termination_log: PathBuf,
}

/// The end of a waiter.
pub struct Ended {
    /// Its exit code, unless a signal killed it.
    pub code: Option<i32>,
    /// All lines on standard output.
    pub output: String,
    /// The termination message.
    pub termination: String,
}

impl Waiter {
    /// Starts `migration-gate wait` with these arguments, for the cluster of a kubeconfig. Its
    /// termination log is in `folder`.
    pub fn spawn<'a>(
        kubeconfig: &Path,
        folder: &Path,
        args: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let termination_log = folder.join("termination-log");
        std::fs::write(&termination_log, "").expect("a termination log");
        let mut child = Command::new(program())
            .arg("wait")
            .arg("--termination-log")
            .arg(&termination_log)
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the waiter");
        let stdout = child.stdout.take().expect("its output");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
            termination_log,
        }
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal, such as `-TERM`.
    pub fn signal(&self, signal: &str) {
        let sent = Command::new("kill")
            .args([signal, &self.pid().to_string()])
            .status()
            .expect("kill");
        assert!(sent.success());
    }

    /// Waits for a line that contains `part`.
    pub fn says(&mut self, part: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(part) {
                        return line;
                    }
                }
                Err(error) => panic!("{error}: it never said {part:?}, but {:#?}", self.seen),
            }
        }
    }

    /// Waits for its end, which must have this exit code.
    pub fn ends_with(self, code: i32) -> Ended {
        let ended = self.ends();
        assert_eq!(ended.code, Some(code), "{}", ended.output);
        ended
    }

    /// Waits for its end.
    pub fn ends(mut self) -> Ended {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it never ended: {:#?}", self.seen),
            }
        }
        let code = self.child.wait().expect("its status").code();
        Ended {
            code,
            output: self.seen.join("\n"),
            termination: std::fs::read_to_string(&self.termination_log).expect("a message"),
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
