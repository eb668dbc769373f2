//! TLS: its versions, and certificates that change while the server runs.

use std::sync::Arc;

use hyper::StatusCode;
use migration_gate::serve::certificates::trust::CallersWriter;
use migration_gate::serve::ready::Readiness;
use migration_gate::serve::stop::Stop;
use migration_gate::serve::tls::{Identity, Served};
use rustls::version::{TLS12, TLS13};

use crate::support::{
    Authority, PATIENCE, Running, SHORT, default_limits, handshake, limits, pod_review, post, read,
    send1,
};

#[tokio::test(flavor = "multi_thread")]
async fn both_versions_of_tls_and_of_http_are_spoken() {
    let server = Running::start(default_limits()).await;
    for version in [&TLS12, &TLS13] {
        for (alpn, expect) in [
            (&["h2", "http/1.1"][..], Some("h2")),
            (&["http/1.1"][..], Some("http/1.1")),
            (&[][..], None),
        ] {
            let tcp = server.tcp().await;
            let stream = handshake(tcp, &server.authority, alpn, &[version]).await;
            let stream = stream.unwrap();
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(version.version));
            let spoken = session.alpn_protocol().map(|p| str::from_utf8(p).unwrap());
            assert_eq!(spoken, expect);
        }
    }
    let (status, _) = send1(&mut server.http1().await, pod_review("1")).await;
    assert_eq!(status, StatusCode::OK);
    let response = server.http2().await.send_request(post(pod_review("2")));
    let (status, answer) = read(response.await.unwrap()).await;
    assert_eq!(
        (status, &answer["response"]["uid"]),
        (StatusCode::OK, &"2".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_protocol_that_nobody_knows_is_refused() {
    let server = Running::start(default_limits()).await;
    let tcp = server.tcp().await;
    let refused = handshake(tcp, &server.authority, &["smtp"], rustls::ALL_VERSIONS).await;
    assert!(refused.is_err());
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_for_new_connections() {
    let mut server = Running::start(default_limits()).await;
    let mut old = server.http1().await;
    send1(&mut old, pod_review("before")).await;

    let authority = Authority::new();
    server.served.set(Arc::new(authority.identity()));
    let refused = handshake(
        server.tcp().await,
        &server.authority,
        &[],
        rustls::ALL_VERSIONS,
    );
    assert!(
        refused.await.is_err(),
        "the old certificate is still served"
    );
    server.authority = authority;
    assert!(server.answers().await);

    let (status, _) = send1(&mut old, pod_review("after")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn until_there_is_a_certificate_handshakes_wait() {
    let nothing = Served::default();
    assert!(nothing.get().is_none());
    let server = Running::start_bare(default_limits(), Arc::new(nothing)).await;
    let tcp = server.tcp().await;
    let shake = handshake(tcp, &server.authority, &[], rustls::ALL_VERSIONS);
    let mut shake = Box::pin(shake);
    tokio::select! {
        result = &mut shake => panic!("without a certificate: {result:?}"),
        () = tokio::time::sleep(SHORT) => {}
    }
    server.served.set(Arc::new(server.authority.identity()));
    let shaken = tokio::time::timeout(PATIENCE, shake).await.unwrap();
    shaken.unwrap();
    assert!(server.answers().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_doesnt_wait_for_a_certificate_for_ever() {
    let limits = limits(|limits| limits.handshake_timeout = SHORT);
    let server = Running::start_bare(limits, Arc::default()).await;
    let tcp = server.tcp().await;
    let refused = handshake(tcp, &server.authority, &[], rustls::ALL_VERSIONS);
    let refused = tokio::time::timeout(PATIENCE, refused).await.unwrap();
    assert!(refused.is_err());
}

#[test]
fn an_expired_certificate_is_not_ready() {
    let authority = Authority::new();
    let served = Arc::new(Served::default());
    let readiness = Readiness::new(
        Arc::clone(&served),
        CallersWriter::new([]).callers(),
        Stop::default(),
    );
    let check = |expect: Option<&str>| {
        let why = readiness.check().map_err(|cause| cause.to_string());
        assert_eq!(why.err().as_deref(), expect);
    };
    check(Some("there is no certificate yet"));
    served.set(Arc::new(authority.identity()));
    check(None);
    let (certificate, key) = authority.issue_until(rcgen::date_time_ymd(2026, 1, 1));
    let expired = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap();
    served.set(Arc::new(expired));
    check(Some("the certificate expired at 2026-01-01T00:00:00Z"));
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let authority = Authority::new();
    let ((certificate, _), (_, key)) = (authority.issue(), authority.issue());
    let check = |certificate: &str, key: &str, expect: &str| {
        let error = Identity::from_pem(certificate.as_bytes(), key.as_bytes()).unwrap_err();
        assert!(error.to_string().contains(expect), "{error}");
    };
    check(&certificate, &key, "does not belong to the certificate");
    check("", &key, "BEGIN CERTIFICATE");
    check(&certificate, "", "private key cannot be read");
    check(&certificate, &certificate, "private key cannot be read");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    check(broken, &key, "cannot be parsed");
    check(
        "-----BEGIN CERTIFICATE-----\nAAAA",
        &key,
        "cannot be parsed",
    );
}
