//! The limits of a client. Each test exceeds one, and checks that the server serves others
//! meanwhile.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{
    PATIENCE, PREFACE, Running, SHORT, closed, default_limits, gone, limits, loud, pod_review,
    post, read, send1,
};

/// Sends one byte at a time until the server closes the connection.
async fn drip(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), bytes: &str) {
    let (mut from, mut to) = tokio::io::split(stream);
    let sending = async {
        for byte in bytes.bytes().cycle() {
            if to.write_all(&[byte]).await.is_err() || to.flush().await.is_err() {
                break;
            }
            tokio::time::sleep(SHORT / 10).await;
        }
    };
    tokio::select! {
        () = sending => {}
        _ = closed(&mut from) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_cut() {
    let server = Running::start(limits(|limits| limits.header_timeout = SHORT)).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    drip(&mut stream, "POST /validate HTTP/1.1\r\nx: ").await;
    assert!(server.answers().await);

    // Also after a complete request.
    let mut stream = server.tls(&["http/1.1"]).await;
    let request = "GET /validate HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 405");
    drip(&mut stream, "x").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_outlives_the_time_for_a_head() {
    let server = Running::start(limits(|limits| limits.header_timeout = SHORT)).await;
    let mut client = server.http1().await;
    for uid in ["first", "second"] {
        let (status, answer) = send1(&mut client, pod_review(uid)).await;
        assert_eq!(status, StatusCode::OK);
        assert_eq!(answer["response"]["uid"], uid);
        // An API server's connection is idle most of the time, for longer than a head may take.
        tokio::time::sleep(SHORT * 3).await;
    }
    assert!(!client.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let server = Running::start(limits(|limits| {
        limits.idle_timeout = SHORT;
        // The server waits this long for the other side to close as well.
        limits.handshake_timeout = SHORT * 5;
    }))
    .await;
    for alpn in ["http/1.1", "h2"] {
        let mut stream = server.tls(&[alpn]).await;
        closed(&mut stream).await;
    }
    let mut client = server.http2().await;
    let response = client.send_request(post(pod_review("u"))).await.unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
    let idle = "an idle HTTP/2 connection";
    gone(idle, async || client.ready().await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_never_comes_is_cut() {
    let server = Running::start(limits(|limits| limits.handshake_timeout = SHORT)).await;
    let mut silent = server.tcp().await;
    assert_eq!(closed(&mut silent).await, b"");
    // A record that announces more than it holds.
    let mut half = server.tcp().await;
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    closed(&mut half).await;
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_before_tls_is_refused() {
    let server = Running::start(default_limits()).await;
    for garbage in [
        &b"POST /validate HTTP/1.1\r\nhost: localhost\r\n\r\n"[..],
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff",
        b"SSH-2.0-OpenSSH_9.9\r\n",
    ] {
        let mut stream = server.tcp().await;
        stream.write_all(garbage).await.unwrap();
        closed(&mut stream).await;
    }
    assert!(server.answers().await);
}

/// The answer to a request over HTTP/1, on a connection of its own.
async fn status1(server: &Running, request: Request<Full<Bytes>>) -> StatusCode {
    let mut client = server.http1().await;
    client.ready().await.unwrap();
    client.send_request(request).await.unwrap().status()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_too_large_gets_431() {
    let server = Running::start(default_limits()).await;
    let request = |count: usize, value: String| {
        let mut request = Request::post("/validate").header("host", "localhost");
        for i in 0..count {
            request = request.header(format!("x-{i}"), &value);
        }
        request.body(Full::<Bytes>::default()).unwrap()
    };
    let refused = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    for request in [
        request(1, "x".repeat(64 * 1024)),
        request(200, "x".to_owned()),
    ] {
        assert_eq!(status1(&server, request).await, refused);
    }
    let mut client = server.http2().await;
    let response = client.send_request(request(1, "x".repeat(64 * 1024))).await;
    assert!(response.is_err() || response.unwrap().status().is_client_error());
    assert!(server.answers().await);

    // A head may be as large as the limit, and no larger.
    for (most, fits, too_large) in [(16, 12, 20), (128, 100, 140)] {
        let server = Running::start(limits(|limits| limits.max_header = most * 1024)).await;
        let request = |kib: usize| request(1, "x".repeat(kib * 1024));
        for (kib, expect) in [(fits, StatusCode::BAD_REQUEST), (too_large, refused)] {
            let status = status1(&server, request(kib)).await;
            assert_eq!(status, expect, "{kib} KiB");
        }
        let mut client = server.http2().await;
        let response = client.send_request(request(fits)).await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{fits} KiB");
        let response = client.send_request(request(too_large)).await;
        assert!(response.is_err() || response.unwrap().status() == refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_keep_nobody_out() {
    let server = Running::start(limits(|limits| {
        limits.header_timeout = Duration::from_hours(1);
        limits.handshake_timeout = Duration::from_hours(1);
    }))
    .await;
    let silent = connect(&server, 1000).await;
    assert!(server.answers().await);
    let mut established = Vec::new();
    for alpn in [["h2"], ["http/1.1"]].repeat(500) {
        established.push(server.tls(&alpn).await);
    }
    assert!(server.answers().await);
    drop((silent, established));
}

#[tokio::test(flavor = "multi_thread")]
async fn for_one_connection_too_many_the_least_missed_is_closed() {
    let server = Running::start(limits(|limits| {
        limits.max_connections = 8;
        // Only lack of room closes a connection.
        limits.handshake_timeout = Duration::from_hours(1);
    }))
    .await;
    let mut caller = server.http1().await;
    let (status, _) = send1(&mut caller, pod_review("before")).await;
    assert_eq!(status, StatusCode::OK);

    let mut idle = connect(&server, 100).await;
    assert!(server.answers().await);
    // Connections without a request were closed, the oldest first; the caller's stayed open.
    closed(&mut idle[0]).await;
    let (status, _) = send1(&mut caller, pod_review("after")).await;
    assert_eq!(status, StatusCode::OK);
}

/// HTTP/2 clients that send no request and ignore GOAWAY.
#[tokio::test(flavor = "multi_thread")]
async fn mute_http2_clients_make_room_at_once() {
    let server = Running::start(limits(|limits| {
        limits.max_connections = 8;
        limits.header_timeout = Duration::from_hours(1);
        limits.handshake_timeout = Duration::from_hours(1);
    }))
    .await;
    let mut mute = Vec::new();
    for _ in 0..64 {
        let mut stream = server.tls(&["h2"]).await;
        stream.write_all(PREFACE).await.unwrap();
        // The server's settings: from here on it considers the connection established.
        stream.read_exact(&mut [0; 9]).await.unwrap();
        mute.push(stream);
    }
    for _ in 0..16 {
        assert!(server.answers().await);
    }
    closed(&mut mute[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_brings_no_request_is_closed() {
    let server = Running::start(limits(|limits| {
        limits.header_timeout = SHORT;
        limits.handshake_timeout = SHORT;
    }))
    .await;
    for (alpn, sent) in [
        ("h2", &PREFACE[..10]),
        ("h2", PREFACE),
        ("h2", b""),
        ("http/1.1", b""),
    ] {
        let mut stream = server.tls(&[alpn]).await;
        stream.write_all(sent).await.unwrap();
        stream.flush().await.unwrap();
        closed(&mut stream).await;
    }
    assert!(server.answers().await);
}

async fn connect(server: &Running, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(server.tcp().await);
    }
    idle
}

/// An HTTP/2 client whose streams have this window for responses, in bytes.
async fn with_window(server: &Running, window: u32) -> http2::SendRequest<Full<Bytes>> {
    let stream = TokioIo::new(server.tls(&["h2"]).await);
    let (client, connection) = http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(window)
        .handshake(stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_taken_costs_the_connection() {
    let server = Running::start(limits(|limits| limits.answer_timeout = SHORT)).await;
    // No window at all, and a window that is too small for the whole response.
    let mut client = with_window(&server, 0).await;
    let response = client.send_request(post(loud(200))).await.unwrap();
    let length = response.headers()["content-length"].to_str().unwrap();
    let length: u32 = length.parse().unwrap();
    assert!(length > 32 * 1024, "{length}");
    for window in [0, 1, length - 1] {
        let mut client = with_window(&server, window).await;
        let response = client.send_request(post(loud(200))).await.unwrap();
        let what = format!("a connection with a window of {window}");
        gone(&what, async || client.ready().await.is_ok()).await;
        drop(response);
    }

    // The largest window, and a client that does not read; over HTTP/1, too.
    let body = loud(200);
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = server.tls(&["http/1.1"]).await;
    let pipeline = async {
        while stream.write_all(head.as_bytes()).await.is_ok() {
            if stream.write_all(&body).await.is_err() {
                break;
            }
        }
    };
    timeout(PATIENCE, pipeline).await.expect("it is served on");
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_answers_that_are_not_taken_the_oldest_go() {
    let server = Running::start(limits(|limits| {
        limits.answer_timeout = Duration::from_hours(1);
    }))
    .await;
    let mut first = with_window(&server, 0).await;
    let untaken = first.send_request(post(loud(200))).await.unwrap();
    let mut held = Vec::new();
    while first.ready().await.is_ok() {
        assert!(held.len() < 1000, "any number of them is held");
        let mut client = with_window(&server, 0).await;
        for _ in 0..16 {
            held.push(client.send_request(post(loud(200))).await.unwrap());
        }
    }
    assert!(held.len() > 100, "{} were too many", held.len());
    drop(untaken);
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_of_too_many_fields_gets_431() {
    let server = Running::start(default_limits()).await;
    let request = |fields: usize| {
        let mut request = post(pod_review("u"));
        for i in request.headers().len()..fields {
            let name = hyper::header::HeaderName::from_bytes(format!("x-{i}").as_bytes());
            request
                .headers_mut()
                .insert(name.unwrap(), "x".parse().unwrap());
        }
        request
    };
    let refused = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
    // The client adds a content-length.
    for (fields, expect) in [(63, StatusCode::OK), (64, refused)] {
        let status = status1(&server, request(fields)).await;
        assert_eq!(status, expect, "{fields} fields over HTTP/1");
        let mut client = server.http2().await;
        let response = client.send_request(request(fields)).await.unwrap();
        assert_eq!(response.status(), expect, "{fields} fields over HTTP/2");
    }
}
