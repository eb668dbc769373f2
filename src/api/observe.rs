//! Watches objects of the API server, and handles everything that can happen to a watch.
//!
//! kube's own `watcher` isn't used, for two faults of kube-runtime 5.0.0:
//!
//! - A watch that the server ends is followed by the next one at once, without an event: the end
//!   of the stream is `(None, State::InitListed { .. })` (`watcher.rs:757`), so no back-off around
//!   it can count the ends. A server that ends every watch as soon as it has begun is asked
//!   without a pause.
//! - A resource version that the server refuses with an HTTP status is asked for again, for ever:
//!   an error at the start of a watch keeps `State::InitListed` with the same version
//!   (`watcher.rs:693`). Servers do that with 410, and with 504 "too large" after etcd came back
//!   from a backup.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use kube::core::WatchEvent;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use super::error::ApiError;
use super::objects::{Objects, Selectors};
use migration_gate_core::dependent::GatedWorkload;
use migration_gate_core::gates::{JobSource, Which, Workload};
use migration_gate_core::job::Job;
use migration_gate_core::record::Record;

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

impl Object for GatedWorkload {
    fn resource_version(&self) -> &str {
        &self.resource_version
    }
}

/// An event of one object, or of its watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Update<T> {
    /// It is there, and looks like this.
    Present(T),
    /// It isn't there. With its last state, if it has just been deleted.
    Absent(Option<T>),
    /// After a failure: there is a watch again, and nothing was missed. A list that succeeds is not
    /// yet the end of the failure, because a watch may need rights that a list doesn't.
    Resumed,
    /// The watch doesn't work, and is tried again.
    Failed(WatchError),
    /// As [`Delta::Cut`].
    Cut,
    /// As [`Delta::Restored`].
    Restored,
}

/// An event of a collection's objects, or of its watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta<T> {
    /// These are there, and no others.
    Listed(Vec<T>),
    /// One is there, and looks like this.
    Present(T),
    /// One was deleted. Its last state.
    Deleted(T),
    /// As [`Update::Resumed`].
    Resumed,
    /// As [`Update::Failed`].
    Failed(WatchError),
    /// The connection of the watch has ended, which is normal. What happens now arrives later, or
    /// only its result does. [`Self::Restored`] follows, or [`Self::Resumed`] after a failure.
    Cut,
    /// After [`Self::Cut`]: there is a watch again. What was missed arrives now.
    Restored,
}

/// Why a watch doesn't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// 401 or 403, with the server's message.
    #[error("{0}")]
    Denied(String),
    /// 404: the server doesn't know the kind, with its message.
    #[error("{0}")]
    NoSuchKind(String),
    /// Any other answer that isn't a watch, with the server's message.
    #[error("{0}")]
    Failing(String),
    /// No answer, with the causes down to the last.
    #[error("{0}")]
    Unreachable(String),
}

impl From<ApiError> for WatchError {
    fn from(error: ApiError) -> Self {
        let message = error.to_string();
        match error.code() {
            Some(401 | 403) => Self::Denied(message),
            Some(404) => Self::NoSuchKind(message),
            Some(_) => Self::Failing(message),
            None => Self::Unreachable(message),
        }
    }
}

/// How patient a watch is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The first pause after a failure. Doubles, with jitter.
    pub shortest: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// Time after which the server ends a watch, and it is started again. Whole seconds.
    pub watch: Duration,
    /// A watch that has been silent for this long is dead: an API server sends a bookmark about
    /// every minute.
    pub idle: Duration,
}

impl Default for Pacing {
    fn default() -> Self {
        Self {
            shortest: Duration::from_millis(100),
            longest: Duration::from_secs(5),
            watch: Duration::from_secs(290),
            idle: Duration::from_secs(150),
        }
    }
}

impl Pacing {
    /// For what isn't urgent, and may be refused for ever: a kind that isn't installed.
    pub fn slow() -> Self {
        Self {
            longest: Duration::from_secs(30),
            ..Self::default()
        }
    }
}

/// A watch that the server refuses this often starts over with a list.
const RESUME_ATTEMPTS: u32 = 3;

/// The longest pause after a watch that was ended, not refused.
const CUT_PAUSE: Duration = Duration::from_millis(250);

/// Number of consecutive short-lived watches to accept before reporting trouble and backing off. A
/// restarting load balancer cuts a few.
const CUTS_TOLERATED: u32 = 24;

/// The server may ask for a pause; a longer one is not believed.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Watches the object of that name, for ever. Starts with a list; passes on each state of the
/// object that the server sends, in order.
///
/// The name goes into a field selector, which is what lets a Role narrow `list` and `watch` by
/// `resourceNames`.
pub fn observe<T: Object>(
    objects: Objects,
    name: &str,
    pacing: Pacing,
) -> impl Stream<Item = Update<T>> + Send + use<T> {
    let deltas = deltas(objects, Selectors::named(name), pacing);
    deltas.map(|delta| match delta {
        // The selector leaves one at most.
        Delta::Listed(objects) => match objects.into_iter().next() {
            Some(object) => Update::Present(object),
            None => Update::Absent(None),
        },
        Delta::Present(object) => Update::Present(object),
        Delta::Deleted(object) => Update::Absent(Some(object)),
        Delta::Resumed => Update::Resumed,
        Delta::Failed(error) => Update::Failed(error),
        Delta::Cut => Update::Cut,
        Delta::Restored => Update::Restored,
    })
}

/// Follows all objects of a collection, for ever. Starts with a list; so does what comes after a
/// cut that the server can't bridge.
pub fn observe_all<T: Object>(
    objects: Objects,
    pacing: Pacing,
) -> impl Stream<Item = Delta<T>> + Send {
    deltas(objects, Selectors::default(), pacing)
}

/// Follows the Jobs that a gate looks for in one way, for ever, as [`observe_all`] does.
///
/// An exact name goes into a field selector, as in [`observe`]. A pattern needs all Jobs of the
/// namespace, since the API server knows none.
pub fn observe_jobs(
    objects: Objects,
    source: &JobSource,
    pacing: Pacing,
) -> impl Stream<Item = Delta<Job>> + Send + use<> {
    let selection = selection(source);
    let source = source.clone();
    let meant = move |job: &Job| job.is_of(&source);
    only(deltas(objects, selection, pacing), meant)
}

/// Follows the workloads that an entry of a gate means, for ever, as [`observe_jobs`] follows Jobs.
/// `objects` must be those of its kind.
pub fn observe_workloads(
    objects: Objects,
    entry: &Workload,
    pacing: Pacing,
) -> impl Stream<Item = Delta<GatedWorkload>> + Send + use<> {
    let selection = match &entry.which {
        Which::Labels(labels) => Selectors::labelled(labels),
        Which::Name(name) => name
            .literal()
            .map_or_else(Selectors::default, Selectors::named),
    };
    let which = entry.which.clone();
    let meant = move |workload: &GatedWorkload| match &which {
        Which::Name(pattern) => pattern.matches(&workload.name),
        Which::Labels(_) => true,
    };
    only(deltas(objects, selection, pacing), meant)
}

/// Leaves out what isn't meant.
fn only<T: Object>(
    deltas: impl Stream<Item = Delta<T>> + Send,
    meant: impl Fn(&T) -> bool + Send,
) -> impl Stream<Item = Delta<T>> + Send {
    deltas.filter_map(move |delta| {
        let delta = match delta {
            Delta::Listed(mut objects) => {
                objects.retain(&meant);
                Some(Delta::Listed(objects))
            }
            Delta::Present(object) => meant(&object).then_some(Delta::Present(object)),
            Delta::Deleted(object) => meant(&object).then_some(Delta::Deleted(object)),
            delta => Some(delta),
        };
        std::future::ready(delta)
    })
}

/// The Jobs that a gate looks for in one way, as they are now.
pub async fn list_jobs(objects: &Objects, source: &JobSource) -> Result<Vec<Job>, ApiError> {
    let mut jobs: Vec<Job> = objects.list(&selection(source).params()).await?;
    jobs.retain(|job| job.is_of(source));
    Ok(jobs)
}

fn selection(source: &JobSource) -> Selectors {
    match (source.exact_name(), source) {
        (Some(name), _) => Selectors::named(name),
        (None, JobSource::Labels(labels)) => Selectors::labelled(labels),
        (None, JobSource::Name(_)) => Selectors::default(),
    }
}

fn deltas<T: Object>(
    objects: Objects,
    selection: Selectors,
    pacing: Pacing,
) -> impl Stream<Item = Delta<T>> + Send {
    let watch = Follower {
        objects,
        selection,
        pacing,
        phase: Phase::List,
        pause: None,
        failures: 0,
        gone: false,
        cuts: 0,
        in_trouble: false,
        is_cut: false,
        next: None,
        backoff: backoff(pacing),
    };
    futures::stream::unfold(watch, |mut watch| async move {
        let delta = watch.next().await;
        Some((delta, watch))
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

struct Follower<T> {
    objects: Objects,
    selection: Selectors,
    pacing: Pacing,
    phase: Phase<T>,
    /// Before the next request.
    pause: Option<Duration>,
    /// In a row, until a watch has shown that it works.
    failures: u32,
    /// The server has said that the version is gone, and no watch has worked since.
    gone: bool,
    /// Watches in a row that ended soon, and without an event.
    cuts: u32,
    /// Trouble was told, and not yet that it is over.
    in_trouble: bool,
    /// A cut was told, and not yet that there is a watch again.
    is_cut: bool,
    /// To be told before anything else happens.
    next: Option<Delta<T>>,
    backoff: ExponentialBackoff,
}

enum Phase<T> {
    List,
    Resume {
        version: String,
    },
    Watching {
        version: String,
        events: BoxStream<'static, kube::Result<WatchEvent<T>>>,
        since: Instant,
    },
}

impl<T: Object> Follower<T> {
    async fn next(&mut self) -> Delta<T> {
        loop {
            if let Some(delta) = self.next.take() {
                return delta;
            }
            if let Some(pause) = self.pause.take() {
                tokio::time::sleep(pause).await;
            }
            let delta = match std::mem::replace(&mut self.phase, Phase::List) {
                Phase::List => Some(self.list().await),
                Phase::Resume { version } => self.resume(version).await,
                Phase::Watching {
                    version,
                    events,
                    since,
                } => self.event(version, events, since).await,
            };
            if let Some(delta) = delta {
                return delta;
            }
        }
    }

    async fn list(&mut self) -> Delta<T> {
        match snapshot(&self.objects, &self.selection).await {
            Ok((objects, version)) => {
                self.phase = Phase::Resume { version };
                Delta::Listed(objects)
            }
            Err(error) => self.fails(error),
        }
    }

    async fn resume(&mut self, version: String) -> Option<Delta<T>> {
        let events = self
            .objects
            .watch(&self.selection, &version, self.pacing.watch)
            .await;
        match events {
            Ok(events) => {
                self.phase = Phase::Watching {
                    version,
                    events,
                    since: Instant::now(),
                };
                // One after so many that came to nothing has to show first that it lasts.
                (self.cuts < CUTS_TOLERATED)
                    .then(|| self.resumed())
                    .flatten()
            }
            Err(error) if error.is_dropped() => self.cut(version, Instant::now()),
            Err(error) => {
                if self.keeps_version(&error) {
                    self.phase = Phase::Resume { version };
                }
                Some(self.fails(error))
            }
        }
    }

    async fn event(
        &mut self,
        version: String,
        mut events: BoxStream<'static, kube::Result<WatchEvent<T>>>,
        since: Instant,
    ) -> Option<Delta<T>> {
        let event = match timeout(self.patience(since), events.next()).await {
            Ok(event) => event,
            Err(_) if self.in_trouble => {
                // The watch has stayed up long enough.
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
        let (version, delta) = match event {
            Some(Ok(WatchEvent::Added(object) | WatchEvent::Modified(object))) => (
                object.resource_version().to_owned(),
                Some(Delta::Present(object)),
            ),
            Some(Ok(WatchEvent::Deleted(object))) => (
                object.resource_version().to_owned(),
                Some(Delta::Deleted(object)),
            ),
            Some(Ok(WatchEvent::Bookmark(bookmark))) => (bookmark.metadata.resource_version, None),
            Some(Ok(WatchEvent::Error(status))) => {
                return self.breaks(version, kube::Error::Api(status).into());
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
                self.next = delta;
                Some(resumed)
            }
            None => delta,
        }
    }

    /// How long to wait for an event.
    fn patience(&self, since: Instant) -> Duration {
        if self.in_trouble {
            CUT_PAUSE.saturating_sub(since.elapsed())
        } else {
            self.pacing.idle
        }
    }

    /// Reports the end of trouble or of a cut, if any was reported.
    fn resumed(&mut self) -> Option<Delta<T>> {
        let was_cut = std::mem::take(&mut self.is_cut);
        if std::mem::take(&mut self.in_trouble) {
            return Some(Delta::Resumed);
        }
        was_cut.then_some(Delta::Restored)
    }

    /// Reports a cut, once.
    fn report_cut(&mut self) -> Option<Delta<T>> {
        let known = std::mem::replace(&mut self.is_cut, true);
        (!known).then_some(Delta::Cut)
    }

    /// The connection of a watch has ended, which is normal. The first one is resumed at once, so
    /// that no event is missed. If every watch ends as soon as it begins, short pauses follow.
    /// After too many of these, the pauses become longer.
    fn cut(&mut self, version: String, since: Instant) -> Option<Delta<T>> {
        if since.elapsed() >= CUT_PAUSE {
            self.works();
        }
        let hopeless = self.cuts >= CUTS_TOLERATED;
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
        self.phase = Phase::Resume { version };
        if !hopeless || std::mem::replace(&mut self.in_trouble, true) {
            return self.report_cut();
        }
        let cuts = self.cuts;
        let message = format!("{cuts} consecutive watches ended as soon as they began");
        Some(Delta::Failed(WatchError::Failing(message)))
    }

    /// The server says that something is wrong with the watch.
    fn breaks(&mut self, version: String, error: ApiError) -> Option<Delta<T>> {
        if error.code() == Some(410) && !std::mem::replace(&mut self.gone, true) {
            // The version is too old, as happens after a long cut or an outage. A list is all it
            // takes. It doesn't show what has come and gone.
            return self.report_cut();
        }
        if self.keeps_version(&error) {
            self.phase = Phase::Resume { version };
        }
        Some(self.fails(error))
    }

    /// Whether a watch is tried again from the version last seen. A list does not show what
    /// happened and vanished since then. So a list follows only if the server no longer has the
    /// version, or keeps refusing it.
    fn keeps_version(&self, error: &ApiError) -> bool {
        match error.code() {
            Some(410) => false,
            // 504 is also the answer to a version that is too large: etcd came back from a backup.
            None | Some(429 | 500..=503) => true,
            Some(_) => self.failures < RESUME_ATTEMPTS,
        }
    }

    fn works(&mut self) {
        if self.failures > 0 || self.cuts > 0 {
            self.failures = 0;
            self.cuts = 0;
            self.backoff = backoff(self.pacing);
        }
        self.gone = false;
    }

    fn fails(&mut self, error: ApiError) -> Delta<T> {
        self.failures = self.failures.saturating_add(1);
        self.in_trouble = true;
        let pause = self.backoff.next().unwrap_or(self.pacing.longest);
        self.pause = Some(pause.max(error.retry_after().min(LONGEST_RETRY_AFTER)));
        Delta::Failed(error.into())
    }
}

/// The selected objects, and the resourceVersion from which a watch resumes.
async fn snapshot<T: Object>(
    objects: &Objects,
    selection: &Selectors,
) -> Result<(Vec<T>, String), ApiError> {
    let (listed, version) = objects.list_at(&selection.params()).await?;
    if version.is_empty() {
        return Err(ApiError::unanswered("the list has no resourceVersion"));
    }
    Ok((listed, version))
}
