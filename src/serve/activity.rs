//! What each connection is doing, and which one to close when there are too many.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::Service;
use hyper::{Request, Version};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::stop::Stop;

/// The open connections of one listener.
pub(super) struct Registry {
    /// What all times are counted from.
    epoch: Instant,
    slots: Arc<Semaphore>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Open>,
    /// Told when a connection has become idle, for one that waits for a slot.
    idle: Notify,
}

#[derive(Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, Weak<Activity>>,
}

impl Registry {
    pub(super) fn new(most: usize) -> Self {
        Self {
            epoch: Instant::now(),
            slots: Arc::new(Semaphore::new(most)),
            shared: Arc::default(),
        }
    }

    /// Waits for room for one more connection, and makes it by closing the one that is least
    /// missed: one that never asked anything, or else the longest idle.
    pub(super) async fn slot(&self) -> OwnedSemaphorePermit {
        loop {
            if let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
                return slot;
            }
            self.close_least_missed();
            tokio::select! {
                slot = Arc::clone(&self.slots).acquire_owned() => {
                    if let Ok(slot) = slot {
                        return slot;
                    }
                }
                () = self.shared.idle.notified() => {}
            }
        }
    }

    fn close_least_missed(&self) {
        let open = self.shared.lock();
        let least = open
            .connections
            .values()
            .filter_map(Weak::upgrade)
            .filter(|activity| !activity.is_busy() && !activity.close.is_cancelled())
            .min_by_key(|activity| {
                let served = activity.served.load(Ordering::Relaxed);
                (served, activity.since.load(Ordering::Relaxed), activity.id)
            });
        if let Some(activity) = least {
            activity.close.cancel();
        }
    }

    /// Keeps account of a connection until the answer is dropped.
    pub(super) fn register(&self, slot: OwnedSemaphorePermit) -> Arc<Activity> {
        let mut open = self.shared.lock();
        let id = open.next;
        open.next += 1;
        let activity = Arc::new(Activity {
            id,
            epoch: self.epoch,
            since: AtomicU64::new(0),
            busy: AtomicUsize::new(0),
            in_head: AtomicBool::new(false),
            served: AtomicBool::new(false),
            close: CancellationToken::new(),
            shared: Arc::clone(&self.shared),
            _slot: slot,
        });
        activity.touch();
        open.connections.insert(id, Arc::downgrade(&activity));
        activity
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Open> {
        // Nothing is left half-done under this lock, so a panic elsewhere doesn't spoil it.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one connection is doing. Times are in milliseconds since the registry's epoch.
pub(super) struct Activity {
    id: u64,
    epoch: Instant,
    /// When it became idle, or when the head that it is in began.
    since: AtomicU64,
    /// How many requests are being answered.
    busy: AtomicUsize,
    /// Whether bytes have come that aren't a request yet.
    in_head: AtomicBool,
    /// Whether it ever brought a request.
    served: AtomicBool,
    close: CancellationToken,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Activity {
    /// Resolves when the connection is to make room for another.
    pub(super) async fn asked_to_close(&self) {
        self.close.cancelled().await;
    }

    /// Begins the idle time anew.
    pub(super) fn touch(&self) {
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.since.store(now, Ordering::Relaxed);
    }

    /// Whether a request's head began that long ago and isn't complete.
    pub(super) fn head_takes_longer_than(&self, limit: Duration) -> bool {
        !self.is_busy() && self.in_head.load(Ordering::Relaxed) && self.elapsed() >= limit
    }

    /// Whether there was no request for that long.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        !self.is_busy() && self.elapsed() >= limit
    }

    /// Whether it never brought a request, for that long.
    pub(super) fn mute_for(&self, limit: Duration) -> bool {
        !self.served.load(Ordering::Relaxed) && self.elapsed() >= limit
    }

    /// Whether a request is being answered.
    pub(super) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Relaxed) > 0
    }

    fn elapsed(&self) -> Duration {
        let since = Duration::from_millis(self.since.load(Ordering::Relaxed));
        self.epoch.elapsed().saturating_sub(since)
    }

    fn received(&self) {
        if !self.is_busy() && !self.in_head.swap(true, Ordering::Relaxed) {
            self.touch();
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.shared.lock().connections.remove(&self.id);
    }
}

/// One request; the connection is busy while it exists.
struct Busy(Arc<Activity>);

impl Busy {
    fn new(activity: &Arc<Activity>) -> Self {
        activity.busy.fetch_add(1, Ordering::Relaxed);
        activity.served.store(true, Ordering::Relaxed);
        activity.in_head.store(false, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.touch();
        if self.0.busy.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.shared.idle.notify_one();
        }
    }
}

/// The routes as one connection sees them.
#[derive(Clone)]
pub(super) struct TrackedService {
    routes: TowerToHyperService<Router>,
    activity: Arc<Activity>,
    stop: Stop,
}

impl TrackedService {
    pub(super) fn new(routes: Router, activity: Arc<Activity>, stop: Stop) -> Self {
        Self {
            routes: TowerToHyperService::new(routes),
            activity,
            stop,
        }
    }
}

impl Service<Request<Incoming>> for TrackedService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let busy = Busy::new(&self.activity);
        let stop = self.stop.clone();
        let version = request.version();
        let answer = self.routes.call(request);
        Box::pin(async move {
            let mut response = answer.await?;
            // A client that reuses connections would stay with this replica for as long as it has
            // one. HTTP/2 has GOAWAY for that.
            if version < Version::HTTP_2 && stop.is_stopping() {
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
            }
            drop(busy);
            Ok(response)
        })
    }
}

/// A stream that tells its [`Activity`] when bytes come in.
pub(super) struct Tracked<S> {
    stream: S,
    activity: Arc<Activity>,
}

impl<S> Tracked<S> {
    pub(super) fn new(stream: S, activity: Arc<Activity>) -> Self {
        Self { stream, activity }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Tracked<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.activity.received();
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Tracked<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
