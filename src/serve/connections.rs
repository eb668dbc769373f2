//! Accepting, limiting and closing connections.
//!
//! This is hand-written because no crate bounds everything that a client without credentials can
//! make grow: `axum::serve` bounds neither handshakes nor connections; axum-server bounds only
//! handshakes, and retries a failed accept every 50 ms; hyper-util's `GracefulShutdown` drains, but
//! cannot tell an idle connection from a busy one. hyper still does HTTP, and axum the routing.

mod answers;
mod connection;
mod registry;
mod service;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio_util::task::TaskTracker;
use tracing::{debug, error};

use self::connection::Connection;
use self::registry::Registry;
use super::limits::ClientLimits;
use super::stop::Stop;
use super::tls::Acceptor;
use crate::cli::chain;

/// Pause after the first failure to accept.
const SHORTEST_REST: Duration = Duration::from_millis(5);

/// Maximum pause, after many failures in a row.
const LONGEST_REST: Duration = Duration::from_secs(1);

/// A port with what is served on it.
pub struct Listener {
    /// Its name in the log.
    pub name: &'static str,
    /// The port.
    pub socket: TcpListener,
    /// TLS; plain HTTP if `None`.
    pub tls: Option<Acceptor>,
    /// The routes.
    pub routes: Router,
    /// The limits of a client.
    pub limits: Arc<ClientLimits>,
    /// Tells when to stop.
    pub stop: Stop,
}

impl Listener {
    /// Serves until `stop` begins to close and the last request is answered, or until `stop`
    /// aborts.
    pub async fn run(self) {
        let Self {
            name,
            socket,
            tls,
            routes,
            limits,
            stop,
        } = self;
        let registry = Registry::new(limits.max_connections as usize);
        let tasks = TaskTracker::new();
        let mut rest = SHORTEST_REST;
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.closing() => break,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    rest = SHORTEST_REST;
                    // While there is no slot, new connections wait in the kernel.
                    let slot = tokio::select! {
                        slot = registry.slot() => slot,
                        () = stop.closing() => break,
                    };
                    let connection = Connection {
                        activity: registry.register(slot),
                        tls: tls.clone(),
                        routes: routes.clone(),
                        limits: Arc::clone(&limits),
                        stop: stop.clone(),
                    };
                    let stop = stop.clone();
                    tasks.spawn(async move {
                        tokio::select! {
                            result = connection.run(stream) => if let Err(error) = result {
                                debug!(listener = name, cause = chain(&error), "connection ended");
                            },
                            () = stop.aborted() => debug!(listener = name, "connection cut"),
                        }
                    });
                }
                // The client closed its connection before it was accepted: no reason to pause.
                Err(cause) if is_the_clients(&cause) => {}
                Err(cause) => {
                    error!(listener = name, %cause, retry_in = ?rest, "cannot accept connections");
                    tokio::select! {
                        () = stop.closing() => break,
                        () = tokio::time::sleep(rest) => {}
                    }
                    rest = (rest * 2).min(LONGEST_REST);
                }
            }
        }
        drop(socket);
        tasks.close();
        tasks.wait().await;
    }
}

/// Serves one HTTP/2 connection to its end, over a stream that needs no handshake, with the limits
/// of a [`Listener`]'s connections. Does not report how the connection ended.
pub async fn serve_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: Router,
    limits: Arc<ClientLimits>,
    stop: Stop,
) {
    let registry = Registry::new(1);
    let connection = Connection {
        activity: registry.register(registry.slot().await),
        tls: None,
        routes,
        limits,
        stop,
    };
    if let Err(error) = connection.run_http2(stream).await {
        debug!(cause = chain(&error), "connection ended");
    }
}

fn is_the_clients(cause: &io::Error) -> bool {
    matches!(
        cause.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}
