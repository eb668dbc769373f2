//! The whole program: its arguments, its log, its signals and its exit code.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;

use hyper::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::program::{Serve, line, migration_gate, write};
use crate::support::{Authority, PATIENCE, review};

/// Runs the program until it fails, and returns its output.
async fn fails(arguments: &[&str]) -> String {
    let output = timeout(PATIENCE, migration_gate(arguments).output())
        .await
        .expect("it starts")
        .unwrap();
    assert!(!output.status.success(), "{arguments:?} succeeds");
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(!text.contains("panicked"), "{text}");
    text
}

#[tokio::test]
async fn what_can_t_work_is_said_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(folder.path(), authority.issue());
    let check = async |arguments: &str, expect: &[&str]| {
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let text = fails(&arguments).await;
        for expect in expect {
            let told = text.contains(expect);
            assert!(told, "{arguments:?}: {text:?} lacks {expect:?}");
        }
    };
    let pair = |certificate: &str, key: &str| format!("--tls-cert={certificate} --tls-key={key}");
    check("", &["there is no certificate", "--tls-cert", "--secret"]).await;
    let missing = "/nowhere/tls.crt";
    check(&pair(missing, &key), &[missing, "No such file"]).await;
    check(&pair(&key, &key), &["tls.key", "BEGIN CERTIFICATE"]).await;
    let certificates = pair(&certificate, &certificate);
    check(&certificates, &["tls.crt", "private key"]).await;
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    let (_, other_key) = write(&other, authority.issue());
    check(&pair(&certificate, &other_key), &["does not belong"]).await;

    let pair = pair(&certificate, &key);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let listen = format!("--listen={address}");
    let cluster = "--mutating-webhook-configuration=m";
    for (more, expect) in [
        (&*listen, &["in use", "--listen", &address][..]),
        ("--listen=localhost", &["--listen", "localhost"]),
        ("--config=/nowhere/config.yaml", &["/nowhere/config.yaml"]),
        ("--request-timeout=soon", &["soon", "500ms"]),
        ("--log=a=b=c", &["--log"]),
        // A cluster is needed for this one, and there is none here.
        (cluster, &["cannot find a cluster"]),
    ] {
        check(&format!("{pair} {more}"), expect).await;
    }
    check("--secret=s", &["--server-name"]).await;
    let named = "--secret=s --server-name=a.b.svc";
    check(named, &["--mutating-webhook-configuration"]).await;
    let short = format!("{named} {cluster} --certificate-lifetime=5s");
    let told = ["--certificate-lifetime", "--propagation-delay"];
    check(&short, &told).await;
    let both = format!("{named} --tls-cert={certificate}");
    check(&both, &["cannot be used with"]).await;
}

/// The line of a review has these fields, and nothing of the object's content.
fn logged(reviewed: &Value, expected: &Value, content: &str) {
    for (field, value) in expected.as_object().unwrap() {
        assert_eq!(&reviewed[field], value, "{field} of {reviewed}");
    }
    assert!(!reviewed.to_string().contains(content), "{reviewed}");
}

#[tokio::test]
async fn it_serves_says_so_and_stops_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(folder.path(), authority.issue());
    let mut serve = Serve::start(&certificate, &key, &["--drain-delay=1h"]).await;
    assert_eq!(serve.get("/livez").await.0, StatusCode::OK);
    let ready = (StatusCode::OK, "ok\n".to_owned());
    assert_eq!(serve.get("/readyz").await, ready);
    assert!(serve.answers(&authority, "mine").await);
    let reviewed = line(&mut serve.log, "reviewed").await;
    let expected = json!({
        "webhook": "validate", "uid": "mine", "operation": "CREATE", "kind": "Pod",
        "namespace": "default", "dry_run": false, "decision": "untouched",
    });
    logged(&reviewed, &expected, "i:1");
    let denied = review(json!({
        "uid": "theirs",
        "kind": {"group": "apps", "version": "v1", "kind": "Deployment"},
        "name": "piefed-web", "namespace": "piefed-application",
        "operation": "CREATE", "dryRun": true, "userInfo": {"username": "flux"},
        "object": {"metadata": {"name": "piefed-web"}, "spec": {"template": {"spec": {"containers": [{
            "name": "web", "image": "i:1",
            "env": [{"name": "PIEFED_INIT_CONTAINER", "value": "hush"}, {"name": "KEY", "value": "hush"}],
        }]}}}},
    }));
    assert!(serve.asked(&authority, denied).await);
    let reviewed = line(&mut serve.log, "reviewed").await;
    let expected = json!({
        "level": "INFO", "webhook": "validate", "uid": "theirs", "operation": "CREATE",
        "group": "apps", "kind": "Deployment", "namespace": "piefed-application",
        "name": "piefed-web", "user": "flux", "dry_run": true, "decision": "denied",
        "gate": "piefed", "patches": 0, "refused_fields": 2,
    });
    logged(&reviewed, &expected, "hush");
    let (_, metrics) = serve.get("/metrics").await;
    assert!(
        metrics.contains("migration_gate_reviews_total{"),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"), "{metrics}");
    // The year 4096, as its certificate says.
    let expiry = "migration_gate_certificate_expiry_timestamp_seconds 67090118400\n";
    assert!(metrics.contains(expiry), "{metrics}");

    serve.signal(Signal::TERM);
    line(&mut serve.log, "asked to stop").await;
    let stopping = (StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned());
    assert_eq!(serve.get("/readyz").await, stopping);
    assert_eq!(serve.get("/livez").await.0, StatusCode::OK);
    assert!(serve.answers(&authority, "late").await);
    // The second signal doesn't wait out the hour.
    serve.signal(Signal::INT);
    assert_eq!(serve.ends().await.code(), Some(1));
}

/// For clusters whose addresses are of any family.
#[tokio::test]
async fn by_default_it_listens_on_every_address() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(folder.path(), authority.issue());
    let help = migration_gate(&["--help"]).output().await.unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    for default in ["[::]:8443", "[::]:8080"] {
        assert!(help.contains(default), "{help}");
    }
    let all = ["--listen=[::]:0", "--health-listen=[::]:0"];
    let mut serve = Serve::start_on(&certificate, &key, &all).await;
    let mut loopbacks = vec!["127.0.0.1"];
    // Without IPv6, it listens on IPv4 alone.
    if serve.webhooks.is_ipv6() && TcpListener::bind("[::1]:0").is_ok() {
        loopbacks.push("::1");
    }
    for loopback in loopbacks {
        let address = loopback.parse().unwrap();
        serve.webhooks.set_ip(address);
        serve.health.set_ip(address);
        assert!(serve.answers(&authority, "u").await);
        assert_eq!(serve.get("/livez").await.0, StatusCode::OK);
    }
}

/// The log is JSON, from the moment that there is a log.
#[tokio::test]
async fn what_goes_wrong_after_the_start_is_logged() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = write(folder.path(), Authority::new().issue());
    let text = fails(&[
        &format!("--tls-cert={certificate}"),
        &format!("--tls-key={key}"),
        &format!("--listen={}", taken.local_addr().unwrap()),
    ])
    .await;
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(last["level"], "ERROR");
    assert_eq!(last["message"], "cannot serve");
    assert!(last["cause"].as_str().unwrap().contains("in use"), "{last}");
}

#[tokio::test]
async fn a_clean_stop_is_a_success() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = write(folder.path(), Authority::new().issue());
    for signal in [Signal::TERM, Signal::INT] {
        let mut serve = Serve::start(&certificate, &key, &["--drain-delay=0"]).await;
        serve.signal(signal);
        assert_eq!(serve.ends().await.code(), Some(0));
        let mut out = String::new();
        let mut stdout = serve.child.stdout.take().unwrap();
        stdout.read_to_string(&mut out).await.unwrap();
        assert_eq!(out, "");
    }
}

/// As kubelet updates a Secret's volume: new files in a new folder, and then a link is swapped.
#[tokio::test]
async fn a_swapped_volume_is_picked_up() {
    let volume = tempfile::tempdir().unwrap();
    let swap = |name: &str, pair: (String, String)| {
        let version = volume.path().join(name);
        fs::create_dir(&version).unwrap();
        write(&version, pair);
        symlink(name, volume.path().join("..data_tmp")).unwrap();
        let [new, link] = ["..data_tmp", "..data"].map(|name| volume.path().join(name));
        fs::rename(new, link).unwrap();
    };
    let (old, new) = (Authority::new(), Authority::new());
    swap("..1", old.issue());
    for file in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(file), volume.path().join(file)).unwrap();
    }
    let path = |file: &str| volume.path().join(file).to_str().unwrap().to_owned();
    let mut serve = Serve::start(&path("tls.crt"), &path("tls.key"), &[]).await;
    assert!(serve.answers(&old, "u").await);

    // A certificate without its key is not served.
    swap("..2", (new.issue().0, old.issue().1));
    let kept = "cannot reload the certificate; still serving the previous one";
    line(&mut serve.log, kept).await;
    assert!(serve.answers(&old, "u").await);
    assert_eq!(serve.get("/readyz").await.0, StatusCode::OK);

    swap("..3", new.issue());
    line(&mut serve.log, "certificate loaded").await;
    assert!(serve.answers(&new, "u").await);
    assert!(!serve.answers(&old, "u").await);
}

/// A process that is out of file descriptors can't accept, and must not spin.
#[tokio::test]
async fn a_failure_to_accept_is_no_busy_loop() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (certificate, key) = write(folder.path(), authority.issue());
    let mut serve = Serve::start(&certificate, &key, &["--handshake-timeout=1h"]).await;
    let limit = |most: u64| {
        let id = serve.child.id().unwrap().to_string();
        let status = std::process::Command::new("prlimit")
            .args([&format!("--nofile={most}:"), "--pid", &id])
            .status();
        assert!(status.expect("prlimit of util-linux").success());
    };
    limit(16);
    let mut held = Vec::new();
    for _ in 0..32 {
        held.push(TcpStream::connect(serve.webhooks).await.unwrap());
    }
    line(&mut serve.log, "cannot accept connections").await;
    let pause = |line: Value| line["retry_in"].as_str().unwrap().to_owned();
    let mut pauses = Vec::new();
    while pauses.last().is_none_or(|last| last != "1s") {
        pauses.push(pause(
            line(&mut serve.log, "cannot accept connections").await,
        ));
    }
    assert!(pauses.len() < 12, "{pauses:?}");
    drop(held);
    assert!(serve.answers(&authority, "after").await);
}
