//! The answer to one request.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{FakeServer, Fault, Reported, Store};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

/// The sender of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    /// The test itself.
    Admin,
    /// The code under test.
    Tested,
}

/// The parts of a request.
struct Asked {
    verb: &'static str,
    /// The collection's name, such as `pods`, with its subresource: `jobs/status`.
    resource: String,
    /// The path of the object, or of the collection.
    path: String,
    subresource: Option<String>,
    query: BTreeMap<String, String>,
    content_type: String,
    body: Value,
}

impl Asked {
    async fn read<B>(request: Request<B>) -> Self
    where
        B: hyper::body::Body,
    {
        let (head, body) = request.into_parts();
        let body = body
            .collect()
            .await
            .map(http_body_util::Collected::to_bytes);
        let body = body.unwrap_or_default();
        let query: BTreeMap<_, _> = head.uri.query().into_iter().flat_map(pairs).collect();
        // /api/v1 or /apis/GROUP/VERSION, then [/namespaces/NS]/RESOURCE[/NAME[/SUBRESOURCE]]
        let parts: Vec<&str> = head.uri.path().split('/').skip(1).collect();
        let root = if parts[0] == "api" { 2 } else { 3 };
        let namespaced = parts.get(root) == Some(&"namespaces") && parts.len() > root + 2;
        let at = root + if namespaced { 2 } else { 0 };
        let part = |offset: usize| parts.get(at + offset).map(|part| (*part).to_owned());
        let (resource, name, subresource) = (part(0).unwrap_or_default(), part(1), part(2));
        let verb = match (&head.method, &name) {
            (&Method::GET, None) if query.contains_key("watch") => "watch",
            (&Method::GET, None) => "list",
            (&Method::GET, Some(_)) => "get",
            (&Method::POST, _) => "create",
            (&Method::PUT, _) => "update",
            (&Method::PATCH, _) => "patch",
            (&Method::DELETE, _) => "delete",
            (other, _) => panic!("the fake API server knows no {other}"),
        };
        let end = parts.len().min(at + 2);
        Self {
            verb,
            resource: [Some(resource), subresource.clone()]
                .into_iter()
                .flatten()
                .collect::<Vec<_>>()
                .join("/"),
            path: format!("/{}", parts[..end].join("/")),
            subresource,
            query,
            content_type: head
                .headers
                .get("content-type")
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            body: serde_json::from_slice(&body).unwrap_or_default(),
        }
    }

    /// The path of the object that the request creates or selects by name, if there is one.
    fn object(&self) -> Option<String> {
        let created = self.body["metadata"]["name"].as_str();
        let selected = self.query.get("fieldSelector");
        let selected = selected.and_then(|selector| selector.strip_prefix("metadata.name="));
        match self.verb {
            "create" => created.map(|name| format!("{}/{name}", self.path)),
            "list" | "watch" => selected.map(|name| format!("{}/{name}", self.path)),
            _ => Some(self.path.clone()),
        }
    }

    /// Whether an object with this path is in the list or watch.
    fn selects(&self, path: &str) -> bool {
        if let Some(object) = self.object() {
            return path == object;
        }
        let collection = path
            .rsplit_once('/')
            .map_or("", |(collection, _)| collection);
        // A list without a namespace has the objects of all namespaces.
        collection == self.path
            || collection
                .split_once("/namespaces/")
                .is_some_and(|(root, rest)| {
                    let resource = rest.split_once('/').map_or("", |(_, resource)| resource);
                    self.path == format!("{root}/{resource}")
                })
    }

    fn fault(&self, state: &Store) -> Option<Fault> {
        let object = self.object().unwrap_or_default();
        [self.resource.as_str(), &object, "*"]
            .into_iter()
            .find_map(|target| {
                let of = |verb: &str| state.faults.get(&(verb.to_owned(), target.to_owned()));
                of(self.verb).or_else(|| of("*")).copied()
            })
    }
}

fn pairs(query: &str) -> impl Iterator<Item = (String, String)> {
    query
        .split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(key, value)| {
            let value = value
                .replace("%3D", "=")
                .replace("%2F", "/")
                .replace("%21", "!");
            (key.to_owned(), value)
        })
}

pub(super) async fn answer<B>(
    shared: &Arc<FakeServer>,
    caller: Sender,
    request: Request<B>,
) -> Response<Body>
where
    B: hyper::body::Body,
{
    let uri = request.uri().clone();
    let asked = Asked::read(request).await;
    let fault = if caller == Sender::Admin {
        None
    } else {
        let mut state = shared.state.lock().expect("the state");
        let line = format!("{} {} {uri}", asked.verb, asked.resource);
        state.requests.push_back(line);
        shared.changed.notify_all();
        asked.fault(&state)
    };
    match fault {
        Some(Fault::Silence) => std::future::pending().await,
        Some(Fault::Delay(delay)) => tokio::time::sleep(delay).await,
        _ => {}
    }
    let mut state = shared.state.lock().expect("the state");
    let response = match fault {
        Some(Fault::Unauthorized) => failure(401, "Unauthorized", "Unauthorized"),
        Some(Fault::Forbidden) => {
            let (resource, verb) = (&asked.resource, asked.verb);
            let resource = resource.split('/').next().unwrap_or_default();
            let user = "system:serviceaccount:ns:sa";
            let message =
                format!("{resource} is forbidden: User \"{user}\" cannot {verb} resource");
            failure(403, "Forbidden", &message)
        }
        Some(Fault::Error) => failure(500, "InternalError", "it is not your day"),
        _ => match asked.verb {
            "list" => list(&state, &asked),
            "watch" => return watched(shared, state, asked),
            "get" if asked.subresource.as_deref() == Some("log") => log(&state, &asked),
            "get" => found(state.objects.get(&asked.path)),
            _ if caller == Sender::Tested && state.writes_that_fail > 0 => {
                state.writes_that_fail -= 1;
                failure(500, "InternalError", "etcdserver: request timed out")
            }
            _ => write(shared, &mut state, caller, &asked),
        },
    };
    let status = response.status().as_u16();
    state.answers.push((asked.verb, asked.path, status));
    shared.changed.notify_all();
    response
}

fn found(object: Option<&Value>) -> Response<Body> {
    match object {
        Some(object) => json_body(200, object),
        None => failure(
            404,
            "NotFound",
            "the server could not find the requested resource",
        ),
    }
}

fn list(state: &Store, asked: &Asked) -> Response<Body> {
    // The supported field selectors: the name, which `selects` handles, and the phase of pods.
    let label = asked
        .query
        .get("labelSelector")
        .and_then(|s| s.split_once('='));
    let phase = asked
        .query
        .get("fieldSelector")
        .and_then(|selector| selector.strip_prefix("status.phase"));
    let mut items: Vec<_> = state
        .objects
        .iter()
        .filter(|(path, object)| {
            let actual = object["status"]["phase"].as_str().unwrap_or_default();
            asked.selects(path)
                && label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
                && phase.is_none_or(|wanted| match wanted.strip_prefix("!=") {
                    Some(other) => actual != other,
                    None => Some(actual) == wanted.strip_prefix('='),
                })
        })
        .map(|(_, object)| object)
        .collect();
    let number = |key: &str| asked.query.get(key).and_then(|n| n.parse::<usize>().ok());
    let from = number("continue").unwrap_or_default();
    items.drain(..from.min(items.len()));
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    let limit = number("limit").unwrap_or(usize::MAX).min(state.page);
    if limit < items.len() {
        items.truncate(limit);
        metadata["continue"] = json!((from + limit).to_string());
    }
    let list = json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items});
    json_body(200, &list)
}

fn log(state: &Store, asked: &Asked) -> Response<Body> {
    let pod = asked.path.rsplit('/').next().unwrap_or_default();
    let container = asked.query.get("container").map_or("", String::as_str);
    let run = match asked.query.get("previous").map(String::as_str) {
        Some("true") => "/previous",
        _ => "",
    };
    let Some(log) = state.logs.get(&format!("{pod}/{container}{run}")) else {
        return failure(404, "NotFound", "no such container");
    };
    let lines: Vec<_> = log.split_inclusive('\n').collect();
    let tail = asked.query.get("tailLines").and_then(|n| n.parse().ok());
    let from = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
    text(200, lines[from..].concat())
}

fn write(shared: &FakeServer, state: &mut Store, caller: Sender, asked: &Asked) -> Response<Body> {
    let path = asked.object().unwrap_or_default();
    let before = state.objects.get(&path);
    let wanted = &asked.body["metadata"]["resourceVersion"];
    let mut object = match (asked.verb, before) {
        ("create", None) => json!({}),
        ("create", Some(_)) => return failure(409, "AlreadyExists", "already exists"),
        (_, None) => return failure(404, "NotFound", "not found"),
        (_, Some(object))
            if wanted.is_string() && *wanted != object["metadata"]["resourceVersion"] =>
        {
            return failure(409, "Conflict", "the object has been modified");
        }
        (_, Some(object)) => object.clone(),
    };
    if asked.verb == "delete" {
        if asked.body["propagationPolicy"] != "Foreground" {
            shared.delete(state, &path);
            return json_body(200, &object);
        }
        object["metadata"]["finalizers"] = json!(["foregroundDeletion"]);
        object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    } else if asked.content_type == "application/json-patch+json" {
        let operations = serde_json::from_value(asked.body.clone());
        let operations: json_patch::Patch = operations.expect("a JSON Patch");
        if json_patch::patch(&mut object, &operations).is_err() {
            return failure(422, "Invalid", "the patch does not apply");
        }
    } else if asked.verb == "patch" {
        json_patch::merge(&mut object, &asked.body);
    } else {
        object = asked.body.clone();
    }
    if state.forgets_writes && caller == Sender::Tested {
        return json_body(200, state.objects.get(&path).unwrap_or(&Value::Null));
    }
    let object = shared.put(state, &path, object);
    let metadata = &object["metadata"];
    if metadata["deletionTimestamp"].is_string() && metadata["finalizers"].is_null() {
        shared.delete(state, &path);
    }
    json_body(if asked.verb == "create" { 201 } else { 200 }, &object)
}

fn watched(
    shared: &Arc<FakeServer>,
    mut state: std::sync::MutexGuard<'_, Store>,
    asked: Asked,
) -> Response<Body> {
    let from: u64 = asked.query["resourceVersion"].parse().unwrap_or_default();
    if from < state.compacted {
        let message = "too old resource version";
        if state.gone_as_status {
            return failure(410, "Expired", message);
        }
        let error = json!({"type": "ERROR", "object": status(410, "Expired", message)});
        return text(200, format!("{error}\n"));
    }
    if state.watches_that_end > 0 {
        state.watches_that_end -= 1;
        return text(200, String::new());
    }
    state.watching += 1;
    state.begun += 1;
    // Read the number of cuts now, so that each later cut ends this watch.
    let mut wake = shared.wake.subscribe();
    let cuts = wake.borrow_and_update().1;
    drop(state);
    shared.changed.notify_all();
    follow(shared, (wake, cuts), asked, from)
}

/// Streams the events of the objects that a watch selects, until it is cut.
fn follow(
    shared: &Arc<FakeServer>,
    (wake, cuts): (watch::Receiver<(u64, u64)>, u64),
    asked: Asked,
    from: u64,
) -> Response<Body> {
    struct OpenWatch(Arc<FakeServer>);
    impl Drop for OpenWatch {
        fn drop(&mut self) {
            let mut state = self.0.state.lock().expect("the state");
            state.watching -= 1;
            state.ended += 1;
            self.0.changed.notify_all();
        }
    }
    let open = OpenWatch(Arc::clone(shared));
    let asked = Arc::new(asked);
    let events = stream::unfold((from, wake, open), move |(from, mut wake, open)| {
        let asked = Arc::clone(&asked);
        async move {
            loop {
                if wake.borrow_and_update().1 != cuts {
                    let cut = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Some((Err(cut), (from, wake, open)));
                }
                let next = {
                    let state = open.0.state.lock().expect("the state");
                    let is_next = |e: &&Reported| e.version > from && asked.selects(&e.path);
                    let next = state.events.iter().find(is_next);
                    next.map(|found| (found.version, format!("{}\n", found.line)))
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

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
           "reason": reason, "message": message})
}

fn failure(code: u16, reason: &str, message: &str) -> Response<Body> {
    json_body(code, &status(code, reason, message))
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
