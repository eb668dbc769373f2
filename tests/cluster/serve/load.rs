//! Continuous calls, so that a failed one is noticed.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, ResourceExt as _};

use testkit::client::spawn;
use testkit::cluster::Cluster;
use testkit::poll::{Look, until};

/// Number of concurrent creates.
const CALLERS: usize = 8;

/// Pause of a caller after a failed create.
const BACKOFF: Duration = Duration::from_millis(20);

/// Creates without pause, from several callers at once, until it is dropped.
pub(super) struct Load {
    shared: Arc<LoadState>,
}

#[derive(Default)]
struct LoadState {
    updates: bool,
    over: AtomicBool,
    created: AtomicUsize,
    /// Number of running callers.
    callers: AtomicUsize,
    failures: Mutex<Vec<(Instant, String)>>,
}

impl Load {
    pub(super) fn start(cluster: &Cluster, namespace: &str) -> Self {
        Self::of(cluster, namespace, false)
    }

    /// The same with an update of each created object, which counts as another call.
    pub(super) fn with_updates(cluster: &Cluster, namespace: &str) -> Self {
        Self::of(cluster, namespace, true)
    }

    fn of(cluster: &Cluster, namespace: &str, updates: bool) -> Self {
        let maps: Api<ConfigMap> = Api::namespaced(cluster.client(), namespace);
        let shared = Arc::new(LoadState {
            updates,
            ..LoadState::default()
        });
        for _ in 0..CALLERS {
            let (maps, shared) = (maps.clone(), Arc::clone(&shared));
            shared.callers.fetch_add(1, Ordering::Relaxed);
            drop(spawn(async move {
                shared.call(&maps).await;
                shared.callers.fetch_sub(1, Ordering::Relaxed);
            }));
        }
        Self { shared }
    }

    pub(super) fn created(&self) -> usize {
        self.shared.created.load(Ordering::Relaxed)
    }

    pub(super) fn failures(&self) -> Vec<(Instant, String)> {
        let failures = self.shared.failures.lock();
        failures.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails if a create has failed so far.
    pub(super) fn without_failure(&self) -> Result<()> {
        let failures = self.failures();
        ensure!(
            failures.is_empty(),
            "{} of {} creates failed, the first with {}",
            failures.len(),
            self.created() + failures.len(),
            failures[0].1
        );
        Ok(())
    }

    /// Waits for the running creates, and fails if one has failed. Returns their number.
    pub(super) fn finish(&self) -> Result<usize> {
        self.shared.over.store(true, Ordering::Relaxed);
        until("the last creates", Duration::from_secs(90), || {
            match self.shared.callers.load(Ordering::Relaxed) {
                0 => Look::Done(()),
                callers => Look::Pending(format!("{callers} callers")),
            }
        })?;
        self.without_failure()?;
        Ok(self.created())
    }

    pub(super) fn reaches(&self, count: usize) -> Result<()> {
        until(
            &format!("{count} creates"),
            Duration::from_mins(5),
            || match self.created() {
                created if created >= count => Look::Done(()),
                created => Look::Pending(format!("{created} creates")),
            },
        )
    }
}

impl LoadState {
    fn failed(&self, cause: String) {
        let failures = self.failures.lock();
        let mut failures = failures.unwrap_or_else(PoisonError::into_inner);
        failures.push((Instant::now(), cause));
    }

    async fn call(&self, maps: &Api<ConfigMap>) {
        let map = ConfigMap {
            metadata: ObjectMeta {
                generate_name: Some("load-".to_owned()),
                ..ObjectMeta::default()
            },
            ..ConfigMap::default()
        };
        let params = PostParams::default();
        while !self.over.load(Ordering::Relaxed) {
            match self.counted(maps.create(&params, &map)).await {
                Some(mut created) if self.updates => {
                    let name = created.name_any();
                    created.data = Some([("changed".to_owned(), String::new())].into());
                    self.counted(maps.replace(&name, &params, &created)).await;
                }
                _ => {}
            }
        }
    }

    /// Waits for a request, and counts it as done or failed.
    async fn counted(
        &self,
        request: impl Future<Output = kube::Result<ConfigMap>>,
    ) -> Option<ConfigMap> {
        match request.await {
            Ok(done) => {
                self.created.fetch_add(1, Ordering::Relaxed);
                Some(done)
            }
            Err(error) => {
                self.failed(error.to_string());
                // Wait as a client would before it tries again, so that one fault does not count a
                // thousand times.
                tokio::time::sleep(BACKOFF).await;
                None
            }
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
    }
}
