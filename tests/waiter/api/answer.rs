//! What the API server answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::{StreamExt, stream};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Shared, State, put};

type Body = UnsyncBoxBody<Bytes, std::io::Error>;

pub(super) async fn answer(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Body> {
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
                value
                    .replace("%3D", "=")
                    .replace("%2F", "/")
                    .replace("%21", "!"),
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
    let rule = (verb.to_owned(), resource.clone());
    let is_held = {
        let mut state = shared.state.lock().expect("the state");
        state.requests.push(format!("{verb} {resource} {uri}"));
        shared.changed.notify_all();
        state.held.contains(&rule)
    };
    if is_held {
        std::future::pending::<()>().await;
    }
    let mut state = shared.state.lock().expect("the state");
    if state.unauthorized {
        return failure(401, "Unauthorized", "Unauthorized");
    }
    if state.denied.contains(&rule) {
        let message = format!(
            "{resource} is forbidden: User \"system:serviceaccount:ns:sa\" cannot {verb} resource"
        );
        return failure(403, "Forbidden", &message);
    }
    if state.failing.contains(&rule) {
        return failure(500, "InternalError", "it is not your day");
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
    // The only label selector in use is the one of a Job's pods, and the only other field is their phase.
    let label = query.get("labelSelector").and_then(|s| s.split_once('='));
    let phase = query
        .get("fieldSelector")
        .and_then(|s| s.strip_prefix("status.phase"));
    let mut items: Vec<_> = state
        .objects
        .iter()
        .filter(|((r, n), object)| {
            let actual = object["status"]["phase"].as_str().unwrap_or_default();
            r == resource
                && (name.is_empty() || *n == name)
                && label.is_none_or(|(key, value)| object["metadata"]["labels"][key] == value)
                && phase.is_none_or(|wanted| match wanted.strip_prefix("!=") {
                    Some(other) => actual != other,
                    None => Some(actual) == wanted.strip_prefix('='),
                })
        })
        .map(|(_, object)| object)
        .collect();
    let number = |key: &str| query.get(key).and_then(|n| n.parse::<usize>().ok());
    let from = number("continue").unwrap_or_default();
    items.drain(..from.min(items.len()));
    let mut metadata = json!({"resourceVersion": state.version.to_string()});
    if let Some(limit) = number("limit").filter(|limit| *limit < items.len()) {
        items.truncate(limit);
        metadata["continue"] = json!((from + limit).to_string());
    }
    json_body(
        200,
        &json!({"kind": "List", "metadata": metadata, "items": items}),
    )
}

fn log(state: &State, parts: &[&str], query: &BTreeMap<String, String>) -> Response<Body> {
    let container = query.get("container").cloned().unwrap_or_default();
    let run = match query.get("previous").map(String::as_str) {
        Some("true") => "/previous",
        _ => "",
    };
    match parts {
        ["pods", pod, "log"] => match state.logs.get(&format!("{pod}/{container}{run}")) {
            Some(log) => {
                let lines: Vec<_> = log.split_inclusive('\n').collect();
                let tail = query.get("tailLines").and_then(|n| n.parse().ok());
                let from = lines.len().saturating_sub(tail.unwrap_or(usize::MAX));
                text(200, lines[from..].concat())
            }
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
    if state.forget_writes {
        return json_body(200, state.objects.get(&key).unwrap_or(&Value::Null));
    }
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
