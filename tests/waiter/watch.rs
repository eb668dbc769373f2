//! Watches that do not behave like watches, seen from inside.

use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use migration_gate::api::Objects;
use migration_gate::api::observe::{Delta, Pacing, Update, WatchError, observe, observe_all};
use migration_gate_core::job::{Job, JobState};

use crate::client;
use testkit::fake::FakeApi;
use testkit::gate::{JOB, JOB_PATH, complete, job, running};
use testkit::waiter::PATIENCE;

/// Follows Jobs until it is dropped.
struct Followed<U> {
    updates: Receiver<U>,
    _runtime: tokio::runtime::Runtime,
}

impl<U: Send + 'static> Followed<U> {
    fn start<S>(api: &FakeApi, follow: impl FnOnce(Objects) -> S) -> Self
    where
        S: Stream<Item = U> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let client = runtime.block_on(async { client(api) });
        let (sender, updates) = channel();
        let followed = follow(Objects::jobs(&client, "ns"));
        runtime.spawn(followed.for_each(move |update| {
            // This fails at the end of a test, when no one listens.
            let _ = sender.send(update);
            std::future::ready(())
        }));
        Self {
            updates,
            _runtime: runtime,
        }
    }

    /// The next update of any kind.
    fn any(&self) -> U {
        self.updates.recv_timeout(PATIENCE).expect("an update")
    }
}

impl Followed<Update<Job>> {
    fn of_the_job(api: &FakeApi, pacing: Pacing) -> Self {
        Self::start(api, |jobs| observe(jobs, JOB, pacing))
    }

    /// The next update, except the running Job, which is listed again and again.
    fn next(&self) -> Update<Job> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "there is nothing but the running Job");
            match self.updates.recv_timeout(left).expect("an update") {
                Update::Present(job) if job.state == JobState::Running => {}
                update => return update,
            }
        }
    }
}

#[test]
fn watches_that_never_do_anything_but_end_are_told() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    api.end_watches_at_once(usize::MAX);
    let pacing = Pacing {
        shortest: Duration::from_millis(1),
        longest: Duration::from_millis(2),
        ..Pacing::default()
    };
    let follower = Followed::of_the_job(&api, pacing);
    let message = "25 consecutive watches ended as soon as they began".to_owned();
    let told = Update::Failed(WatchError::Failing(message));
    assert_eq!(follower.next(), told);
    // A watch that lasts ends the failure, even if nothing has happened to the Job…
    api.end_watches_at_once(0);
    assert_eq!(follower.next(), Update::Resumed);
    api.end_watches_at_once(usize::MAX);
    api.cut();
    assert_eq!(follower.next(), told);
    // …and so does a watch that reports an event.
    api.end_watches_at_once(0);
    api.await_watches(1);
    api.put(JOB_PATH, job("2", complete()));
    assert_eq!(follower.next(), Update::Resumed);
    match follower.next() {
        Update::Present(job) => assert!(matches!(job.state, JobState::Complete { .. })),
        update => panic!("{update:?}"),
    }
}

#[test]
fn a_watch_that_has_gone_silent_is_begun_anew() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let pacing = Pacing {
        idle: Duration::from_millis(1),
        ..Pacing::default()
    };
    let _follower = Followed::of_the_job(&api, pacing);
    for _ in 0..3 {
        api.await_request("watch jobs");
    }
}

/// A Job may have come and gone in between, so a waiter must know about the cut.
#[test]
fn a_cut_is_told_and_so_is_the_next_watch() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let follower = Followed::start(&api, |jobs| observe_all::<Job>(jobs, Pacing::default()));
    api.await_watches(1);
    assert!(matches!(follower.any(), Delta::Listed(_)));
    for _ in 0..2 {
        api.cut();
        assert_eq!(follower.any(), Delta::Cut);
        assert_eq!(follower.any(), Delta::Restored);
        api.await_watches(1);
    }
    // The server no longer has the version, and a list doesn't show what has come and gone.
    api.compact(false, |_| {});
    api.cut();
    for update in [Delta::Cut, Delta::Restored, Delta::Cut] {
        assert_eq!(follower.any(), update);
    }
    assert!(matches!(follower.any(), Delta::Listed(_)));
    assert_eq!(follower.any(), Delta::Restored);
}
