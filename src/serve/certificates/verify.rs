//! Whether a client would accept a certificate: the API server, or one that verifies strictly.

use std::sync::Arc;

use jiff::Timestamp;
use rustls::client::danger::ServerCertVerifier;
use rustls::client::{VerifierBuilderError, WebPkiServerVerifier, verify_server_name};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, RootCertStore};
use rustls_pki_types::{CertificateDer, InvalidDnsNameError, ServerName, UnixTime};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::serve::tls::{self, Identity};

/// Checks that the API server, with `bundle` as `caBundle`, accepts `identity` as `server_name` at
/// `now`. It is written in Go, and accepts more than the verifier here. What cannot be told here
/// does not make a replica unready.
pub(super) fn verify(
    identity: &Identity,
    bundle: &[u8],
    server_name: &str,
    now: Timestamp,
) -> Result<(), String> {
    if bundle.is_empty() {
        return Err("is empty".to_owned());
    }
    let bundle = tls::readable_certificates(bundle);
    if bundle.is_empty() {
        return Err("holds no certificate that can be parsed".to_owned());
    }
    // Go trusts each certificate of the bundle, and does not ask who issued it.
    let is_pinned = identity.chain().first().is_some_and(|c| bundle.contains(c));
    let checked = match check(identity, &bundle, server_name, now) {
        Err(Refusal::Tls(error)) if is_pinned || cannot_tell(&error, identity, &bundle) => {
            check_leaf(identity, server_name, now)
        }
        checked => checked,
    };
    checked.map_err(|refusal| refusal.text(server_name))
}

/// As [`verify`], for the server's own CA certificates. It accepts only what can be verified.
pub(super) fn verify_for(
    identity: &Identity,
    bundle: &[CertificateDer<'static>],
    server_name: &str,
    now: Timestamp,
) -> Result<(), String> {
    check(identity, bundle, server_name, now).map_err(|refusal| refusal.text(server_name))
}

/// Reasons why a client would not accept a certificate.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("no CA certificate in it is valid now")]
    NoneValid,
    #[error(transparent)]
    Authorities(#[from] VerifierBuilderError),
    #[error(transparent)]
    Name(#[from] InvalidDnsNameError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

impl Refusal {
    fn text(&self, server_name: &str) -> String {
        format!("does not verify the certificate that is served, as {server_name}: {self}")
    }
}

/// Checks the chain from `identity` to a CA in `bundle`, the name and the dates.
fn check(
    identity: &Identity,
    bundle: &[CertificateDer<'static>],
    server_name: &str,
    now: Timestamp,
) -> Result<(), Refusal> {
    // The verifier ignores the dates of CAs, Go does not.
    let is_valid = |ca: &&CertificateDer<'_>| {
        tls::validity(ca).map_or(true, |(start, end)| (start..=end).contains(&now))
    };
    let valid: Vec<_> = bundle.iter().filter(is_valid).cloned().collect();
    if valid.is_empty() && !bundle.is_empty() {
        return Err(Refusal::NoneValid);
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(valid);
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(tls::provider()))
            .build()?;
    let name = ServerName::try_from(server_name)?;
    let (leaf, intermediates) = leaf(identity)?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    verifier.verify_server_cert(leaf, intermediates, &name, &[], now)?;
    Ok(())
}

/// Checks only the name and the dates of `identity`.
fn check_leaf(identity: &Identity, server_name: &str, now: Timestamp) -> Result<(), Refusal> {
    let (leaf, _) = leaf(identity)?;
    let leaf = ParsedCertificate::try_from(leaf)?;
    verify_server_name(&leaf, &ServerName::try_from(server_name)?)?;
    let error = if now < identity.not_before() {
        CertificateError::NotValidYet
    } else if now > identity.not_after() {
        CertificateError::Expired
    } else {
        return Ok(());
    };
    Err(rustls::Error::from(error).into())
}

/// The certificate that is served, and its intermediates.
fn leaf(
    identity: &Identity,
) -> Result<(&CertificateDer<'static>, &[CertificateDer<'static>]), rustls::Error> {
    let chain = identity.chain().split_first();
    chain.ok_or(rustls::Error::NoCertificatesPresented)
}

/// Whether Go may accept a chain that the verifier has refused with `error`.
fn cannot_tell(
    error: &rustls::Error,
    identity: &Identity,
    bundle: &[CertificateDer<'static>],
) -> bool {
    let rustls::Error::InvalidCertificate(error) = error else {
        return false;
    };
    match error {
        CertificateError::UnsupportedSignatureAlgorithmContext { .. } => true,
        // Another key than the signature's, or one of a kind that the verifier lacks.
        CertificateError::BadSignature
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            bundle.iter().chain(identity.chain()).any(has_unusual_key)
        }
        // The verifier looks no further if a CA certificate is served, as `openssl req -x509` makes
        // it. This error has no type of its own here.
        CertificateError::Other(other) => other.to_string() == "CaUsedAsEndEntity",
        _ => false,
    }
}

/// Whether a public key is of P-521, or of RSA with less than 2048 bits. Its length says it: P-384
/// needs 97 bytes, P-521 133, and RSA with 2048 bits 268.
fn has_unusual_key(certificate: &CertificateDer<'static>) -> bool {
    X509Certificate::from_der(certificate).is_ok_and(|(_, certificate)| {
        (98..268).contains(&certificate.public_key().subject_public_key.data.len())
    })
}

#[cfg(test)]
pub(super) mod tests;
