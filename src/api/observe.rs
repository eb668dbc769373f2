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
    /// Its `metadata.resourceVersion`, from which a watch can resume.
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
    /// The object exists, in this state.
    Present(T),
    /// The object does not exist. With its last state, if it was just deleted.
    Absent(Option<T>),
    /// The watch works again after a failure, and nothing was missed. A successful list does not
    /// end a failure, because a watch may need rights that a list does not.
    Resumed,
    /// The watch has failed, and is tried again.
    Failed(WatchError),
}

/// An event of a collection's objects, or of its watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta<T> {
    /// All objects that exist.
    Listed(Vec<T>),
    /// An object exists, in this state.
    Present(T),
    /// An object was deleted. With its last state.
    Deleted(T),
    /// As [`Update::Resumed`].
    Resumed,
    /// As [`Update::Failed`].
    Failed(WatchError),
    /// The connection of the watch has ended, which is normal. Changes arrive later from now on, or
    /// only their result does. [`Self::Restored`] follows, or [`Self::Resumed`] after a failure.
    Cut,
    /// The watch works again after [`Self::Cut`]. The missed changes follow.
    Restored,
}

/// Why a watch doesn't work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// 401 or 403, with the server's message.
    #[error("{0}")]
    Denied(String),
    /// 404: the server does not know the kind. With the server's message.
    #[error("{0}")]
    NoSuchKind(String),
    /// Any other error from the server, with its message. Also watches that end as soon as they
    /// begin.
    #[error("{0}")]
    Failing(String),
    /// No response. With the error and all its causes.
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

/// The timing of a watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    /// The first pause after a failure. Each further one doubles, with jitter.
    pub shortest: Duration,
    /// The longest pause.
    pub longest: Duration,
    /// The time after which the server ends a watch, which then starts again. In whole seconds.
    pub watch: Duration,
    /// The time without an event after which a watch counts as dead. An API server sends a bookmark
    /// about every minute.
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
    /// For watches that are not urgent and may fail for ever, such as those of a kind that is not
    /// installed.
    pub fn slow() -> Self {
        Self {
            longest: Duration::from_secs(30),
            ..Self::default()
        }
    }
}

/// After this many refusals in a row, a watch starts over with a list.
const RESUME_ATTEMPTS: u32 = 3;

/// The longest pause after a watch that ended without an error.
const CUT_PAUSE: Duration = Duration::from_millis(250);

/// Number of consecutive short-lived watches to accept before reporting trouble and backing off. A
/// restarting load balancer cuts a few.
const CUTS_TOLERATED: u32 = 24;

/// The longest pause that a server's `retryAfterSeconds` can demand.
const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);

/// Watches the object of that name, for ever. Starts with a list; passes on each state of the
/// object that the server sends, in order. Cuts of the connection are not reported.
///
/// The name goes into a field selector, so that a Role can restrict `list` and `watch` by
/// `resourceNames`.
pub fn observe<T: Object>(
    objects: Objects,
    name: &str,
    pacing: Pacing,
) -> impl Stream<Item = Update<T>> + Send + use<T> {
    let deltas = deltas(objects, Selectors::named(name), pacing);
    deltas.filter_map(|delta| {
        std::future::ready(match delta {
            // The selector matches at most one object.
            Delta::Listed(objects) => Some(match objects.into_iter().next() {
                Some(object) => Update::Present(object),
                None => Update::Absent(None),
            }),
            Delta::Present(object) => Some(Update::Present(object)),
            Delta::Deleted(object) => Some(Update::Absent(Some(object))),
            Delta::Resumed => Some(Update::Resumed),
            Delta::Failed(error) => Some(Update::Failed(error)),
            Delta::Cut | Delta::Restored => None,
        })
    })
}

/// Follows all objects of a collection, for ever. Starts with a list, and lists again after a cut
/// that the server cannot bridge.
pub fn observe_all<T: Object>(
    objects: Objects,
    pacing: Pacing,
) -> impl Stream<Item = Delta<T>> + Send {
    deltas(objects, Selectors::default(), pacing)
}

/// Follows the Jobs that match one of a gate's sources, for ever, as [`observe_all`] does.
///
/// An exact name goes into a field selector, as in [`observe`]. A pattern needs all Jobs of the
/// namespace, because the API server does not know patterns.
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

/// Follows the workloads that match an entry of a gate, for ever, as [`observe_jobs`] follows Jobs.
/// `objects` must be of the entry's kind.
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

/// Drops the objects that do not match.
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

/// Lists the Jobs that match one of a gate's sources.
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
    /// The pause before the next request.
    pause: Option<Duration>,
    /// Consecutive failures. A watch that works resets them.
    failures: u32,
    /// Whether the server has reported that the version is gone, and no watch has worked since.
    gone: bool,
    /// Consecutive watches that ended early and without an event.
    cuts: u32,
    /// Whether a failure was reported, and not yet its end.
    in_trouble: bool,
    /// Whether a cut was reported, and not yet its end.
    is_cut: bool,
    /// The event to report before anything else happens.
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
                // After many watches that ended at once, a new one must last before it counts.
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

    /// Handles the end of a watch's connection, which is normal. The watch resumes at once, so that
    /// no event is missed. If watches keep ending as soon as they begin, short pauses follow, and
    /// later longer ones.
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

    /// Handles an error event of a watch.
    fn breaks(&mut self, version: String, error: ApiError) -> Option<Delta<T>> {
        if error.code() == Some(410) && !std::mem::replace(&mut self.gone, true) {
            // The version is too old, as happens after a long cut or an outage. A list is enough to
            // go on. It does not show objects that came and went, so this is reported as a cut.
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
            // 504 is not among them: it is also the response to a version that is too large, after
            // etcd was restored from a backup.
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
