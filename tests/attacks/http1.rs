//! Requests of HTTP/1 that are malformed, each in its own way.

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::Siege;
use crate::support::{pod_review, post};

/// The malformed requests.
fn malformed() -> Vec<String> {
    let body = String::from_utf8(pod_review("smuggled")).unwrap();
    let length = body.len();
    let large = "x".repeat(70_000);
    let chunked = "transfer-encoding: chunked";
    let with = |head: &str| format!("POST /validate HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{body}");
    vec![
        with(&format!("content-length: {length}\r\n{chunked}")),
        with(&format!("content-length: {length}\r\ncontent-length: 1")),
        with(&format!("content-length: {length}, {length}0")),
        with("content-length: -1"),
        with("content-length: +5"),
        with("content-length: 0x5"),
        with("content-length: 99999999999999999999"),
        with("content-length: 1 1"),
        with("transfer-encoding: identity"),
        with("transfer-encoding: chunked, identity"),
        with("transfer-encoding: xchunked"),
        with(chunked),
        with(&format!("{chunked}\r\n\r\nfffffffffffffffff")),
        with(&format!("{chunked}\r\n\r\n-1")),
        with(&format!("{chunked}\r\n\r\n1;{large}")),
        with(&format!(
            "{chunked}\r\n\r\n0\r\n{}",
            "a: b\r\n".repeat(20_000)
        )),
        with(&format!("content-length : {length}")),
        with(&format!("x: a\r\n content-length: {length}")),
        with(&format!(" x: y\r\ncontent-length: {length}")),
        with(&format!("x\0: y\r\ncontent-length: {length}")),
        with(&format!("x: \x01\r\ncontent-length: {length}")),
        with(&format!(": y\r\ncontent-length: {length}")),
        with(&format!("x: {large}")),
        with(&"x: y\r\n".repeat(200)),
        format!("POST /validate HTTP/1.1\rhost: x\rcontent-length: {length}\r\r{body}"),
        format!("POST /validate HTTP/2.0\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("POST /validate HTTP/9\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("POST  /validate HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("POST /vali date HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("P\0ST /validate HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("POST /{large} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("{large} /validate HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("GET /validate HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
        format!("CONNECT /validate HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"),
    ]
}

/// Sends a malformed request, and returns the response that arrives within `patience`.
async fn send(siege: &Siege, request: &str, patience: Duration) -> std::io::Result<String> {
    let mut stream = siege.tls("http/1.1").await?;
    // It may be refused before all of it is sent.
    let _ = stream.write_all(request.as_bytes()).await;
    let _ = stream.flush().await;
    let mut answer = Vec::new();
    let _ = timeout(patience, stream.read_to_end(&mut answer)).await;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// Sends each malformed request on a connection of its own.
pub async fn flood(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut all = JoinSet::new();
    for request in malformed() {
        let siege = Arc::clone(&siege);
        all.spawn(async move { send(&siege, &request, Duration::from_secs(5)).await });
    }
    all.join_all().await;
    Ok(())
}

/// Every malformed request gets an error, or its connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_no_review() {
    let siege = Siege::begin().await;
    let mut all = JoinSet::new();
    for request in malformed() {
        let siege = Arc::clone(&siege);
        all.spawn(async move {
            let answer = send(&siege, &request, Duration::from_millis(1500)).await;
            (request, answer.unwrap())
        });
    }
    let answers = all.join_all().await;
    assert_eq!(answers.len(), 34);
    for (request, answer) in answers {
        let shown = &request[..request.len().min(120)];
        assert!(!answer.contains("smuggled"), "{shown:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{shown:?}: {answer}");
    }
    let mut client = siege.http2(1 << 20).await.unwrap();
    let response = client.send_request(post(pod_review("u"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
