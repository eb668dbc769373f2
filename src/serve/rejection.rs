//! HTTP error responses.

use std::time::Duration;

use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use super::share::TurnedAway;
use crate::admission::DecodeError;

/// The reason for an HTTP error response.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejection {
    #[error("the body is larger than {0} bytes (--max-body)")]
    TooLarge(u64),
    #[error("the request took longer than {0:?} (--request-timeout)")]
    TooSlow(Duration),
    #[error(
        "the body came too slowly: {bytes} bytes in {waited:.1?} (--min-body-rate, --body-grace)"
    )]
    Stalled { bytes: u64, waited: Duration },
    #[error("the request bodies in memory have reached the limit (--max-in-flight)")]
    TooBusy,
    #[error("the body ended early: {0}")]
    Broken(String),
    #[error(transparent)]
    NoReview(#[from] DecodeError),
    #[error("migration-gate failed to decide; its log has the cause")]
    Internal,
}

impl From<TurnedAway> for Rejection {
    fn from(TurnedAway: TurnedAway) -> Self {
        Self::TooBusy
    }
}

impl Rejection {
    pub(super) fn code(&self) -> StatusCode {
        match self {
            Self::TooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::TooSlow(_) | Self::Stalled { .. } => StatusCode::REQUEST_TIMEOUT,
            Self::TooBusy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Broken(_) | Self::NoReview(_) => StatusCode::BAD_REQUEST,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Rejection {
    /// Plain text, which the API server passes on to its own client.
    fn into_response(self) -> Response {
        let mut response = (self.code(), format!("migration-gate: {self}\n")).into_response();
        if matches!(self, Self::TooBusy) {
            response
                .headers_mut()
                .insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
