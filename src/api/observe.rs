//! Follows one object of the API server by its name, over everything that can happen to a watch.
//!
//! kube's own `watcher` isn't used, for three reasons: a watch that the server ends at once is
//! tried again without a pause, a resource version that the server refuses with an HTTP status
//! (410, or 504 "too large" after etcd came back from a backup) is asked for again for ever, and
//! it decodes whole objects.

mod server;

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::{Stream, StreamExt};
use kube::Client;
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use migration_gate_core::job::Job;
use migration_gate_core::record::Record;
pub use server::chain;
use server::{Events, Failure, Server};

/// Which object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The collection's path, such as `/apis/batch/v1/namespaces/x/jobs`.
    pub path: String,
    /// The object's name. It goes into a field selector, which is what lets a Role narrow `list`
    /// and `watch` by `resourceNames`.
    pub name: String,
}

impl Target {
    /// A Job.
    pub fn job(namespace: &str, name: &str) -> Self {
        Self {
            path: format!("/apis/batch/v1/namespaces/{namespace}/jobs"),
            name: name.to_owned(),
        }
    }

    /// A ConfigMap.
    pub fn config_map(namespace: &str, name: &str) -> Self {
        Self {
            path: format!("/api/v1/namespaces/{namespace}/configmaps"),
            name: name.to_owned(),
        }
    }
}

/// An object that can be followed.
pub trait Object: Clone + DeserializeOwned + Send + 'static {
    /// Its `metadata.resourceVersion`, from which a watch goes on.
    fn resource_version(&self) -> &str;
}

impl Object for Job {
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

impl Object for Record {
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// What has happened to the object, or to the watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<T> {
    /// It is there, and looks like this.
    Present(T),
    /// It isn't there. With its last state, if it has just been deleted.
    Absent(Option<T>),
    /// After trouble: there is a watch again, and nothing was missed. A list that succeeds is not
    /// yet the end of trouble, because a watch may need rights that a list doesn't.
    Resumed,
    /// The watch doesn't work, and is tried again.
    Trouble(Trouble),
}

/// Why a watch doesn't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// 401 or 403, with what the server says.
    Denied(String),
    /// Any other answer that isn't a watch, with what the server says.
    Failing(String),
    /// No answer, with the causes down to the last.
    Unreachable(String),
}

/// How patient a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The first pause after a failure. Doubles, with jitter.
    pub shortest: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// How long the server may take to answer a list, or to begin a watch.
    pub answer: Duration,
    /// After which the server ends a watch by itself, and it is begun anew. Whole seconds.
    pub watch: Duration,
    /// A watch that has been silent for so long is dead: an API server sends a bookmark about every
    /// minute, whatever happens.
    pub idle: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            shortest: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            answer: Duration::from_secs(10),
            watch: Duration::from_secs(290),
            idle: Duration::from_secs(150),
        }
    }
}

/// A watch that was asked to resume this often without success starts over with a list.
const RESUME_ATTEMPTS: u32 = 3;

/// The longest pause after a watch that was ended, not refused.
const CUT_PAUSE: Duration = Duration::from_millis(250);

/// Watches in a row that may end as soon as they have begun before that is told, and met with longer
/// pauses. A load balancer that restarts cuts a few.
const CUTS_BORNE: u32 = 24;

/// The server may ask for a pause; beyond this it isn't believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Follows the object, for ever. Starts with a list; each state of the object that the server
/// tells is passed on, in order.
pub fn observe<T>(
    client: Client,
    target: Target,
    pacing: Pacing,
) -> impl Stream<Item = Update<T>> + Send
where
    T: Object,
{
    let watch = Watch {
        server: Server {
            client,
            target,
            pacing,
        },
        phase: Phase::List,
        pause: None,
        failures: 0,
        cuts: 0,
        in_trouble: false,
        next: None,
        backoff: backoff(pacing),
    };
    futures::stream::unfold(watch, |mut watch| async move {
        let update = watch.next().await;
        Some((update, watch))
    })
}

/// Pauses that double, with jitter, for ever.
pub fn backoff(pacing: Pacing) -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(pacing.shortest)
        .with_max_delay(pacing.longest)
        .without_max_times()
        .with_jitter()
        .build()
}

struct Watch<T> {
    server: Server,
    phase: Phase<T>,
    /// Before the next request.
    pause: Option<Duration>,
    /// In a row, until a watch has shown that it works.
    failures: u32,
    /// Watches in a row that ended soon, and without an event.
    cuts: u32,
    /// Trouble was told, and not yet that it is over.
    in_trouble: bool,
    /// To be told before anything else happens.
    next: Option<Update<T>>,
    backoff: ExponentialBackoff,
}

enum Phase<T> {
    List,
    Resume {
        version: String,
    },
    Watching {
        version: String,
        events: Events<T>,
        since: Instant,
    },
}

impl<T: Object> Watch<T> {
    async fn next(&mut self) -> Update<T> {
        loop {
            if let Some(update) = self.next.take() {
                return update;
            }
            if let Some(pause) = self.pause.take() {
                tokio::time::sleep(pause).await;
            }
            let update = match std::mem::replace(&mut self.phase, Phase::List) {
                Phase::List => Some(self.list().await),
                Phase::Resume { version } => self.resume(version).await,
                Phase::Watching {
                    version,
                    events,
                    since,
                } => self.event(version, events, since).await,
            };
            if let Some(update) = update {
                return update;
            }
        }
    }

    async fn list(&mut self) -> Update<T> {
        match self.server.list().await {
            Ok(list) => {
                self.phase = Phase::Resume {
                    version: list.metadata.resource_version,
                };
                // The selector leaves one at most.
                let object = list.items.into_iter().next();
                object.map_or(Update::Absent(None), Update::Present)
            }
            Err(failure) => self.fails(failure),
        }
    }

    async fn resume(&mut self, version: String) -> Option<Update<T>> {
        match self.server.watch(&version).await {
            Ok(events) => {
                self.phase = Phase::Watching {
                    version,
                    events,
                    since: Instant::now(),
                };
                // One after so many that came to nothing has to show first that it lasts.
                (self.cuts < CUTS_BORNE).then(|| self.resumed()).flatten()
            }
            Err(failure) if failure.dropped => self.cut(version, Instant::now()),
            Err(failure) => {
                if failure.code != Some(410) && self.failures < RESUME_ATTEMPTS {
                    self.phase = Phase::Resume { version };
                }
                Some(self.fails(failure))
            }
        }
    }

    async fn event(
        &mut self,
        version: String,
        mut events: Events<T>,
        since: Instant,
    ) -> Option<Update<T>> {
        let event = match timeout(self.patience(since), events.next()).await {
            Ok(event) => event,
            Err(_) if self.in_trouble => {
                // It has lasted, at last.
                self.phase = Phase::Watching {
                    version,
                    events,
                    since,
                };
                self.works();
                return self.resumed();
            }
            Err(_) => None,
        };
        let (version, update) = match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => (
                object.resource_version().to_owned(),
                Some(Update::Present(object)),
            ),
            Some(Ok(WatchEvent::Deleted(object))) => (
                object.resource_version().to_owned(),
                Some(Update::Absent(Some(object))),
            ),
            Some(Ok(WatchEvent::Bookmark(bookmark))) => (bookmark.metadata.resource_version, None),
            Some(Ok(WatchEvent::Error(status))) => {
                return self.breaks(version, Failure::of(kube::Error::Api(status)));
            }
            Some(Err(_)) | None => return self.cut(version, since),
        };
        self.works();
        self.phase = Phase::Watching {
            version,
            events,
            since,
        };
        match self.resumed() {
            Some(resumed) => {
                self.next = update;
                Some(resumed)
            }
            None => update,
        }
    }

    /// How long to wait for an event.
    fn patience(&self, since: Instant) -> Duration {
        if self.in_trouble {
            CUT_PAUSE.saturating_sub(since.elapsed())
        } else {
            self.server.pacing.idle
        }
    }

    /// Tells the end of trouble, if any was told.
    fn resumed(&mut self) -> Option<Update<T>> {
        std::mem::take(&mut self.in_trouble).then_some(Update::Resumed)
    }

    /// The connection of a watch has ended, which is nothing to speak of: the first one is resumed
    /// at once, so that a cut hides nothing, and a server that ends every watch as soon as it has
    /// begun is met with pauses that stay short enough for what it hides, until it is clear that it
    /// won't do anything else.
    fn cut(&mut self, version: String, since: Instant) -> Option<Update<T>> {
        if since.elapsed() >= CUT_PAUSE {
            self.works();
        }
        let hopeless = self.cuts >= CUTS_BORNE;
        self.pause = (self.cuts > 0)
            .then(|| self.backoff.next())
            .flatten()
            .map(|pause| {
                if hopeless {
                    pause
                } else {
                    pause.min(CUT_PAUSE)
                }
            });
        self.cuts = self.cuts.saturating_add(1);
        if !self.cuts.is_multiple_of(RESUME_ATTEMPTS) {
            self.phase = Phase::Resume { version };
        }
        if !hopeless || std::mem::replace(&mut self.in_trouble, true) {
            return None;
        }
        let cuts = self.cuts;
        let message = format!("{cuts} watches in a row have ended as soon as they had begun");
        Some(Update::Trouble(Trouble::Failing(message)))
    }

    /// The server says that something is wrong with the watch.
    fn breaks(&mut self, version: String, failure: Failure) -> Option<Update<T>> {
        if failure.code == Some(410) && self.failures == 0 {
            // The version is too old, as happens after a long cut. A list is all it takes.
            self.failures += 1;
            return None;
        }
        if self.failures < RESUME_ATTEMPTS && failure.code != Some(410) {
            self.phase = Phase::Resume { version };
        }
        Some(self.fails(failure))
    }

    fn works(&mut self) {
        if self.failures > 0 || self.cuts > 0 {
            self.failures = 0;
            self.cuts = 0;
            self.backoff = backoff(self.server.pacing);
        }
    }

    fn fails(&mut self, failure: Failure) -> Update<T> {
        self.failures = self.failures.saturating_add(1);
        self.in_trouble = true;
        let pause = self.backoff.next().unwrap_or(self.server.pacing.longest);
        self.pause = Some(pause.max(failure.retry_after.min(LONGEST_RETRY_AFTER)));
        Update::Trouble(failure.into_trouble())
    }
}
