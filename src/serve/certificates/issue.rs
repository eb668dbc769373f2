//! Making certificates, and the content of the Secret that all replicas share.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::ByteString;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use rustls_pki_types::CertificateDer;

use crate::serve::tls::{self, Identity, IdentityError};

/// The key of the CA certificates in the Secret's data. cert-manager uses the same name.
const CA: &str = "ca.crt";
/// The key of the serving certificate, as in a Secret of type `kubernetes.io/tls`.
const CERTIFICATE: &str = "tls.crt";
/// The key of its private key, as in a Secret of type `kubernetes.io/tls`.
const KEY: &str = "tls.key";

/// Tolerated difference between the clocks of this server and of the API server.
pub(super) const SKEW: Duration = Duration::from_mins(5);

/// Maximum number of CA certificates in a bundle. A rotation needs two.
const MOST_CAS: usize = 8;

/// The content of the Secret.
#[derive(Debug, Clone)]
pub(super) struct Material {
    /// The CAs of all certificates that a replica may serve, the current one first.
    pub bundle: Vec<CertificateDer<'static>>,
    /// The certificate to serve, PEM.
    certificate: Vec<u8>,
    /// Its key, PEM.
    key: Vec<u8>,
}

/// Reasons why a Secret's data cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum MaterialError {
    #[error("it has no {0}")]
    Missing(&'static str),
    #[error("its {0} holds no certificate")]
    Empty(&'static str),
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Reasons why no certificate could be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum IssueError {
    /// A name is not valid in a certificate, or the random generator has failed.
    #[error("cannot make a certificate")]
    Make(#[from] rcgen::Error),
    /// The end of the lifetime is not a representable date.
    #[error("cannot make a certificate: {0}")]
    Time(String),
}

impl Material {
    /// Makes a new CA and a certificate of it for `names`. `keep` are the CAs that must stay
    /// trusted for now.
    ///
    /// The CA signs only this certificate: its private key is dropped here. So a reader of the
    /// Secret cannot make another certificate that the API server trusts, and a CA and its
    /// certificate expire together.
    pub(super) fn issue(
        names: &[String],
        lifetime: Duration,
        now: Timestamp,
        keep: Vec<CertificateDer<'static>>,
    ) -> Result<Self, IssueError> {
        let time = |timestamp: Result<Timestamp, jiff::Error>| {
            timestamp
                .map_err(|error| error.to_string())
                .and_then(|timestamp| {
                    time::OffsetDateTime::from_unix_timestamp(timestamp.as_second())
                        .map_err(|error| error.to_string())
                })
                .map_err(IssueError::Time)
        };
        let (not_before, not_after) = (
            time(now.checked_sub(SKEW))?,
            time(now.checked_add(lifetime))?,
        );

        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::default();
        ca.distinguished_name = DistinguishedName::new();
        // Each CA has its own name, so a client with two of them in its bundle knows which to try.
        ca.distinguished_name.push(
            DnType::CommonName,
            format!("migration-gate CA {}", now.as_millisecond()),
        );
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        (ca.not_before, ca.not_after) = (not_before, not_after);
        let ca_certificate = ca.self_signed(&ca_key)?;

        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(names)?;
        leaf.distinguished_name = DistinguishedName::new();
        leaf.distinguished_name
            .push(DnType::CommonName, "migration-gate");
        leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        leaf.use_authority_key_identifier_extension = true;
        (leaf.not_before, leaf.not_after) = (not_before, not_after);
        let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;

        let mut bundle = vec![ca_certificate.der().clone()];
        bundle.extend(keep);
        bundle.truncate(MOST_CAS);
        Ok(Self {
            bundle,
            certificate: certificate.pem().into_bytes(),
            key: key.serialize_pem().into_bytes(),
        })
    }

    /// Parses a Secret's data.
    pub(super) fn from_data(data: &BTreeMap<String, ByteString>) -> Result<Self, MaterialError> {
        let field = |name| {
            data.get(name)
                .map(|bytes| bytes.0.clone())
                .filter(|bytes| !bytes.is_empty())
                .ok_or(MaterialError::Missing(name))
        };
        let bundle = tls::certificates(&field(CA)?)?;
        if bundle.is_empty() {
            return Err(MaterialError::Empty(CA));
        }
        let material = Self {
            bundle,
            certificate: field(CERTIFICATE)?,
            key: field(KEY)?,
        };
        material.identity()?;
        Ok(material)
    }

    /// The Secret's data.
    pub(super) fn to_data(&self) -> BTreeMap<String, ByteString> {
        [
            (CA, self.bundle_pem()),
            (CERTIFICATE, self.certificate.clone()),
            (KEY, self.key.clone()),
        ]
        .into_iter()
        .map(|(name, bytes)| (name.to_owned(), ByteString(bytes)))
        .collect()
    }

    /// The certificate to serve.
    pub(super) fn identity(&self) -> Result<Identity, IdentityError> {
        Identity::from_pem(&self.certificate, &self.key)
    }

    /// The CAs as PEM, for a `caBundle`.
    pub(super) fn bundle_pem(&self) -> Vec<u8> {
        let blocks: Vec<_> = self
            .bundle
            .iter()
            .map(|certificate| pem::Pem::new("CERTIFICATE", certificate.as_ref()))
            .collect();
        let line_ending = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
        pem::encode_many_config(&blocks, line_ending).into_bytes()
    }

    /// The same without the CAs that have expired.
    pub(super) fn without_expired(&self, now: Timestamp) -> Self {
        Self {
            bundle: unexpired(&self.bundle, now),
            ..self.clone()
        }
    }
}

/// The certificates that are valid after `now`. Unreadable ones are dropped.
pub(super) fn unexpired(
    certificates: &[CertificateDer<'static>],
    now: Timestamp,
) -> Vec<CertificateDer<'static>> {
    certificates
        .iter()
        .filter(|certificate| tls::not_after(certificate).is_ok_and(|end| end > now))
        .cloned()
        .collect()
}
