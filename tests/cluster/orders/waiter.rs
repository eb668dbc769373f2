//! A waiter, and when it ended.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

/// `migration-gate wait`, running.
pub(super) struct Waiter {
    pub(super) tag: &'static str,
    pub(super) begun: Instant,
    pub(super) output: PathBuf,
    ended: Receiver<(Instant, Option<i32>)>,
}

impl Waiter {
    /// Starts one for images with this tag; its lines go into a file.
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
        // One that never ends is killed with the sandbox.
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

    /// When it ended, and how, if it has.
    pub(super) fn end(&self) -> Option<(Instant, Option<i32>)> {
        self.ended.try_recv().ok()
    }

    /// The same, once it has.
    pub(super) fn end_within(&self, time: Duration) -> Option<(Instant, Option<i32>)> {
        self.ended.recv_timeout(time).ok()
    }

    pub(super) fn lines(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }
}
