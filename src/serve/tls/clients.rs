//! Client certificates: the webhooks answer only clients with a certificate of `--client-ca`.
//!
//! Other clients are refused in the handshake, not by a 401, so they cost no more than the
//! handshake. Probes use another port.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};
use tracing::warn;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{IdentityError, certificates, provider};

/// The certificates that clients must present.
#[derive(Debug)]
pub struct RequiredClients {
    authorities: Arc<dyn ClientCertVerifier>,
    /// The names of the clients that may call; if empty, every client with a certificate of
    /// `authorities` may.
    names: Vec<String>,
}

/// The certificate is valid, but has another name.
#[derive(Debug)]
struct WrongName {
    has: Vec<String>,
    wanted: Vec<String>,
}

impl fmt::Display for WrongName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (has, wanted) = (self.has.join(", "), self.wanted.join(", "));
        write!(
            f,
            "its certificate is for [{has}], and --client-name is [{wanted}]"
        )
    }
}

impl std::error::Error for WrongName {}

impl RequiredClients {
    /// Accepts clients with a certificate of `authorities` (PEM) and one of `names`: as the
    /// subject's common name, or as a DNS name. Without `names`, every name is accepted.
    pub fn new(authorities: &[u8], names: Vec<String>) -> Result<Self, IdentityError> {
        let unusable = |error: &dyn fmt::Display| IdentityError::Certificate(error.to_string());
        let mut roots = RootCertStore::empty();
        for authority in certificates(authorities)? {
            roots.add(authority).map_err(|error| unusable(&error))?;
        }
        if roots.is_empty() {
            return Err(IdentityError::NoCertificate);
        }
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::new(provider()))
                // A client has only one certificate for this server, so it needs no list of CAs to
                // choose one.
                .clear_root_hint_subjects()
                .build()
                .map_err(|error| unusable(&error))?;
        Ok(Self {
            authorities: verifier,
            names,
        })
    }
}

impl ClientCertVerifier for RequiredClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.authorities.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self
            .authorities
            .verify_client_cert(end_entity, intermediates, now)?;
        let has = names(end_entity);
        if self.names.is_empty() || has.iter().any(|name| self.names.contains(name)) {
            return Ok(verified);
        }
        let wanted = self.names.clone();
        let wrong = Arc::new(WrongName { has, wanted });
        Err(CertificateError::Other(OtherError(wrong)).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.supported_verify_schemes()
    }
}

/// The certificate's common names and DNS names.
fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let subject = parsed.subject().iter_common_name();
    let common = subject.filter_map(|name| Some(name.as_str().ok()?.to_owned()));
    let alternative = parsed.subject_alternative_name().ok().flatten();
    let alternative = alternative.map(|names| &names.value.general_names);
    let dns = alternative
        .into_iter()
        .flatten()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        });
    common.chain(dns).collect()
}

/// Minimum time between two log lines about refused clients: a client may try without end.
const PAUSE: Duration = Duration::from_secs(10);

/// The clients that were refused since the last line about them.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<(Option<Instant>, u64)>);

impl Refusals {
    /// Logs a failed handshake, if it failed because of the client's certificate.
    pub(super) fn log(&self, client: &io::Result<SocketAddr>, error: &io::Error) {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        let cause = match cause {
            Some(Error::NoCertificatesPresented) => "it presents no certificate".to_owned(),
            Some(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) => {
                cause.to_string()
            }
            Some(Error::InvalidCertificate(cause)) => {
                format!("its certificate is not accepted: {cause}")
            }
            _ => return,
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < PAUSE) {
            state.1 += 1;
            return;
        }
        let others = std::mem::take(&mut state.1);
        state.0 = Some(Instant::now());
        let client = client.as_ref().map(ToString::to_string).unwrap_or_default();
        warn!(
            client,
            cause, others, "client refused: --client-ca asks for a certificate"
        );
    }
}
