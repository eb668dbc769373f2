//! What the waiter does for what it sees, one test for each row of the table in the design.

use serde_json::json;

use crate::api::Api;
use crate::objects::{JOB, RECORD, complete, condition, job, record, running};
use crate::{start, start_with};

#[test]
fn a_complete_job_of_the_version_opens() {
    let api = Api::start();
    api.put("jobs", JOB, job("2", complete()));
    let ended = start(&api).ends();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
    assert_eq!(ended.output, "open: Job db-init is complete, of version 2");
    assert_eq!(ended.termination, "");
}

#[test]
fn a_record_of_an_immutable_version_opens_whatever_the_job_does() {
    for status in [None, Some(running()), Some(condition("Failed"))] {
        let api = Api::start();
        if let Some(status) = status {
            api.put("jobs", JOB, job("2", status));
        }
        api.put("configmaps", RECORD, record(&["1", "2"]));
        let ended = start(&api).ends();
        assert_eq!(ended.code, Some(0), "{}", ended.output);
        assert!(
            ended
                .output
                .ends_with("open: the record has version 2, completed 2026-01-01T00:00:00Z")
        );
    }
}

#[test]
fn a_record_of_a_mutable_version_opens_without_a_job() {
    let api = Api::start();
    api.put("configmaps", RECORD, record(&["latest"]));
    let ended = start_with(&api, &["--image=web"]).ends();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn an_old_job_that_is_complete_is_waited_out() {
    let api = Api::start();
    api.put("jobs", JOB, job("1", complete()));
    let mut waiter = start(&api);
    waiter.says("is complete, but for version 1 (image init:1); this pod needs version 2");
    api.delete("jobs", JOB);
    waiter.says("was deleted");
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn a_failed_job_of_another_version_is_waited_out() {
    let api = Api::start();
    api.put("jobs", JOB, job("1", condition("Failed")));
    let mut waiter = start(&api);
    waiter.says("has failed, but for version 1");
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn each_state_on_the_way_is_told_once() {
    let api = Api::start();
    let mut waiter = start_with(&api, &["--image=web:2", "--timeout=1h"]);
    waiter.says("waiting: there is no Job db-init in namespace ns, and no record of version 2 (gives up in ");
    let mut suspended = job("2", json!({}));
    suspended["spec"]["suspend"] = json!(true);
    api.put("jobs", JOB, suspended);
    waiter.says("waiting: Job db-init is suspended (gives up in ");
    api.put("jobs", JOB, job("2", json!({})));
    waiter.says("waiting: Job db-init has no pod yet (gives up in ");
    api.put("jobs", JOB, job("2", json!({"active": 1, "ready": 0})));
    waiter.says("waiting: Job db-init has a pod that is not ready (attempt 1 of 4; gives up in ");
    let started = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(90);
    api.put(
        "jobs",
        JOB,
        job("2", json!({"active": 1, "ready": 1, "startTime": started})),
    );
    waiter.says("waiting: Job db-init is running (attempt 1 of 4, 1h30m");
    // Nothing that matters has changed.
    api.put(
        "jobs",
        JOB,
        job("2", json!({"active": 1, "ready": 2, "startTime": started})),
    );
    api.put("jobs", JOB, job("2", json!({"failed": 1})));
    waiter.says("waiting: Job db-init is about to try again (attempt 2 of 4; gives up in ");
    api.put("jobs", JOB, job("2", condition("SuccessCriteriaMet")));
    waiter.says("waiting: Job db-init has succeeded, and its pods are ending (gives up in ");
    api.put("jobs", JOB, job("2", condition("FailureTarget")));
    waiter.says("waiting: Job db-init is failing, and its pods are ending (gives up in ");
    api.put("jobs", JOB, job("2", complete()));
    let ended = waiter.ends();
    assert_eq!(ended.code, Some(0));
    assert_eq!(ended.output.lines().count(), 9, "{}", ended.output);
}

#[test]
fn a_job_that_is_recreated_five_times_is_followed() {
    let api = Api::start();
    let mut waiter = start(&api);
    waiter.says("there is no Job");
    for _ in 0..5 {
        api.put("jobs", JOB, job("2", running()));
        waiter.says("is running");
        api.delete("jobs", JOB);
        waiter.says("was deleted");
    }
    api.put("jobs", JOB, job("2", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn a_mutable_job_that_is_replaced_is_not_mistaken_for_its_record() {
    let api = Api::start();
    api.put("configmaps", RECORD, record(&["latest"]));
    api.put("jobs", JOB, job("latest", running()));
    let mut waiter = start_with(&api, &["--image=web", "--settle=1h"]);
    waiter.says("is running");
    api.delete("jobs", JOB);
    waiter.says("was deleted");
    api.put("jobs", JOB, job("latest", running()));
    waiter.says("is running");
    api.put("jobs", JOB, job("latest", complete()));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn a_mutable_job_that_stays_away_leaves_the_word_to_its_record() {
    let api = Api::start();
    api.put("configmaps", RECORD, record(&["latest"]));
    api.put("jobs", JOB, job("latest", running()));
    let mut waiter = start_with(&api, &["--image=web", "--settle=1s"]);
    waiter.says("is running");
    api.delete("jobs", JOB);
    let ended = waiter.ends();
    assert_eq!(ended.code, Some(0));
    assert!(ended.output.contains("open: the record has version latest"));
}

#[test]
fn freshness_any_takes_every_complete_job() {
    let api = Api::start();
    api.put("jobs", JOB, job("1", complete()));
    let ended = start_with(&api, &["--image=web:2", "--freshness=any"]).ends();
    assert_eq!(ended.code, Some(0), "{}", ended.output);
}

#[test]
fn freshness_any_waits_for_the_job_that_is_there() {
    let api = Api::start();
    api.put("configmaps", RECORD, record(&["1", "2"]));
    api.put("jobs", JOB, job("3", running()));
    let mut waiter = start_with(&api, &["--freshness=any"]);
    waiter.says("is running");
    api.put("jobs", JOB, job("3", condition("Failed")));
    assert_eq!(waiter.ends().code, Some(3));
}

#[test]
fn the_deadline_tells_what_was_seen_and_what_to_do() {
    let api = Api::start();
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends();
    assert_eq!(ended.code, Some(4));
    assert_eq!(
        ended.termination,
        "gave up after 1s: there is no Job db-init in namespace ns, and no record of version 2. \
         Apply the migration Job; look whether it is there: kubectl get job db-init -n ns"
    );
    assert!(ended.output.ends_with(&ended.termination));
    api.put("jobs", JOB, job("1", complete()));
    let ended = start_with(&api, &["--image=web:2", "--timeout=1s"]).ends();
    assert_eq!(ended.code, Some(4));
    assert_eq!(
        ended.termination,
        "gave up after 1s: Job db-init is complete, but for version 1 (image init:1); this pod \
         needs version 2. A Job's template is immutable, so an apply with a new image fails on the \
         old Job. Delete it and apply again: kubectl delete job db-init -n ns"
    );
}

#[test]
fn a_corrupt_entry_of_the_record_is_told_and_not_obeyed() {
    let api = Api::start();
    let mut corrupt = record(&["1"]);
    corrupt["data"]["2"] = corrupt["data"]["1"].take();
    corrupt["data"]["3"] = json!("{");
    corrupt["data"].as_object_mut().expect("data").remove("1");
    api.put("configmaps", RECORD, corrupt);
    let mut waiter = start(&api);
    waiter.says("ConfigMap migration-gate-g: the entry 2 is corrupt and not obeyed: its image `init:1` is of version `1`");
    waiter.says("the entry 3 is corrupt and not obeyed: ");
    api.put("configmaps", RECORD, record(&["2"]));
    assert_eq!(waiter.ends().code, Some(0));
}

#[test]
fn json_lines_are_json() {
    let api = Api::start();
    let mut waiter = start_with(&api, &["--image=web:2", "--log-format=json"]);
    waiter.says("there is no Job");
    api.put("jobs", JOB, job("2", complete()));
    let ended = waiter.ends();
    assert_eq!(ended.code, Some(0));
    let lines: Vec<serde_json::Value> = ended
        .output
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    assert_eq!(lines.len(), 2);
    assert_eq!(
        lines[1]["message"],
        "open: Job db-init is complete, of version 2"
    );
    assert_eq!(lines[1]["level"], "info");
    assert_eq!(lines[1]["gate"], "g");
    assert!(
        lines[1]["time"]
            .as_str()
            .is_some_and(|t| t.parse::<jiff::Timestamp>().is_ok())
    );
}

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    let api = Api::start();
    for (args, says) in [
        (&[][..], "--image: it is missing"),
        (&["--image="], "--image: it is missing"),
        (&["--image=web:2", "--record=.."], "--record: "),
    ] {
        let ended = start_with(&api, args).ends();
        assert_eq!(ended.code, Some(2), "{args:?}: {}", ended.output);
        assert!(ended.termination.contains(says), "{}", ended.termination);
    }
    assert_eq!(api.requests(), Vec::<String>::new());

    // What clap refuses is told there too.
    let ended = start_with(&api, &["--image=web:2", "--timeout=abc"]).ends();
    assert_eq!(ended.code, Some(2));
    assert_eq!(
        ended.termination,
        "cannot wait: invalid value 'abc' for '--timeout <TIMEOUT>': `abc` is not a duration; write it as \
         `10m`, `90s` or `1h30m`"
    );
}
