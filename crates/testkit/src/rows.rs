//! The waiter's table: what it does in each situation. The rows are written once, and run against
//! the fake API server (`tests/rows.rs`) and against real ones (`tests/cluster/`) of the node's
//! release and of the oldest that the chart admits.
//!
//! To add a row, write a function and add its name to [`ROWS`]. The pure decision has its own table
//! in `crates/core/src/verdict/tests.rs`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use k8s_openapi::jiff::Timestamp;
use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::{Value, json};

use crate::gate::{COMPLETED, JOB, V2, complete, entry, failed, failing, running, succeeding};
use crate::scene::Plane;
use crate::suite::Test;
use crate::waiter::{Ended, Waiter};
use crate::world::{Fake, Row, WaiterWorld};

macro_rules! rows {
    ($($row:ident),* $(,)?) => {
        /// All rows with their paths, for the node's release and for the oldest one.
        const ROWS: &[([&str; 2], Row)] = &[$((
            [
                concat!(module_path!(), "::", stringify!($row)),
                concat!(module_path!(), "::oldest::", stringify!($row)),
            ],
            $row,
        )),*];
    };
}

rows![
    a_complete_job_of_the_version_opens,
    a_record_of_the_version_opens_unless_a_first_attempt_runs,
    a_record_of_a_digest_opens,
    a_record_of_a_mutable_tag_opens_only_without_a_job,
    a_record_of_a_mutable_tag_does_not_open_what_cannot_be_looked_at,
    a_corrupt_entry_of_the_record_is_told_and_not_obeyed,
    a_complete_job_of_another_version_is_waited_out,
    a_failed_job_of_the_version_ends_the_wait,
    a_failed_job_of_another_version_is_waited_out,
    each_state_on_the_way_is_told_once,
    a_job_that_is_sure_to_end_is_not_over_yet,
    a_job_recreated_five_times_is_followed,
    freshness_any_takes_every_complete_job,
    freshness_any_waits_for_the_job_that_is_there,
    the_deadline_tells_what_was_last_seen,
    a_signal_ends_the_wait,
    a_watch_that_is_cut_20_times_still_sees_the_completion,
    deadline_and_signal_are_kept_while_nothing_is_answered,
    json_lines_are_json,
];

/// The rows as tests on a real API server.
pub fn tests() -> Vec<Test> {
    let rows = ROWS.iter();
    rows.map(|&([name, _], row)| Test::row(name, row, Plane::shared))
        .collect()
}

/// The rows as tests on an API server of the oldest release that the chart admits.
pub fn tests_on_the_oldest() -> Vec<Test> {
    let rows = ROWS.iter();
    rows.map(|&([_, name], row)| Test::row(name, row, Plane::oldest))
        .collect()
}

/// Runs the rows against fake API servers, as a test program.
pub fn main() -> ExitCode {
    let rows = tests().into_iter().zip(ROWS);
    let trials = rows.map(|(test, &(_, row))| {
        Trial::test(test.name, move || {
            let done = Fake::start().and_then(|world| row(&world));
            done.map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    let trials = trials.collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Checks that the waiter ends with this exit code, last line and termination message.
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

/// Checks that the waiter opens with this last line.
fn opens(waiter: Waiter, line: &str) -> Result<Ended> {
    ends(waiter, 0, line, "")
}

/// Checks that the waiter gives up with this reason, which is also the termination message.
fn gives_up(waiter: Waiter, code: i32, reason: &str) -> Result<Ended> {
    ends(waiter, code, reason, reason)
}

const COMPLETE: &str = "open: Job db-init is complete, of version 2 (image init:2)";

fn recorded(tag: &str) -> String {
    format!("open: the record has version {tag}, completed {COMPLETED} (image init:{tag})")
}

fn lines(ended: &Ended, number: usize) -> Result<()> {
    let lines = ended.output.lines().count();
    ensure!(lines == number, "{lines} lines: {}", ended.output);
    Ok(())
}

fn a_complete_job_of_the_version_opens(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("2")?;
    scene.status(&complete())?;
    lines(&opens(scene.waiter(&[V2])?, COMPLETE)?, 1)
}

fn a_record_of_the_version_opens_unless_a_first_attempt_runs(
    world: &dyn WaiterWorld,
) -> Result<()> {
    let scene = world.scene();
    scene.record(&["1", "2"])?;
    opens(scene.waiter(&[V2])?, &recorded("2"))?;
    // The same version is migrated again, so pods wait until an attempt has failed.
    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is running (attempt 1 of 4");
    scene.status(&json!({"active": 0, "ready": 0, "failed": 1}))?;
    opens(waiter, &recorded("2"))?;
    scene.status(&failed())?;
    opens(scene.waiter(&[V2])?, &recorded("2"))?;
    // After a rollback, the Job is still of the newer version.
    scene.delete()?;
    scene.create("3")?;
    scene.status(&complete())?;
    opens(scene.waiter(&[V2])?, &recorded("2"))?;
    // The entry is added while the waiter waits.
    let mut waiter = scene.waiter(&["--image=web:4"])?;
    waiter.says("is complete, but for version 3");
    scene.record(&["4"])?;
    opens(waiter, &recorded("4"))?;
    Ok(())
}

fn a_record_of_a_digest_opens(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    let digest = "ab".repeat(32);
    let image = format!("--image=web@sha256:{digest}");
    let mut waiter = scene.waiter(&[&image])?;
    waiter.says(&format!("no record of version sha256:{digest}"));
    // A ConfigMap's keys have no colon.
    let entry = json!({"image": format!("init@sha256:{digest}"), "job": JOB, "uid": "u", "completed": COMPLETED});
    scene.record_as([(format!("sha256.{digest}"), entry.to_string())].into())?;
    let recorded = format!(
        "open: the record has version sha256:{digest}, completed {COMPLETED} (image init@sha256:{digest})"
    );
    opens(waiter, &recorded)?;
    opens(scene.waiter(&[&image])?, &recorded)?;
    Ok(())
}

fn a_record_of_a_mutable_tag_opens_only_without_a_job(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.record(&["latest"])?;
    opens(scene.waiter(&["--image=web"])?, &recorded("latest"))?;
    scene.create("latest")?;
    scene.status(&running())?;
    // A Job that has just been deleted is expected to be created again. An hour is longer than this
    // test.
    let mut patient = scene.waiter(&["--image=web", "--settle=1h"])?;
    let mut hasty = scene.waiter(&["--image=web", "--settle=1s"])?;
    patient.says("waiting: Job db-init is running");
    hasty.says("waiting: Job db-init is running");
    scene.delete()?;
    patient.says("waiting: Job db-init was deleted");
    opens(hasty, &recorded("latest"))?;
    scene.create("latest")?;
    patient.says("waiting: Job db-init has no pod yet");
    scene.status(&running())?;
    patient.says("waiting: Job db-init is running");
    scene.status(&complete())?;
    opens(
        patient,
        "open: Job db-init is complete, of version latest (image init:latest)",
    )?;
    Ok(())
}

/// The waiter does not see a Job that is created again while its connection is dead.
fn a_record_of_a_mutable_tag_does_not_open_what_cannot_be_looked_at(
    world: &dyn WaiterWorld,
) -> Result<()> {
    let scene = world.scene();
    scene.record(&["latest"])?;
    scene.create("latest")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&["--image=web", "--settle=1s", "--timeout=3s"])?;
    waiter.says("waiting: Job db-init is running");
    world.await_watches(1)?;
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted");
    world.hold();
    world.cut();
    scene.create("latest")?;
    waiter.ends_with(4);
    Ok(())
}

fn a_corrupt_entry_of_the_record_is_told_and_not_obeyed(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    let corrupt = [("2", entry("1")), ("3", "{".to_owned())];
    let mut corrupt: BTreeMap<_, _> = corrupt.map(|(key, text)| (key.to_owned(), text)).into();
    // Many corrupt entries are reported in few lines.
    corrupt.extend((10..50).map(|i| (format!("r{i}"), "x".repeat(9000))));
    scene.record_as(corrupt)?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("ConfigMap migration-gate-g: the entry 2 is corrupt and ignored: its image `init:1` is of version `1`");
    waiter.says("ConfigMap migration-gate-g: the entry 3 is corrupt and ignored: ");
    for i in 10..13 {
        waiter.says(&format!(
            "ConfigMap migration-gate-g: the entry r{i} is corrupt"
        ));
    }
    waiter.says("ConfigMap migration-gate-g: 37 more entries are corrupt and ignored");
    scene.record(&["2"])?;
    let ended = opens(waiter, &recorded("2"))?;
    let told = ended.output.matches("is corrupt and ignored").count();
    ensure!(told == 5, "{}", ended.output);
    Ok(())
}

fn a_complete_job_of_another_version_is_waited_out(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("1")?;
    scene.status(&complete())?;
    let mut waiter = scene.waiter(&[V2])?;
    let line = waiter.says(
        "waiting: Job db-init is complete, but for version 1 (image init:1); this pod needs version 2",
    );
    let advice = format!("kubectl delete job db-init -n {}", scene.namespace);
    ensure!(line.ends_with(&advice), "{line}");
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted, and there is no record of version 2");
    scene.create("2")?;
    waiter.says("waiting: Job db-init has no pod yet");
    scene.status(&complete())?;
    lines(&opens(waiter, COMPLETE)?, 4)
}

fn a_failed_job_of_the_version_ends_the_wait(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("2")?;
    scene.status(&failed())?;
    let reason = format!(
        "Job db-init has failed (BecauseOfTheTest: so it is), so this pod must not start; fix the cause, \
         delete the Job and apply it again: kubectl delete job db-init -n {}",
        scene.namespace
    );
    let ended = gives_up(scene.waiter(&[V2])?, 3, &reason)?;
    ensure!(
        ended.output.starts_with(
            "Job db-init has failed; its logs:\nJob db-init has no pod left, so there are no logs to show\n"
        ),
        "{}",
        ended.output
    );
    // A failed Job is deleted so that it can run again.
    scene.begin_to_delete()?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is being deleted");
    scene.let_go()?;
    waiter.says("waiting: Job db-init was deleted");
    scene.create("2")?;
    scene.status(&failed())?;
    gives_up(waiter, 3, &reason)?;
    Ok(())
}

fn a_failed_job_of_another_version_is_waited_out(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
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

fn each_state_on_the_way_is_told_once(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    let mut waiter = scene.waiter(&[V2, "--timeout=1h"])?;
    waiter.says(&format!(
        "waiting: there is no Job db-init in namespace {}, and no record of version 2 (gives up in 59m5",
        scene.namespace
    ));
    scene.create_with("2", &json!({"suspend": true}))?;
    waiter.says("waiting: Job db-init is suspended (gives up in ");
    scene.patch(&json!({"spec": {"suspend": false}}))?;
    waiter.says("waiting: Job db-init has no pod yet (gives up in ");
    // The API server stores whole seconds, and lets no Job's `startTime` change.
    let ago = |minutes: i64| Timestamp::from_second(Timestamp::now().as_second() - 60 * minutes);
    let started = ago(90)?;
    scene.status(&json!({"active": 1, "ready": 0}))?;
    waiter.says("waiting: Job db-init has a pod that is not ready (attempt 1 of 4; gives up in ");
    scene.status(&json!({"startTime": started, "ready": 1}))?;
    waiter.says("waiting: Job db-init is running (attempt 1 of 4, 1h30m");
    // Nothing relevant has changed.
    scene.status(&json!({"terminating": 0}))?;
    scene.status(&json!({"active": 0, "ready": 0, "failed": 1}))?;
    waiter.says("waiting: Job db-init is about to try again (attempt 2 of 4, 1h30m");
    scene.status(&json!({"active": 1, "ready": 1}))?;
    waiter.says("waiting: Job db-init is running (attempt 2 of 4, ");
    let mut complete = complete();
    complete["startTime"] = json!(started);
    complete["completionTime"] = json!(ago(0)?);
    scene.status(&complete)?;
    lines(&opens(waiter, COMPLETE)?, 8)
}

fn a_job_that_is_sure_to_end_is_not_over_yet(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("2")?;
    scene.status(&failing())?;
    let mut waiter = scene.waiter(&[V2, "--timeout=1h"])?;
    let line = waiter.says("waiting: Job db-init is failing, and its pods are ending (");
    ensure!(line.contains("; gives up in "), "{line}");
    scene.delete()?;
    waiter.says("waiting: Job db-init was deleted");
    scene.create("2")?;
    if scene.tells_success_early {
        scene.status(&succeeding())?;
        let line = waiter.says("waiting: Job db-init has succeeded, and its pods are ending (");
        ensure!(line.contains("; gives up in "), "{line}");
    }
    scene.status(&complete())?;
    opens(waiter, COMPLETE)?;
    Ok(())
}

fn a_job_recreated_five_times_is_followed(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
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

fn freshness_any_takes_every_complete_job(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("1")?;
    scene.status(&running())?;
    let any = [V2, "--freshness=any"];
    let mut waiter = scene.waiter(&any)?;
    waiter.says("waiting: Job db-init is running");
    scene.status(&complete())?;
    for waiter in [waiter, scene.waiter(&any)?] {
        opens(
            waiter,
            "open: Job db-init is complete, of version 1 (image init:1)",
        )?;
    }
    Ok(())
}

fn freshness_any_waits_for_the_job_that_is_there(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.record(&["1", "2"])?;
    scene.create("3")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&["--freshness=any"])?;
    waiter.says("waiting: Job db-init is running");
    scene.status(&failed())?;
    waiter.ends_with(3);
    Ok(())
}

fn the_deadline_tells_what_was_last_seen(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    let namespace = &scene.namespace;
    let short = [V2, "--timeout=1s"];
    gives_up(
        scene.waiter(&short)?,
        4,
        &format!(
            "gave up after 1s: there is no Job db-init in namespace {namespace}, and no record of version 2. \
             Apply the migration Job; check that it exists: kubectl get job db-init -n {namespace}. \
             If version 2 was migrated before: migration-gate record done 2 --gate g"
        ),
    )?;
    scene.create("1")?;
    scene.status(&complete())?;
    gives_up(
        scene.waiter(&short)?,
        4,
        &format!(
            "gave up after 1s: Job db-init is complete, but for version 1 (image init:1); this pod needs version 2. \
             If its image has versions of its own, let gate g compare a label or annotation (`version`); if it is an \
             old Job, delete it and apply again: kubectl delete job db-init -n {namespace}. If version 2 was migrated before: \
             migration-gate record done 2 --gate g"
        ),
    )?;
    Ok(())
}

fn a_signal_ends_the_wait(world: &dyn WaiterWorld) -> Result<()> {
    for (signal, code) in [("TERM", 143), ("INT", 130)] {
        let mut waiter = world.scene().waiter(&[V2])?;
        waiter.says("waiting: there is no Job");
        waiter.signal(&format!("-{signal}"));
        let reason = format!("stopped by SIG{signal} before the gate opened");
        gives_up(waiter, code, &reason)?;
    }
    Ok(())
}

fn a_watch_that_is_cut_20_times_still_sees_the_completion(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is running");
    for cut in 1..=20 {
        world.await_watches(cut)?;
        world.cut();
    }
    scene.status(&complete())?;
    // A cut is not reported: it is no problem and changes nothing.
    lines(&opens(waiter, COMPLETE)?, 2)
}

fn deadline_and_signal_are_kept_while_nothing_is_answered(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is running");
    world.await_watches(1)?;
    world.hold();
    world.cut();
    // The waiter is connecting again, or about to.
    waiter.signal("-TERM");
    waiter.ends_with(143);
    scene.waiter(&[V2, "--timeout=1s"])?.ends_with(4);
    Ok(())
}

fn json_lines_are_json(world: &dyn WaiterWorld) -> Result<()> {
    let scene = world.scene();
    let mut waiter = scene.waiter(&[V2, "--log-format=json"])?;
    waiter.says("there is no Job");
    scene.create("2")?;
    waiter.says("has no pod yet");
    scene.status(&complete())?;
    let ended = waiter.ends_with(0);
    lines(&ended, 3)?;
    for line in ended.output.lines() {
        let line: Value = serde_json::from_str(line)?;
        let time = line["time"].as_str().unwrap_or_default();
        ensure!(time.parse::<Timestamp>().is_ok(), "{line}");
        ensure!(line["level"] == "info" && line["gate"] == "g", "{line}");
    }
    let last: Value = serde_json::from_str(ended.output.lines().last().unwrap_or_default())?;
    ensure!(last["message"] == COMPLETE, "{last}");
    Ok(())
}
