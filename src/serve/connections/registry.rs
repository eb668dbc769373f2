//! The open connections of one listener: their activity, and the choice of the one to close when
//! there are too many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Body;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use super::answers::{AnswerBody, Answers};

/// The open connections of one listener.
pub(super) struct Registry {
    /// The origin of all times.
    epoch: Instant,
    slots: Arc<Semaphore>,
    shared: Arc<Shared>,
    answers: Arc<Answers>,
}

#[derive(Default)]
struct Shared {
    open: Mutex<Open>,
    /// Notified when a connection has become idle, for a new one that waits for a slot.
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
            answers: Arc::default(),
        }
    }

    /// Waits for a slot for one more connection. If all are taken, closes the least useful
    /// connection: one that never sent a request, or else the one that has been idle longest.
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
        // The last reference to a connection must not be dropped under the lock: its `drop` takes
        // the lock, too.
        let open: Vec<Arc<Activity>> = {
            let open = self.shared.lock();
            open.connections
                .values()
                .filter_map(Weak::upgrade)
                .collect()
        };
        let least = open
            .iter()
            .filter(|activity| !activity.is_busy() && !activity.close.is_cancelled())
            .min_by_key(|activity| {
                let served = activity.served.load(Ordering::Relaxed);
                (served, activity.since.load(Ordering::Relaxed), activity.id)
            });
        if let Some(activity) = least {
            activity.close.cancel();
        }
    }

    /// Registers a connection until the returned value is dropped.
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
            blocked: AtomicU64::new(NEVER),
            close: CancellationToken::new(),
            cut: CancellationToken::new(),
            answers: Arc::clone(&self.answers),
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
        // No panic under this lock leaves the data inconsistent.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A time that has not come.
const NEVER: u64 = u64::MAX;

/// The activity of one connection. Times are in milliseconds since the registry's epoch.
pub(super) struct Activity {
    id: u64,
    epoch: Instant,
    /// When the connection became idle, or when the headers of its next request began.
    since: AtomicU64,
    /// Number of requests that are being answered, or whose response the client has not taken.
    busy: AtomicUsize,
    /// Whether bytes have arrived that are not a complete request yet.
    in_head: AtomicBool,
    /// Whether the connection ever had a request.
    served: AtomicBool,
    /// Since when a write to the client has been blocked, or [`NEVER`].
    blocked: AtomicU64,
    close: CancellationToken,
    cut: CancellationToken,
    answers: Arc<Answers>,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Activity {
    /// Resolves when the connection must make room for another.
    pub(super) async fn asked_to_close(&self) {
        self.close.cancelled().await;
    }

    /// Resolves when the connection must end at once, because the client does not take a response.
    pub(super) async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Starts the idle time again.
    pub(super) fn touch(&self) {
        self.since.store(self.now(), Ordering::Relaxed);
    }

    /// Counts a response until the client has taken it.
    pub(super) fn answer(&self, body: Body, busy: Busy) -> AnswerBody<Busy> {
        self.answers.begin(body, self.cut.clone(), busy)
    }

    /// Cuts this and other connections whose clients have not taken a response for `limit`.
    pub(super) fn cut_untaken(&self, limit: Duration) {
        self.answers.cut_older_than(limit);
        let blocked = Duration::from_millis(self.blocked.load(Ordering::Relaxed));
        if self.epoch.elapsed().saturating_sub(blocked) >= limit {
            self.cut.cancel();
        }
    }

    /// Stores whether the last write to the client was blocked.
    pub(super) fn set_blocked(&self, blocked: bool) {
        if !blocked {
            self.blocked.store(NEVER, Ordering::Relaxed);
        } else if self.blocked.load(Ordering::Relaxed) == NEVER {
            self.blocked.store(self.now(), Ordering::Relaxed);
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(NEVER)
    }

    /// Whether the headers of a request began at least `limit` ago and are not complete.
    pub(super) fn head_takes_longer_than(&self, limit: Duration) -> bool {
        !self.is_busy() && self.is_in_head() && self.elapsed() >= limit
    }

    /// Whether there has been no request for `limit`.
    pub(super) fn idle_for(&self, limit: Duration) -> bool {
        !self.is_busy() && self.elapsed() >= limit
    }

    /// Whether the connection never had a request, and has been open for `limit`.
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

    /// Whether bytes have arrived that are not a complete request yet.
    pub(super) fn is_in_head(&self) -> bool {
        self.in_head.load(Ordering::Relaxed)
    }

    /// Stores that bytes have arrived.
    pub(super) fn received(&self) {
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
pub(super) struct Busy(Arc<Activity>);

impl Busy {
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    /// A connection may end while the registry chooses the one to close. The registry then holds
    /// the last reference to it.
    #[test]
    fn connections_may_end_while_one_is_chosen() {
        let registry = Arc::new(Registry::new(1));
        let (done, is_done) = channel();
        for by_caller in [true, false] {
            let (registry, done) = (Arc::clone(&registry), done.clone());
            thread::spawn(move || {
                for _ in 0..50_000 {
                    if by_caller {
                        registry.close_least_missed();
                    } else if let Ok(slot) = Arc::clone(&registry.slots).try_acquire_owned() {
                        drop(registry.register(slot));
                    }
                }
                let _ = done.send(());
            });
        }
        for _ in 0..2 {
            is_done
                .recv_timeout(Duration::from_mins(1))
                .expect("both wait for one lock");
        }
    }
}
