//! Request bodies: they take memory as they arrive, and slow ones are cut.
//!
//! Announcing a body reserves no memory; memory is reserved when its bytes arrive. A quarter of the
//! room is for bodies of the usual size, the smallest first, so large bodies never keep a small
//! review out. Another quarter is for the first part of larger bodies, and half is for their rest.
//! A larger body reserves room for all of its rest at once: if bodies grew step by step, several
//! could wait for one another. A body without room waits until the request's deadline.

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

/// This many bytes of each body need no reservation, so a request that only announces a body
/// reserves nothing.
const FREE: u64 = 1024;

/// Minimum growth of the memory for a body, in bytes.
const SMALLEST_STEP: usize = 1024;

/// Maximum growth of the memory for a body, in bytes.
const LARGEST_STEP: usize = 256 * 1024;

/// While others wait for room, a body must arrive this many times faster.
const HURRY: u64 = 64;

/// Interval of the checks whether other bodies wait for room.
const LOOK: Duration = Duration::from_millis(100);

/// The room for all bodies in memory, in KiB.
#[derive(Debug)]
pub(super) struct Room {
    /// For small bodies.
    small: Arc<Share>,
    /// For the first part of larger bodies.
    begun: Arc<Share>,
    /// For the rest of larger bodies.
    large: Arc<Share>,
}

/// The room that one body has reserved, until this is dropped.
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

    /// Waits for room for the first `size` bytes of a body that may grow to `all` bytes.
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
    /// Whether other bodies wait for the room that this one holds.
    fn is_wanted(&self) -> bool {
        let held = [&self.begin, &self.rest];
        held.into_iter().flatten().any(Permits::is_wanted)
    }
}

fn kib(bytes: u64) -> usize {
    usize::try_from(bytes.div_ceil(1024)).unwrap_or(usize::MAX)
}

/// What a request's headers announce about its body.
pub(super) struct Announced {
    /// `Content-Length` in bytes, if the client sends it.
    length: Option<u64>,
    /// `Expect: 100-continue`: the client sends the body only after it is asked to.
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

/// Reads the whole body, within the limits on size and rate, before `deadline`.
pub(super) async fn read(
    body: Body,
    announced: Announced,
    limits: &ClientLimits,
    room: &Room,
    deadline: Instant,
) -> Result<(Vec<u8>, Reserved), Rejection> {
    let all = announced.length.unwrap_or(limits.max_body);
    if all > limits.max_body {
        // A client that asks first has not sent anything, and reading would ask it to.
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

/// A body that is being received.
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

    /// The next part, or `None` at the end. The client has less time while other bodies wait for
    /// the room that this one holds.
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

    /// How much longer to wait for the client. Each received byte extends the time.
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

    /// Reads and discards the rest, up to the maximum size of a body.
    ///
    /// A client that is still sending when the connection closes sees a reset instead of the
    /// response.
    async fn discard(mut self) {
        let most = self.bytes.saturating_add(self.limits.max_body);
        while self.bytes <= most && matches!(self.next(&Reserved::default()).await, Ok(Some(_))) {}
    }
}
