//! The responses that clients have not taken yet. Their connections are cut when the responses are
//! too old, or too large in total.
//!
//! A response that is ready takes memory that only its client can free. A client that opens no
//! HTTP/2 window, or does not read its socket, could otherwise make this memory grow without end.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

/// Maximum size of responses that wait for their clients, in bytes. Beyond it, the oldest are cut:
/// a client that reads takes a response within a round trip.
const MOST_WAITING: usize = 8 * 1024 * 1024;

/// Number of bytes of a response that are handed to the connection at once. A response counts until
/// its last byte is handed over.
const PIECE: usize = 4 * 1024;

/// A response of up to this many bytes is handed over whole.
const SMALL: usize = 1024;

/// The responses of one listener that wait for their clients.
#[derive(Default)]
pub(super) struct Answers(Mutex<Unsent>);

#[derive(Default)]
struct Unsent {
    next: u64,
    bytes: usize,
    /// In the order in which they became ready.
    answers: BTreeMap<u64, Ready>,
}

struct Ready {
    since: Instant,
    bytes: usize,
    /// Cuts the connection.
    cut: CancellationToken,
}

impl Answers {
    /// Counts a response until the returned body is dropped. `held` is dropped with it.
    pub(super) fn begin<H>(
        self: &Arc<Self>,
        body: Body,
        cut: CancellationToken,
        held: H,
    ) -> AnswerBody<H> {
        let bytes = usize::try_from(HttpBody::size_hint(&body).lower()).unwrap_or(usize::MAX);
        let mut waiting = self.lock();
        let id = waiting.next;
        waiting.next += 1;
        waiting.bytes = waiting.bytes.saturating_add(bytes);
        waiting.answers.insert(
            id,
            Ready {
                since: Instant::now(),
                bytes,
                cut,
            },
        );
        while waiting.bytes > MOST_WAITING && waiting.cut_oldest() {}
        AnswerBody {
            body,
            rest: Bytes::new(),
            large: false,
            _ticket: Ticket {
                answers: Arc::clone(self),
                id,
            },
            _held: held,
        }
    }

    /// Cuts the connections of responses that have waited for `limit` or longer.
    pub(super) fn cut_older_than(&self, limit: Duration) {
        let mut waiting = self.lock();
        while waiting
            .answers
            .first_key_value()
            .is_some_and(|(_, oldest)| oldest.since.elapsed() >= limit)
        {
            waiting.cut_oldest();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Unsent> {
        // No panic under this lock leaves the data inconsistent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unsent {
    fn cut_oldest(&mut self) -> bool {
        let Some((_, oldest)) = self.answers.pop_first() else {
            return false;
        };
        self.bytes = self.bytes.saturating_sub(oldest.bytes);
        oldest.cut.cancel();
        true
    }
}

/// A response's entry among those that wait.
struct Ticket {
    answers: Arc<Answers>,
    id: u64,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut waiting = self.answers.lock();
        if let Some(taken) = waiting.answers.remove(&self.id) {
            waiting.bytes = waiting.bytes.saturating_sub(taken.bytes);
        }
    }
}

/// A response's body in pieces, each handed over when the client has room for it.
///
/// The last byte is a piece of its own: HTTP/2 polls for it only once the client's window has room
/// for everything before it. So a response counts until the client has made room for all of it.
pub(super) struct AnswerBody<H> {
    body: Body,
    /// The rest of the body's current part.
    rest: Bytes,
    /// Whether the current part is handed over in pieces.
    large: bool,
    _ticket: Ticket,
    /// Dropped with the response.
    _held: H,
}

impl<H> AnswerBody<H> {
    fn next_piece(&mut self) -> Bytes {
        let left = self.rest.len();
        let piece = if self.large && left > 1 {
            PIECE.min(left - 1)
        } else {
            left
        };
        self.rest.split_to(piece)
    }
}

impl<H: Unpin> HttpBody for AnswerBody<H> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.rest.is_empty() {
            match futures::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.large = data.len() > SMALL;
                        self.rest = data;
                    }
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                end => return Poll::Ready(end),
            }
        }
        let piece = self.next_piece();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + rest);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint
    }
}
