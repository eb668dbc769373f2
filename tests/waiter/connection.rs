//! The waiter when the API server refuses it, or cannot be reached.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::json;

use crate::{beside_a_running_job, completes, start, start_with};
use testkit::fake::FakeApi;
use testkit::gate::{JOB, JOB_PATH, RECORD_PATH, complete, failed, job, record, running};
use testkit::waiter::{Ended, Waiter};

#[test]
fn a_completion_takes_four_requests() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let mut waiter = start_with(&api, &["--image=web:2", "--timeout=1h"]);
    waiter.says("is running");
    api.await_watches(2);
    completes(&api, waiter);
    let requests = api.requests();
    assert_eq!(requests.len(), 4, "{requests:#?}");
    // One watch would have lasted for the whole timeout.
    let mut watches = requests.iter().filter(|line| line.starts_with("watch "));
    assert!(
        watches.all(|line| line.contains("timeoutSeconds=3660&")),
        "{requests:#?}"
    );
}

#[test]
fn a_completion_during_the_cut_is_seen_although_the_job_is_gone_again() {
    let (mut api, waiter) = beside_a_running_job();
    api.stop();
    api.put(JOB_PATH, job("2", complete()));
    api.delete(JOB_PATH);
    api.resume();
    waiter.ends_with(0);
}

#[test]
fn watches_that_end_at_once_are_asked_for_again_with_pauses() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    api.end_watches_at_once(usize::MAX);
    let waiter = start_with(&api, &["--image=web:2", "--timeout=3s"]);
    waiter.ends_with(4);
    // Without pauses there would be thousands.
    let requests = api.requests().len();
    assert!(requests < 40, "{requests} requests");

    api.end_watches_at_once(10);
    let waiter = start(&api);
    api.await_watches(2);
    completes(&api, waiter);
}

#[test]
fn an_api_server_that_is_away_for_a_while_is_waited_for() {
    let (mut api, mut waiter) = beside_a_running_job();
    api.stop();
    waiter.says("the API server does not answer");
    api.compact(false, |_| {});
    api.resume();
    waiter.says("waiting: Job db-init is running");
    completes(&api, waiter);
}

#[test]
fn an_api_server_that_never_comes_is_waited_for_until_the_deadline() {
    let mut api = FakeApi::start();
    api.stop();
    // Keeps the port from being used by another program.
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    let address = api
        .url()
        .replace("http://", "")
        .parse()
        .expect("an address");
    other.bind(address).expect_err("the port to be kept");
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends_with(4);
    let start = "gave up after 1s: the API server did not answer at the end: ";
    terminated(&ended, start, "Connection refused");
}

#[test]
fn answers_that_are_slow_are_waited_for() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    for verb in ["list", "watch"] {
        api.delay(verb, "*", Duration::from_secs(1));
    }
    let mut waiter = start(&api);
    waiter.says("waiting: Job db-init is running");
    api.await_watches(2);
    let ended = completes(&api, waiter);
    assert_eq!(ended.output.lines().count(), 2, "{}", ended.output);
}

#[test]
fn a_version_that_is_gone_is_listed_anew() {
    for as_status in [false, true] {
        let (api, waiter) = beside_a_running_job();
        api.compact(as_status, |change| {
            change.put(JOB_PATH, job("2", complete()));
        });
        api.cut();
        waiter.ends_with(0);
        let requests = api.requests();
        let lists = requests.iter().filter(|line| line.starts_with("list jobs"));
        assert_eq!(lists.count(), 2);
    }
}

#[test]
fn rights_that_come_late_are_waited_for() {
    for verb in ["list", "watch"] {
        let api = FakeApi::start();
        api.put(JOB_PATH, job("2", running()));
        api.deny(verb, "jobs");
        let mut waiter = start(&api);
        waiter.says("waiting: not permitted to watch Job db-init: jobs is forbidden");
        api.heal();
        waiter.says("waiting: Job db-init is running");
        completes(&api, waiter);
    }
}

#[test]
fn rights_that_never_come_end_the_wait_with_the_command_that_shows_it() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let arguments = ["--image=web:2", "--permission-timeout=1s"];
    for verb in ["list", "watch"] {
        api.heal();
        api.deny(verb, "jobs");
        let ended = start_with(&api, &arguments).ends_with(5);
        let can_i = format!(
            "kubectl auth can-i {verb} jobs.batch/db-init --as=system:serviceaccount:ns:sa -n ns"
        );
        assert!(ended.termination.ends_with(&can_i), "{}", ended.termination);
    }
    api.unauthorized();
    let ended = start_with(&api, &arguments).ends_with(5);
    assert!(ended.termination.contains("Unauthorized"));
}

#[test]
fn without_the_right_to_read_the_record_the_job_decides() {
    let api = FakeApi::start();
    api.deny("list", "configmaps");
    api.put(RECORD_PATH, record(&["2"]));
    let mut waiter = start(&api);
    waiter.says("not permitted to read the record; continuing with the Job alone");
    completes(&api, waiter);

    let api = FakeApi::start();
    api.deny("list", "configmaps");
    api.put(JOB_PATH, job("2", failed()));
    start(&api).ends_with(3);
}

#[test]
fn a_record_that_cannot_be_read_is_told_once_and_not_passed_off_as_empty() {
    let api = FakeApi::start();
    api.fail("list", "configmaps");
    let mut waiter = start(&api);
    waiter.says("waiting: there is no Job db-init in namespace ns, and the record has not been read (gives up in ");
    waiter.says("cannot read the record yet; continuing with the Job alone: it is not your day");
    api.await_request("list configmaps");
    api.await_request("list configmaps");
    api.heal();
    waiter.says("waiting: there is no Job db-init in namespace ns, and no record of version 2 (gives up in ");
    api.put(RECORD_PATH, record(&["2"]));
    let ended = waiter.ends_with(0);
    assert_eq!(ended.output.lines().count(), 4, "{}", ended.output);
}

#[test]
fn an_answer_that_is_an_error_is_not_called_silence() {
    let api = FakeApi::start();
    api.fail("list", "jobs");
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends_with(4);
    let line = "waiting: the API server answers with an error: it is not your day (trying again; ";
    assert!(ended.output.contains(line), "{}", ended.output);
    let end =
        "gave up after 1s: the API server answered with an error at the end: it is not your day; ";
    assert!(ended.termination.starts_with(end), "{}", ended.termination);

    // Rights are missing at the deadline, while the waiter still tolerates that.
    let api = FakeApi::start();
    api.deny("list", "jobs");
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends_with(4);
    let start = "gave up after 1s: not permitted to watch Job db-init: ";
    terminated(&ended, start, "--as=system:serviceaccount:ns:sa -n ns");
}

#[test]
fn a_record_opens_although_the_job_may_not_be_seen() {
    let api = FakeApi::start();
    api.deny("list", "jobs");
    api.put(RECORD_PATH, record(&["2"]));
    start(&api).ends_with(0);
}

#[track_caller]
fn terminated(ended: &Ended, start: &str, part: &str) {
    let message = &ended.termination;
    assert!(
        message.starts_with(start) && message.contains(part),
        "{message}"
    );
}

/// A server that accepts connections and never responds, and a kubeconfig that names it.
fn silent(folder: &Path) -> (TcpListener, PathBuf) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{"name": "c", "cluster": {
            "server": format!("https://{address}"), "insecure-skip-tls-verify": true}}],
        "users": [{"name": "c", "user": {"token": "t"}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c"}}],
    });
    let path = folder.join("kubeconfig");
    std::fs::write(&path, kubeconfig.to_string()).expect("a kubeconfig");
    (listener, path)
}

const REQUIRED: [&str; 4] = [
    "--gate=g",
    "--namespace=ns",
    "--job=db-init",
    "--image=web:2",
];

#[test]
fn the_deadline_holds_although_nothing_is_ever_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (_listener, kubeconfig) = silent(folder.path());
    let args = REQUIRED.into_iter().chain(["--timeout=1s"]);
    Waiter::spawn(&kubeconfig, folder.path(), args).ends_with(4);

    for verb in ["list", "watch"] {
        let api = FakeApi::start();
        api.hold(verb, "jobs");
        api.hold(verb, "configmaps");
        api.put(JOB_PATH, job("2", running()));
        start_with(&api, &["--image=web:2", "--timeout=1s"]).ends_with(4);
    }
}

#[test]
fn a_signal_ends_the_wait_although_nothing_is_ever_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    let (listener, kubeconfig) = silent(folder.path());
    let waiter = Waiter::spawn(&kubeconfig, folder.path(), REQUIRED);
    let _connection = listener.accept().expect("the waiter");
    waiter.signal("-TERM");
    waiter.ends_with(143);

    let api = FakeApi::start();
    api.hold("list", "jobs");
    let waiter = start(&api);
    api.await_request("list jobs");
    waiter.signal("-TERM");
    waiter.ends_with(143);
}

#[test]
fn without_a_cluster_there_is_nothing_to_wait_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let ended = Waiter::spawn(&folder.path().join("none"), folder.path(), REQUIRED).ends_with(1);
    let start = "cannot wait: cannot use the kubeconfig: ";
    terminated(&ended, start, "set KUBECONFIG");
    assert_eq!(ended.output, ended.termination);
}

#[test]
fn output_that_nobody_reads_is_no_reason_to_stop() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("2", running()));
    let mut child = Command::new(testkit::process::program())
        .args(["wait", "--gate=g", "--namespace=ns", "--image=web:2"])
        .arg(format!("--job={JOB}"))
        .env("KUBECONFIG", api.kubeconfig())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the waiter");
    drop(child.stdout.take());
    api.await_watches(2);
    api.put(JOB_PATH, job("2", complete()));
    assert_eq!(child.wait().expect("its status").code(), Some(0));
}
