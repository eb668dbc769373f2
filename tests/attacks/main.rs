//! Clients without credentials against the built program, while an honest client's reviews go on:
//! it loses none, and the program's memory stays under half of the chart's limit.
//!
//! A test program of its own, so that nothing else runs beside it. `ATTACKED` is the path of
//! another binary to attack, such as the released one; `ATTACK_SECONDS` lengthens each attack.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test fails by panicking, and reads best with values in place"
)]

mod cgroup;
mod http1;
mod http2;
mod load;
#[path = "../serve/program.rs"]
#[allow(dead_code, reason = "tests/serve uses all of it")]
mod program;
#[path = "../serve/support.rs"]
#[allow(dead_code, reason = "tests/serve uses all of it")]
mod support;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper::client::conn::http2 as http2_client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::client::TlsStream;

use crate::cgroup::Cgroup;
use crate::program::{Serve, write};
use crate::support::{Authority, handshake, loud, pod_review, post, read, review};

/// Half of the chart's memory limit, in KiB.
const MOST_MEMORY: u64 = 128 * 1024;

/// The chart's timeout of a webhook. Longer for a program that is not optimized, on a busy machine.
fn call() -> Duration {
    Duration::from_secs(if released().is_some() { 5 } else { 20 })
}

/// The binary that `ATTACKED` names.
fn released() -> Option<PathBuf> {
    std::env::var_os("ATTACKED").map(PathBuf::from)
}

/// How long each attack lasts by default.
const ATTACK: Duration = Duration::from_millis(600);

/// Minimum number of the honest client's calls during an attack.
const CALLS: usize = 5;

/// Pause before an attacker connects again. Otherwise its own handshakes would take most of the
/// time of a machine with few processors.
const PAUSE: Duration = Duration::from_secs(1);

/// A server with its attackers.
struct Siege {
    serve: Serve,
    authority: Authority,
    _folder: tempfile::TempDir,
    // Dropped last: a cgroup cannot be removed while a process is in it.
    cgroup: Option<Cgroup>,
}

impl Siege {
    async fn begin() -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (certificate, key) = write(folder.path(), authority.issue());
        let quiet = "--log=warn,migration_gate::serve=info,migration_gate::serve::review=warn";
        let cgroup = Cgroup::create()
            .inspect_err(|obstacle| eprintln!("{obstacle}"))
            .ok();
        let program = released().unwrap_or_else(|| env!("CARGO_BIN_EXE_migration-gate").into());
        // The program joins the cgroup before it starts, as in a container, so that its first page
        // counts.
        let enter = cgroup
            .as_ref()
            .map(|it| it.processes().display().to_string());
        let mut command = Command::new("sh");
        command
            .args([
                "-c",
                "if [ -n \"$0\" ]; then echo $$ >\"$0\"; fi; exec \"$@\"",
            ])
            .arg(enter.unwrap_or_default())
            .arg(program);
        let ports = ["--listen=127.0.0.1:0", "--health-listen=127.0.0.1:0", quiet];
        let serve = Serve::start_by(command, &certificate, &key, &ports).await;
        Arc::new(Self {
            serve,
            authority,
            _folder: folder,
            cgroup,
        })
    }

    /// The peak memory of the program, in KiB, with the kernel's memory that is charged to it.
    fn peak(&self) -> u64 {
        let own = self.own_peak();
        self.cgroup.as_ref().map_or(own, |it| it.peak() / 1024)
    }

    /// The peak memory of the program alone, in KiB.
    fn own_peak(&self) -> u64 {
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

    /// An HTTP/2 client whose streams have this window for responses, in bytes.
    async fn http2(&self, window: u32) -> hyper::Result<http2_client::SendRequest<Full<Bytes>>> {
        let stream = TokioIo::new(self.tls("h2").await.expect("a connection"));
        let (client, connection) = http2_client::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(window)
            .handshake(stream)
            .await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// A client like an API server. Returns how many calls it made, and which failed.
fn honest(siege: &Arc<Siege>, stop: &Arc<AtomicBool>) -> JoinHandle<(usize, Vec<String>)> {
    let (siege, stop) = (Arc::clone(siege), Arc::clone(stop));
    tokio::spawn(async move {
        let (mut calls, mut lost) = (0, Vec::new());
        let mut client = siege.http2(1 << 20).await.unwrap();
        while calls < CALLS || !stop.load(Ordering::Relaxed) {
            calls += 1;
            // A new connection now and then, as after a restart.
            if calls % 20 == 0 || client.is_closed() {
                client = siege.http2(1 << 20).await.unwrap();
            }
            let asked = async {
                let body = if calls % 5 == 0 {
                    large(100_000)
                } else {
                    pod_review("honest")
                };
                let response = client.send_request(post(body)).await?;
                Ok::<_, hyper::Error>(read(response).await)
            };
            let since = Instant::now();
            match timeout(call(), asked).await {
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

/// An allowed review of about this many bytes.
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

/// Sends reviews over HTTP/1, one after the other, and reads no response.
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

/// Sends a head of the maximum length, and never ends it.
async fn long_head(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = siege.tls("http/1.1").await?;
    let head = format!("POST /validate HTTP/1.1\r\nx: {}", "x".repeat(7 * 1024));
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Opens a connection, and never sends anything.
async fn mute(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut stream = TcpSocket::new_v4()?.connect(siege.serve.webhooks).await?;
    stream.read_to_end(&mut Vec::new()).await.map(|_| ())
}

/// Sends a body just fast enough.
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

/// Sends large reviews, one after the other.
async fn large_reviews(siege: Arc<Siege>) -> std::io::Result<()> {
    let mut client = siege.http2(1 << 20).await.map_err(std::io::Error::other)?;
    loop {
        client.ready().await.map_err(std::io::Error::other)?;
        let call = client.send_request(post(large(5_400_000)));
        read(call.await.map_err(std::io::Error::other)?).await;
    }
}

/// Runs this many copies of an attacker, each again when the server closes its connection.
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

/// An unoptimized server spends a whole processor on attacks that cost the released one little, and
/// the honest client on the same machine then lacks it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "it needs the released binary: `make attacks`, which `make test` runs"]
async fn no_attacker_exhausts_the_server_or_keeps_an_honest_client_out() {
    type Attack = fn(&Arc<Siege>) -> JoinSet<Infallible>;
    let attacks: [(&str, Attack); 12] = [
        ("header bomb", |siege| attack(siege, 60, http2::header_bomb)),
        ("no window", |siege| attack(siege, 12, http2::no_window)),
        ("never read", |siege| attack(siege, 12, http2::never_read)),
        ("mute streams", |siege| {
            attack(siege, 100, http2::mute_streams)
        }),
        ("endless bodies", |siege| {
            attack(siege, 60, http2::endless_bodies)
        }),
        ("mute connections", |siege| attack(siege, 600, mute)),
        ("malformed", |siege| attack(siege, 2, http1::flood)),
        ("pipeline", |siege| attack(siege, 12, pipeline)),
        ("long heads", |siege| attack(siege, 600, long_head)),
        ("slow bodies", |siege| attack(siege, 200, slow_body)),
        ("large reviews", |siege| attack(siege, 6, large_reviews)),
        ("floods", |siege| attack(siege, 1, http2::floods)),
    ];
    let seconds = |text: String| Duration::from_secs(text.parse().unwrap());
    let time = std::env::var("ATTACK_SECONDS").map_or(ATTACK, seconds);
    for (name, attack) in attacks {
        let siege = Siege::begin().await;
        let stop = Arc::new(AtomicBool::new(false));
        let honest = honest(&siege, &stop);
        let mut attackers = attack(&siege);
        sleep(time).await;
        stop.store(true, Ordering::Relaxed);
        let (calls, lost) = honest.await.expect("the honest client is kept out");
        let peak = siege.peak();
        println!(
            "{name}: peak {} MiB ({} of its own), {calls} calls, {} lost",
            peak >> 10,
            siege.own_peak() >> 10,
            lost.len()
        );
        assert!(peak < MOST_MEMORY, "{name}: {peak} KiB");
        assert!(lost.is_empty(), "{name}: {lost:?} of {calls}");
        attackers.shutdown().await;
    }
}
