//! Bodies: their maximum size, their minimum speed, and how many the server reads at the same time.

use std::convert::Infallible;
use std::time::Duration;

use futures::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http2;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use migration_gate::serve::limits::ClientLimits;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use crate::support::{
    PATIENCE, Running, SHORT, closed, default_limits, limits, pod_review, post, read, review, send1,
};

type SendRequest = http2::SendRequest<Full<Bytes>>;
type Answered = hyper::Result<Response<Incoming>>;

const NEVER: Duration = Duration::from_hours(1);

/// An UPDATE of exactly this many bytes.
fn update(bytes: usize) -> Vec<u8> {
    let object = |padding: usize| {
        json!({
            "metadata": {"annotations": {"padding": "x".repeat(padding)}},
            "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "i:1"}]}}},
        })
    };
    let request = |padding| {
        review(json!({
            "uid": "large",
            "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
            "name": "web", "namespace": "default", "operation": "UPDATE",
            "object": object(padding), "oldObject": object(padding),
        }))
    };
    let mut body = request((bytes - request(0).len()) / 2);
    body.resize(bytes, b' ');
    body
}

/// An HTTP/1 request without its body.
fn head(length: usize) -> String {
    format!(
        "POST /validate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    )
}

/// A connection that has announced a body of this length, and has sent this part of it.
async fn begun(server: &Running, announced: usize, sent: &[u8]) -> TlsStream<TcpStream> {
    let mut stream = server.tls(&["http/1.1"]).await;
    stream.write_all(head(announced).as_bytes()).await.unwrap();
    stream.write_all(sent).await.unwrap();
    stream.flush().await.unwrap();
    stream
}

/// A request whose body begins with this and never ends.
fn endless(sent: &'static [u8]) -> Request<BoxBody<Bytes, Infallible>> {
    let begin = stream::iter([Ok(Frame::data(Bytes::from_static(sent)))]);
    let body = stream::StreamExt::chain(begin, stream::pending());
    post(Bytes::new()).map(|_| StreamBody::new(body).boxed())
}

/// Reads until the server closes the connection, and checks the status of its last response.
async fn ended(stream: &mut (impl AsyncRead + Unpin), status: &str) -> String {
    let answer = String::from_utf8(closed(stream).await).unwrap();
    let expect = format!("HTTP/1.1 {status}");
    assert!(answer.starts_with(&expect), "{answer}");
    answer
}

/// A server with these timeouts: `request` for a request, and `grace` for a slow body.
async fn patient(request: Duration, grace: Duration) -> Running {
    let change = |limits: &mut ClientLimits| {
        limits.request_timeout = request;
        limits.body_grace = grace;
    };
    Running::start(limits(change)).await
}

/// An HTTP/2 connection for bodies of any kind.
async fn streams(server: &Running) -> http2::SendRequest<BoxBody<Bytes, Infallible>> {
    let stream = TokioIo::new(server.tls(&["h2"]).await);
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

/// Waits until this many reviews are being read or decided.
async fn in_flight(server: &Running, count: usize) {
    let line = format!("migration_gate_reviews_in_flight {count}\n");
    let wait = async {
        while !server.metrics.encode().unwrap().contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .unwrap_or_else(|_| panic!("timed out waiting for {count} in flight"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_have_7_mib_and_not_a_byte_more() {
    let most = 7 << 20;
    assert_eq!(default_limits().max_body, most as u64);
    let server = Running::start(default_limits()).await;
    let check = |(status, answer): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer["response"]["allowed"], true);
        assert_eq!(answer["response"]["uid"], "large");
    };
    check(send1(&mut server.http1().await, update(most)).await);
    let mut http2 = server.http2().await;
    check(read(http2.send_request(post(update(most))).await.unwrap()).await);

    let check = |(status, answer): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        let message = answer.as_str().unwrap();
        assert!(message.contains("7340032 bytes"), "{message}");
    };
    check(send1(&mut server.http1().await, update(most + 1)).await);
    check(read(http2.send_request(post(update(most + 1))).await.unwrap()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_gets_413() {
    let server = Running::start(limits(|limits| limits.max_body = 64 * 1024)).await;
    let large = || vec![b' '; 100 * 1024];
    let check = |(status, answer): (StatusCode, Value)| {
        assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
        let message = answer.as_str().unwrap();
        assert!(message.contains("65536 bytes"), "{message}");
    };
    check(send1(&mut server.http1().await, large()).await);
    let mut http2 = server.http2().await;
    check(read(http2.send_request(post(large())).await.unwrap()).await);

    // Without a length, the server finds out while it reads.
    let mut stream = server.tls(&["http/1.1"]).await;
    let chunked =
        "POST /validate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = chunked.as_bytes().to_vec();
    for _ in 0..100 {
        request.extend(b"400\r\n");
        request.extend([b' '; 1024]);
        request.extend(b"\r\n");
    }
    request.extend(b"0\r\n\r\n");
    stream.write_all(&request).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");

    // The client waits for `100 Continue`, which never comes.
    let mut stream = server.tls(&["http/1.1"]).await;
    let asking = head(100_000).replace("\r\n\r\n", "\r\nexpect: 100-continue\r\n\r\n");
    stream.write_all(asking.as_bytes()).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_too_large_gets_413_however_slow_it_is() {
    for (request, grace) in [(SHORT, NEVER), (NEVER, SHORT)] {
        let server = patient(request, grace).await;
        let mut slow = begun(&server, 100_000_000, b"{").await;
        ended(&mut slow, "413").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_without_end_is_cut() {
    let server = Running::start(limits(|limits| {
        limits.max_body = 64 * 1024;
        // The request is not cut for its duration.
        limits.request_timeout = NEVER;
    }))
    .await;
    let mut stream = begun(&server, 100_000_000_000, b"").await;
    let flood = async { while stream.write_all(&[b' '; 16 * 1024]).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("it is read for ever");
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_gets_408() {
    for (request, grace, named) in [
        (SHORT, NEVER, "--request-timeout"),
        (NEVER, SHORT, "--min-body-rate"),
    ] {
        let server = patient(request, grace).await;
        let mut slow = begun(&server, 1000, b"{").await;
        let answer = ended(&mut slow, "408").await;
        assert!(answer.contains(named), "{answer}");

        let response = streams(&server).await.send_request(endless(b"{"));
        let response = timeout(PATIENCE, response).await.unwrap().unwrap();
        let (status, answer) = read(response).await;
        assert_eq!(status, StatusCode::REQUEST_TIMEOUT);
        assert!(answer.as_str().unwrap().contains(named), "{answer}");
    }
}

/// A byte now and then is no progress either.
#[tokio::test(flavor = "multi_thread")]
async fn a_dripping_body_is_cut() {
    let server = patient(NEVER, SHORT).await;
    let stream = begun(&server, 1_000_000, b"{").await;
    let (mut from, mut to) = tokio::io::split(stream);
    let drip = async {
        while to.write_all(b" ").await.is_ok() && to.flush().await.is_ok() {
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::select! {
        () = drip => panic!("it ends without an answer"),
        _ = ended(&mut from, "408") => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_and_dripping_bodies_keep_nobody_out() {
    // The dripping bodies last for the whole test.
    let server = patient(NEVER, NEVER).await;
    let most = usize::try_from(default_limits().max_body).unwrap();
    let mut dripping = Vec::new();
    for sent in [&b""[..], b"{"].repeat(16) {
        dripping.push(begun(&server, most, sent).await);
    }
    let mut clients = [streams(&server).await, streams(&server).await];
    let mut waiting = Vec::new();
    for (i, sent) in [&b""[..], b"{"].repeat(16).into_iter().enumerate() {
        let client = &mut clients[i % 2];
        let mut request = endless(sent);
        let length = most.to_string().parse().unwrap();
        request.headers_mut().insert("content-length", length);
        client.ready().await.unwrap();
        waiting.push(tokio::spawn(client.send_request(request)));
    }
    in_flight(&server, 64).await;

    assert!(server.answers().await);
    let (status, _) = send1(&mut server.http1().await, update(most)).await;
    assert_eq!(status, StatusCode::OK);
    let mut other = server.http2().await;
    let response = other.send_request(post(pod_review("u"))).await.unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
    in_flight(&server, 64).await;
}

/// The maximum size of a body, and a large part of it, in bytes.
const ALL: usize = 512 * 1024;
const MOST: usize = 500 * 1024;

fn narrow(limits: &mut ClientLimits) {
    limits.max_body = ALL as u64;
    limits.max_in_flight = 1024 * 1024;
    limits.request_timeout = NEVER;
    limits.body_grace = NEVER;
}

/// A server with these limits, and an unfinished body that leaves no room for another of its size.
async fn filled(change: impl FnOnce(&mut ClientLimits)) -> (Running, TlsStream<TcpStream>) {
    let server = Running::start(limits(change)).await;
    let first = begun(&server, ALL, &vec![b' '; MOST]).await;
    in_flight(&server, 1).await;
    (server, first)
}

/// Sends this many reviews, which wait for room.
async fn wait_for_room(client: &mut SendRequest, count: usize) -> JoinSet<Answered> {
    let mut waiting = JoinSet::new();
    for _ in 0..count {
        client.ready().await.unwrap();
        waiting.spawn(client.send_request(post(update(ALL))));
    }
    waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn what_bodies_hold_is_bounded_and_small_ones_get_through() {
    // Steps whose order matters are seconds apart.
    let time = SHORT * 25;
    let (server, first) = filled(|limits| {
        narrow(limits);
        limits.request_timeout = time;
    })
    .await;
    tokio::time::sleep(time / 2).await;
    // There is no room for two of them.
    let mut client = server.http1().await;
    client.ready().await.unwrap();
    let second = tokio::spawn(client.send_request(post(update(ALL))));
    in_flight(&server, 2).await;
    tokio::time::sleep(time / 10).await;
    assert!(server.answers().await);
    // When the first is cut, the smaller one has its turn, and keeps it for longer than the second
    // may wait.
    let smaller = begun(&server, 300 * 1024, &vec![b' '; 290 * 1024]).await;
    let response = second.await.unwrap().unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(response.headers()["retry-after"], "1");
    for mut cut in [first, smaller] {
        ended(&mut cut, "408").await;
    }
    let (status, _) = send1(&mut server.http1().await, update(ALL)).await;
    assert_eq!(status, StatusCode::OK);
}

/// A slow body may go on only while no other needs its room.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_makes_room_for_others() {
    // Fast enough by itself: the bytes that were sent allow it two minutes.
    let (server, mut slow) = filled(|limits| {
        narrow(limits);
        limits.body_grace = SHORT * 2;
        limits.min_body_rate = 4096;
    })
    .await;
    tokio::time::sleep(SHORT * 5).await;
    in_flight(&server, 1).await;
    let mut other = server.http1().await;
    let answer = timeout(PATIENCE, send1(&mut other, update(ALL))).await;
    assert_eq!(answer.expect("it waits").0, StatusCode::OK);
    ended(&mut slow, "408").await;
}

/// On the same connection, too, as an API server sends them.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_wait_hold_up_no_small_one() {
    let (server, _first) = filled(narrow).await;
    let mut client = server.http2().await;
    let mut waiting = wait_for_room(&mut client, 15).await;
    in_flight(&server, 16).await;
    tokio::time::sleep(SHORT).await;
    let small = client.send_request(post(update(8 * 1024)));
    let (status, _) = read(timeout(PATIENCE, small).await.expect("it waits").unwrap()).await;
    assert_eq!(status, StatusCode::OK);
    assert!(waiting.try_join_next().is_none());
}

/// The reviews wait for longer than a second.
#[tokio::test(flavor = "multi_thread")]
async fn reviews_wait_for_their_turn_and_are_not_refused() {
    let (server, first) = filled(narrow).await;
    let mut client = server.http2().await;
    let reviews = wait_for_room(&mut client, 16).await;
    in_flight(&server, 17).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    drop(first);
    for response in reviews.join_all().await {
        assert_eq!(response.unwrap().status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_waits_for_room() {
    let (server, mut first) = filled(narrow).await;
    let mut client = server.http1().await;
    client.ready().await.unwrap();
    let mut second = Box::pin(client.send_request(post(update(ALL))));
    tokio::select! {
        _ = &mut second => panic!("the second is served although the first holds too much"),
        () = in_flight(&server, 2) => {}
    }
    let rest = vec![b' '; ALL - MOST];
    first.write_all(&rest).await.unwrap();
    ended(&mut first, "400").await;
    let response = timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
}

/// Each has a part of what it needs, and none waits for what another holds.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_that_come_at_one_time_get_their_turns() {
    let server = Running::start(limits(narrow)).await;
    let mut begun_ones = Vec::new();
    for _ in 0..8 {
        begun_ones.push(begun(&server, ALL, &vec![b' '; 200 * 1024]).await);
    }
    in_flight(&server, 8).await;
    let mut rest = JoinSet::new();
    for mut stream in begun_ones {
        rest.spawn(async move {
            stream.write_all(&vec![b' '; 312 * 1024]).await.unwrap();
            ended(&mut stream, "400").await;
        });
    }
    rest.join_all().await;
}

/// A body that is larger than all the room is read, alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_the_room_is_read() {
    let server = Running::start(limits(|limits| limits.max_in_flight = 1024)).await;
    let (status, _) = send1(&mut server.http1().await, update(1 << 20)).await;
    assert_eq!(status, StatusCode::OK);
}
