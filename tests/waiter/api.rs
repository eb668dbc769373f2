//! A small API server on loopback: enough of Kubernetes to watch a Job and keep a record, and
//! every way in which a connection to it can fail. What Kubernetes itself does is not tested
//! against this, but against the real one.

mod answer;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use answer::answer;
use testkit::waiter::PATIENCE;

/// One change, as a watch tells it.
struct Event {
    version: u64,
    resource: String,
    name: String,
    line: String,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By resource (`jobs`) and name.
    objects: BTreeMap<(String, String), Value>,
    events: Vec<Event>,
    /// Watches from before this version get 410.
    compacted: u64,
    /// 410 as an HTTP status, not as an event.
    gone_as_status: bool,
    denied: BTreeSet<(String, String)>,
    unauthorized: bool,
    /// How many of the next watches end at once.
    watches_that_end: usize,
    /// Requests that are never answered, as `denied`.
    held: BTreeSet<(String, String)>,
    /// Requests that are answered with 500, as `denied`.
    failing: BTreeSet<(String, String)>,
    /// `pod/container`, or `pod/container/previous`, to text.
    logs: BTreeMap<String, String>,
    requests: Vec<String>,
    /// How many watches are open.
    watching: usize,
    /// How many watches were begun and ended in all.
    begun: usize,
    ended: usize,
    /// How many of the next writes are answered with 500.
    fail_writes: usize,
    /// Writes are answered well, and nothing is written.
    forget_writes: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Wakes the watches: (changes, cuts).
    wake: watch::Sender<(u64, u64)>,
}

/// The API server. It stops when it is dropped.
pub(crate) struct Api {
    shared: Arc<Shared>,
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
    server: Option<tokio::task::JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl Api {
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version: 100,
                ..State::default()
            }),
            changed: Condvar::new(),
            wake: watch::Sender::new((0, 0)),
        });
        let mut api = Self {
            shared,
            runtime,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            server: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        api.resume();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://{}", api.address)}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(api.kubeconfig(), kubeconfig.to_string()).expect("a kubeconfig");
        api
    }

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.folder.path().join("kubeconfig")
    }

    pub(crate) fn client(&self) -> kube::Client {
        let url = format!("http://{}", self.address).parse().expect("a URL");
        migration_gate::api::client::client(kube::Config::new(url)).expect("a client")
    }

    pub(crate) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Ends every connection and takes no new one.
    pub(crate) fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = self.runtime.block_on(server);
        }
    }

    /// Takes connections again, where it did before.
    pub(crate) fn resume(&mut self) {
        let begun = Instant::now();
        // A waiter that another test starts at the same time has the old listener too, until it is a program of its own.
        let listener = loop {
            match self.runtime.block_on(TcpListener::bind(self.address)) {
                Err(error)
                    if error.kind() == ErrorKind::AddrInUse && begun.elapsed() < PATIENCE =>
                {
                    std::thread::yield_now();
                }
                listener => break listener.expect("the port"),
            }
        };
        self.address = listener.local_addr().expect("an address");
        let shared = Arc::clone(&self.shared);
        self.server = Some(self.runtime.spawn(serve(listener, shared)));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("the state")
    }

    /// Creates or replaces an object, as a Job (`jobs`) or ConfigMap (`configmaps`) and so on.
    pub(crate) fn put(&self, resource: &str, name: &str, object: Value) {
        put(&mut self.state(), resource, name, object);
        self.shared.wake();
    }

    pub(crate) fn delete(&self, resource: &str, name: &str) {
        delete(&mut self.state(), resource, name);
        self.shared.wake();
    }

    pub(crate) fn get(&self, resource: &str, name: &str) -> Option<Value> {
        let key = (resource.to_owned(), name.to_owned());
        self.state().objects.get(&key).cloned()
    }

    pub(crate) fn log(&self, pod: &str, container: &str, text: &str) {
        let key = format!("{pod}/{container}");
        self.state().logs.insert(key, text.to_owned());
    }

    /// The log of a container's run before its last restart.
    pub(crate) fn previous_log(&self, pod: &str, container: &str, text: &str) {
        self.log(pod, &format!("{container}/previous"), text);
    }

    /// Leaves such requests without an answer, with their connections open.
    pub(crate) fn hold(&self, verb: &str, resource: &str) {
        let rule = (verb.to_owned(), resource.to_owned());
        self.state().held.insert(rule);
    }

    /// Refuses with 403.
    pub(crate) fn deny(&self, verb: &str, resource: &str) {
        let rule = (verb.to_owned(), resource.to_owned());
        self.state().denied.insert(rule);
    }

    /// Fails with 500.
    pub(crate) fn fail(&self, verb: &str, resource: &str) {
        let rule = (verb.to_owned(), resource.to_owned());
        self.state().failing.insert(rule);
    }

    pub(crate) fn allow_all(&self) {
        let mut state = self.state();
        state.denied.clear();
        state.failing.clear();
        state.unauthorized = false;
    }

    /// Refuses everything with 401.
    pub(crate) fn unauthorized(&self) {
        self.state().unauthorized = true;
    }

    /// Forgets the history, so that a watch from before now gets 410, as an event or as an HTTP
    /// status. What `last` does is never told by a watch.
    pub(crate) fn compact(&self, as_status: bool, last: impl FnOnce(&mut Change<'_>)) {
        let mut state = self.state();
        last(&mut Change(&mut state));
        state.version += 10;
        state.compacted = state.version;
        state.gone_as_status = as_status;
        state.events.clear();
    }

    /// The next watches are ended by the server as soon as they have begun.
    pub(crate) fn end_watches_at_once(&self, number: usize) {
        self.state().watches_that_end = number;
    }

    /// The next writes fail with 500.
    pub(crate) fn fail_writes(&self, number: usize) {
        self.state().fail_writes = number;
    }

    /// Writes have no effect from now on, or have one again.
    pub(crate) fn forget_writes(&self, forget: bool) {
        self.state().forget_writes = forget;
    }

    /// Breaks every open watch in the middle of its stream.
    pub(crate) fn cut(&self) {
        let begun = {
            let state = self.state();
            self.shared.wake.send_modify(|wake| wake.1 += 1);
            state.begun
        };
        self.await_that("the watches to break", |state| state.ended >= begun);
    }

    /// Waits until so many watches are open.
    pub(crate) fn await_watches(&self, number: usize) {
        self.await_that("the watches", |state| state.watching == number);
    }

    /// Waits until a request was made whose `METHOD path?query` has this in it, and forgets
    /// all up to it.
    pub(crate) fn await_request(&self, part: &str) {
        self.await_that(part, |state| {
            let found = state.requests.iter().position(|line| line.contains(part));
            found.map(|index| state.requests.drain(..=index)).is_some()
        });
    }

    pub(crate) fn await_object(
        &self,
        resource: &str,
        name: &str,
        condition: impl Fn(&Value) -> bool,
    ) {
        let key = (resource.to_owned(), name.to_owned());
        self.await_that("the object", |state| {
            state.objects.get(&key).is_some_and(&condition)
        });
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    fn await_that(&self, what: &str, mut condition: impl FnMut(&mut State) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !condition(&mut state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited in vain for {what}; the last requests were {:#?}",
                state.requests.iter().rev().take(9).collect::<Vec<_>>()
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.expect("the state").0;
        }
    }
}

/// A change that is made together with others.
pub(crate) struct Change<'a>(&'a mut State);

impl Change<'_> {
    pub(crate) fn put(&mut self, resource: &str, name: &str, object: Value) {
        put(self.0, resource, name, object);
    }
}

impl Shared {
    fn wake(&self) {
        self.changed.notify_all();
        self.wake.send_modify(|wake| wake.0 += 1);
    }
}

fn put(state: &mut State, resource: &str, name: &str, mut object: Value) {
    state.version += 1;
    let version = state.version;
    object["metadata"]["name"] = json!(name);
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    if object["metadata"]["uid"].is_null() {
        object["metadata"]["uid"] = json!(format!("uid-of-{name}"));
    }
    let key = (resource.to_owned(), name.to_owned());
    let before = state.objects.insert(key, object.clone());
    let kind = if before.is_some() {
        "MODIFIED"
    } else {
        "ADDED"
    };
    event(state, resource, name, kind, &object);
}

fn delete(state: &mut State, resource: &str, name: &str) {
    let key = (resource.to_owned(), name.to_owned());
    if let Some(mut object) = state.objects.remove(&key) {
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        event(state, resource, name, "DELETED", &object);
    }
}

fn event(state: &mut State, resource: &str, name: &str, kind: &str, object: &Value) {
    state.events.push(Event {
        version: state.version,
        resource: resource.to_owned(),
        name: name.to_owned(),
        line: format!("{}\n", json!({"type": kind, "object": object})),
    });
}

/// Aborting this ends every connection: they live in its set.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = tokio::task::JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&shared, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
