//! Stopping: requests under way are answered, then connections that are kept alive are closed.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post as post_route;
use hyper::StatusCode;
use migration_gate::serve::limits::ClientLimits;
use migration_gate::serve::metrics::Metrics;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{
    PATIENCE, PREFACE, Running, SHORT, default_limits, gone, limits, pod_review, post, read, send1,
};

const LONG: Duration = Duration::from_hours(1);

/// A server whose one route waits for a signal before it responds.
async fn slow(limits: ClientLimits) -> (Running, Arc<Notify>, Arc<Notify>) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let route = {
        let (begun, go) = (Arc::clone(&begun), Arc::clone(&go));
        post_route(async move || {
            begun.notify_one();
            go.notified().await;
            "{}"
        })
    };
    let routes = Router::new().route("/validate", route);
    let server = Running::start_with(limits, routes, Metrics::default()).await;
    (server, begun, go)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_stops_it_serves_and_sends_its_clients_elsewhere() {
    let server = Running::start(default_limits()).await;
    let (mut http1, mut http2) = (server.http1().await, server.http2().await);
    send1(&mut http1, pod_review("before")).await;
    let response = http2
        .send_request(post(pod_review("before")))
        .await
        .unwrap();
    read(response).await;

    let stop = server.stop.clone();
    let never = std::future::pending();
    tokio::spawn(async move { stop.run(LONG, LONG, never).await });
    server.stop.stopping().await;

    // An HTTP/1 connection that is kept alive learns of the stop with its next response, an HTTP/2
    // connection at once.
    http1.ready().await.unwrap();
    let response = http1
        .send_request(post(pod_review("during")))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["connection"], "close");
    gone("HTTP/1", async || http1.ready().await.is_ok()).await;
    gone("HTTP/2", async || http2.ready().await.is_ok()).await;

    // New clients are still served.
    assert!(server.answers().await);
    let mut http2 = server.http2().await;
    let response = http2.send_request(post(pod_review("late"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished() {
    let (server, begun, go) = slow(default_limits()).await;
    let mut idle = server.http1().await;
    let (mut http1, mut http2) = (server.http1().await, server.http2().await);
    let first = tokio::spawn(async move { http1.send_request(post("{}")).await.unwrap() });
    begun.notified().await;
    let second = tokio::spawn(async move { http2.send_request(post("{}")).await.unwrap() });
    begun.notified().await;

    let stop = server.stop.clone();
    tokio::spawn(async move { stop.run(Duration::ZERO, LONG, std::future::pending()).await });
    // The idle connection is closed, and no new one is accepted.
    gone("an idle one", async || idle.ready().await.is_ok()).await;
    let connects = async || TcpStream::connect(server.address).await.is_ok();
    gone("the port", connects).await;
    assert!(!server.task.is_finished());

    go.notify_one();
    go.notify_one();
    go.notify_waiters();
    for answer in [first, second] {
        go.notify_one();
        let response = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    let ended = timeout(PATIENCE, server.task).await;
    ended.expect("it doesn't end").unwrap();
}

/// The type of the next frame of HTTP/2, none at the end.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Option<u8> {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.ok()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
    let mut rest = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut rest).await.ok()?;
    Some(head[3])
}

/// A request that crosses with GOAWAY is answered, however long it takes.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_on_its_way_is_finished() {
    const HEADERS: u8 = 1;
    const GOAWAY: u8 = 7;
    let limits = limits(|limits| limits.handshake_timeout = SHORT);
    let (server, begun, go) = slow(limits).await;
    let mut stream = server.tls(&["h2"]).await;
    stream.write_all(PREFACE).await.unwrap();
    frame(&mut stream).await.unwrap();
    let stop = server.stop.clone();
    tokio::spawn(async move { stop.run(LONG, LONG, std::future::pending()).await });
    let until = async |wanted, stream: &mut _| {
        let look = async { while frame(stream).await.expect("it is closed") != wanted {} };
        timeout(PATIENCE, look)
            .await
            .expect("the frame never comes");
    };
    until(GOAWAY, &mut stream).await;

    // POST /validate, the first request of this connection.
    let fields = b"\x83\x87\x04\x09/validate\x01\x09localhost";
    let length = u8::try_from(fields.len()).unwrap();
    let head = [0, 0, length, HEADERS, 5, 0, 0, 0, 1];
    stream
        .write_all(&[&head, &fields[..]].concat())
        .await
        .unwrap();
    stream.flush().await.unwrap();
    begun.notified().await;
    // Longer than an idle connection is given to close.
    tokio::time::sleep(SHORT * 3).await;
    go.notify_one();
    until(HEADERS, &mut stream).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_a_hurry_cuts_what_is_in_flight() {
    let (server, begun, _never) = slow(default_limits()).await;
    let mut client = server.http1().await;
    let request = tokio::spawn(async move { client.send_request(post("{}")).await });
    begun.notified().await;
    server.stop.run(LONG, LONG, async { "SIGINT" }).await;
    let ended = timeout(PATIENCE, server.task).await;
    ended.expect("it doesn't end").unwrap();
    assert!(request.await.unwrap().is_err());
}
