//! As much of an API server as the keeper of certificates talks to, in memory.
//!
//! Objects with resource versions, optimistic locking, merge and JSON patches, lists and watches by
//! name. What a real one makes of it all is for the cluster tests to say.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use axum::body::Body;
use futures::stream;
use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response, StatusCode};
use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

/// Clones are the same server.
#[derive(Clone)]
pub struct FakeApi {
    state: Arc<Mutex<State>>,
    /// The number of events so far.
    events: watch::Sender<usize>,
}

#[derive(Default)]
struct State {
    version: u64,
    /// By path.
    objects: BTreeMap<String, Value>,
    /// The path, version and event of every change.
    history: Vec<(String, u64, Value)>,
    /// When each was.
    times: Vec<Instant>,
    /// Method, path and status of every request that is no watch.
    requests: Vec<(Method, String, StatusCode)>,
    /// Paths whose writes are refused with 403.
    forbidden: Vec<String>,
}

impl FakeApi {
    pub fn new() -> Self {
        Self {
            state: Arc::default(),
            events: watch::channel(0).0,
        }
    }

    pub fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::new(service, "default")
    }

    /// Every change is seen by this receiver.
    pub fn changes(&self) -> watch::Receiver<usize> {
        self.events.subscribe()
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// What an object was at a time.
    pub fn get_as_of(&self, path: &str, at: Instant) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let changes = state.times.iter().zip(&state.history).rev();
        let mut until = changes.filter(|(time, (p, ..))| **time <= at && p == path);
        let (_, (_, _, event)) = until.next()?;
        (event["type"] != "DELETED").then(|| event["object"].clone())
    }

    /// Stores an object as an administrator would, whatever is there.
    pub fn put(&self, path: &str, object: Value) {
        let kind = if self.get(path).is_some() {
            "MODIFIED"
        } else {
            "ADDED"
        };
        self.store(&mut self.state.lock().unwrap(), path, kind, object);
    }

    pub fn delete(&self, path: &str) {
        let mut state = self.state.lock().unwrap();
        let object = state.objects.get(path).cloned().unwrap();
        self.store(&mut state, path, "DELETED", object);
        state.objects.remove(path);
    }

    pub fn forbid(&self, path: &str, forbidden: bool) {
        let mut state = self.state.lock().unwrap();
        state.forbidden.retain(|other| other != path);
        if forbidden {
            state.forbidden.push(path.to_owned());
        }
    }

    /// How many requests of this method there were on this path, with this status.
    pub fn count(&self, method: &Method, path: &str, status: StatusCode) -> usize {
        let state = self.state.lock().unwrap();
        let of =
            |(m, p, s): &&(Method, String, StatusCode)| m == method && p == path && *s == status;
        state.requests.iter().filter(of).count()
    }

    fn store(&self, state: &mut State, path: &str, kind: &str, mut object: Value) -> Value {
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path.to_owned(), object.clone());
        let event = json!({"type": kind, "object": object});
        state.history.push((path.to_owned(), state.version, event));
        state.times.push(Instant::now());
        self.events.send_replace(state.history.len());
        object
    }

    async fn answer(&self, request: Request<kube::client::Body>) -> Response<Body> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let path = head.uri.path().to_owned();
        let query: BTreeMap<String, String> = head
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.replace("%3D", "=")))
            .collect();
        let selected = query
            .get("fieldSelector")
            .and_then(|selector| selector.strip_prefix("metadata.name="))
            .map(|name| format!("{path}/{name}"));
        if query.contains_key("watch") {
            let since = query["resourceVersion"].parse().unwrap();
            return self.watch(selected.unwrap(), since);
        }
        let content_type = head
            .headers
            .get("content-type")
            .map(|value| value.to_str().unwrap().to_owned())
            .unwrap_or_default();
        let (status, answer) = match (&head.method, selected) {
            (&Method::GET, Some(selected)) => self.list(&selected),
            (&Method::GET, None) => match self.get(&path) {
                Some(object) => (StatusCode::OK, object),
                None => failure(StatusCode::NOT_FOUND, "NotFound"),
            },
            _ => self.write(&head.method, &path, &content_type, &body),
        };
        let mut state = self.state.lock().unwrap();
        state.requests.push((head.method, path, status));
        Response::builder()
            .status(status)
            .body(Body::from(answer.to_string()))
            .unwrap()
    }

    fn list(&self, selected: &str) -> (StatusCode, Value) {
        let state = self.state.lock().unwrap();
        let items: Vec<&Value> = state.objects.get(selected).into_iter().collect();
        let version = state.version.to_string();
        (
            StatusCode::OK,
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": version}, "items": items}),
        )
    }

    fn write(
        &self,
        method: &Method,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> (StatusCode, Value) {
        let body: Value = serde_json::from_slice(body).unwrap();
        let mut state = self.state.lock().unwrap();
        if method == Method::POST {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            if state.forbidden.contains(&path) {
                return failure(StatusCode::FORBIDDEN, "Forbidden");
            }
            if state.objects.contains_key(&path) {
                return failure(StatusCode::CONFLICT, "AlreadyExists");
            }
            return (
                StatusCode::CREATED,
                self.store(&mut state, &path, "ADDED", body),
            );
        }
        assert_eq!(method, Method::PATCH);
        if state.forbidden.iter().any(|other| other == path) {
            return failure(StatusCode::FORBIDDEN, "Forbidden");
        }
        let Some(mut object) = state.objects.get(path).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound");
        };
        match content_type {
            "application/merge-patch+json" => {
                let expected = &body["metadata"]["resourceVersion"];
                if *expected != object["metadata"]["resourceVersion"] {
                    return failure(StatusCode::CONFLICT, "Conflict");
                }
                json_patch::merge(&mut object, &body);
            }
            "application/json-patch+json" => {
                let operations: json_patch::Patch = serde_json::from_value(body).unwrap();
                if json_patch::patch(&mut object, &operations).is_err() {
                    return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
                }
            }
            other => panic!("a patch of type {other}"),
        }
        (
            StatusCode::OK,
            self.store(&mut state, path, "MODIFIED", object),
        )
    }

    fn watch(&self, path: String, since: u64) -> Response<Body> {
        let start = (self.state.clone(), self.events.subscribe(), 0);
        let lines = stream::unfold(start, move |(state, mut events, from)| {
            let path = path.clone();
            async move {
                loop {
                    let found = {
                        let state = state.lock().unwrap();
                        let mut rest = state.history.iter().enumerate().skip(from);
                        rest.find(|(_, (p, version, _))| *p == path && *version > since)
                            .map(|(index, (_, _, event))| (index, format!("{event}\n")))
                    };
                    if let Some((index, line)) = found {
                        return Some((Ok::<_, Infallible>(line), (state, events, index + 1)));
                    }
                    events.changed().await.ok()?;
                }
            }
        });
        Response::new(Body::from_stream(lines))
    }
}

fn failure(code: StatusCode, reason: &str) -> (StatusCode, Value) {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure",
        "code": code.as_u16(), "reason": reason, "message": format!("the fake says {reason}"),
    });
    (code, status)
}
