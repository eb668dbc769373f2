//! The load: sends the same request again and again, on a number of streams, for a time.

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Outcome;

/// `load ADDRESS AUTHORITY BODY h1|h2 CONNECTIONS STREAMS MILLISECONDS`
pub struct Plan {
    address: String,
    /// The path of the CA certificate that has signed the server's.
    authority: String,
    body: Bytes,
    http2: bool,
    connections: usize,
    /// Concurrent requests on each connection; one with HTTP/1.1.
    streams: usize,
    duration: Duration,
}

impl Plan {
    /// Reads the arguments.
    pub fn parse(words: &[&str]) -> Result<Self, Box<dyn Error>> {
        let [
            address,
            authority,
            body,
            protocol,
            connections,
            streams,
            duration,
        ] = words
        else {
            return Err("load wants seven arguments".into());
        };
        Ok(Self {
            address: (*address).to_owned(),
            authority: (*authority).to_owned(),
            body: std::fs::read(body)?.into(),
            http2: *protocol == "h2",
            connections: connections.parse()?,
            streams: streams.parse()?,
            duration: Duration::from_millis(duration.parse()?),
        })
    }
}

/// The results of one caller.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    /// Responses whose status was not 200.
    refused: usize,
}

/// Runs the load and prints the results: `answered` and `refused` requests, `seconds`, and the
/// latencies' `p50`, `p99` in milliseconds.
#[tokio::main(flavor = "current_thread")]
pub async fn run(plan: Plan) -> Outcome {
    let tls = connector(&plan)?;
    let mut senders = Vec::new();
    for _ in 0..plan.connections {
        senders.push(connect(&plan, &tls).await?);
    }
    let begun = Instant::now();
    let end = begun + plan.duration;
    let mut callers = Vec::new();
    for sender in senders {
        for sender in sender.callers(plan.streams) {
            callers.push(tokio::spawn(call(sender, plan.body.clone(), end)));
        }
    }
    let mut all = Seen::default();
    for caller in callers {
        let seen = caller.await??;
        all.latencies.extend(seen.latencies);
        all.refused += seen.refused;
    }
    let seconds = begun.elapsed().as_secs_f64();
    all.latencies.sort_unstable();
    let quantile = |share: usize| {
        let at = (all.latencies.len() * share / 100).min(all.latencies.len().saturating_sub(1));
        all.latencies
            .get(at)
            .map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    };
    println!(
        r#"{{"answered": {}, "refused": {}, "seconds": {seconds}, "p50": {}, "p99": {}}}"#,
        all.latencies.len(),
        all.refused,
        quantile(50),
        quantile(99)
    );
    Ok(())
}

fn connector(plan: &Plan) -> Result<TlsConnector, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&plan.authority)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let protocol: &[u8] = if plan.http2 { b"h2" } else { b"http/1.1" };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// One connection's sender.
enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Sender {
    /// A sender for each caller of the connection.
    fn callers(self, streams: usize) -> Vec<Self> {
        match self {
            Self::Http1(_) => vec![self],
            Self::Http2(sender) => (0..streams).map(|_| Self::Http2(sender.clone())).collect(),
        }
    }

    async fn send(&mut self, body: Bytes) -> hyper::Result<Response<Incoming>> {
        let request = |uri: &str| {
            Request::post(uri)
                .header("host", "localhost")
                .header("content-type", "application/json")
                .body(Full::new(body.clone()))
                .expect("a request of constants")
        };
        match self {
            Self::Http1(sender) => {
                sender.ready().await?;
                sender.send_request(request("/mutate")).await
            }
            Self::Http2(sender) => {
                sender.ready().await?;
                sender
                    .send_request(request("https://localhost/mutate"))
                    .await
            }
        }
    }
}

async fn connect(plan: &Plan, tls: &TlsConnector) -> Result<Sender, Box<dyn Error>> {
    let socket = TcpStream::connect(&plan.address).await?;
    socket.set_nodelay(true)?;
    let stream = tls
        .connect(ServerName::try_from("localhost")?, socket)
        .await?;
    let io = TokioIo::new(stream);
    Ok(if plan.http2 {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(connection);
        Sender::Http2(sender)
    } else {
        let (sender, connection) = http1::handshake(io).await?;
        tokio::spawn(connection);
        Sender::Http1(sender)
    })
}

async fn call(mut sender: Sender, body: Bytes, end: Instant) -> hyper::Result<Seen> {
    let mut seen = Seen::default();
    while Instant::now() < end {
        let begun = Instant::now();
        let response = sender.send(body.clone()).await?;
        let status = response.status();
        response.into_body().collect().await?;
        if status == StatusCode::OK {
            seen.latencies.push(begun.elapsed());
        } else {
            seen.refused += 1;
        }
    }
    Ok(seen)
}
