//! Shutdown.
//!
//! Three steps, each announced by a token: *stopping* (not ready, but still serving, while
//! endpoints update), *closing* (no new connections, idle ones are closed, open requests finish)
//! and *aborted* (the rest is cut).

use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// Tells how far a stop has come. Clones tell the same.
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

    /// Resolves once idle connections are to be closed.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Resolves once nothing is waited for any more.
    pub async fn aborted(&self) {
        self.aborted.cancelled().await;
    }

    /// The token of the first step, for parts that only need to know that one.
    pub fn token(&self) -> CancellationToken {
        self.stopping.clone()
    }

    /// All steps at once, for a listener without connections to wait for.
    pub(super) fn now(&self) {
        self.stopping.cancel();
        self.closing.cancel();
        self.aborted.cancel();
    }

    /// The first step, of which [`Self::run`] makes sure.
    pub fn begin(&self) {
        self.stopping.cancel();
    }

    /// Goes through the steps.
    ///
    /// `delay` is the time between stopping and closing, `grace` between closing and aborted.
    /// `hurry` resolving in between aborts at once. If all connections end first, drop this.
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

/// SIGTERM, as Kubernetes sends it, and SIGINT, as a person does.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    /// From here on, neither signal ends the process by itself.
    pub(super) fn install() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    /// The name of the next one.
    pub(super) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.int.recv() => "SIGINT",
        }
    }
}
