//! A waiter, and the time of its end.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// A running `migration-gate wait`.
pub(super) struct Waiter {
    pub(super) tag: &'static str,
    pub(super) begun: Instant,
    pub(super) output: PathBuf,
    ended: Receiver<(Instant, Option<i32>)>,
}

impl Waiter {
    /// Starts a waiter for images with this tag. Its output goes to a file.
    pub(super) fn start(
        program: &Path,
        kubeconfig: &Path,
        output: PathBuf,
        tag: &'static str,
        args: &[&str],
    ) -> Result<Self> {
        let file = File::create(&output)?;
        let begun = Instant::now();
        let mut child = Command::new(program)
            .args(["wait", "--termination-log=/dev/null", "--timeout=1h"])
            .arg(format!("--image=web:{tag}"))
            .args(args)
            .env("KUBECONFIG", kubeconfig)
            .stdin(Stdio::null())
            .stderr(file.try_clone()?)
            .stdout(file)
            .spawn()
            .context("starting a waiter")?;
        let (sender, ended) = channel();
        // A waiter that never ends is killed with the sandbox.
        thread::spawn(move || {
            let code = child.wait().ok().and_then(|status| status.code());
            let _ = sender.send((Instant::now(), code));
        });
        Ok(Self {
            tag,
            begun,
            output,
            ended,
        })
    }

    /// The time and exit code of its end, if it has ended.
    pub(super) fn end(&self) -> Option<(Instant, Option<i32>)> {
        self.ended.try_recv().ok()
    }

    /// Waits for its end.
    pub(super) fn end_within(&self, time: Duration) -> Option<(Instant, Option<i32>)> {
        self.ended.recv_timeout(time).ok()
    }

    pub(super) fn lines(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}
