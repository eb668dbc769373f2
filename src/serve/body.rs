//! Bodies: paid for as they grow, and cut when they don't.
//!
//! What a client announces costs nothing until it sends a good part of it. That part comes out of a
//! share of the room that larger bodies can't take, so that however many of those there are, a review
//! of the usual size finds room. For the rest, a body gets all that it will need at one time: were
//! that taken step by step, too, several could wait for one another, each with a part of it.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, EXPECT};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use super::limits::ClientLimits;
use super::rejection::Rejection;

/// So much of each body, in bytes, comes out of the share for small ones.
const SMALL: u64 = 64 * 1024;

/// By how much the memory for a body grows at least, in bytes.
const SMALLEST_STEP: usize = 1024;

/// By how much the memory for a body grows at most, in bytes.
const LARGEST_STEP: usize = 256 * 1024;

/// The room for all bodies that are held at one time, in KiB.
#[derive(Debug)]
pub(super) struct Room {
    small: Share,
    large: Share,
    /// How long to wait for some of it.
    patience: Duration,
}

#[derive(Debug)]
struct Share {
    all: usize,
    free: Arc<Semaphore>,
}

/// What one body holds of the room, until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Reserved {
    small: Option<OwnedSemaphorePermit>,
    large: Option<OwnedSemaphorePermit>,
}

impl Room {
    pub(super) fn new(limits: &ClientLimits) -> Self {
        let all = kib(limits.max_in_flight).min(Semaphore::MAX_PERMITS);
        let small = (all / 4).max(1);
        Self {
            small: Share::new(small),
            large: Share::new(all - small),
            patience: limits.room_timeout,
        }
    }

    /// Waits until a body may have grown to this size, of `all` that it may come to.
    async fn grow(
        &self,
        held: &mut Reserved,
        size: u64,
        all: u64,
        deadline: Instant,
    ) -> Result<(), Rejection> {
        let deadline = deadline.min(Instant::now() + self.patience);
        let grow = async {
            self.small.grow(&mut held.small, size.min(SMALL)).await?;
            let rest = if size > SMALL { all - SMALL } else { 0 };
            self.large.grow(&mut held.large, rest).await
        };
        timeout_at(deadline, grow)
            .await
            .map_err(|_| Rejection::TooBusy)?
    }
}

impl Share {
    fn new(all: usize) -> Self {
        Self {
            all,
            free: Arc::new(Semaphore::new(all)),
        }
    }

    async fn grow(
        &self,
        held: &mut Option<OwnedSemaphorePermit>,
        size: u64,
    ) -> Result<(), Rejection> {
        let has = held.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        // A body that is larger than all there is still gets its turn, alone.
        let more = kib(size).min(self.all).saturating_sub(has);
        let Some(more) = u32::try_from(more).ok().filter(|more| *more > 0) else {
            return Ok(());
        };
        let more = Arc::clone(&self.free)
            .acquire_many_owned(more)
            .await
            .map_err(|_| Rejection::TooBusy)?;
        match held {
            Some(held) => held.merge(more),
            None => *held = Some(more),
        }
        Ok(())
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
    while let Some(data) = incoming.next().await? {
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
            room.grow(&mut held, size_now, all.max(size_now), deadline)
                .await?;
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

    /// The next part, none at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Rejection> {
        loop {
            // What has come so far has earned the rest so much time.
            let earned = Duration::from_millis(
                self.bytes.saturating_mul(1000) / self.limits.min_body_rate.max(1),
            );
            let patience = (self.limits.body_grace + earned).saturating_sub(self.waited);
            let since = Instant::now();
            let until = self.deadline.min(since + patience);
            let frame = timeout_at(until, self.body.frame()).await;
            self.waited += since.elapsed();
            let frame = match frame {
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

    /// Reads on and forgets what it reads, up to as much as a body may have.
    ///
    /// A client that is still sending when the connection is closed sees that, and not the answer.
    async fn discard(mut self) {
        let most = self.bytes.saturating_add(self.limits.max_body);
        while self.bytes <= most && matches!(self.next().await, Ok(Some(_))) {}
    }
}
