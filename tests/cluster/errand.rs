//! How the process outside has tests run by one inside: a socket in the run's folder, a connection for each test.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

/// What has come of a test.
#[derive(Serialize, Deserialize)]
pub(crate) enum Verdict {
    Passed,
    /// It doesn't apply here, for this reason.
    Skipped(String),
    Failed(String),
}

pub(crate) fn socket(folder: &Path) -> PathBuf {
    folder.join("errands")
}

/// Runs the tests that are asked for, each in a thread of its own, until the process is killed.
pub(crate) fn serve(folder: &Path, run: impl Fn(&str) -> Verdict + Sync) -> Result<()> {
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

fn answer(mut connection: UnixStream, run: impl Fn(&str) -> Verdict) -> Result<()> {
    let mut name = String::new();
    connection.read_to_string(&mut name)?;
    let verdict = run(&name);
    Ok(serde_json::to_writer(connection, &verdict)?)
}

/// Has one test run inside; waits for what comes of it.
pub(crate) fn run(folder: &Path, name: &str) -> Result<Verdict> {
    let path = socket(folder);
    let mut connection =
        UnixStream::connect(&path).with_context(|| format!("connecting to {}", path.display()))?;
    connection.write_all(name.as_bytes())?;
    connection.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    ensure!(
        !answer.is_empty(),
        "the test has panicked, or the process that it ran in has ended; the lines above say where, and {} holds the components' logs",
        folder.display()
    );
    Ok(serde_json::from_str(&answer)?)
}
