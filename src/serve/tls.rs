//! The serving certificate, and the settings of TLS.

mod clients;

pub use self::clients::RequiredClients;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// The ALPN protocol ID of HTTP/2 (RFC 9113, section 3.1).
pub(super) const H2: &[u8] = b"h2";

/// A certificate chain with its private key, known to belong together.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Reasons why a certificate cannot be served.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum IdentityError {
    #[error("the certificate holds no PEM block `BEGIN CERTIFICATE`")]
    NoCertificate,
    #[error("the certificate cannot be parsed: {0}")]
    Certificate(String),
    #[error("the private key cannot be read: {0}")]
    Key(String),
    #[error(
        "the private key does not belong to the certificate; give the two that were made together"
    )]
    Mismatch,
}

impl Identity {
    /// Parses a chain, leaf first, and the leaf's private key, both PEM. Fails if they do not
    /// belong together.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let chain = certificates(chain)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| IdentityError::Key(error.to_string()))?;
        let (not_before, not_after) = chain
            .first()
            .ok_or(IdentityError::NoCertificate)
            .and_then(validity)?;
        let certified =
            CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
                rustls::Error::InconsistentKeys(_) => IdentityError::Mismatch,
                rustls::Error::InvalidCertificate(_) => {
                    IdentityError::Certificate(error.to_string())
                }
                other => IdentityError::Key(other.to_string()),
            })?;
        Ok(Self {
            certified: Arc::new(certified),
            not_before,
            not_after,
        })
    }

    /// The start of the leaf's validity.
    pub fn not_before(&self) -> Timestamp {
        self.not_before
    }

    /// The end of the leaf's validity.
    pub fn not_after(&self) -> Timestamp {
        self.not_after
    }

    /// The DNS names and IP addresses in the leaf's subject alternative names.
    pub fn names(&self) -> Vec<String> {
        let Some((_, leaf)) = self
            .chain()
            .first()
            .and_then(|leaf| X509Certificate::from_der(leaf).ok())
        else {
            return Vec::new();
        };
        let Ok(Some(names)) = leaf.subject_alternative_name() else {
            return Vec::new();
        };
        let name = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
                .ok()
                .map(|address| address.to_string()),
            _ => None,
        };
        names.value.general_names.iter().filter_map(name).collect()
    }

    /// The leaf, and the intermediate certificates that a client needs to reach its CA.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }
}

/// The certificates in a PEM text, in their order.
pub(super) fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, IdentityError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|error| IdentityError::Certificate(error.to_string()))
}

/// The certificates in a PEM text, without the blocks that cannot be parsed.
pub(super) fn readable_certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem)
        .filter_map(Result::ok)
        .collect()
}

/// The end of a certificate's validity.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Result<Timestamp, IdentityError> {
    validity(certificate).map(|(_, not_after)| not_after)
}

/// The start and the end of a certificate's validity.
pub(super) fn validity(
    certificate: &CertificateDer<'_>,
) -> Result<(Timestamp, Timestamp), IdentityError> {
    let unusable = |error: &dyn fmt::Display| IdentityError::Certificate(error.to_string());
    let (_, parsed) = X509Certificate::from_der(certificate).map_err(|error| unusable(&error))?;
    let time = |seconds| Timestamp::from_second(seconds).map_err(|error| unusable(&error));
    let validity = parsed.validity();
    Ok((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}

/// The only crypto provider that the program is built with.
pub(super) fn provider() -> CryptoProvider {
    rustls::crypto::ring::default_provider()
}

/// The identity for new connections. Changing it does not affect open ones.
#[derive(Default)]
pub struct Served(watch::Sender<Option<Arc<Identity>>>);

impl Served {
    /// The identity, once there is one.
    pub fn get(&self) -> Option<Arc<Identity>> {
        self.0.borrow().clone()
    }

    /// Serves `identity` from the next handshake on.
    pub fn set(&self, identity: Arc<Identity>) {
        self.0.send_replace(Some(identity));
    }

    /// Resolves once there is an identity.
    pub async fn some(&self) {
        // This cannot fail: `self` owns the sender.
        let _ = self.0.subscribe().wait_for(Option::is_some).await;
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.get().map(|identity| Arc::clone(&identity.certified))
    }
}

/// Accepts TLS connections. Clones share one configuration.
#[derive(Clone)]
pub struct Acceptor {
    /// For new connections. Open ones keep the configuration that they began with.
    config: Arc<watch::Sender<Arc<ServerConfig>>>,
    served: Arc<Served>,
    refusals: Arc<clients::Refusals>,
}

impl Acceptor {
    /// An acceptor whose handshakes use the identity that `served` holds at the time.
    pub fn new(served: Arc<Served>) -> Result<Self, rustls::Error> {
        let anyone = NoClientAuth {};
        let config = server_config(Arc::clone(&served), Arc::new(anyone))?;
        Ok(Self {
            config: Arc::new(watch::Sender::new(Arc::new(config))),
            served,
            refusals: Arc::default(),
        })
    }

    /// From the next handshake on, accepts only `clients`.
    pub fn require(&self, clients: RequiredClients) {
        // This does not fail: the same settings were valid in `new`.
        if let Ok(config) = server_config(Arc::clone(&self.served), Arc::new(clients)) {
            self.config.send_replace(Arc::new(config));
        }
    }

    /// Completes the handshake, once there is an identity. The API server may still call a replica
    /// that has just restarted, and a delayed call is better than a failed one.
    pub async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        self.served.some().await;
        let client = stream.peer_addr();
        let config = Arc::clone(&self.config.borrow());
        let accepted = TlsAcceptor::from(config).accept(stream).await;
        if let Err(error) = &accepted {
            self.refusals.log(&client, error);
        }
        accepted
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor").finish_non_exhaustive()
    }
}

/// TLS 1.2 and 1.3, with HTTP/2 and HTTP/1.1 by ALPN.
fn server_config(
    served: Arc<Served>,
    clients: Arc<dyn ClientCertVerifier>,
) -> Result<ServerConfig, rustls::Error> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(served);
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    // The API server keeps its connections open and does not resume sessions, so tickets would be
    // wasted work. A resumed session would also keep a certificate that has been rotated.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(config)
}
