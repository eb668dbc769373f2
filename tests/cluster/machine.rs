//! Tests that these tests leave the machine as it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use testkit::poll::until_is;
use testkit::process::{self, Finished};
use testkit::sandbox::{self, RUN_FOLDER, Sandbox};

testkit::tests! {
    standalone:
        a_run_that_is_killed_leaves_nothing,
        where_no_node_can_run_tests_are_skipped_and_in_ci_fail;
}

/// An argument by which this test recognizes its processes.
const MARK: &str = "31415926";

fn a_run_that_is_killed_leaves_nothing(_: &Sandbox) -> Result<()> {
    let runs = tempfile::tempdir()?;
    let (folder, lock) = sandbox::new_run(runs.path())?;
    let name = sandbox::cgroup(&folder);
    let cgroups = || -> Result<usize> {
        let hierarchies = sandbox::hierarchies()?;
        Ok(hierarchies
            .iter()
            .filter(|hierarchy| hierarchy.join(&name).exists())
            .count())
    };
    ensure!(cgroups()? > 0);
    let mut run = sandbox::command()
        .args(["sh", "-c", &format!("sleep {MARK} & exec sleep {MARK}")])
        .stdin(Stdio::null())
        .spawn()?;
    await_sleepers(2)?;
    // A sandbox in use is not removed.
    sandbox::clean_up(runs.path())?;
    ensure!(folder.exists() && cgroups()? > 0);

    run.kill()?;
    run.wait()?;
    await_sleepers(0)?;
    // The kernel releases the lock of a process that ends. This process goes on, and a child that
    // another thread is just starting may have a copy of the file.
    lock.unlock()?;
    sandbox::clean_up(runs.path())?;
    ensure!(!folder.exists() && cgroups()? == 0);
    Ok(())
}

fn await_sleepers(wanted: usize) -> Result<()> {
    let command = format!("sleep\0{MARK}\0");
    until_is(
        &format!("{wanted} processes"),
        Duration::from_secs(90),
        || sleepers(&command),
        |found| *found == wanted,
    )
}

fn sleepers(command: &str) -> Result<usize> {
    let mut found = 0;
    for entry in fs::read_dir("/proc")? {
        // A process that has ended meanwhile has no command line.
        let line = fs::read_to_string(entry?.path().join("cmdline")).unwrap_or_default();
        found += usize::from(line == command);
    }
    Ok(found)
}

fn where_no_node_can_run_tests_are_skipped_and_in_ci_fail(_: &Sandbox) -> Result<()> {
    let folder = tempfile::tempdir()?;
    fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    // A copy, because other users may not be able to read this program's folder.
    let program = folder.path().join("cluster");
    fs::copy(std::env::current_exe()?, &program).context("copying this program")?;
    let skipped = as_nobody(&program, "false")?;
    ensure!(skipped.status.success(), "{}", skipped.stdout);
    for part in [
        "... ignored (booting a node takes root",
        "0 passed; 0 failed; 1 ignored",
    ] {
        ensure!(skipped.stdout.contains(part), "{}", skipped.stdout);
    }
    let failed = as_nobody(&program, "true")?;
    ensure!(!failed.status.success(), "{}", failed.stdout);
    for part in ["booting a node takes root", "0 passed; 1 failed; 0 ignored"] {
        ensure!(failed.stdout.contains(part), "{}", failed.stdout);
    }
    Ok(())
}

/// Runs one of these tests as a user who may not boot a node.
fn as_nobody(program: &Path, ci: &str) -> Result<Finished> {
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program)
        .args(["--exact", tests()[0].name])
        .env("CI", ci)
        .env_remove("KUBECONFIG")
        .env_remove(RUN_FOLDER)
        .current_dir("/");
    process::run(&mut command, "", Duration::from_mins(3))
}
