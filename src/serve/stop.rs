//! Shutdown.
//!
//! Three steps, each announced by a token: *stopping* (not ready, but still serving, while
//! endpoints update), *closing* (no new connections, idle ones are closed, open requests finish)
//! and *aborted* (the rest is cut).

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// The progress of a shutdown. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    stopping: CancellationToken,
    closing: CancellationToken,
    aborted: CancellationToken,
}

impl Stop {
    /// Whether the server has been asked to stop.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Resolves once the server has been asked to stop.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Resolves once the server closes idle connections.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Resolves once open requests are cut.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// The token of the first step, for code that needs no other step.
    pub fn token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// Takes all steps at once, for a listener without connections to wait for.
    pub(super) fn now(&self) {
        self.stopping.cancel();
        self.closing.cancel();
        self.aborted.cancel();
    }

    /// Takes the first step: the replica is no longer ready. [`Self::run`] does so, too.
    pub fn begin(&self) {
        self.stopping.cancel();
    }

    /// Takes the steps one after another.
    ///
    /// `delay` is the time from stopping to closing, `grace` the time from closing to aborted. When
    /// `hurry` resolves, the abort comes at once. If all connections end first, drop this future.
    pub async fn run(
        &self,
        delay: Duration,
        grace: Duration,
        hurry: impl Future<Output = &'static str>,
    ) {
        self.begin();
        tokio::select! {
            () = async {
                tokio::time::sleep(delay).await;
                self.closing.cancel();
                tokio::time::sleep(grace).await;
                warn!("requests are still in flight; cutting them");
            } => {}
            signal = hurry => warn!(signal, "second signal; stopping at once"),
        }
        self.now();
    }
}

/// SIGTERM, which the kubelet sends, and SIGINT, from Ctrl-C.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// Installs the handlers. From here on, neither signal ends the process by itself.
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal, and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
