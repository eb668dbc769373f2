//! What the waiter does when the API server refuses it, or isn't there.

use std::process::Command;

use crate::api::Api;
use crate::objects::{JOB, RECORD, complete, job, record, running};
use crate::{start, start_with};

#[test]
fn a_completion_takes_four_requests() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    api.await_watches(2);
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
    let requests = api.requests();
    assert_eq!(requests.len(), 4, "{requests:#?}");
}

#[test]
fn a_watch_that_is_cut_20_times_still_sees_the_completion() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    for _ in 0..20 {
        api.await_watches(2);
        api.cut();
    }
    api.put("jobs", JOB, job("2", complete()));
    let ended = waiter.ends();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    // It was told of neither trouble nor anything new.
    assert_eq!(ended.output.lines().count(), 2, "{}", ended.output);
}

#[test]
fn a_completion_during_the_cut_is_seen_although_the_job_is_gone_again() {
    let mut api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    api.await_watches(2);
    api.stop();
    api.put("jobs", JOB, job("2", complete()));
    api.delete("jobs", JOB);
    api.resume();
    let ended = waiter.ends();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn watches_that_end_at_once_are_asked_for_again_with_pauses() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    api.end_watches_at_once(usize::MAX);
    let waiter = start_with(&api, &["--image=web:2", "--timeout=3s"]);
    assert_eq!(waiter.ends().code, Some(4));
    // Without pauses there would be thousands.
    let requests = api.requests().len();
    assert!(requests < 40, "{requests} requests");

    api.end_watches_at_once(10);
    let waiter = start(&api);
    api.await_watches(2);
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn an_api_server_that_is_away_for_a_while_is_waited_for() {
    let mut api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    api.await_watches(2);
    api.stop();
    waiter.says("the API server does not answer");
    api.compact(false, |_| {});
    api.resume();
    waiter.says("waiting: Job db-init is running");
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn an_api_server_that_never_comes_is_waited_for_until_the_deadline() {
    let mut api = Api::start();
    api.stop();
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends();
    assert_eq!(ended.code, Some(4), "{}", ended.output);
    assert!(
        ended.termination.contains("did not answer at the end: ")
            && ended.termination.contains("Connection refused"),
        "{}",
        ended.termination
    );
}

#[test]
fn a_version_that_is_gone_is_listed_anew() {
    for as_status in [false, true] {
        let api = Api::start();
        api.put("jobs", JOB, job("2", running()));
        let mut waiter = start(&api);
        waiter.says("is running");
        api.await_watches(2);
        api.compact(as_status, |change| {
            change.put("jobs", JOB, job("2", complete()));
        });
        api.cut();
        let ended = waiter.ends();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        let lists = api
            .requests()
            .iter()
            .filter(|line| line.starts_with("list jobs"))
            .count();
        assert_eq!(lists, 2);
    }
}

#[test]
fn rights_that_come_late_are_waited_for() {
    for verb in ["list", "watch"] {
        let api = Api::start();
        api.put("jobs", JOB, job("2", running()));
        api.deny(verb, "jobs");
        let mut waiter = start(&api);
        waiter.says("waiting: not permitted to watch Job db-init: jobs is forbidden");
        api.allow_all();
        waiter.says("waiting: Job db-init is running");
        api.put("jobs", JOB, job("2", complete()));
        assert_eq!(waiter.ends().code, Some(0));
    }
}

#[test]
fn rights_that_never_come_end_the_wait_with_the_command_that_shows_it() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let arguments = ["--image=web:2", "--permission-timeout=1s"];
    let can_i =
        "kubectl auth can-i watch jobs.batch/db-init --as=system:serviceaccount:ns:sa -n ns";
    for verb in ["list", "watch"] {
        api.allow_all();
        api.deny(verb, "jobs");
        let ended = start_with(&api, &arguments).ends();
        assert_eq!(ended.code, Some(5), "{}", ended.output);
        assert!(ended.termination.ends_with(can_i), "{}", ended.termination);
    }
    api.unauthorized();
    let ended = start_with(&api, &arguments).ends();
    assert_eq!(ended.code, Some(5), "{}", ended.output);
    assert!(ended.termination.contains("Unauthorized"));
}

#[test]
fn without_the_right_to_read_the_record_the_job_decides() {
    let api = Api::start();
    api.deny("list", "configmaps");
    api.put("configmaps", RECORD, record(&["2"]));
    let mut waiter = start(&api);
    waiter.says("not permitted to read the record, going on with the Job alone");
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));

    let api = Api::start();
    api.deny("list", "configmaps");
    api.put("jobs", JOB, job("2", crate::objects::condition("Failed")));
    assert_eq!(start(&api).ends().code, Some(3));
}

#[test]
fn a_record_opens_although_the_job_may_not_be_seen() {
    let api = Api::start();
    api.deny("list", "jobs");
    api.put("configmaps", RECORD, record(&["2"]));
    assert_eq!(start(&api).ends().code, Some(0));
}

#[test]
fn a_signal_ends_the_wait() {
    for (signal, code) in [("-TERM", 143), ("-INT", 130)] {
        let api = Api::start();
        let mut waiter = start(&api);
        waiter.says("there is no Job");
        let sent = Command::new("kill")
            .args([signal, &waiter.pid().to_string()])
            .status()
            .expect("kill");
        assert!(sent.success());
        let ended = waiter.ends();
        assert_eq!(ended.code, Some(code));
        assert!(ended.termination.starts_with("stopped by SIG"));
    }
}

#[test]
fn output_that_nobody_reads_is_no_reason_to_stop() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", running()));
    let mut child = Command::new(env!("CARGO_BIN_EXE_migration-gate"))
        .args(["wait", "--gate=g", "--namespace=ns", "--image=web:2"])
        .arg(format!("--job={JOB}"))
        .env("KUBECONFIG", api.kubeconfig())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("the waiter");
    drop(child.stdout.take());
    api.await_watches(2);
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(child.wait().expect("its status").code(), Some(0));
}
