//! What the waiter does for what it sees, row by row of the design's table.

use anyhow::{Result, ensure};
use serde_json::json;

use testkit::sandbox::Sandbox;
use testkit::scene::{
    COMPLETED, JOB, Scene, V2, complete, entry, failed, failing, running, succeeding,
};
use testkit::waiter::{Ended, Waiter};

testkit::tests! {
    standalone:
        a_complete_job_of_the_version_opens,
        a_record_of_the_version_opens_whatever_the_job_does,
        a_record_of_a_digest_opens,
        a_record_of_a_mutable_tag_opens_only_without_a_job,
        a_complete_job_of_another_version_is_waited_out,
        a_failed_job_of_the_version_ends_the_wait,
        a_failed_job_of_another_version_is_waited_out,
        each_state_on_the_way_is_told_once,
        a_job_that_is_sure_to_end_is_not_over_yet,
        a_job_recreated_five_times_is_followed,
        the_deadline_tells_what_was_last_seen,
        a_signal_ends_the_wait,
        freshness_any_takes_every_complete_job;
}

/// The waiter's end is this exit code, and these are its last line and its termination message.
fn ends(waiter: Waiter, code: i32, line: &str, termination: &str) -> Result<Ended> {
    let ended = waiter.ends();
    ensure!(
        ended.code == Some(code) && ended.output.lines().last() == Some(line),
        "{:?}, not {code} and {line}: {}",
        ended.code,
        ended.output
    );
    ensure!(ended.termination == termination, "{}", ended.termination);
    Ok(ended)
}

fn opens(waiter: Waiter, line: &str) -> Result<Ended> {
    ends(waiter, 0, line, "")
}

/// Gives up with this reason, which is the termination message too.
fn gives_up(waiter: Waiter, code: i32, reason: &str) -> Result<Ended> {
    ends(waiter, code, reason, reason)
}

const COMPLETE: &str = "open: Job db-init is complete, of version 2";

fn a_complete_job_of_the_version_opens(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-complete")?;
    scene.create("2")?;
    scene.status(&complete())?;
    let ended = opens(scene.waiter(&[V2])?, COMPLETE)?;
    ensure!(ended.output.lines().count() == 1, "{}", ended.output);
    let ended = scene.waiter(&[V2, "--log-format=json"])?.ends();
    let line: serde_json::Value = serde_json::from_str(&ended.output)?;
    ensure!(line["message"] == COMPLETE && line["gate"] == "g", "{line}");
    Ok(())
}

fn a_record_of_the_version_opens_whatever_the_job_does(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-record")?;
    scene.record(&["1", "2"])?;
    let recorded = format!("open: the record has version 2, completed {COMPLETED}");
    opens(scene.waiter(&[V2])?, &recorded)?;
    scene.create("2")?;
    opens(scene.waiter(&[V2])?, &recorded)?;
    scene.status(&running())?;
    opens(scene.waiter(&[V2])?, &recorded)?;
    scene.status(&failed())?;
    opens(scene.waiter(&[V2])?, &recorded)?;
    // A roll-back: the Job is the newer version's.
    scene.delete()?;
    scene.create("3")?;
    scene.status(&complete())?;
    opens(scene.waiter(&[V2])?, &recorded)?;
    // The record comes while the waiter waits.
    let mut waiter = scene.waiter(&["--image=web:4"])?;
    waiter.says("is complete, but for version 3");
    scene.record(&["4"])?;
    let recorded = format!("open: the record has version 4, completed {COMPLETED}");
    opens(waiter, &recorded)?;
    Ok(())
}

fn a_record_of_a_digest_opens(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-digest")?;
    let digest = "ab".repeat(32);
    let image = format!("--image=web@sha256:{digest}");
    let mut waiter = scene.waiter(&[&image])?;
    waiter.says(&format!("no record of version sha256:{digest}"));
    // A ConfigMap's keys have no colon.
    let entry = json!({"image": format!("init@sha256:{digest}"), "job": JOB, "uid": "u", "completed": COMPLETED});
    scene.record_as(&[(format!("sha256.{digest}"), entry.to_string())].into())?;
    let recorded = format!("open: the record has version sha256:{digest}, completed {COMPLETED}");
    opens(waiter, &recorded)?;
    opens(scene.waiter(&[&image])?, &recorded)?;
    Ok(())
}

fn a_record_of_a_mutable_tag_opens_only_without_a_job(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-mutable")?;
    scene.record(&["latest"])?;
    let recorded = format!("open: the record has version latest, completed {COMPLETED}");
    opens(scene.waiter(&["--image=web"])?, &recorded)?;
    scene.create("latest")?;
    scene.status(&running())?;
    // A Job that has just gone is expected to come back: an hour is longer than this test.
    let mut patient = scene.waiter(&["--image=web", "--settle=1h"])?;
    let mut hasty = scene.waiter(&["--image=web", "--settle=1s"])?;
    patient.says("waiting: Job db-init is running");
    hasty.says("waiting: Job db-init is running");
    scene.delete()?;
    patient.says("waiting: Job db-init was deleted");
    opens(hasty, &recorded)?;
    scene.create("latest")?;
    patient.says("waiting: Job db-init has no pod yet");
    scene.status(&complete())?;
    opens(patient, "open: Job db-init is complete, of version latest")?;
    Ok(())
}

fn a_complete_job_of_another_version_is_waited_out(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-old-complete")?;
    scene.create("1")?;
    scene.status(&complete())?;
    let mut waiter = scene.waiter(&[V2])?;
    let line = waiter.says(
        "waiting: Job db-init is complete, but for version 1 (image init:1); this pod needs version 2",
    );
    let advice = "kubectl delete job db-init -n row-old-complete";
    ensure!(line.ends_with(advice), "{line}");
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted, and there is no record of version 2");
    scene.create("2")?;
    waiter.says("waiting: Job db-init has no pod yet");
    scene.status(&complete())?;
    let ended = opens(waiter, COMPLETE)?;
    ensure!(ended.output.lines().count() == 4, "{}", ended.output);
    Ok(())
}

fn a_failed_job_of_the_version_ends_the_wait(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-failed")?;
    scene.create("2")?;
    scene.status(&failed())?;
    let reason = "Job db-init has failed (BecauseOfTheTest: so it is), so this pod must not start; mend the cause, \
                  delete the Job and apply it again: kubectl delete job db-init -n row-failed";
    let ended = gives_up(scene.waiter(&[V2])?, 3, reason)?;
    ensure!(
        ended.output.starts_with(
            "Job db-init has failed; its logs:\nJob db-init has no pod left, so there are no logs to show\n"
        ),
        "{}",
        ended.output
    );
    // Whoever deletes a failed Job is about to try again.
    scene.begin_to_delete()?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is being deleted");
    scene.let_go()?;
    waiter.says("waiting: Job db-init was deleted");
    scene.create("2")?;
    scene.status(&failed())?;
    gives_up(waiter, 3, reason)?;
    Ok(())
}

fn a_failed_job_of_another_version_is_waited_out(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-old-failed")?;
    scene.create("1")?;
    scene.status(&failed())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says(
        "waiting: Job db-init has failed, but for version 1 (image init:1); this pod needs version 2",
    );
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted");
    scene.create("2")?;
    scene.status(&complete())?;
    opens(waiter, COMPLETE)?;
    Ok(())
}

fn each_state_on_the_way_is_told_once(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-states")?;
    let mut waiter = scene.waiter(&[V2, "--timeout=1h"])?;
    waiter.says(
        "waiting: there is no Job db-init in namespace row-states, and no record of version 2 (gives up in 59m5",
    );
    scene.create_with("2", &json!({"suspend": true}))?;
    waiter.says("waiting: Job db-init is suspended (gives up in ");
    scene.patch(&json!({"suspend": false}))?;
    waiter.says("waiting: Job db-init has no pod yet (gives up in ");
    let mut not_ready = running();
    not_ready["ready"] = json!(0);
    scene.status(&not_ready)?;
    waiter.says("waiting: Job db-init has a pod that is not ready (attempt 1 of 4");
    scene.status(&running())?;
    waiter.says("waiting: Job db-init is running (attempt 1 of 4, ");
    // Nothing that matters has changed.
    scene.status(&json!({"terminating": 0}))?;
    scene.status(&json!({"active": 0, "ready": 0, "failed": 1}))?;
    waiter.says("waiting: Job db-init is about to try again (attempt 2 of 4");
    scene.status(&running())?;
    waiter.says("waiting: Job db-init is running (attempt 2 of 4, ");
    scene.status(&complete())?;
    let ended = opens(waiter, COMPLETE)?;
    ensure!(ended.output.lines().count() == 8, "{}", ended.output);
    Ok(())
}

fn a_job_that_is_sure_to_end_is_not_over_yet(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-sure")?;
    scene.create("2")?;
    scene.status(&failing())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is failing, and its pods are ending");
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted");
    scene.create("2")?;
    scene.status(&succeeding())?;
    waiter.says("waiting: Job db-init has succeeded, and its pods are ending");
    scene.status(&complete())?;
    opens(waiter, COMPLETE)?;
    Ok(())
}

fn a_job_recreated_five_times_is_followed(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-recreated")?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: there is no Job db-init");
    for _ in 0..5 {
        scene.create("2")?;
        scene.status(&running())?;
        waiter.says("waiting: Job db-init is running");
        scene.delete()?;
        waiter.says("waiting: Job db-init was deleted");
    }
    scene.create("2")?;
    scene.status(&complete())?;
    opens(waiter, COMPLETE)?;
    Ok(())
}

fn the_deadline_tells_what_was_last_seen(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-deadline")?;
    let short = [V2, "--timeout=1s"];
    gives_up(
        scene.waiter(&short)?,
        4,
        "gave up after 1s: there is no Job db-init in namespace row-deadline, and no record of version 2. Apply the \
         migration Job; look whether it is there: kubectl get job db-init -n row-deadline",
    )?;
    // An entry that says another version than its key does is none.
    scene.record_as(&[("2".to_owned(), entry("1"))].into())?;
    scene.create("1")?;
    scene.status(&complete())?;
    let ended = gives_up(
        scene.waiter(&short)?,
        4,
        "gave up after 1s: Job db-init is complete, but for version 1 (image init:1); this pod needs version 2. A \
         Job's template is immutable, so an apply with a new image fails on the old Job. Delete it and apply again: \
         kubectl delete job db-init -n row-deadline",
    )?;
    ensure!(
        ended.output.contains(
            "ConfigMap migration-gate-g: the entry 2 is corrupt and not obeyed: its image `init:1` is of version `1`"
        ),
        "{}",
        ended.output
    );
    Ok(())
}

fn a_signal_ends_the_wait(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-signal")?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: there is no Job");
    waiter.signal("-TERM");
    gives_up(waiter, 143, "stopped by SIGTERM before the gate opened")?;
    Ok(())
}

fn freshness_any_takes_every_complete_job(sandbox: &Sandbox) -> Result<()> {
    let scene = Scene::shared(sandbox, "row-any")?;
    scene.create("1")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&[V2, "--freshness=any"])?;
    waiter.says(&format!("waiting: Job {JOB} is running"));
    scene.status(&complete())?;
    opens(waiter, "open: Job db-init is complete, of version 1")?;
    Ok(())
}
