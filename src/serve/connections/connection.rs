//! One connection, from its handshake to its end.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::registry::Activity;
use super::service::{MOST_FIELDS, TrackedService};
use super::stream::TrackedStream;
use crate::serve::limits::ClientLimits;
use crate::serve::stop::Stop;
use crate::serve::tls::{Acceptor, H2};

/// Maximum number of open requests on one HTTP/2 connection.
const STREAMS: u32 = 16;

/// How many bytes of a request's body a client may send before they are read. No other limit counts
/// the memory of these bytes.
const STREAM_WINDOW: u32 = 32 * 1024;

/// The same for all requests of one HTTP/2 connection: the sum of their windows, so that bodies
/// that wait for room do not block the others.
const CONNECTION_WINDOW: u32 = STREAMS * STREAM_WINDOW;

/// How many bytes of responses an HTTP/1 connection buffers until the client takes them.
const CONNECTION_BUFFER: usize = 16 * 1024;

/// How many bytes of one response an HTTP/2 connection buffers until the client takes them.
const STREAM_BUFFER: usize = 8 * 1024;

/// Reasons why a connection was cut.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectionError {
    #[error("the TLS handshake took longer than {0:?}")]
    HandshakeTimeout(Duration),
    #[error("the TLS handshake failed")]
    Handshake(#[source] io::Error),
    #[error("the request headers took longer than {0:?}")]
    HeaderTimeout(Duration),
    #[error("the client did not read a response in time, or left too much of it unread")]
    Untaken,
    #[error("the client did not let the connection close")]
    Lingering,
    #[error(transparent)]
    Http(#[from] hyper::Error),
}

/// An accepted connection.
pub(super) struct Connection {
    pub(super) activity: Arc<Activity>,
    pub(super) tls: Option<Acceptor>,
    pub(super) routes: Router,
    pub(super) limits: Arc<ClientLimits>,
    pub(super) stop: Stop,
}

impl Connection {
    /// Serves the connection to its end.
    pub(super) async fn run(self, stream: TcpStream) -> Result<(), ConnectionError> {
        let activity = Arc::clone(&self.activity);
        tokio::select! {
            result = self.serve(stream) => result,
            () = activity.cut() => Err(ConnectionError::Untaken),
        }
    }

    /// As [`Self::run`], for HTTP/2 without a TLS handshake.
    pub(super) async fn run_http2(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), ConnectionError> {
        tokio::select! {
            result = self.http2(stream) => result,
            () = self.activity.cut() => Err(ConnectionError::Untaken),
        }
    }

    async fn serve(self, stream: TcpStream) -> Result<(), ConnectionError> {
        // A response is one small write, which Nagle's algorithm would only delay.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else {
            return self.http1(stream).await;
        };
        let limit = self.limits.handshake_timeout;
        let handshake = tokio::select! {
            handshake = timeout(limit, tls.accept(stream)) => handshake,
            () = self.activity.asked_to_close() => return Ok(()),
            () = self.stop.closing() => return Ok(()),
        };
        let mut stream = handshake
            .map_err(|_| ConnectionError::HandshakeTimeout(limit))?
            .map_err(ConnectionError::Handshake)?;
        stream.get_mut().1.set_buffer_limit(Some(CONNECTION_BUFFER));
        self.activity.touch();
        if stream.get_ref().1.alpn_protocol() == Some(H2) {
            self.http2(stream).await
        } else {
            self.http1(stream).await
        }
    }

    async fn http1(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), ConnectionError> {
        let stream = TrackedStream::new(stream, Arc::clone(&self.activity));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // `drive` can tell an idle connection from slow headers; hyper's timer cannot.
            .header_read_timeout(None)
            .max_header_size(self.limits.max_header as usize)
            .max_headers(MOST_FIELDS)
            .max_buf_size(CONNECTION_BUFFER.max(self.limits.max_header as usize))
            .serve_connection(TokioIo::new(stream), self.service());
        self.drive(connection, self.stop.closing()).await
    }

    async fn http2(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<(), ConnectionError> {
        let connection = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .max_header_list_size(self.limits.max_header)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(STREAM_BUFFER)
            .keep_alive_interval(self.limits.idle_timeout / 2)
            .serve_connection(TokioIo::new(stream), self.service());
        // After GOAWAY, the client opens another connection, usually to another replica. A
        // connection that is new while the server is stopping gets none until the server closes:
        // its client has just been sent away, and could only come back.
        let leave = async {
            if self.stop.is_stopping() {
                self.stop.closing().await;
            } else {
                self.stop.stopping().await;
            }
        };
        self.drive(connection, leave).await
    }

    fn service(&self) -> TrackedService {
        TrackedService::new(
            self.routes.clone(),
            Arc::clone(&self.activity),
            self.stop.clone(),
        )
    }

    /// Runs the connection to its end. Ends it when a time limit has passed, when the registry
    /// needs its slot, or when `leave` resolves.
    async fn drive<C>(
        &self,
        connection: C,
        leave: impl Future<Output = ()>,
    ) -> Result<(), ConnectionError>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        let mut connection = pin!(connection);
        let mut leave = pin!(leave);
        let header = self.limits.header_timeout;
        loop {
            // Checks often enough to notice slow headers. A timer for each byte would cost more.
            let answer = self.limits.answer_timeout;
            let tick = (header / 2).min(answer / 2).min(self.limits.idle_timeout);
            let tick = Instant::now() + tick;
            tokio::select! {
                result = connection.as_mut() => return Ok(result?),
                () = self.activity.asked_to_close() => {
                    return self.evict(connection.as_mut()).await;
                }
                () = leave.as_mut() => break,
                () = sleep_until(tick) => {
                    self.activity.cut_untaken(answer);
                    if self.activity.head_takes_longer_than(header) {
                        return Err(ConnectionError::HeaderTimeout(header));
                    }
                    // HTTP/2's preface counts as headers. No request is lost: an API server just
                    // connects again.
                    if self.activity.idle_for(self.limits.idle_timeout)
                        || self.activity.mute_for(header)
                    {
                        break;
                    }
                }
            }
        }
        self.finish(connection.as_mut()).await
    }

    /// Answers the open requests, then closes: `Connection: close` or GOAWAY.
    async fn finish<C>(&self, mut connection: Pin<&mut C>) -> Result<(), ConnectionError>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        connection.as_mut().graceful_shutdown();
        let idle = self.limits.handshake_timeout;
        let end = Instant::now() + idle + self.limits.request_timeout;
        // A request that the client sent before it saw GOAWAY may still arrive.
        loop {
            if let Ok(result) = timeout(idle, connection.as_mut()).await {
                return Ok(result?);
            }
            if !self.activity.is_busy() || Instant::now() >= end {
                return Err(ConnectionError::Lingering);
            }
        }
    }

    /// Closes the connection to make room for another one: at once, unless a request has just
    /// arrived.
    async fn evict<C>(&self, mut connection: Pin<&mut C>) -> Result<(), ConnectionError>
    where
        C: GracefulConnection<Error = hyper::Error>,
    {
        connection.as_mut().graceful_shutdown();
        // One poll sends GOAWAY, without waiting for the client to close.
        match futures::poll!(connection.as_mut()) {
            Poll::Ready(result) => Ok(result?),
            Poll::Pending if self.activity.is_busy() => self.finish(connection).await,
            Poll::Pending => Ok(()),
        }
    }
}
