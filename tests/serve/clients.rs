//! Clients that need a certificate of `--client-ca`.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use hyper::StatusCode;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::program::{Serve, line, migration_gate, write};
use crate::support::{Authority, PATIENCE, pod_review, post, read};

/// A server, the CA of its certificate, and the file of its clients' CAs.
struct Guarded {
    serve: Serve,
    authority: Authority,
    clients: std::path::PathBuf,
    folder: tempfile::TempDir,
}

impl Guarded {
    /// A server whose clients need a certificate of `clients`.
    async fn start(clients: &Authority, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::new();
        let (certificate, key) = write(folder.path(), authority.issue());
        let path = folder.path().join("clients.crt");
        fs::write(&path, clients.pem()).unwrap();
        let flag = format!("--client-ca={}", path.display());
        let serve = Serve::start(&certificate, &key, &[&[flag.as_str()], more].concat()).await;
        Self {
            serve,
            authority,
            clients: path,
            folder,
        }
    }

    /// A TLS configuration with this certificate and key, PEM.
    fn config(
        &self,
        version: &'static SupportedProtocolVersion,
        alpn: &str,
        pair: Option<(String, String)>,
    ) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.certificate.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()],
                    PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
                )
                .unwrap(),
        };
        config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
        config
    }

    /// Whether a review is answered, over both versions of TLS and of HTTP.
    async fn answers(&self, pair: Option<(String, String)>) -> bool {
        let mut answered = Vec::new();
        for version in [&TLS12, &TLS13] {
            for alpn in ["h2", "http/1.1"] {
                let config = self.config(version, alpn, pair.clone());
                answered.push(self.ask(config, alpn == "h2").await.is_some());
            }
        }
        assert!(
            answered.iter().all(|answer| *answer == answered[0]),
            "{answered:?}"
        );
        answered[0]
    }

    async fn ask(&self, config: ClientConfig, http2: bool) -> Option<()> {
        let tcp = TcpStream::connect(self.serve.webhooks).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let tls = TokioIo::new(connector.connect(name, tcp).await.ok()?);
        let request = post(pod_review("u"));
        let response = if http2 {
            let shake = http2::handshake(TokioExecutor::new(), tls);
            let (mut client, connection) = shake.await.ok()?;
            tokio::spawn(connection);
            client.send_request(request).await.ok()?
        } else {
            let (mut client, connection) = http1::handshake(tls).await.ok()?;
            tokio::spawn(connection);
            client.send_request(request).await.ok()?
        };
        let (status, answer) = read(response).await;
        assert_eq!(
            (status, &answer["response"]["uid"]),
            (StatusCode::OK, &"u".into())
        );
        Some(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_clients_with_a_certificate_of_the_authority_are_answered() {
    let (clients, others) = (Authority::new(), Authority::new());
    let mut server = Guarded::start(&clients, &[]).await;
    assert!(server.answers(Some(clients.issue())).await);
    assert!(!server.answers(Some(others.issue())).await);
    let refused = line(&mut server.serve.log, REFUSED).await;
    assert!(
        refused["cause"].as_str().unwrap().contains("not accepted"),
        "{refused}"
    );
    assert!(
        refused["client"]
            .as_str()
            .unwrap()
            .starts_with("127.0.0.1:")
    );
    assert!(!server.answers(None).await);
    // A certificate that was valid until 2001.
    let expired = clients.issue_until(rcgen::date_time_ymd(2001, 1, 1));
    assert!(!server.answers(Some(expired)).await);
    assert!(server.answers(Some(clients.issue())).await);
    // Probes need no certificate.
    assert_eq!(server.serve.get("/livez").await.0, StatusCode::OK);
    assert_eq!(server.serve.get("/readyz").await.0, StatusCode::OK);
}

const REFUSED: &str = "client refused: --client-ca asks for a certificate";

#[tokio::test(flavor = "multi_thread")]
async fn a_client_may_be_asked_for_its_name() {
    let clients = Authority::new();
    let server = Guarded::start(&clients, &["--client-name=a", "--client-name=localhost"]).await;
    assert!(server.answers(Some(clients.issue())).await);
    let mut server = Guarded::start(&clients, &["--client-name=kube-apiserver"]).await;
    assert!(!server.answers(Some(clients.issue())).await);
    let refused = line(&mut server.serve.log, REFUSED).await;
    let cause = refused["cause"].as_str().unwrap();
    assert!(
        cause.contains("localhost]") && cause.contains("[kube-apiserver]"),
        "{cause}"
    );
}

/// The file changes as in a ConfigMap's volume: without a restart, and without closing a
/// connection.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_authority_is_for_new_connections() {
    let (old, new) = (Authority::new(), Authority::new());
    let mut server = Guarded::start(&old, &[]).await;
    let tcp = TcpStream::connect(server.serve.webhooks).await.unwrap();
    let config = server.config(&TLS13, "http/1.1", Some(old.issue()));
    let name = ServerName::try_from("localhost").unwrap();
    let tls = TlsConnector::from(Arc::new(config))
        .connect(name, tcp)
        .await
        .unwrap();
    let (mut open, connection) = http1::handshake(TokioIo::new(tls)).await.unwrap();
    tokio::spawn(connection);
    let asked = open.send_request(post(pod_review("1"))).await.unwrap();
    assert_eq!(read(asked).await.0, StatusCode::OK);

    // Both are trusted while every API server gets a certificate of the new one.
    change(&mut server, &(old.pem() + &new.pem())).await;
    assert!(server.answers(Some(old.issue())).await);
    assert!(server.answers(Some(new.issue())).await);
    change(&mut server, &new.pem()).await;
    assert!(!server.answers(Some(old.issue())).await);
    assert!(server.answers(Some(new.issue())).await);
    let asked = open.send_request(post(pod_review("2"))).await.unwrap();
    assert_eq!(read(asked).await.0, StatusCode::OK);

    // A file that cannot be used changes nothing, and is logged.
    fs::write(&server.clients, "garbage").unwrap();
    let failed = "cannot reload the client CAs; the previous ones stay in use";
    let failed = line(&mut server.serve.log, failed).await;
    assert!(
        failed["cause"]
            .as_str()
            .unwrap()
            .contains("BEGIN CERTIFICATE"),
        "{failed}"
    );
    assert!(server.answers(Some(new.issue())).await);
    assert!(!server.answers(None).await);
}

async fn change(server: &mut Guarded, authorities: &str) {
    let log = &mut server.serve.log;
    // The kubelet replaces files in this way: the whole file, under another name first.
    let next = server.folder.path().join("next");
    fs::write(&next, authorities).unwrap();
    fs::rename(&next, &server.clients).unwrap();
    line(log, "clients need a certificate that these CAs signed").await;
}

#[tokio::test]
async fn authorities_that_can_t_be_used_are_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(folder.path(), authority.issue());
    let check = async |file: &Path, expect: &str| {
        let output = migration_gate(&[
            &format!("--tls-cert={certificate}"),
            &format!("--tls-key={key}"),
            &format!("--client-ca={}", file.display()),
        ]);
        let output = timeout(PATIENCE, { output }.output())
            .await
            .expect("it starts")
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && text.contains(expect), "{text}");
    };
    check(Path::new("/nowhere/ca.crt"), "/nowhere/ca.crt").await;
    check(Path::new(&key), "BEGIN CERTIFICATE").await;
}
