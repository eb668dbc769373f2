//! A worker runs tests inside a sandbox, for the process outside. It is the test program, started
//! again. The two communicate over a socket in the run's folder, with a connection for each test.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde::{Deserialize, Serialize};

use crate::poll::{Look, until};
use crate::sandbox::{self, RUN_FOLDER};

/// How a test ended.
#[derive(Serialize, Deserialize)]
pub(crate) enum TestOutcome {
    Passed,
    /// The test does not apply here, for this reason.
    Skipped(String),
    Failed(String),
}

/// A worker, for the process outside. Dropping it ends everything in its sandbox.
pub(crate) struct Worker {
    folder: PathBuf,
    lock: File,
    process: Child,
}

impl Worker {
    /// Starts a worker in a new sandbox. It also ends with the calling thread.
    pub(crate) fn start(environment: &[(&str, &OsStr)]) -> Result<Self> {
        let (folder, lock) = sandbox::new_run(&sandbox::runs()?)?;
        let process = sandbox::command()
            .arg(std::env::current_exe().context("finding this program's own path")?)
            .envs(environment.iter().copied())
            .env(RUN_FOLDER, &folder)
            .stdin(Stdio::null())
            .spawn()
            .context("starting setpriv (Debian: util-linux)")?;
        let mut this = Self {
            folder,
            lock,
            process,
        };
        let socket = socket(&this.folder);
        until(
            "the sandbox to be set up",
            Duration::from_mins(3),
            || match this.process.try_wait() {
                Err(error) => Look::Failed(error.into()),
                Ok(Some(status)) => Look::Failed(anyhow!("it ended ({status})")),
                Ok(None) if socket.exists() => Look::Done(()),
                Ok(None) => Look::Pending(format!("no {}", socket.display())),
            },
        )?;
        Ok(this)
    }

    /// The folder with the components' logs.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Lets the worker run one test, and waits for its outcome.
    pub(crate) fn run(&self, name: &str) -> Result<TestOutcome> {
        let path = socket(&self.folder);
        let mut connection = UnixStream::connect(&path)
            .with_context(|| format!("connecting to {}", path.display()))?;
        connection.write_all(name.as_bytes())?;
        connection.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        ensure!(
            !answer.is_empty(),
            "the process that the test ran in has ended; the lines above say where, and {} holds the components' logs",
            self.folder.display()
        );
        Ok(serde_json::from_str(&answer)?)
    }

    /// Ends the worker, and removes everything that is left of it.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.end();
        // To close the file is not enough: a child that another thread is just starting may have a
        // copy of it.
        self.lock.unlock()?;
        sandbox::clean_up(&sandbox::runs()?)
    }

    fn end(&mut self) {
        // Both fail only if the child has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

/// The worker's side: runs the requested tests, each in a thread of its own, until the process is
/// killed.
pub(crate) fn serve(folder: &Path, run: impl Fn(&str) -> TestOutcome + Sync) -> Result<()> {
    let path = socket(folder);
    let listener =
        UnixListener::bind(&path).with_context(|| format!("listening at {}", path.display()))?;
    thread::scope(|scope| {
        for connection in listener.incoming() {
            let connection = connection?;
            let run = &run;
            scope.spawn(move || answer(connection, run));
        }
        Ok(())
    })
}

fn answer(mut connection: UnixStream, run: impl Fn(&str) -> TestOutcome) -> Result<()> {
    let mut name = String::new();
    connection.read_to_string(&mut name)?;
    let outcome = run(&name);
    Ok(serde_json::to_writer(connection, &outcome)?)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("worker")
}
