//! A small API server on loopback: enough of Kubernetes to watch a Job and keep a record, and
//! every way in which a connection to it can fail. What Kubernetes itself does is not tested
//! against this, but against the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Instant;

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::process::PATIENCE;

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

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
    /// `pod/container` to text.
    logs: BTreeMap<String, String>,
    requests: Vec<String>,
    /// How many watches are open.
    watching: usize,
    /// How many watches were begun and ended in all.
    begun: usize,
    ended: usize,
    /// How many of the next writes are answered with 500.
    fail_writes: usize,
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
        migration_gate::cluster::client(kube::Config::new(url)).expect("a client")
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
        let listener = self
            .runtime
            .block_on(TcpListener::bind(self.address))
            .expect("the port");
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

    /// Refuses with 403.
    pub(crate) fn deny(&self, verb: &str, resource: &str) {
        let rule = (verb.to_owned(), resource.to_owned());
        self.state().denied.insert(rule);
    }

    pub(crate) fn allow_all(&self) {
        let mut state = self.state();
        state.denied.clear();
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

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
    let method = request.method().clone();
    let uri = request.uri().clone();
    let body = request
        .into_body()
        .collect()
        .await
        .map(|body| serde_json::from_slice(&body.to_bytes()).unwrap_or(Value::Null))
        .unwrap_or_default();
    let query: BTreeMap<_, _> = uri
        .query()
        .unwrap_or_default()
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            (
                key.to_owned(),
                value.replace("%3D", "=").replace("%2F", "/"),
            )
        })
        .collect();
    // …/namespaces/NS/RESOURCE[/NAME[/log]]
    let (_, rest) = uri.path().split_once("/namespaces/").unwrap_or_default();
    let parts: Vec<_> = rest.split('/').skip(1).collect();
    let resource = parts.first().copied().unwrap_or_default().to_owned();
    let name = parts.get(1).copied();
    let watches = query.contains_key("watch");
    let verb = match (&method, name) {
        (&Method::GET, None) if watches => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PATCH, _) => "patch",
        _ => "get",
    };
    let mut state = shared.state.lock().expect("the state");
    state.requests.push(format!("{verb} {resource} {uri}"));
    shared.changed.notify_all();
    if state.unauthorized {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    if state.denied.contains(&(verb.to_owned(), resource.clone())) {
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:ns:sa\" cannot {verb} resource"
        );
        return failure(403, "Forbidden", &message);
    }
    match verb {
        "list" => list(&state, &resource, &query),
        "watch" => {
            let from: u64 = query["resourceVersion"].parse().unwrap_or_default();
            if from < state.compacted {
                let status = json!({"kind": "Status", "status": "Failure", "code": 410,
                                    "reason": "Expired", "message": "too old resource version"});
                return if state.gone_as_status {
                    failure(410, "Expired", "too old resource version")
                } else {
                    text(
                        200,
                        format!("{}\n", json!({"type": "ERROR", "object": status})),
                    )
                };
            }
            if state.watches_that_end > 0 {
                state.watches_that_end -= 1;
                return text(200, String::new());
            }
            state.watching += 1;
            state.begun += 1;
            // With the count, so that a cut from now on is its cut.
            let mut wake = shared.wake.subscribe();
            let cuts = wake.borrow_and_update().1;
            drop(state);
            shared.changed.notify_all();
            follow(shared, (wake, cuts), resource, selected(&query), from)
        }
        "create" | "patch" => {
            let answer = write(&mut state, verb, &resource, name, body);
            drop(state);
            shared.wake();
            answer
        }
        _ => log(&state, &parts, &query),
    }
}

fn selected(query: &BTreeMap<String, String>) -> String {
    let selector = query.get("fieldSelector").cloned().unwrap_or_default();
    selector
        .strip_prefix("metadata.name=")
        .unwrap_or_default()
        .to_owned()
}

fn list(state: &State, resource: &str, query: &BTreeMap<String, String>) -> Response<Body> {
    let name = selected(query);
    // The only label selector in use is the one of a Job's pods.
    let label = query.get("labelSelector").and_then(|s| s.split_once('='));
    let items: Vec<_> = state
        .objects
        .iter()
        .filter(|((r, n), object)| {
            r == resource
                && (name.is_empty() || *n == name)
                && label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
        })
        .map(|(_, object)| object)
        .collect();
    let version = state.version.to_string();
    json_body(
        200,
        &json!({"kind": "List", "metadata": {"resourceVersion": version}, "items": items}),
    )
}

fn log(state: &State, parts: &[&str], query: &BTreeMap<String, String>) -> Response<Body> {
    let container = query.get("container").cloned().unwrap_or_default();
    match parts {
        ["pods", pod, "log"] => match state.logs.get(&format!("{pod}/{container}")) {
            Some(log) => text(200, log.clone()),
            None => failure(404, "NotFound", "no such container"),
        },
        _ => failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
    }
}

fn write(
    state: &mut State,
    verb: &str,
    resource: &str,
    name: Option<&str>,
    body: Value,
) -> Response<Body> {
    if state.fail_writes > 0 {
        state.fail_writes -= 1;
        return failure(500, "InternalError", "etcdserver: request timed out");
    }
    let name = name
        .or(body["metadata"]["name"].as_str())
        .unwrap_or_default()
        .to_owned();
    let key = (resource.to_owned(), name.clone());
    let object = match (verb, state.objects.get(&key)) {
        ("create", None) => body,
        ("create", Some(_)) => return failure(409, "AlreadyExists", "already exists"),
        (_, None) => return failure(404, "NotFound", "not found"),
        (_, Some(object)) => {
            let wanted = &body["metadata"]["resourceVersion"];
            if wanted.is_string() && *wanted != object["metadata"]["resourceVersion"] {
                return failure(409, "Conflict", "the object has been modified");
            }
            let mut object = object.clone();
            json_patch::merge(&mut object, &body);
            object
        }
    };
    put(state, resource, &name, object);
    json_body(200, &state.objects[&key])
}

/// Streams the events of one object until the watch is cut.
fn follow(
    shared: &Arc<Shared>,
    (wake, cuts): (watch::Receiver<(u64, u64)>, u64),
    resource: String,
    name: String,
    from: u64,
) -> Response<Body> {
    struct Open(Arc<Shared>);
    impl Drop for Open {
        fn drop(&mut self) {
            let mut state = self.0.state.lock().expect("the state");
            state.watching -= 1;
            state.ended += 1;
            self.0.changed.notify_all();
        }
    }
    let open = Open(Arc::clone(shared));
    let events = stream::unfold((from, wake, open), move |(from, mut wake, open)| {
        let (resource, name) = (resource.clone(), name.clone());
        async move {
            loop {
                if wake.borrow_and_update().1 != cuts {
                    let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Some((Err(cut), (from, wake, open)));
                }
                let next = {
                    let state = open.0.state.lock().expect("the state");
                    state
                        .events
                        .iter()
                        .find(|e| e.version > from && e.resource == resource && e.name == name)
                        .map(|e| (e.version, e.line.clone()))
                };
                if let Some((version, line)) = next {
                    let frame = Frame::data(Bytes::from(line));
                    return Some((Ok(frame), (version, wake, open)));
                }
                wake.changed().await.ok()?;
            }
        }
    });
    Response::new(UnsyncBoxBody::new(StreamBody::new(events.boxed())))
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    json_body(
        code,
        &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                "reason": reason, "message": message}),
    )
}

fn json_body(code: u16, body: &Value) -> Response<Body> {
    text(code, body.to_string())
}

fn text(code: u16, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {});
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = StatusCode::from_u16(code).expect("a status");
    response
}
