//! The two requests of a watch, and what can go wrong with them.

use std::pin::Pin;
use std::time::Duration;

use futures::{Stream, StreamExt};
use hyper_util::client::legacy;
use kube::Client;
use kube::api::ListParams;
use kube::core::{Request, WatchEvent};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use tokio::time::timeout;

use super::{Object, Pacing, Target, Trouble};

pub(super) type Events<T> = Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<T>>> + Send>>;

/// Where the object is, without what is known of it.
pub(super) struct Server {
    pub(super) client: Client,
    pub(super) target: Target,
    pub(super) pacing: Pacing,
}

impl Server {
    pub(super) async fn list<T: Object>(&self) -> Result<List<T>, Failure> {
        let params = ListParams::default().fields(&self.selector());
        let request = Request::new(&self.target.path)
            .list(&params)
            .map_err(|error| Failure::other(&error))?;
        let list: List<T> = timeout(self.pacing.answer, self.client.request(request))
            .await
            .map_err(|_| Failure::late(self.pacing.answer))?
            .map_err(Failure::of)?;
        if list.metadata.resource_version.is_empty() {
            return Err(Failure::text("the list has no resourceVersion"));
        }
        Ok(list)
    }

    pub(super) async fn watch<T: Object>(&self, version: &str) -> Result<Events<T>, Failure> {
        // By hand, as kube refuses a watch of five minutes or more.
        let uri = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}&fieldSelector={}&resourceVersion={}",
            self.target.path,
            self.pacing.watch.as_secs(),
            encoded(&self.selector()),
            encoded(version),
        );
        let request = hyper::Request::get(uri)
            .body(Vec::new())
            .map_err(|error| Failure::other(&error))?;
        let events = timeout(self.pacing.answer, self.client.request_events::<T>(request))
            .await
            .map_err(|_| Failure::late(self.pacing.answer))?
            .map_err(Failure::of)?;
        Ok(events.boxed())
    }

    fn selector(&self) -> String {
        format!("metadata.name={}", self.target.name)
    }
}

pub(super) struct Failure {
    /// Of an answer.
    pub(super) code: Option<u16>,
    pub(super) message: String,
    pub(super) retry_after: Duration,
    /// There was a connection, and it ended before an answer came.
    pub(super) dropped: bool,
}

impl Failure {
    pub(super) fn text(message: &str) -> Self {
        Self {
            code: None,
            message: message.to_owned(),
            retry_after: Duration::ZERO,
            dropped: false,
        }
    }

    fn other(error: &dyn std::error::Error) -> Self {
        Self::text(&chain(error))
    }

    fn late(limit: Duration) -> Self {
        Self::text(&format!("no answer within {}s", limit.as_secs_f32()))
    }

    pub(super) fn of(error: kube::Error) -> Self {
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
                dropped: error
                    .downcast_ref::<legacy::Error>()
                    .is_some_and(|error| !error.is_connect()),
                ..Self::other(error.as_ref())
            },
            error => Self::other(&error),
        }
    }

    pub(super) fn into_trouble(self) -> Trouble {
        match self.code {
            Some(401 | 403) => Trouble::Denied(self.message),
            Some(_) => Trouble::Failing(self.message),
            None => Trouble::Unreachable(self.message),
        }
    }
}

/// The characters that RFC 3986 has encoded in a value of a query.
const VALUE: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// As a value in a query.
fn encoded(text: &str) -> impl std::fmt::Display + '_ {
    utf8_percent_encode(text, VALUE)
}

/// An error with its causes, each told once.
pub fn chain(error: &dyn std::error::Error) -> String {
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
    text
}

#[derive(Deserialize)]
pub(super) struct List<T> {
    #[serde(default)]
    pub(super) metadata: ListMeta,
    pub(super) items: Vec<T>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ListMeta {
    pub(super) resource_version: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_query_is_encoded() {
        assert_eq!(
            encoded("metadata.name=a-b.c").to_string(),
            "metadata.name%3Da-b.c"
        );
        assert_eq!(encoded("1&x ä").to_string(), "1%26x%20%C3%A4");
    }
}
