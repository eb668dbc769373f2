//! What a client may cost. Each test abuses one limit, and sees the server serve others meanwhile.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, StatusCode};
use migration_gate::serve::limits::Limits;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::{PATIENCE, Running, default_limits, pod_review, post, read, review, send1};

const SHORT: Duration = Duration::from_millis(200);

fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = default_limits();
    change(&mut limits);
    limits
}

/// Reads until the server closes the connection, and answers what it sent until then.
async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut sent = Vec::new();
    // A reset closes a connection as well as an end does.
    let _ = timeout(PATIENCE, stream.read_to_end(&mut sent))
        .await
        .expect("the server keeps the connection open");
    sent
}

/// Sends a byte at a time until the server doesn't want any more.
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

/// An UPDATE of about so many bytes.
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
    let bare = request(0).len();
    request(bytes.saturating_sub(bare) / 2)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_just_below_the_limit_passes() {
    let server = Running::start(default_limits()).await;
    let most = usize::try_from(default_limits().max_body).unwrap();
    let body = update(most);
    assert!((most - 2..=most).contains(&body.len()), "{}", body.len());
    let (status, answer) = send1(&mut server.http1().await, body.clone()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["response"]["allowed"], true);

    let mut http2 = server.http2().await;
    let (status, answer) = read(http2.send_request(post(body)).await.unwrap()).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(answer["response"]["uid"], "large");
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
    let head = "POST /validate HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut request = head.as_bytes().to_vec();
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

    // Announced, and not sent until it is asked for: it never is.
    let mut stream = server.tls(&["http/1.1"]).await;
    let head = "POST /validate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 413");
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_without_end_is_cut() {
    let server = Running::start(limits(|limits| {
        limits.max_body = 64 * 1024;
        // It isn't for its time that it is cut.
        limits.request_timeout = Duration::from_hours(1);
    }))
    .await;
    let mut stream = server.tls(&["http/1.1"]).await;
    let head = "POST /validate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let flood = async { while stream.write_all(&[b' '; 16 * 1024]).await.is_ok() {} };
    timeout(PATIENCE, flood).await.expect("it is read for ever");
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_head_is_cut() {
    let server = Running::start(limits(|limits| limits.header_timeout = SHORT)).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    drip(&mut stream, "POST /validate HTTP/1.1\r\nx: ").await;
    assert!(server.answers().await);

    // Also after a request that was all right.
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
        // Idle for longer than a head may take is what an API server is most of the time.
        tokio::time::sleep(SHORT * 3).await;
    }
    assert!(!client.is_closed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_body_gets_408() {
    let server = Running::start(limits(|limits| limits.request_timeout = SHORT)).await;
    let mut stream = server.tls(&["http/1.1"]).await;
    let head = "POST /validate HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = String::from_utf8(closed(&mut stream).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("--request-timeout"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_is_closed() {
    let server = Running::start(limits(|limits| {
        limits.idle_timeout = SHORT;
        // So long is waited for the other side to close as well.
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
    timeout(PATIENCE, async {
        while client.ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("an idle HTTP/2 connection stays");
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

#[tokio::test(flavor = "multi_thread")]
async fn a_head_too_large_gets_431() {
    let server = Running::start(default_limits()).await;
    let mut client = server.http1().await;
    let request = |count: usize, value: String| {
        let mut request = Request::post("/validate").header("host", "localhost");
        for i in 0..count {
            request = request.header(format!("x-{i}"), &value);
        }
        request.body(Full::<Bytes>::default()).unwrap()
    };
    client.ready().await.unwrap();
    let response = client.send_request(request(1, "x".repeat(64 * 1024))).await;
    assert_eq!(
        response.unwrap().status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let mut client = server.http1().await;
    client.ready().await.unwrap();
    let response = client.send_request(request(200, "x".to_owned())).await;
    assert_eq!(
        response.unwrap().status(),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
    );
    let mut client = server.http2().await;
    let response = client.send_request(request(1, "x".repeat(64 * 1024))).await;
    assert!(response.is_err() || response.unwrap().status().is_client_error());
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_idle_connections_keep_nobody_out() {
    let server = Running::start(default_limits()).await;
    let idle = connect(&server, 1000).await;
    assert!(server.answers().await);
    drop(idle);
}

#[tokio::test(flavor = "multi_thread")]
async fn for_one_connection_too_many_the_least_missed_is_closed() {
    let server = Running::start(limits(|limits| {
        limits.max_connections = 8;
        // Nothing but the want of room closes one.
        limits.handshake_timeout = Duration::from_hours(1);
    }))
    .await;
    let mut caller = server.http1().await;
    let (status, _) = send1(&mut caller, pod_review("before")).await;
    assert_eq!(status, StatusCode::OK);

    let mut idle = connect(&server, 100).await;
    assert!(server.answers().await);
    // Those that never asked anything went, the first of them first; the caller stayed.
    closed(&mut idle[0]).await;
    let (status, _) = send1(&mut caller, pod_review("after")).await;
    assert_eq!(status, StatusCode::OK);
}

async fn connect(server: &Running, count: usize) -> Vec<TcpStream> {
    let mut idle = Vec::new();
    for _ in 0..count {
        idle.push(server.tcp().await);
    }
    idle
}

#[tokio::test(flavor = "multi_thread")]
async fn work_in_flight_is_bounded_and_the_rest_waits() {
    let body = pod_review("waits");
    let server = Running::start(limits(|limits| {
        limits.max_in_flight = 64 * 1024;
        limits.max_body = 64 * 1024;
    }))
    .await;
    // Announces as much as may be in flight, and sends a part of it.
    let mut first = server.tls(&["http/1.1"]).await;
    let announced = 64 * 1024;
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: {announced}\r\n\r\n{{"
    );
    first.write_all(head.as_bytes()).await.unwrap();
    in_flight(&server, 1).await;

    let mut client = server.http1().await;
    client.ready().await.unwrap();
    let mut second = Box::pin(client.send_request(post(body)));
    tokio::select! {
        _ = &mut second => panic!("the second is served although the first holds all there is"),
        () = in_flight(&server, 2) => {}
    }
    first.write_all(&vec![b' '; announced - 1]).await.unwrap();
    let answer = String::from_utf8(closed(&mut first).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    let response = timeout(PATIENCE, second).await.unwrap().unwrap();
    assert_eq!(read(response).await.0, StatusCode::OK);
}

/// Waits until so many reviews are being read or decided.
async fn in_flight(server: &Running, count: usize) {
    let line = format!("migration_gate_reviews_in_flight {count}");
    let wait = async {
        while !server.metrics.encode().unwrap().contains(&line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, wait)
        .await
        .expect("it is never in flight");
}
