//! Why the API server can't be reached, or doesn't do what it was asked for.

use std::error::Error;

/// The text of a library's error, with its causes and with what to do about it.
///
/// kube and hyper put some causes into their messages and leave others to `source()`. So their
/// errors become one message here, at the border, and the rest of the program keeps the rule that
/// a message doesn't contain its cause.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Cause(String);

impl Cause {
    /// Of a library's error.
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

    /// Behind a message.
    pub(super) fn after(self, message: &str) -> Self {
        Self(format!("{message}: {self}"))
    }

    /// With what to do about it.
    pub(super) fn then(self, advice: &str) -> Self {
        Self(format!("{self}; {advice}"))
    }
}
