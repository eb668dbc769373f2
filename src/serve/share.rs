//! A semaphore that serves the smallest request first.
//!
//! `tokio::sync::Semaphore` serves requests in their order, so a small review would wait for every
//! large one that came before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

/// Permits that many requests share.
#[derive(Debug)]
pub(super) struct Share {
    all: usize,
    state: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    free: usize,
    next: u64,
    waiting: BTreeMap<Rank, Pending>,
}

/// Maximum number of requests that wait. If there is one more, the largest is turned away. Each
/// takes memory while it waits: a part of its body is in its connection's window.
const MOST_WAITING: usize = 1024;

/// The queue was full, and this request was the largest.
#[derive(Debug)]
pub(super) struct TurnedAway;

/// The size of a request in bytes, and its sequence number.
type Rank = (u64, u64);

#[derive(Debug)]
struct Pending {
    permits: usize,
    turn: oneshot::Sender<Permits>,
}

/// Permits of a share, returned when dropped.
#[derive(Debug)]
pub(super) struct Permits {
    share: Arc<Share>,
    permits: usize,
}

impl Share {
    /// A share of `all` permits, at least one.
    pub(super) fn new(all: usize) -> Arc<Self> {
        let all = all.max(1);
        Arc::new(Self {
            all,
            state: Mutex::new(Queue {
                free: all,
                next: 0,
                waiting: BTreeMap::new(),
            }),
        })
    }

    /// Waits for `permits` permits, for a request of `size` bytes. A request for more than the
    /// share has gets all of them.
    pub(super) async fn take(
        self: &Arc<Self>,
        permits: usize,
        size: u64,
    ) -> Result<Permits, TurnedAway> {
        let permits = permits.min(self.all);
        let (turn, wait) = oneshot::channel();
        let rank = {
            let mut state = self.lock();
            let rank = (size, state.next);
            state.next += 1;
            state.waiting.insert(rank, Pending { permits, turn });
            rank
        };
        // Removes the request from the queue if this future is dropped.
        let _place = QueuePlace { share: self, rank };
        self.serve();
        wait.await.map_err(|_| TurnedAway)
    }

    fn is_wanted(&self) -> bool {
        !self.lock().waiting.is_empty()
    }

    /// Gives free permits to the first requests of the queue.
    fn serve(self: &Arc<Self>) {
        loop {
            let served = {
                let mut state = self.lock();
                let free = state.free;
                let Some(first) = state.waiting.first_entry() else {
                    return;
                };
                if first.get().permits > free {
                    if state.waiting.len() > MOST_WAITING {
                        state.waiting.pop_last();
                    }
                    return;
                }
                let waiter = first.remove();
                state.free -= waiter.permits;
                waiter
            };
            let permits = Permits {
                share: Arc::clone(self),
                permits: served.permits,
            };
            // If the receiver is gone, dropping the permits returns them.
            drop(served.turn.send(permits));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        // No panic under this lock leaves the queue inconsistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permits {
    /// Whether a request waits for permits of the same share.
    pub(super) fn is_wanted(&self) -> bool {
        self.share.is_wanted()
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        self.share.lock().free += self.permits;
        self.share.serve();
    }
}

struct QueuePlace<'s> {
    share: &'s Arc<Share>,
    rank: Rank,
}

impl Drop for QueuePlace<'_> {
    fn drop(&mut self) {
        let left = self.share.lock().waiting.remove(&self.rank);
        if left.is_some() {
            // The next request may need fewer permits.
            self.share.serve();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn of_too_many_the_largest_is_turned_away() {
        let share = Share::new(1);
        let _all = share.take(1, 1).now_or_never();
        let mut waiting: Vec<_> = (0..MOST_WAITING as u64)
            .map(|size| Box::pin(share.take(1, size)))
            .collect();
        for waiting in &mut waiting {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        let mut one_more = Box::pin(share.take(1, 5));
        assert!(one_more.as_mut().now_or_never().is_none());
        let largest = waiting.pop().expect("there are many");
        assert!(matches!(largest.now_or_never(), Some(Err(TurnedAway))));
        for waiting in &mut waiting {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
    }

    #[test]
    fn the_smallest_is_first_and_who_leaves_holds_up_nobody() {
        let share = Share::new(4);
        let all = share.take(9, 1).now_or_never().expect("all are free");
        let mut large = Box::pin(share.take(4, 100));
        let mut small = Box::pin(share.take(2, 10));
        let mut equal = Box::pin(share.take(2, 10));
        let mut gone = Box::pin(share.take(4, 5));
        for waiting in [&mut large, &mut small, &mut equal, &mut gone] {
            assert!(waiting.as_mut().now_or_never().is_none());
        }
        drop(all);
        assert!(share.is_wanted());
        // It has got its permits without having polled for them.
        drop(gone);
        let small = small.now_or_never().expect("the smallest is served");
        let equal = equal.now_or_never().expect("there is room for two of them");
        assert!(large.as_mut().now_or_never().is_none());
        drop(small);
        assert!(large.as_mut().now_or_never().is_none(), "half is taken");
        drop(equal);
        assert!(large.now_or_never().is_some());
        assert!(!share.is_wanted());
    }
}
