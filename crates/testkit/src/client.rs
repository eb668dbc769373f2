//! kube-rs for tests that are written without `async`.

use std::fmt::Debug;
use std::hash::Hash;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures::{Stream, StreamExt as _};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::runtime::wait::await_condition;
use kube::runtime::watcher::{Config as Selection, Event};
use kube::runtime::{WatchStreamExt as _, reflector, watcher};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::runtime::{EnterGuard, Runtime};
use tokio::task::{AbortHandle, JoinHandle};

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Runtime::new().expect("a machine that can start threads"));

/// Drives a future to its end on a runtime that all tests share.
pub fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.block_on(future)
}

/// Enters that runtime, for code that needs one outside of a future.
pub(crate) fn enter() -> EnterGuard<'static> {
    RUNTIME.enter()
}

/// Starts a future on that runtime and leaves it to run.
pub fn spawn(future: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
    RUNTIME.spawn(future)
}

/// A client of the cluster that a kubeconfig names.
pub fn client(kubeconfig: &Path) -> Result<kube::Client> {
    block_on(async {
        let file = Kubeconfig::read_from(kubeconfig)?;
        let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
        kube::Client::try_from(config).map_err(anyhow::Error::from)
    })
    .with_context(|| format!("making a client from {}", kubeconfig.display()))
}

/// Watches one object until `condition` holds, and returns it.
pub fn await_object<K>(
    api: &Api<K>,
    name: &str,
    what: &str,
    deadline: Duration,
    condition: impl Fn(&K) -> bool,
) -> Result<K>
where
    K: Clone + Debug + Send + DeserializeOwned + Serialize + Resource + 'static,
{
    let holds = |object: Option<&K>| object.is_some_and(&condition);
    let watch = await_condition(api.clone(), name, holds);
    if let Ok(found) = block_on(async { tokio::time::timeout(deadline, watch).await }) {
        found?.with_context(|| format!("{name} is gone"))
    } else {
        let seen = block_on(api.get_opt(name))?
            .map_or_else(|| json!("nothing"), |object| json!(object)["status"].take());
        bail!("waited {deadline:?} for {name} {what}; last seen: {seen:#}")
    }
}

/// Watches one object until it is gone.
pub fn await_gone<K>(api: &Api<K>, name: &str, deadline: Duration) -> Result<()>
where
    K: Clone + Debug + Send + DeserializeOwned + Resource + 'static,
{
    let watch = await_condition(api.clone(), name, |object: Option<&K>| object.is_none());
    block_on(async { tokio::time::timeout(deadline, watch).await })
        .with_context(|| format!("waited {deadline:?} for {name} to be gone"))??;
    Ok(())
}

/// The objects that a selector selects, kept up to date by a watch.
pub struct Watched<K: Resource<DynamicType: Eq + Hash> + 'static> {
    store: reflector::Store<K>,
    watch: AbortHandle,
}

impl<K> Watched<K>
where
    K: Clone + Debug + Send + Sync + DeserializeOwned + Resource + 'static,
    K::DynamicType: Clone + Default + Eq + Hash + Send + Sync,
{
    /// Starts the watch.
    pub fn begin(api: &Api<K>, labels: &str) -> Self {
        let (store, changes) = watch(api, labels);
        let watch = changes.for_each(|_| std::future::ready(()));
        Self {
            store,
            watch: RUNTIME.spawn(watch).abort_handle(),
        }
    }

    /// The existing objects; none before the first list.
    pub fn now(&self) -> Vec<Arc<K>> {
        self.store.state()
    }
}

impl<K: Resource<DynamicType: Eq + Hash> + 'static> Drop for Watched<K> {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

/// The objects that a selector selects, and the stream of changes, which must be read to keep them
/// up to date. After an error, the watch goes on by itself.
fn watch<K>(
    api: &Api<K>,
    labels: &str,
) -> (
    reflector::Store<K>,
    impl Stream<Item = watcher::Result<Event<K>>> + Send + use<K>,
)
where
    K: Clone + Debug + Send + Sync + DeserializeOwned + Resource + 'static,
    K::DynamicType: Clone + Default + Eq + Hash + Send + Sync,
{
    let (store, writer) = reflector::store();
    let changes = watcher(api.clone(), Selection::default().labels(labels)).default_backoff();
    (store, reflector(writer, changes))
}

/// Watches the objects that a selector selects until `look` returns a value, and returns that.
pub fn await_list<K, T>(
    api: &Api<K>,
    labels: &str,
    what: &str,
    deadline: Duration,
    look: impl Fn(&[Arc<K>]) -> Option<T>,
) -> Result<T>
where
    K: Clone + Debug + Send + Sync + DeserializeOwned + Resource + 'static,
    K::DynamicType: Clone + Default + Eq + Hash + Send + Sync,
{
    let (store, changes) = watch(api, labels);
    let watch = async {
        let mut changes = pin!(changes);
        while let Some(change) = changes.next().await {
            match change {
                // A list is not complete yet.
                Err(_) | Ok(Event::Init | Event::InitApply(_)) => {}
                Ok(Event::InitDone | Event::Apply(_) | Event::Delete(_)) => {
                    if let Some(found) = look(&store.state()) {
                        return Some(found);
                    }
                }
            }
        }
        None
    };
    let found = block_on(async { tokio::time::timeout(deadline, watch).await });
    found.ok().flatten().with_context(|| {
        let seen: Vec<_> = store
            .state()
            .iter()
            .map(|object| object.meta().name.clone())
            .collect();
        format!("waited {deadline:?} for {what}; there are {seen:?}")
    })
}
