//! Errors of requests to the API server.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use hyper_util::client::legacy;
use tower::BoxError;

/// The message of a library's error, with its causes and the next step.
///
/// kube and hyper put some causes into their messages and leave others to `source()`. So their
/// errors become one message here, and the rest of the program keeps the rule that a message does
/// not contain its cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// The cause that a library's error describes.
    pub(super) fn of(error: &dyn Error) -> Self {
        let mut text = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let message = error.to_string();
            if !text.contains(&message) {
                text.push_str(": ");
                text.push_str(&message);
            }
            cause = error.source();
        }
        Self(text)
    }

    /// A cause in this program's own words.
    pub(super) fn text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Puts a message before the cause.
    pub(super) fn after(self, message: &str) -> Self {
        Self(format!("{message}: {self}"))
    }

    /// Adds the next step.
    pub(super) fn then(self, advice: &str) -> Self {
        Self(format!("{self}; {advice}"))
    }
}

/// A connection to the API server that could not be made.
#[derive(Debug)]
pub(super) struct ConnectError {
    server: String,
    error: legacy::Error,
}

impl ConnectError {
    /// Adds the server's address to a connection error.
    pub(super) fn named(server: &str, error: legacy::Error) -> BoxError {
        if !error.is_connect() {
            return error.into();
        }
        Box::new(Self {
            server: server.to_owned(),
            error,
        })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot connect to {}", self.server)
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // The client's own message adds nothing.
        self.error.source()
    }
}

/// The error of a request: the API server's response, or the reason why there is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    code: Option<u16>,
    message: String,
    retry_after: Duration,
    dropped: bool,
}

impl ApiError {
    /// An error without a response.
    pub(super) fn unanswered(message: impl Into<String>) -> Self {
        Self {
            code: None,
            message: message.into(),
            retry_after: Duration::ZERO,
            dropped: false,
        }
    }

    /// No response arrived within `limit`.
    pub(super) fn late(limit: Duration) -> Self {
        Self::unanswered(format!("no answer within {}s", limit.as_secs_f32()))
    }

    /// The request could not be built.
    pub(super) fn request(error: impl Error) -> Self {
        Self::unanswered(Cause::of(&error).to_string())
    }

    /// The HTTP status of the response; `None` without a response.
    pub fn code(&self) -> Option<u16> {
        self.code
    }

    /// Whether the server did not authenticate the caller or denied the request: 401 or 403.
    pub fn is_denied(&self) -> bool {
        matches!(self.code, Some(401 | 403))
    }

    /// The pause that the server asks for; zero if it asks for none.
    pub(super) fn retry_after(&self) -> Duration {
        self.retry_after
    }

    /// Whether an existing connection ended before a response arrived.
    pub(super) fn is_dropped(&self) -> bool {
        self.dropped
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => Self {
                code: Some(status.code),
                retry_after: Duration::from_secs(
                    status
                        .details
                        .as_ref()
                        .map_or(0, |details| details.retry_after_seconds.into()),
                ),
                message: if status.message.is_empty() {
                    format!("HTTP {} {}", status.code, status.reason)
                } else {
                    status.message
                },
                dropped: false,
            },
            kube::Error::Service(error) => Self {
                dropped: error.is::<legacy::Error>(),
                ..Self::unanswered(Cause::of(error.as_ref()).to_string())
            },
            error => Self::unanswered(Cause::of(&error).to_string()),
        }
    }
}
