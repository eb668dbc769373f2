//! A server on loopback, and clients for it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use clap::Parser;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use migration_gate::serve::connections::Listener;
use migration_gate::serve::limits::ClientLimits;
use migration_gate::serve::metrics::Metrics;
use migration_gate::serve::review::Reviewer;
use migration_gate::serve::routes;
use migration_gate::serve::stop::Stop;
use migration_gate::serve::tls::{Acceptor, Identity, Served};
use migration_gate_core::gates::Config;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Long enough for any wait, so that only a hang reaches it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The value of a limit that the test reaches.
pub const SHORT: Duration = Duration::from_millis(200);

/// HTTP/2's preface and empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

#[derive(Parser)]
struct ServeLimits {
    #[command(flatten)]
    limits: ClientLimits,
}

/// The limits that `serve` has by default.
pub fn default_limits() -> ClientLimits {
    ServeLimits::parse_from(["serve"]).limits
}

/// The default limits, with a change.
pub fn limits(change: impl FnOnce(&mut ClientLimits)) -> ClientLimits {
    let mut limits = default_limits();
    change(&mut limits);
    limits
}

/// A CA that signs certificates for `localhost`.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: CertificateDer<'static>,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate: certificate.der().clone(),
            pem: certificate.pem(),
            issuer: Issuer::new(params, key),
        }
    }

    /// Its certificate, PEM.
    pub fn pem(&self) -> String {
        self.pem.clone()
    }

    /// A certificate and its key, PEM.
    pub fn issue(&self) -> (String, String) {
        self.issue_until(rcgen::date_time_ymd(4096, 1, 1))
    }

    /// A certificate and its key, PEM, valid until `end`.
    pub fn issue_until(&self, end: time::OffsetDateTime) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_after = end;
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    pub fn identity(&self) -> Identity {
        let (certificate, key) = self.issue();
        Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap()
    }
}

/// The webhooks with PieFed's gate.
pub fn webhooks(limits: ClientLimits) -> (Router, Metrics) {
    let metrics = Metrics::new();
    let reviewer = Reviewer::new(
        Arc::new(Config::default()),
        metrics.clone(),
        Arc::new(limits),
    );
    (routes::webhooks(Arc::new(reviewer)), metrics)
}

/// A server on loopback.
pub struct Running {
    pub address: SocketAddr,
    pub authority: Authority,
    pub served: Arc<Served>,
    pub stop: Stop,
    pub metrics: Metrics,
    pub task: JoinHandle<()>,
}

impl Running {
    /// A server of the webhooks, with TLS.
    pub async fn start(limits: ClientLimits) -> Self {
        let (routes, metrics) = webhooks(limits.clone());
        Self::start_with(limits, routes, metrics).await
    }

    /// A server of other routes than the webhooks.
    pub async fn start_with(limits: ClientLimits, routes: Router, metrics: Metrics) -> Self {
        let authority = Authority::new();
        let served = Arc::new(Served::default());
        served.set(Arc::new(authority.identity()));
        Self::listen(limits, routes, metrics, authority, served).await
    }

    /// A server of the webhooks, with a certificate from elsewhere.
    pub async fn start_bare(limits: ClientLimits, served: Arc<Served>) -> Self {
        let (routes, metrics) = webhooks(limits.clone());
        Self::listen(limits, routes, metrics, Authority::new(), served).await
    }

    async fn listen(
        limits: ClientLimits,
        routes: Router,
        metrics: Metrics,
        authority: Authority,
        served: Arc<Served>,
    ) -> Self {
        let tls = Acceptor::new(Arc::clone(&served)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = Stop::default();
        let listening = Listener {
            name: "webhooks",
            socket: listener,
            tls: Some(tls),
            routes,
            limits: Arc::new(limits),
            stop: stop.clone(),
        };
        Self {
            address,
            authority,
            served,
            stop,
            metrics,
            task: tokio::spawn(listening.run()),
        }
    }

    /// A connection with `TCP_NODELAY`, like an API server's: Go's standard library sets it.
    pub async fn tcp(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A TLS connection that offers these protocols, with every version of TLS.
    pub async fn tls(&self, alpn: &[&str]) -> TlsStream<TcpStream> {
        let tcp = self.tcp().await;
        handshake(tcp, &self.authority, alpn, rustls::ALL_VERSIONS)
            .await
            .unwrap()
    }

    pub async fn http1(&self) -> http1::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.tls(&["http/1.1"]).await);
        let (client, connection) = http1::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        client
    }

    pub async fn http2(&self) -> http2::SendRequest<Full<Bytes>> {
        let stream = TokioIo::new(self.tls(&["h2"]).await);
        let (client, connection) = http2::handshake(TokioExecutor::new(), stream)
            .await
            .unwrap();
        tokio::spawn(connection);
        client
    }

    /// Whether a review on a connection of its own is answered.
    pub async fn answers(&self) -> bool {
        let ask = async {
            let mut client = self.http1().await;
            send1(&mut client, pod_review("probe")).await
        };
        let Ok((status, answer)) = tokio::time::timeout(PATIENCE, ask).await else {
            return false;
        };
        status == StatusCode::OK && answer["response"]["uid"] == "probe"
    }
}

pub async fn handshake(
    tcp: TcpStream,
    authority: &Authority,
    alpn: &[&str],
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from("localhost").unwrap(), tcp)
        .await
}

/// Waits until a client's connection is closed. `ready` asks whether the client can send another
/// request.
pub async fn gone(what: &str, mut ready: impl AsyncFnMut() -> bool) {
    let wait = async {
        while ready().await {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(PATIENCE, wait).await;
    gone.unwrap_or_else(|_| panic!("{what} stays"));
}

pub fn post(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::post("https://localhost/validate")
        .header("host", "localhost")
        .body(Full::new(body.into()))
        .unwrap()
}

/// Reads until the server closes the connection, and returns what it sent until then.
pub async fn closed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut sent = Vec::new();
    // A reset closes a connection as well as an end does.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut sent))
        .await
        .expect("the server keeps the connection open");
    sent
}

/// Sends a request and reads the whole answer.
pub async fn send1(
    client: &mut http1::SendRequest<Full<Bytes>>,
    body: impl Into<Bytes>,
) -> (StatusCode, Value) {
    client.ready().await.unwrap();
    read(client.send_request(post(body)).await.unwrap()).await
}

pub async fn read<B: hyper::body::Body<Error: std::fmt::Debug>>(
    response: Response<B>,
) -> (StatusCode, Value) {
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8(body.to_vec()).unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

/// A review with this request.
pub fn review(request: Value) -> Vec<u8> {
    let review =
        json!({"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request});
    serde_json::to_vec(&review).unwrap()
}

/// A review of the creation of a valid Pod.
pub fn pod_review(uid: &str) -> Vec<u8> {
    review(json!({
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "default",
        "operation": "CREATE",
        "object": {"spec": {"containers": [{"name": "main", "image": "i:1"}]}},
    }))
}

/// A review of the creation of a Pod that sets this many forbidden variables. The denial is about
/// six times as large.
pub fn loud(variables: usize) -> Vec<u8> {
    let variable = json!({"name": "PIEFED_INIT_CONTAINER"});
    let env = vec![variable; variables];
    review(json!({
        "uid": "loud",
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "namespace": "piefed-application",
        "operation": "CREATE",
        "object": {"spec": {"containers": [{"name": "main", "image": "i:1", "env": env}]}},
    }))
}
