//! Child processes: long-running ones with a log file, and short ones with a deadline.

use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rustix::process::{Pid, Signal, kill_process};

use crate::poll::{Look, until};

/// The variable by which a worker finds [`program`]. Cargo's own variable has a dash in its name,
/// so the shell that starts a sandbox drops it.
pub(crate) const PROGRAM: &str = "MIGRATION_GATE_CLUSTER_PROGRAM";

/// The path of the `migration-gate` under test, which cargo passes to integration tests.
pub fn program() -> PathBuf {
    std::env::var_os("CARGO_BIN_EXE_migration-gate")
        .or_else(|| std::env::var_os(PROGRAM))
        .expect("cargo sets this variable when it runs tests")
        .into()
}

/// A component that runs until it is stopped or dropped.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    /// Starts a command. Appends both outputs to `<logs>/<name>.log`.
    pub fn spawn(name: &str, logs: &Path, command: &mut Command) -> Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .with_context(|| format!("opening {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("starting {name} ({})", command.get_program().display()))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            child: Mutex::new(child),
        })
    }

    /// Its process ID.
    pub fn pid(&self) -> u32 {
        self.child().id()
    }

    /// Fails with the end of its log if it is no longer running.
    pub fn check(&self) -> Result<()> {
        match self.child().try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!(
                "{} ended by itself ({status}); its log ends with\n{}",
                self.name,
                self.tail()
            )),
        }
    }

    /// Waits until `look` is done, for as long as the process runs.
    pub fn await_ready<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut look: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        until(what, deadline, || match (look(), self.check()) {
            (Ok(found), _) => Look::Done(found),
            (Err(_), Err(gone)) => Look::Failed(gone),
            (Err(error), Ok(())) => Look::Pending(format!("{error:#}")),
        })
        .with_context(|| {
            format!(
                "{} isn't ready; its log ends with\n{}",
                self.name,
                self.tail()
            )
        })
    }

    /// Stops it by SIGTERM, and kills it after `grace`.
    pub fn stop(self, grace: Duration) -> Result<()> {
        let pid = Pid::from_child(&self.child());
        kill_process(pid, Signal::TERM)
            .with_context(|| format!("sending SIGTERM to {}", self.name))?;
        // Dropping it kills it if it has not ended within `grace`.
        until(&format!("{} to stop", self.name), grace, || {
            match self.child().try_wait() {
                Ok(Some(_)) => Look::Done(()),
                Ok(None) => Look::Pending("still running".to_owned()),
                Err(error) => Look::Failed(error.into()),
            }
        })
    }

    /// The end of its log, indented.
    fn tail(&self) -> String {
        let text = fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        indent(&lines[lines.len().saturating_sub(20)..].join("\n"))
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        // Both fail only if the child has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// A finished command with its output.
pub struct Finished {
    /// The command line, for messages.
    pub line: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output if it has succeeded; else an error with the command and both outputs.
    pub fn success(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        Err(anyhow!(
            "`{}` failed ({})\n{}{}",
            self.line,
            self.status,
            indent(&self.stderr),
            indent(&self.stdout)
        ))
    }

    /// Its standard error if it has failed; else an error with the command and its output.
    pub fn failure(self) -> Result<String> {
        if !self.status.success() {
            return Ok(self.stderr);
        }
        Err(anyhow!(
            "`{}` succeeded, and should have failed; it printed\n{}",
            self.line,
            indent(&self.stdout)
        ))
    }
}

/// Checks that a text contains all of `parts`.
pub fn says(text: &str, parts: &[&str]) -> Result<()> {
    let missing = parts.iter().find(|part| !text.contains(**part));
    missing.map_or(Ok(()), |part| Err(anyhow!("no `{part}` in\n{text}")))
}

/// Indents a text that is quoted in a message.
pub fn indent(text: &str) -> String {
    text.lines().flat_map(|line| ["    ", line, "\n"]).collect()
}

/// Runs a command to its end, with `input` as its standard input.
pub fn run(command: &mut Command, input: &str, deadline: Duration) -> Result<Finished> {
    let line = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            Path::new(word)
                .file_name()
                .filter(|_| word == command.get_program())
                .unwrap_or(word)
        })
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting `{line}`"))?;

    let mut stdin = child
        .stdin
        .take()
        .context("a child without standard input")?;
    let input = input.to_owned();
    // Ignore errors: a command may end without reading all of its input.
    thread::spawn(move || stdin.write_all(input.as_bytes()));
    let stdout = collect(child.stdout.take());
    let stderr = collect(child.stderr.take());

    // Both pipes end when the command ends, so no polling is needed.
    let stdout = stdout.recv_timeout(deadline).or_else(|_| {
        child.kill()?;
        child.wait()?;
        let said = stderr.recv().unwrap_or_default();
        Err(anyhow!(
            "`{line}` hadn't finished after {deadline:?}; it printed\n{}",
            indent(&said)
        ))
    })?;
    let stderr = stderr.recv().unwrap_or_default();
    Ok(Finished {
        line,
        status: child.wait()?,
        stdout,
        stderr,
    })
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // Ignore an error, and use what was read before it.
            let _ = pipe.read_to_end(&mut bytes);
        }
        // After the deadline, the receiver no longer exists.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
