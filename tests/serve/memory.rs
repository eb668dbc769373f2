//! What the whole process takes at most, against the limit that the chart gives it.

use std::fs;
use std::sync::Arc;

use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::process::{Serve, write};
use crate::support::{Authority, handshake, post, read, review};

/// How many of each body are sent at one time.
const AT_ONCE: usize = 24;

/// The chart's memory limit of the server, in KiB.
fn limit() -> u64 {
    let values = include_str!("../../charts/migration-gate/values.yaml");
    let resources = values.split_once("\nresources:").unwrap().1;
    let memory = resources.split_once("limits: {memory: ").unwrap().1;
    let mib: u64 = memory.split_once("Mi}").unwrap().0.parse().unwrap();
    mib * 1024
}

/// The most memory that a process has held so far, in KiB.
fn peak(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap()
}

/// A review of about so many bytes that brings this object, and updates it.
fn update(kind: &Value, object: &Value) -> Bytes {
    Bytes::from(review(json!({
        "uid": "u", "kind": kind, "name": "piefed-web", "namespace": "piefed-application",
        "operation": "UPDATE", "object": object, "oldObject": object,
    })))
}

/// Bodies that cost most for their size.
fn worst() -> Vec<Bytes> {
    let pod = json!({"group": "", "version": "v1", "kind": "Pod"});
    let deployment = json!({"group": "apps", "version": "v1", "kind": "Deployment"});
    let offenders = |count: usize| {
        let variable = json!({"name": "PIEFED_INIT_CONTAINER"});
        json!({"spec": {"containers": [{"name": "c", "env": vec![variable; count]}]}})
    };
    let text = |bytes: usize| json!({"metadata": {"annotations": {"a": "x".repeat(bytes)}}});
    vec![
        // As many values as are read, and just below what is decided one at a time.
        update(&pod, &json!({"spec": vec![0; 249_000]})),
        update(&pod, &json!({"spec": vec![0; 60_000]})),
        update(&pod, &json!({"spec": vec![json!({"": 0}); 80_000]})),
        update(&pod, &offenders(60_000)),
        update(&pod, &offenders(3_000)),
        update(&deployment, &text(3_600_000)),
        // A text where an object should be.
        Bytes::from(format!(
            r#"{{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview","request":"{}"}}"#,
            "x".repeat(7_000_000)
        )),
    ]
}

async fn client(
    serve: &Serve,
    authority: &Authority,
) -> http2::SendRequest<http_body_util::Full<Bytes>> {
    let tcp = TcpStream::connect(serve.webhooks).await.unwrap();
    let stream = handshake(tcp, authority, &["h2"], rustls::ALL_VERSIONS).await;
    let stream = TokioIo::new(stream.unwrap());
    let (client, connection) = http2::handshake(TokioExecutor::new(), stream)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worst_bodies_stay_within_the_charts_limit() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Arc::new(Authority::new());
    let (certificate, key) = write(folder.path(), authority.issue());
    // Room is waited for; the test is about memory, not about who is turned away.
    let serve = Serve::start(&certificate, &key, &["--room-timeout=30s"]).await;
    let process = serve.child.id().unwrap();
    eprintln!("at rest: {} MiB", peak(process) / 1024);
    for body in worst() {
        let mut asked = JoinSet::new();
        for _ in 0..AT_ONCE / 4 {
            let client = client(&serve, &authority).await;
            for _ in 0..4 {
                let (mut client, body) = (client.clone(), body.clone());
                asked.spawn(async move {
                    let answer = client.send_request(post(body)).await.unwrap();
                    read(answer).await.0
                });
            }
        }
        let mut answers: Vec<_> = asked.join_all().await;
        answers.sort_unstable();
        answers.dedup();
        assert!(
            answers
                .iter()
                .all(|status| [200, 400].contains(&status.as_u16())),
            "{answers:?}"
        );
        let peak = peak(process);
        eprintln!("{} bytes: {answers:?}, {} MiB", body.len(), peak / 1024);
    }
    let peak = peak(process);
    assert!(
        peak < limit(),
        "{peak} KiB, and the chart allows {}",
        limit()
    );
}
