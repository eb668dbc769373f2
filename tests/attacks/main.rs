//! Clients without credentials against the built program, while an honest client's reviews go on:
//! it loses none, and the program's memory stays under half of the chart's limit.
//!
//! A test program of its own, so that nothing else runs beside it.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and reads best with values in place"
)]

#[path = "../serve/program.rs"]
#[allow(dead_code, reason = "tests/serve uses all of it")]
mod program;
#[path = "../serve/support.rs"]
#[allow(dead_code, reason = "tests/serve uses all of it")]
mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::program::{Serve, write};
use crate::support::{Authority, PREFACE, handshake, loud, pod_review, post, read, review};

/// Half of the chart's memory limit, in KiB.
const MOST_MEMORY: u64 = 128 * 1024;

/// What the chart gives a webhook; more for a program that isn't optimized, on a busy machine.
const CALL: Duration = Duration::from_secs(if cfg!(debug_assertions) { 20 } else { 5 });

/// How long each attack lasts, in seconds; `ATTACK_SECONDS` makes it another time.
const ATTACK: u64 = 1;

/// How long an attacker rests before it comes again: the handshakes of its own would otherwise be
/// most of what a machine of few processors does.
const PAUSE: Duration = Duration::from_secs(1);

/// A server with its attackers.
struct Siege {
    serve: Serve,
    authority: Authority,
    _folder: tempfile::TempDir,
}

impl Siege {
    async fn begin() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (certificate, key) = write(folder.path(), authority.issue());
        let quiet = "--log=warn,migration_gate::serve=info,migration_gate::serve::review=warn";
        let serve = Serve::start(&certificate, &key, &[quiet]).await;
        Arc::new(Self {
            serve,
            authority,
            _folder: folder,
        })
    }

    /// The most memory that the program has had, in KiB.
    fn peak(&self) -> u64 {
        let id = self.serve.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let line = line.expect("the program has died");
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    async fn tls(&self, alpn: &str) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_over(TcpSocket::new_v4()?, alpn).await
    }

    async fn tls_over(
        &self,
        socket: TcpSocket,
        alpn: &str,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let tcp = socket.connect(self.serve.webhooks).await?;
        tcp.set_nodelay(true)?;
        handshake(tcp, &self.authority, &[alpn], rustls::ALL_VERSIONS).await
    }

    /// An HTTP/2 client that gives its streams this window for answers.
    async fn http2(&self, window: u32) -> hyper::Result<http2::SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.tls("h2").await.expect("a connection"));
        let (client, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// A client like an API server. Answers how many calls it made, and which failed.
fn honest(siege: &Arc<Siege>, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, Vec<String>)> {
    let (siege, stop) = (Arc::clone(siege), Arc::clone(stop));
    tokio::spawn(async move {
        let (mut calls, mut lost) = (0, Vec::new());
        let mut client = siege.http2(1 << 20).await.unwrap();
        while !stop.load(Ordering::Relaxed) {
            calls += 1;
            // A new connection now and then, as after a restart.
            if calls % 20 == 0 || client.is_closed() {
                client = siege.http2(1 << 20).await.unwrap();
            }
            let call = async {
                let body = if calls % 5 == 0 {
                    large(100_000)
                } else {
                    pod_review("honest")
                };
                let response = client.send_request(post(body)).await?;
                Ok::<_, hyper::Error>(read(response).await)
            };
            let since = Instant::now();
            match timeout(CALL, call).await {
                Ok(Ok((StatusCode::OK, _))) => {}
                Ok(Ok((status, answer))) => lost.push(format!("{status}: {answer}")),
                Ok(Err(error)) => lost.push(format!("{error:?} after {:?}", since.elapsed())),
                Err(_) => lost.push("no answer".to_owned()),
            }
            sleep(Duration::from_millis(10)).await;
        }
        (calls, lost)
    })
}

/// A review of about so many bytes that is allowed.
fn large(bytes: usize) -> Vec<u8> {
    review(json!({
        "uid": "large",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "default", "operation": "CREATE",
        "object": {
            "metadata": {"annotations": {"padding": "x".repeat(bytes)}},
            "spec": {"containers": [{"name": "main", "image": "i:1"}]},
        },
    }))
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `POST /validate`, HPACK.
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x87];
    for (name, value) in [(1, "localhost"), (4, "/validate")] {
        head.push(name);
        head.push(u8::try_from(value.len()).unwrap());
        head.extend(value.as_bytes());
    }
    head
}

/// Small fields once, and then as references of one byte each, in streams that never end.
async fn header_bomb(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("h2").await?;
    stream.write_all(PREFACE).await?;
    let mut first = head();
    for i in 0..100_u8 {
        // A literal with a new name, to be remembered.
        first.extend([0x40, 3, b'x', b'a' + i / 26, b'a' + i % 26, 0]);
    }
    stream
        .write_all(&frame(HEADERS, END_HEADERS, 1, &first))
        .await?;
    let mut bomb = head();
    bomb.extend((0..900_u16).map(|i| 0xbe | u8::try_from(i % 2).unwrap()));
    for id in (3..256).step_by(2) {
        stream
            .write_all(&frame(HEADERS, END_HEADERS, id, &bomb))
            .await?;
    }
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Answers for which there is no HTTP/2 window.
async fn no_window(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut client = siege.http2(0).await.map_err(std::io::Error::other)?;
    let mut calls = JoinSet::new();
    for _ in 0..120 {
        client.ready().await.map_err(std::io::Error::other)?;
        calls.spawn(client.send_request(post(loud(300))));
    }
    let mut untaken = Vec::new();
    while let Some(answer) = calls.join_next().await {
        untaken.push(answer.unwrap().map_err(std::io::Error::other)?);
    }
    std::future::pending().await
}

/// Answers that have all the window there is, on a socket that is never read.
async fn never_read(siege: Arc<Siege>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = siege.tls_over(socket, "h2").await?;
    stream.write_all(PREFACE).await?;
    let window = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    stream.write_all(&frame(4, 0, 0, &window)).await?;
    stream.write_all(&frame(8, 0, 0, &[0x7f, 0, 0, 0])).await?;
    let body = loud(300);
    for id in (1..).step_by(2) {
        stream
            .write_all(&frame(HEADERS, END_HEADERS, id, &head()))
            .await?;
        stream
            .write_all(&frame(DATA, END_STREAM, id, &body))
            .await?;
    }
    Ok(())
}

/// The same over HTTP/1, one request after the other.
async fn pipeline(siege: Arc<Siege>) -> std::io::Result<()> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(4096)?;
    let mut stream = siege.tls_over(socket, "http/1.1").await?;
    let body = loud(300);
    let head = format!(
        "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    loop {
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(&body).await?;
    }
}

/// A head that is as long as may be, and never ends.
async fn long_head(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("http/1.1").await?;
    let head = format!("POST /validate HTTP/1.1\r\nx: {}", "x".repeat(7 * 1024));
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// A body just fast enough.
async fn slow_body(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("http/1.1").await?;
    let head = "POST /validate HTTP/1.1\r\nhost: x\r\ncontent-length: 7000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await?;
    loop {
        stream.write_all(&[b' '; 2048]).await?;
        stream.flush().await?;
        sleep(Duration::from_millis(100)).await;
    }
}

/// Large reviews, one after the other.
async fn large_reviews(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut client = siege.http2(1 << 20).await.map_err(std::io::Error::other)?;
    loop {
        client.ready().await.map_err(std::io::Error::other)?;
        let call = client.send_request(post(large(5_400_000)));
        read(call.await.map_err(std::io::Error::other)?).await;
    }
}

/// Frames that cost the client nothing, each kind on a connection of its own.
async fn frames(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut floods = JoinSet::new();
    for (kind, id, payload) in FLOODS {
        let mut stream = siege.tls("h2").await?;
        stream.write_all(PREFACE).await?;
        stream
            .write_all(&frame(HEADERS, END_HEADERS, 1, &head()))
            .await?;
        let flood = frame(*kind, 0, *id, payload).repeat(64);
        floods.spawn(async move { while stream.write_all(&flood).await.is_ok() {} });
    }
    floods.join_all().await;
    Ok(())
}

/// Streams that are begun and taken back.
async fn rapid_reset(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("h2").await?;
    stream.write_all(PREFACE).await?;
    for id in (1..).step_by(2) {
        stream
            .write_all(&frame(HEADERS, END_HEADERS, id, &head()))
            .await?;
        stream.write_all(&frame(3, 0, id, &[0, 0, 0, 8])).await?;
    }
    Ok(())
}

/// Runs so many of an attacker, each again when the server ends it.
fn attack<F>(
    siege: &Arc<Siege>,
    count: usize,
    attacker: impl Fn(Arc<Siege>) -> F + Copy + Send + 'static,
) -> JoinSet<Infallible>
where
    F: Future<Output = std::io::Result<()>> + Send,
{
    let one = |_| {
        let siege = Arc::clone(siege);
        async move {
            loop {
                let _ = attacker(Arc::clone(&siege)).await;
                sleep(PAUSE).await;
            }
        }
    };
    (0..count).map(one).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_attacker_exhausts_the_server_or_keeps_an_honest_client_out() {
    type Attack = fn(&Arc<Siege>) -> JoinSet<Infallible>;
    let attacks: [(&str, Attack); 9] = [
        ("header bomb", |siege| attack(siege, 60, header_bomb)),
        ("no window", |siege| attack(siege, 12, no_window)),
        ("never read", |siege| attack(siege, 12, never_read)),
        ("pipeline", |siege| attack(siege, 12, pipeline)),
        ("long heads", |siege| attack(siege, 600, long_head)),
        ("slow bodies", |siege| attack(siege, 200, slow_body)),
        ("large reviews", |siege| attack(siege, 6, large_reviews)),
        ("rapid reset", |siege| attack(siege, 4, rapid_reset)),
        ("frames", |siege| attack(siege, 1, frames)),
    ];
    let seconds = std::env::var("ATTACK_SECONDS").map_or(ATTACK, |text| text.parse().unwrap());
    for (name, attack) in attacks {
        let siege = Siege::begin().await;
        let stop = Arc::new(AtomicBool::new(false));
        let honest = honest(&siege, &stop);
        let mut attackers = attack(&siege);
        sleep(Duration::from_secs(seconds)).await;
        stop.store(true, Ordering::Relaxed);
        let (calls, lost) = honest.await.expect("the honest client is kept out");
        let peak = siege.peak();
        println!(
            "{name}: {} MiB, {calls} calls, {} lost",
            peak >> 10,
            lost.len()
        );
        assert!(peak < MOST_MEMORY, "{name}: {peak} KiB");
        assert!(lost.is_empty(), "{name}: {lost:?} of {calls}");
        attackers.shutdown().await;
    }
}

/// Frames of HTTP/2 that cost their sender nothing: kind, stream and payload.
const FLOODS: &[(u8, u32, &[u8])] = &[
    (DATA, 1, b""),
    (2, 1, &[0; 5]),
    (4, 0, b""),
    (6, 0, &[0; 8]),
    (8, 0, &[0, 0, 0, 1]),
    (9, 1, b""),
    (0x2a, 1, &[0; 64]),
];

/// Whatever is wrong with a request, it costs its client the connection or gets an error.
#[tokio::test(flavor = "multi_thread")]
async fn malformed_requests_get_no_review() {
    let siege = Siege::begin().await;
    let body = String::from_utf8(pod_review("smuggled")).unwrap();
    let length = body.len();
    let large = "x".repeat(70_000);
    let chunked = "transfer-encoding: chunked";
    let with = |head: &str| format!("POST /validate HTTP/1.1\r\nhost: x\r\n{head}\r\n\r\n{body}");
    let malformed = [
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
    ];
    for request in malformed {
        let shown = &request[..request.len().min(120)];
        let mut stream = siege.tls("http/1.1").await.unwrap();
        // It may be refused before all of it is sent.
        let _ = stream.write_all(request.as_bytes()).await;
        let _ = stream.flush().await;
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_millis(1500), stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains("smuggled"), "{shown:?}: {answer}");
        assert!(!answer.contains("HTTP/1.1 2"), "{shown:?}: {answer}");
    }
    let mut client = siege.http2(1 << 20).await.unwrap();
    let response = client.send_request(post(pod_review("u"))).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
}
