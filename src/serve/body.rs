//! Bodies: paid for as they grow, and cut when they don't.
//!
//! What a client announces costs nothing until it sends a good part of it. Bodies of the usual size
//! have a share of the room that larger ones can't take, so that however many of those wait, a small
//! review finds room, and the smallest is always first. A larger one begins in a share for beginnings. For the rest, it gets all that
//! it will need at one time: were that taken step by step, too, several could wait for one another,
//! each with a part of it. Who finds no room waits for it until the request's deadline.

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

/// A body of at most so many bytes is small, and so many of a larger one are its beginning.
const SMALL: u64 = 64 * 1024;

/// So many bytes of each body cost nothing, so that announcing one doesn't either.
const FREE: u64 = 1024;

/// By how much the memory for a body grows at least, in bytes.
const SMALLEST_STEP: usize = 1024;

/// By how much the memory for a body grows at most, in bytes.
const LARGEST_STEP: usize = 256 * 1024;

/// While others wait for the room that a body holds, it must come so many times faster.
const HURRY: u64 = 64;

/// How often it is looked whether others wait.
const LOOK: Duration = Duration::from_millis(100);

/// The room for all bodies that are held at one time, in KiB.
#[derive(Debug)]
pub(super) struct Room {
    /// For those that are small.
    small: Arc<Share>,
    /// For the beginnings of those that aren't.
    begun: Arc<Share>,
    /// For the rest of those.
    large: Arc<Share>,
}

/// What one body holds of the room, until it is dropped.
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

/// How large a body is going to be, by the head of its request.
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
    /// How many bytes have come.
    bytes: u64,
    /// How long the client let itself be waited for. What it waits for here doesn't count.
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

    /// How much longer the client may let itself be waited for: what has come so far has earned the
    /// rest some time.
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
