//! A fake API server: objects by path, lists, watches, writes, logs, and every fault of a server or
//! of the connection to it. It runs in this process, and answers on loopback and to a client in
//! memory.
//!
//! As in the real one, watches resume from a resourceVersion, writes lock optimistically, and
//! deletions wait for finalizers. It has no validation, no controllers and no garbage collection.
//! The [`rows`](crate::rows) run against it and against a real one.

mod answer;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use hyper_util::rt::TokioIo;
use kube::Client;
use serde_json::{Value, json};
use tokio::net::TcpSocket;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use crate::client::{block_on, enter, spawn};
use crate::waiter::PATIENCE;
use answer::{Sender, answer};

/// A change, as watches report it.
struct Reported {
    version: u64,
    path: String,
    at: Instant,
    line: Value,
}

/// A fault in place of a request's answer.
#[derive(Clone, Copy)]
enum Fault {
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 500.
    Error,
    /// No answer, on a connection that stays open.
    Silence,
    /// The answer, after this time.
    Delay(Duration),
}

#[derive(Default)]
struct Store {
    version: u64,
    /// The objects, by path.
    objects: BTreeMap<String, Value>,
    events: Vec<Reported>,
    /// A watch from before this version gets 410.
    compacted: u64,
    /// Whether 410 comes as an HTTP status instead of an event.
    gone_as_status: bool,
    /// The faults by verb, and resource or path. Each may be `*`.
    faults: BTreeMap<(String, String), Fault>,
    /// Maximum number of items in one page of a list.
    page: usize,
    /// Number of the next watches that end at once.
    watches_that_end: usize,
    /// Number of the next writes that are answered with 500.
    writes_that_fail: usize,
    /// Whether writes succeed without any effect.
    forgets_writes: bool,
    /// The logs by `pod/container` or `pod/container/previous`.
    logs: BTreeMap<String, String>,
    /// `verb resource path?query` of each request, except the administrator's.
    requests: VecDeque<String>,
    /// Verb, path and status of each answer, except those to watches.
    answers: Vec<(&'static str, String, u16)>,
    /// Numbers of watches that are open, were started, and have ended.
    watching: usize,
    begun: usize,
    ended: usize,
}

struct FakeServer {
    state: Mutex<Store>,
    changed: Condvar,
    /// Wakes watches: the number of changes, and of cuts.
    wake: watch::Sender<(u64, u64)>,
}

/// The server. Dropping it stops it.
///
/// The methods that change objects act as an administrator with direct access: no fault applies to
/// them, and they work while the server is stopped.
pub struct FakeApi {
    shared: Arc<FakeServer>,
    address: SocketAddr,
    /// A socket that is bound to the address and never listens. While the server is stopped, it
    /// keeps the port, and connections are refused.
    _port: TcpSocket,
    server: Option<JoinHandle<()>>,
    folder: tempfile::TempDir,
}

impl FakeApi {
    /// Starts a server without objects.
    pub fn start() -> Self {
        let state = Store {
            version: 100,
            page: usize::MAX,
            ..Store::default()
        };
        let port = reserve_port().expect("a port");
        let mut this = Self {
            shared: Arc::new(FakeServer {
                state: Mutex::new(state),
                changed: Condvar::new(),
                wake: watch::Sender::new((0, 0)),
            }),
            address: port.local_addr().expect("an address"),
            _port: port,
            server: None,
            folder: tempfile::tempdir().expect("a folder"),
        };
        this.resume();
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": this.url()}}],
            "users": [{"name": "c", "user": {"token": "t"}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
        });
        std::fs::write(this.kubeconfig(), kubeconfig.to_string()).expect("a kubeconfig");
        this
    }

    /// Its URL on loopback.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The path of a kubeconfig for it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// A folder that lives as long as the server.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A client in memory. Faults of requests apply to it, faults of connections do not.
    pub fn client(&self) -> Client {
        self.client_as(Sender::Tested)
    }

    /// A client in memory without faults, whose requests are not stored.
    pub fn admin(&self) -> Client {
        self.client_as(Sender::Admin)
    }

    fn client_as(&self, caller: Sender) -> Client {
        let shared = Arc::clone(&self.shared);
        let service = tower::service_fn(move |request| {
            let shared = Arc::clone(&shared);
            async move { Ok::<_, Infallible>(answer(&shared, caller, request).await) }
        });
        let _inside = enter();
        Client::new(service, "default")
    }

    /// Ends every connection and refuses new ones.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.abort();
            let _ = block_on(server);
        }
    }

    /// Accepts connections again, at the same address.
    pub fn resume(&mut self) {
        let begun = Instant::now();
        // A child that another test is just starting holds a copy of the old listener until its
        // `exec`.
        let listener = loop {
            match TcpListener::bind(self.address) {
                Err(_) if begun.elapsed() < PATIENCE => std::thread::yield_now(),
                listener => break listener.expect("the port"),
            }
        };
        self.server = Some(spawn(serve(listener, Arc::clone(&self.shared))));
    }

    fn state(&self) -> MutexGuard<'_, Store> {
        self.shared.state.lock().expect("the state")
    }

    /// Creates or replaces an object.
    pub fn put(&self, path: &str, object: Value) {
        self.shared.put(&mut self.state(), path, object);
    }

    /// Deletes an object, even if it has finalizers.
    pub fn delete(&self, path: &str) {
        self.shared.delete(&mut self.state(), path);
    }

    /// An object as it is now.
    pub fn get(&self, path: &str) -> Option<Value> {
        self.state().objects.get(path).cloned()
    }

    /// The objects of a collection, by its path.
    pub fn list(&self, collection: &str) -> Vec<Value> {
        let state = self.state();
        let objects = state.objects.iter();
        let within = |path: &str| {
            path.rsplit_once('/')
                .is_some_and(|(of, _)| of == collection)
        };
        objects
            .filter(|(path, _)| within(path))
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// An object as it was at the time `at`.
    pub fn get_as_of(&self, path: &str, at: Instant) -> Option<Value> {
        let state = self.state();
        let mut until = state.events.iter().rev();
        let last = until.find(|event| event.at <= at && event.path == path)?;
        (last.line["type"] != "DELETED").then(|| last.line["object"].clone())
    }

    /// A receiver that is notified of each change and each cut.
    pub fn changes(&self) -> watch::Receiver<(u64, u64)> {
        self.shared.wake.subscribe()
    }

    /// Sets the log of a container.
    pub fn log(&self, pod: &str, container: &str, text: &str) {
        let key = format!("{pod}/{container}");
        self.state().logs.insert(key, text.to_owned());
    }

    /// Sets the log of a container's run before its last restart.
    pub fn previous_log(&self, pod: &str, container: &str, text: &str) {
        self.log(pod, &format!("{container}/previous"), text);
    }

    fn fault(&self, verb: &str, target: &str, fault: Fault) {
        let key = (verb.to_owned(), target.to_owned());
        self.state().faults.insert(key, fault);
    }

    /// Never answers such requests. The target is a resource, such as `jobs`, or an object's path.
    pub fn hold(&self, verb: &str, target: &str) {
        self.fault(verb, target, Fault::Silence);
    }

    /// Answers such requests after a delay.
    pub fn delay(&self, verb: &str, target: &str, delay: Duration) {
        self.fault(verb, target, Fault::Delay(delay));
    }

    /// Refuses such requests with 403.
    pub fn deny(&self, verb: &str, target: &str) {
        self.fault(verb, target, Fault::Forbidden);
    }

    /// Answers such requests with 500.
    pub fn fail(&self, verb: &str, target: &str) {
        self.fault(verb, target, Fault::Error);
    }

    /// Refuses every request with 401.
    pub fn unauthorized(&self) {
        self.fault("*", "*", Fault::Unauthorized);
    }

    /// Removes all faults that were set by verb and target.
    pub fn heal(&self) {
        self.state().faults.clear();
    }

    /// Drops the history, so that a watch from an earlier version gets 410, as an event or as an
    /// HTTP status. No watch reports the changes that `last` makes.
    pub fn compact(&self, as_status: bool, last: impl FnOnce(&mut Unseen<'_>)) {
        let mut state = self.state();
        last(&mut Unseen(&self.shared, &mut state));
        state.version += 10;
        state.compacted = state.version;
        state.gone_as_status = as_status;
        state.events.clear();
    }

    /// Answers lists in pages of `items` items, whatever limit the client sets.
    pub fn page(&self, items: usize) {
        self.state().page = items;
    }

    /// Ends the next `number` watches as soon as they have started.
    pub fn end_watches_at_once(&self, number: usize) {
        self.state().watches_that_end = number;
    }

    /// Fails the next `number` writes with 500.
    pub fn fail_writes(&self, number: usize) {
        self.state().writes_that_fail = number;
    }

    /// Sets whether writes succeed without any effect.
    pub fn forget_writes(&self, forget: bool) {
        self.state().forgets_writes = forget;
    }

    /// Breaks every open watch in the middle of its stream.
    pub fn cut(&self) {
        let begun = {
            let state = self.state();
            self.shared.wake.send_modify(|wake| wake.1 += 1);
            state.begun
        };
        self.await_that("the watches to break", |state| state.ended >= begun);
    }

    /// Waits until exactly `number` watches are open.
    pub fn await_watches(&self, number: usize) {
        self.await_that("the watches", |state| state.watching == number);
    }

    /// Waits until `number` watches have been started in total.
    pub fn await_begun_watches(&self, number: usize) {
        self.await_that("the watches", |state| state.begun >= number);
    }

    /// Waits for a request whose `verb resource path?query` contains `part`. Removes it and all
    /// earlier requests from the stored ones.
    pub fn await_request(&self, part: &str) {
        self.await_that(part, |state| {
            let found = state.requests.iter().position(|line| line.contains(part));
            found.map(|index| state.requests.drain(..=index)).is_some()
        });
    }

    /// Waits until an object exists and `condition` holds.
    pub fn await_object(&self, path: &str, condition: impl Fn(&Value) -> bool) {
        self.await_that("the object", |state| {
            state.objects.get(path).is_some_and(&condition)
        });
    }

    /// The requests so far, as `verb resource path?query`.
    pub fn requests(&self) -> Vec<String> {
        self.state().requests.iter().cloned().collect()
    }

    /// The number of requests with this verb and path that were answered with this status.
    pub fn count(&self, verb: &str, path: &str, status: u16) -> usize {
        let state = self.state();
        let answers = state.answers.iter();
        answers
            .filter(|(v, p, s)| *v == verb && p == path && *s == status)
            .count()
    }

    /// Waits until `number` requests with this verb and path have been answered with this status.
    pub fn await_answers(&self, verb: &str, path: &str, status: u16, number: usize) {
        self.await_that(path, |state| {
            let answers = state.answers.iter();
            let such = answers.filter(|(v, p, s)| *v == verb && p == path && *s == status);
            such.count() >= number
        });
    }

    fn await_that(&self, what: &str, mut condition: impl FnMut(&mut Store) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut state = self.state();
        while !condition(&mut state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "timed out waiting for {what}; the last requests were {:#?}",
                state.requests.iter().rev().take(9).collect::<Vec<_>>()
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.expect("the state").0;
        }
    }
}

impl Drop for FakeApi {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// Makes changes that no watch reports.
pub struct Unseen<'a>(&'a FakeServer, &'a mut Store);

impl Unseen<'_> {
    /// Creates or replaces an object.
    pub fn put(&mut self, path: &str, object: Value) {
        self.0.put(self.1, path, object);
    }
}

impl FakeServer {
    fn put(&self, state: &mut Store, path: &str, mut object: Value) -> Value {
        state.version += 1;
        let before = state.objects.get(path);
        let uid = match before {
            Some(before) => before["metadata"]["uid"].clone(),
            None => json!(format!("uid-{}", state.version)),
        };
        let kind = if before.is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        let metadata = &mut object["metadata"];
        metadata["name"] = json!(path.rsplit('/').next());
        metadata["resourceVersion"] = json!(state.version.to_string());
        if metadata["uid"].is_null() {
            metadata["uid"] = uid;
        }
        state.objects.insert(path.to_owned(), object.clone());
        self.report(state, path, kind, &object);
        object
    }

    fn delete(&self, state: &mut Store, path: &str) {
        if let Some(mut object) = state.objects.remove(path) {
            state.version += 1;
            object["metadata"]["resourceVersion"] = json!(state.version.to_string());
            self.report(state, path, "DELETED", &object);
        }
    }

    fn report(&self, state: &mut Store, path: &str, kind: &str, object: &Value) {
        state.events.push(Reported {
            version: state.version,
            path: path.to_owned(),
            at: Instant::now(),
            line: json!({"type": kind, "object": object}),
        });
        self.changed.notify_all();
        self.wake.send_modify(|wake| wake.0 += 1);
    }
}

/// Binds a port without listening. A listener can be bound to it as well, because both allow
/// address reuse.
fn reserve_port() -> std::io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    Ok(socket)
}

/// Serves until it is aborted, which ends every connection.
async fn serve(listener: TcpListener, shared: Arc<FakeServer>) {
    listener.set_nonblocking(true).expect("a listener");
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(&shared, Sender::Tested, request).await) }
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}
