//! Request bodies: they take memory as they grow, and are cut if they are too slow.
//!
//! The announced size of a body costs nothing until the client sends a good part of it. Bodies of
//! the usual size have a share of the room that larger ones cannot use, so a small review always
//! finds room, the smallest first. The first part of a larger body counts against that share, too.
//! For the rest, it gets all that it needs at once: if bodies grew step by step, several could wait
//! for one another. A body without room waits until the request's deadline.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use super::limits::ClientLimits;
use super::rejection::Rejection;
use super::share::{Permits, Share, TurnedAway};

/// Maximum size of a small body, and of the first part of a larger one, in bytes.
const SMALL: u64 = 64 * 1024;

/// This many bytes of each body are free, so that announcing one costs nothing.
const FREE: u64 = 1024;

/// Minimum growth of the memory for a body, in bytes.
const SMALLEST_STEP: usize = 1024;

/// Maximum growth of the memory for a body, in bytes.
const LARGEST_STEP: usize = 256 * 1024;

/// While others wait for room, a body must arrive this many times faster.
const HURRY: u64 = 64;

/// Interval of the checks whether others wait.
const LOOK: Duration = Duration::from_millis(100);

/// The room for all bodies in memory, in KiB.
#[derive(Debug)]
pub(super) struct Room {
    /// For those that are small.
    small: Arc<Share>,
    /// For the beginnings of those that aren't.
    begun: Arc<Share>,
    /// For the rest of those.
    large: Arc<Share>,
}

/// The share of one body in the room, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    begin: Option<Permits>,
    rest: Option<Permits>,
}

impl Room {
    pub(super) fn new(limits: &ClientLimits) -> Self {
        let all = kib(limits.max_in_flight);
        Self {
            small: Share::new(all / 4),
            begun: Share::new(all / 4),
            large: Share::new(all / 2),
        }
    }

    /// Waits until a body may have grown to this size, of `all` that it may come to.
    async fn grow(&self, held: &mut Reserved, size: u64, all: u64) -> Result<(), TurnedAway> {
        if size > FREE && held.begin.is_none() {
            held.begin = Some(self.begin(all).take(kib(all.min(SMALL)), all).await?);
        }
        if size > SMALL && held.rest.is_none() {
            held.rest = Some(self.large.take(kib(all - SMALL), all).await?);
        }
        Ok(())
    }

    fn begin(&self, all: u64) -> &Arc<Share> {
        if all > SMALL {
            &self.begun
        } else {
            &self.small
        }
    }
}

impl Reserved {
    /// Whether others wait for what this body holds.
    fn is_wanted(&self) -> bool {
        let held = [&self.begin, &self.rest];
        held.into_iter().flatten().any(Permits::is_wanted)
    }
}

fn kib(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX)
}

/// The announced size of a body, in its request's headers.
pub(super) struct Announced {
    /// In bytes, if the client knows.
    length: Option<u64>,
    /// The client sends the body once it is asked to.
    asks_first: bool,
}

impl Announced {
    pub(super) fn in_head(headers: &HeaderMap) -> Self {
        Self {
            length: headers
                .get(CONTENT_LENGTH)
                .and_then(|length| length.to_str().ok()?.parse().ok()),
            asks_first: headers.contains_key(EXPECT),
        }
    }
}

/// Reads the whole body, if it isn't larger than it may be and comes in time.
pub(super) async fn read(
    body: Body,
    announced: Announced,
    limits: &ClientLimits,
    room: &Room,
    deadline: Instant,
) -> Result<(Vec<u8>, Reserved), Rejection> {
    let all = announced.length.unwrap_or(limits.max_body);
    if all > limits.max_body {
        // A client that asks first hasn't sent anything, and reading would make it.
        if !announced.asks_first {
            Incoming::new(body, limits, deadline).discard().await;
        }
        return Err(Rejection::TooLarge(limits.max_body));
    }
    let most = usize::try_from(limits.max_body).unwrap_or(usize::MAX);
    let mut incoming = Incoming::new(body, limits, deadline);
    let (mut bytes, mut held) = (Vec::new(), Reserved::default());
    while let Some(data) = incoming.next(&held).await? {
        let length = bytes.len() + data.len();
        if length > most {
            drop((bytes, held));
            incoming.discard().await;
            return Err(Rejection::TooLarge(limits.max_body));
        }
        if length > bytes.capacity() {
            let step = bytes.capacity().clamp(SMALLEST_STEP, LARGEST_STEP);
            let size = length.max(bytes.capacity() + step).min(most);
            let size_now = size as u64;
            let grown = room.grow(&mut held, size_now, all.max(size_now));
            timeout_at(deadline, grown)
                .await
                .map_err(|_| Rejection::TooBusy)??;
            bytes.reserve_exact(size - bytes.len());
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, held))
}

/// A body on its way.
struct Incoming<'l> {
    body: Body,
    limits: &'l ClientLimits,
    deadline: Instant,
    /// Number of received bytes.
    bytes: u64,
    /// Time spent waiting for the client. The client's own waits do not count.
    waited: Duration,
}

impl<'l> Incoming<'l> {
    fn new(body: Body, limits: &'l ClientLimits, deadline: Instant) -> Self {
        Self {
            body,
            limits,
            deadline,
            bytes: 0,
            waited: Duration::ZERO,
        }
    }

    /// The next part, none at the end. While others wait for what the body holds, its patience is
    /// shorter.
    async fn next(&mut self, held: &Reserved) -> Result<Option<Bytes>, Rejection> {
        loop {
            let since = Instant::now();
            let patience = self.patience(held.is_wanted());
            let until = self.deadline.min(since + patience);
            let frame = timeout_at(until.min(since + LOOK), self.body.frame()).await;
            self.waited += since.elapsed();
            let frame = match frame {
                Err(_) if Instant::now() < until => continue,
                Err(_) if until == self.deadline => {
                    return Err(Rejection::TooSlow(self.limits.request_timeout));
                }
                Err(_) => {
                    return Err(Rejection::Stalled {
                        bytes: self.bytes,
                        waited: self.waited,
                    });
                }
                Ok(None) => return Ok(None),
                Ok(Some(frame)) => frame.map_err(|error| Rejection::Broken(error.to_string()))?,
            };
            if let Ok(data) = frame.into_data() {
                self.bytes += data.len() as u64;
                return Ok(Some(data));
            }
        }
    }

    /// How much longer to wait for the client: each received byte adds to the time for the rest.
    fn patience(&self, wanted: bool) -> Duration {
        let rate = self.limits.min_body_rate.max(1);
        let rate = if wanted {
            rate.saturating_mul(HURRY)
        } else {
            rate
        };
        let earned = Duration::from_millis(self.bytes.saturating_mul(1000) / rate);
        (self.limits.body_grace + earned).saturating_sub(self.waited)
    }

    /// Reads on and forgets what it reads, up to as much as a body may have.
    ///
    /// A client that is still sending when the connection is closed sees that, and not the answer.
    async fn discard(mut self) {
        let most = self.bytes.saturating_add(self.limits.max_body);
        while self.bytes <= most && matches!(self.next(&Reserved::default()).await, Ok(Some(_))) {}
    }
}
