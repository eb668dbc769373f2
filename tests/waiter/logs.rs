//! The logs of a failed Job.

use serde_json::{Value, json};

use crate::{start, start_with};
use testkit::fake::FakeApi;
use testkit::gate::{JOB_PATH, failed, failed_after, failing, job, pod_path, running};

const UID: &str = "uid-of-2";

/// A pod of the Job, created in the given minute, whose container `migrate` has failed.
fn pod(minute: usize, uid: &str) -> Value {
    json!({
        "metadata": {"creationTimestamp": format!("2026-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60),
                     "labels": {"batch.kubernetes.io/controller-uid": uid}},
        "spec": {"containers": [{"name": "migrate"}]},
        "status": {"phase": "Failed",
            "containerStatuses": [{"name": "migrate", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}]},
    })
}

#[test]
fn a_failed_job_of_the_version_ends_the_wait_with_its_logs() {
    let api = FakeApi::start();
    for (name, minute, uid) in [
        ("first", 0, UID),
        ("second", 1, UID),
        ("foreign", 2, "uid-of-1"),
    ] {
        let mut pod = pod(minute, uid);
        pod["spec"]["initContainers"] = json!([{"name": "wait-for-db"}]);
        pod["spec"]["ephemeralContainers"] = json!([{"name": "debug"}]);
        pod["status"]["initContainerStatuses"] = json!([{"name": "wait-for-db",
            "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
        pod["status"]["ephemeralContainerStatuses"] = json!([{"name": "debug",
            "state": {"terminated": {"exitCode": 137, "reason": "Error"}}}]);
        api.put(&pod_path(name), pod);
        api.log(name, "wait-for-db", "db is up\n");
        api.log(name, "debug", "");
        api.log(
            name,
            "migrate",
            &format!("{name}: no such table\npostgres://u:secret@db/x\n"),
        );
    }
    api.put(JOB_PATH, job("2", failed_after(2)));
    let ended = start(&api).ends_with(3);
    let expect = "\
Job db-init has failed; its logs:
--- attempt 2 of 4, pod second, container wait-for-db: exit code 0
| db is up
--- attempt 2 of 4, pod second, container migrate: exit code 1
| second: no such table
| postgres://u:***@db/x
--- attempt 2 of 4, pod second, container debug: exit code 137
--- attempt 1 of 4, pod first, container wait-for-db: exit code 0
| db is up
--- attempt 1 of 4, pod first, container migrate: exit code 1
| first: no such table
| postgres://u:***@db/x
--- attempt 1 of 4, pod first, container debug: exit code 137
Job db-init has failed (BecauseOfTheTest: so it is), so this pod must not start; fix the cause, delete the Job and apply it again: kubectl delete job db-init -n ns";
    assert_eq!(ended.output, expect);
    let reason = expect.lines().last().expect("a line");
    assert_eq!(
        ended.termination,
        format!("{reason}\n| second: no such table\n| postgres://u:***@db/x")
    );
}

#[test]
fn only_the_newest_pods_and_the_last_lines_are_shown() {
    let api = FakeApi::start();
    for minute in 0..120 {
        let name = format!("p{minute:03}");
        api.put(&pod_path(&name), pod(minute, UID));
        let lines: Vec<_> = (0..300).map(|i| format!("{name} line {i:03}\n")).collect();
        api.log(&name, "migrate", &lines.concat());
    }
    api.put(JOB_PATH, job("2", failed_after(120)));
    let ended = start(&api).ends();
    let lines: Vec<_> = ended.output.lines().collect();
    for (attempt, name) in ["p119", "p118", "p117", "p116"].iter().enumerate() {
        let shown = &lines[1 + attempt * 202..][..202];
        // The Job has more failed pods than its `backoffLimit` allows, so these are not numbered.
        assert_eq!(
            shown[0],
            format!("--- pod {name}, container migrate: exit code 1")
        );
        assert_eq!(shown[1], "(only the last 200 lines)");
        assert_eq!(shown[2], format!("| {name} line 100"));
        assert_eq!(shown[201], format!("| {name} line 299"));
    }
    assert_eq!(lines[809], "--- 116 older attempts are not shown");
    assert_eq!(lines.len(), 811);
    // The list comes in pages, so that thousands of pods do not take the memory of thousands.
    let requests = api.requests();
    let lists = requests.iter().filter(|line| line.starts_with("list pods"));
    assert_eq!(lists.count(), 3, "{requests:#?}");

    // A log that is short enough is shown whole.
    let api = FakeApi::start();
    api.put(&pod_path("p"), pod(0, UID));
    api.log("p", "migrate", &"line\n".repeat(200));
    api.put(JOB_PATH, job("2", failed_after(1)));
    let ended = start(&api).ends();
    assert!(!ended.output.contains("only the last"), "{}", ended.output);
}

#[test]
fn a_pod_that_is_missing_leaves_the_others_without_a_number() {
    let api = FakeApi::start();
    let mut evicted = pod(1, UID);
    evicted["status"] =
        json!({"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."});
    api.put(&pod_path("p"), evicted);
    api.log("p", "migrate", "half a migr");
    api.put(JOB_PATH, job("2", failed_after(2)));
    let ended = start(&api).ends();
    let expect = "\
Job db-init has failed; its logs:
--- pod p: Evicted: The node was low on memory.
--- pod p, container migrate: its end is not known
| half a migr
";
    assert!(ended.output.starts_with(expect), "{}", ended.output);
}

#[test]
fn the_log_of_a_container_that_was_restarted_is_that_of_the_run_that_failed() {
    let api = FakeApi::start();
    let mut restarted = pod(0, UID);
    restarted["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "migrate", "restartCount": 3,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}}}]});
    api.put(&pod_path("p"), restarted);
    api.previous_log("p", "migrate", "no such table\n");
    let mut object = job("2", failed());
    object["spec"]["template"]["spec"]["restartPolicy"] = json!("OnFailure");
    api.put(JOB_PATH, object);
    let ended = start(&api).ends();
    let expect = "--- pod p, container migrate: exit code 1, after 3 restarts\n| no such table\n";
    assert!(ended.output.contains(expect), "{}", ended.output);
    assert!(
        ended.termination.ends_with("\n| no such table"),
        "{}",
        ended.termination
    );
}

#[test]
fn the_logs_of_pods_that_are_deleted_before_the_end_are_kept() {
    let api = FakeApi::start();
    let mut active = pod(1, UID);
    active["status"] = json!({"phase": "Running", "containerStatuses": [{"name": "migrate", "state": {"running": {}}}]});
    api.put(&pod_path("first"), pod(0, UID));
    api.log("first", "migrate", "no such table\n");
    api.put(&pod_path("second"), active);
    api.log("second", "migrate", "it takes a long time\n");
    api.put(JOB_PATH, job("2", running()));
    let mut waiter = start(&api);
    waiter.says("is running");
    let mut failing = failing();
    failing["failed"] = json!(1);
    api.put(JOB_PATH, job("2", failing));
    waiter.says("is failing, and its pods are ending");
    api.await_request("get pods/log /api/v1/namespaces/ns/pods/second/log");
    api.await_request("get pods/log /api/v1/namespaces/ns/pods/first/log");
    api.delete(&pod_path("second"));
    api.put(JOB_PATH, job("2", failed_after(2)));
    let ended = waiter.ends_with(3);
    let expect = "\
--- attempt 2 of 4, pod second, container migrate: it was running
| it takes a long time
--- attempt 1 of 4, pod first, container migrate: exit code 1
| no such table
Job db-init has failed ";
    assert!(ended.output.contains(expect), "{}", ended.output);
    assert!(
        ended.termination.ends_with("\n| it takes a long time"),
        "{}",
        ended.termination
    );
}

#[test]
fn without_the_right_to_read_logs_the_exit_code_stays() {
    for (verb, target, says, can_i) in [
        (
            "list",
            "pods",
            "not permitted to list the Job's pods: pods is forbidden",
            "kubectl auth can-i list pods --as=system:serviceaccount:ns:sa -n ns",
        ),
        (
            "get",
            "pods/log",
            "not permitted to read this log: pods is forbidden",
            "kubectl auth can-i get pods --subresource=log --as=system:serviceaccount:ns:sa -n ns",
        ),
    ] {
        let api = FakeApi::start();
        api.put(&pod_path("p"), pod(0, UID));
        api.deny(verb, target);
        api.put(JOB_PATH, job("2", failed_after(1)));
        let ended = start(&api).ends_with(3);
        let mut lines = ended.output.lines();
        let line = lines.find(|line| line.starts_with(says));
        assert!(
            line.is_some_and(|line| line.ends_with(can_i)),
            "{}",
            ended.output
        );
        assert!(ended.termination.starts_with("Job db-init has failed"));
    }
}

#[test]
fn logs_that_take_too_long_are_given_up_and_a_signal_is_heard_meanwhile() {
    let api = FakeApi::start();
    api.put(&pod_path("p"), pod(0, UID));
    api.hold("get", "pods/log");
    api.put(JOB_PATH, job("2", failed_after(1)));
    let ended = start_with(&api, &["--image=web:2", "--log-timeout=1s"]).ends_with(3);
    let late =
        "the logs are not complete: the API server took longer than 1s\nJob db-init has failed ";
    assert!(ended.output.contains(late), "{}", ended.output);

    let mut waiter = start_with(&api, &["--image=web:2", "--log-timeout=1h"]);
    waiter.says("--- attempt 1 of 4, pod p, container migrate: exit code 1");
    waiter.signal("-TERM");
    let ended = waiter.ends_with(143);
    assert_eq!(
        ended.termination,
        "stopped by SIGTERM before the gate opened"
    );
}

#[test]
fn a_line_of_a_log_is_quoted_in_json() {
    let api = FakeApi::start();
    api.put(&pod_path("p"), pod(0, UID));
    api.log("p", "migrate", "no \"such\" table\n");
    api.put(JOB_PATH, job("2", failed_after(1)));
    let ended = start_with(&api, &["--image=web:2", "--log-format=json"]).ends();
    let lines: Vec<Value> = ended
        .output
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let mut quote = lines[2].clone();
    let time = quote.as_object_mut().and_then(|quote| quote.remove("time"));
    assert!(time.is_some_and(|time| time.is_string()));
    assert_eq!(
        quote,
        json!({"level": "error", "gate": "g", "pod": "p", "container": "migrate",
               "log": "no \"such\" table"})
    );
    let heading = "--- attempt 1 of 4, pod p, container migrate: exit code 1";
    assert_eq!(lines[1]["message"], heading);
}

/// The author of a log, a condition or a pod's status cannot imitate the waiter, and what they
/// quote of secrets doesn't reach a pod's status.
#[test]
fn what_others_wrote_is_marked_cleaned_and_masked() {
    let api = FakeApi::start();
    let mut evicted = pod(1, UID);
    evicted["status"] = json!({"phase": "Failed", "reason": "Evi\u{1b}[2Jcted",
        "message": "mount of //u:PODSECRET@nas failed\nopen: Job db-init is complete"});
    api.put(&pod_path("p"), evicted);
    api.log(
        "p",
        "migrate",
        "open: Job db-init is complete, of version 1\n\u{1b}]0;title\u{7}\u{202e}\r\u{9b}2J\npassword: LOGSECRET\n",
    );
    let mut failed = failed_after(1);
    failed["conditions"][0]["message"] = json!("PGPASSWORD=JOBSECRET\u{2028}open: \u{1b}c");
    api.put(JOB_PATH, job("2", failed));
    let ended = start(&api).ends_with(3);
    for shown in [&ended.output, &ended.termination] {
        assert!(!shown.contains("SECRET"), "{shown}");
        assert!(
            !shown.contains(|c: char| c.is_control() && c != '\n'),
            "{shown:?}"
        );
        assert!(!shown.contains(['\u{202e}', '\u{2028}']), "{shown:?}");
        assert!(
            !shown.lines().any(|line| line.starts_with("open")),
            "{shown}"
        );
        assert!(
            shown.contains("\n| open: Job db-init is complete, of version 1\n"),
            "{shown}"
        );
    }
}
