//! Stopping: what is under way is answered, what is kept alive is closed, in that order.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::post as post_route;
use hyper::StatusCode;
use migration_gate::serve::metrics::Metrics;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::support::{PATIENCE, Running, default_limits, pod_review, post, read, send1};

const LONG: Duration = Duration::from_hours(1);

/// A server whose one route answers when it is told to.
async fn slow() -> (Running, Arc<Notify>, Arc<Notify>) {
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
    let server = Running::start_with(default_limits(), routes, Metrics::default()).await;
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

    // The kept connection is told with its next answer, HTTP/2's at once.
    let response = http1
        .send_request(post(pod_review("during")))
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["connection"], "close");
    timeout(PATIENCE, async { while http1.ready().await.is_ok() {} })
        .await
        .unwrap();
    timeout(PATIENCE, async {
        while http2.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("there is no GOAWAY");

    // Who comes all the same is served.
    assert!(server.answers().await);
    let mut http2 = server.http2().await;
    let response = http2.send_request(post(pod_review("late"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_finished() {
    let (server, begun, go) = slow().await;
    let mut idle = server.http1().await;
    let (mut http1, mut http2) = (server.http1().await, server.http2().await);
    let first = tokio::spawn(async move { http1.send_request(post("{}")).await.unwrap() });
    begun.notified().await;
    let second = tokio::spawn(async move { http2.send_request(post("{}")).await.unwrap() });
    begun.notified().await;

    let stop = server.stop.clone();
    tokio::spawn(async move { stop.run(Duration::ZERO, LONG, std::future::pending()).await });
    // The idle connection is closed, and none is taken any more.
    timeout(PATIENCE, async {
        while idle.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the idle connection stays");
    timeout(PATIENCE, async {
        while tokio::net::TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("the port stays open");
    assert!(!server.task.is_finished());

    go.notify_one();
    go.notify_one();
    go.notify_waiters();
    for answer in [first, second] {
        go.notify_one();
        let response = timeout(PATIENCE, answer).await.unwrap().unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    timeout(PATIENCE, server.task)
        .await
        .expect("it doesn't end")
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_in_a_hurry_cuts_what_is_in_flight() {
    let (server, begun, _never) = slow().await;
    let mut client = server.http1().await;
    let request = tokio::spawn(async move { client.send_request(post("{}")).await });
    begun.notified().await;
    server.stop.run(LONG, LONG, async {}).await;
    timeout(PATIENCE, server.task)
        .await
        .expect("it doesn't end")
        .unwrap();
    assert!(request.await.unwrap().is_err());
}
