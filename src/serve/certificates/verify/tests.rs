//! Tests of what an API server accepts. `kubectl` accepts and refuses the same with
//! `--certificate-authority`.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PublicKeyData, SigningKey,
};

use super::*;

pub(crate) const NAME: &str = "gate.gate.svc";
pub(crate) const NOW: &str = "2030-01-01T00:00:00Z";

/// A CA with a key of P-521, which rcgen cannot make here. It is named `p521`.
const P521: &str = "\
-----BEGIN CERTIFICATE-----
MIIB/TCCAV6gAwIBAgIUQAUm4/etX2YhGQeXehAMaHRj44owCgYIKoZIzj0EAwIw
DzENMAsGA1UEAwwEcDUyMTAgFw0yNjExMjcwNzAxMzlaGA8yMTI2MTEwMzA3MDEz
OVowDzENMAsGA1UEAwwEcDUyMTCBmzAQBgcqhkjOPQIBBgUrgQQAIwOBhgAEAcc5
oHkkNnd70D3pHj5Wv6Gt6FctD95P7/77ZYMGlw8NQmu6/nc7aHsVovYCcdMsNgv4
1kFZ5v6YUHOIEzrNXh/xABlhhcF5az6gamhhieizRSvBQVmCbQSRaqhCSOKTRriO
d5xI8TCITDL1BlxKiT77N366wJSbDL9HG+WDhh0JORWco1MwUTAdBgNVHQ4EFgQU
JJSrXqHtj39cEu/nmIM5EjB7L8EwHwYDVR0jBBgwFoAUJJSrXqHtj39cEu/nmIM5
EjB7L8EwDwYDVR0TAQH/BAUwAwEB/zAKBggqhkjOPQQDAgOBjAAwgYgCQgEcYSyo
BfPFQVU+H5ZjbXYEe73AW7tY6y0aHft3Iu2wJ/HXVtKfNVmAQyyXmMtqdx+usfLS
CAo1HTL8OOg7U4rr4AJCAXbopGlvpOYwIYYOUS1tvCi7msPdz1z/vwUapgreq+6s
glwE4EJRqNkfYuQZ1ESLHxAFxtAzko89RwHiqJOE+gyd
-----END CERTIFICATE-----
";

/// An RSA key of any length. Its signatures are not valid.
struct RsaKey(Vec<u8>);

impl RsaKey {
    fn of(bytes: usize) -> Self {
        let long = |tag: u8, content: &[u8]| {
            let length = u16::try_from(content.len()).unwrap().to_be_bytes();
            [&[tag, 0x82], &length[..], content].concat()
        };
        let modulus = [&[0], &vec![0xc1; bytes][..]].concat();
        let numbers = [long(2, &modulus), vec![2, 3, 1, 0, 1]].concat();
        Self(long(0x30, &numbers))
    }
}

impl PublicKeyData for RsaKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_RSA_SHA256
    }
}

impl SigningKey for RsaKey {
    fn sign(&self, _: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(vec![1; 128])
    }
}

fn params(name: &str, is_ca: bool, years: [i32; 2]) -> CertificateParams {
    let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.not_before = rcgen::date_time_ymd(years[0], 1, 1);
    params.not_after = rcgen::date_time_ymd(years[1], 1, 1);
    params
}

/// A CA's name and key, and its certificate in PEM.
pub(crate) fn authority<K: SigningKey>(
    name: &str,
    key: K,
    years: [i32; 2],
) -> (Issuer<'static, K>, String) {
    let params = params(name, true, years);
    let pem = params.self_signed(&key).unwrap().pem();
    (Issuer::new(params, key), pem)
}

pub(crate) fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

/// A certificate of this CA to serve.
pub(crate) fn issued(issuer: &Issuer<'_, impl SigningKey>, is_ca: bool) -> Identity {
    let key = key();
    let params = params("leaf", is_ca, [2029, 2031]);
    let leaf = params.signed_by(&key, issuer).unwrap();
    Identity::from_pem(leaf.pem().as_bytes(), key.serialize_pem().as_bytes()).unwrap()
}

/// A certificate that signs itself, and the same in PEM.
fn self_signed(is_ca: bool) -> (Identity, String) {
    let key = key();
    let leaf = params("leaf", is_ca, [2029, 2031]).self_signed(&key);
    let pem = leaf.unwrap().pem();
    let identity = Identity::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes());
    (identity.unwrap(), pem)
}

fn pem(identity: &Identity) -> String {
    pem::encode(&pem::Pem::new("CERTIFICATE", identity.chain()[0].to_vec()))
}

#[track_caller]
fn accepts(identity: &Identity, bundle: &str) {
    let now = NOW.parse().unwrap();
    assert_eq!(verify(identity, bundle.as_bytes(), NAME, now), Ok(()));
}

#[track_caller]
fn refuses(identity: &Identity, bundle: &str, why: &str) {
    let now = NOW.parse().unwrap();
    let error = verify(identity, bundle.as_bytes(), NAME, now).unwrap_err();
    assert!(error.ends_with(why), "{error}");
}

pub(crate) const YEARS: [i32; 2] = [2029, 2031];

#[test]
fn a_certificate_in_its_own_bundle_needs_only_name_and_dates() {
    for is_ca in [true, false] {
        let (identity, bundle) = self_signed(is_ca);
        accepts(&identity, &bundle);
        let bundle = bundle.as_bytes();
        let check = |name, now: &str| verify(&identity, bundle, name, now.parse().unwrap());
        assert!(check("other.gate.svc", NOW).is_err());
        assert!(check(NAME, "2028-01-01T00:00:00Z").is_err());
        assert!(check(NAME, "2032-01-01T00:00:00Z").is_err());
        assert!(verify(&self_signed(false).0, bundle, NAME, NOW.parse().unwrap()).is_err());
    }
    let (ca, _) = authority("ca", key(), YEARS);
    let identity = issued(&ca, false);
    accepts(&identity, &pem(&identity));
    refuses(&identity, &pem(&issued(&ca, false)), "UnknownIssuer");
}

#[test]
fn a_block_that_cannot_be_parsed_does_not_spoil_the_others() {
    let (ca, good) = authority("ca", key(), YEARS);
    let broken = "-----BEGIN CERTIFICATE-----\nnot base64!\n-----END CERTIFICATE-----\n";
    let identity = issued(&ca, false);
    for bundle in [
        [broken, &good].concat(),
        [&good, broken].concat(),
        [&good, "-----BEGIN CERTIFICATE-----\nAAAA"].concat(),
    ] {
        accepts(&identity, &bundle);
    }
    for bundle in [broken, "garbage"] {
        refuses(&identity, bundle, "holds no certificate that can be parsed");
    }
    refuses(&identity, "", "is empty");
}

#[test]
fn what_cannot_be_verified_here_is_not_refused() {
    // P-521.
    let (p521, _) = authority("p521", key(), YEARS);
    accepts(&issued(&p521, false), P521);
    // RSA with 1024 bits. With 2048, the signature is known to be wrong.
    let (short, bundle) = authority("rsa", RsaKey::of(128), YEARS);
    accepts(&issued(&short, false), &bundle);
    let (long, bundle) = authority("rsa", RsaKey::of(256), YEARS);
    refuses(&issued(&long, false), &bundle, "BadSignature");
    // A CA certificate is served.
    let (ca, bundle) = authority("ca", key(), YEARS);
    accepts(&issued(&ca, true), &bundle);
    // Another CA of the same name, and one with another kind of key.
    let (_, bundle) = authority("ca", key(), YEARS);
    refuses(&issued(&ca, false), &bundle, "BadSignature");
    let (_, bundle) = authority("ca", RsaKey::of(256), YEARS);
    let identity = issued(&ca, false);
    assert!(verify(&identity, bundle.as_bytes(), NAME, NOW.parse().unwrap()).is_err());
    // An unusual key elsewhere in the bundle does not help.
    refuses(&identity, P521, "UnknownIssuer");
}

#[test]
fn a_ca_must_be_valid_now() {
    for years in [[2020, 2025], [2035, 2040]] {
        let (ca, bundle) = authority("ca", key(), years);
        let why = "no CA certificate in it is valid now";
        refuses(&issued(&ca, false), &bundle, why);
    }
}
