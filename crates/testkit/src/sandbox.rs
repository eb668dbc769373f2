//! Isolates a run from the machine in network, mount and PID namespaces of its own.
//!
//! A [worker](crate::worker) is a child of PID 1 in a sandbox, and so are etcd, kubelet, containerd
//! and every pod. When the test program ends in any way, the kernel kills every process and removes
//! every mount, link and network namespace. Only a folder of logs and empty cgroups remain.
//! [`clean_up`] removes those of ended runs.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::assets::Assets;
use crate::poll::{Look, until};

/// The node's address, which every pod can reach.
pub const NODE_ADDRESS: &str = "10.240.0.1";
/// The first address of the Service range, where pods find the API server.
pub const SERVICE_ADDRESS: &str = "10.96.0.1";
/// The Service address where pods find DNS.
pub const DNS_ADDRESS: &str = "10.96.0.10";

/// The namespaces, as options of unshare.
const NAMESPACES: [&str; 4] = ["--net", "--mount", "--pid", "--mount-proc"];

/// The variable that holds the run's folder. It is set inside a sandbox, and only there.
pub const RUN_FOLDER: &str = "MIGRATION_GATE_CLUSTER_RUN";

/// The sandbox that this process is in, and the programs to boot a node with.
#[derive(Clone)]
pub struct Sandbox {
    /// The programs.
    pub assets: Assets,
    folder: PathBuf,
    memory: PathBuf,
}

impl Sandbox {
    /// The sandbox that this process is in, if it is in one.
    pub fn current() -> Result<Option<Self>> {
        match std::env::var_os(RUN_FOLDER) {
            None => Ok(None),
            Some(folder) => Ok(Some(Self {
                assets: Assets::prepare()?,
                folder: folder.into(),
                memory: "/run/migration-gate".into(),
            })),
        }
    }

    /// The run's folder, on the disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for logs in the run's folder. It remains after a failed run.
    pub fn logs(&self, name: &str) -> Result<PathBuf> {
        created(self.folder.join(name))
    }

    /// A folder for state, in a file system in memory that ends with the sandbox. Its path is
    /// short, because paths of sockets must be, and the same in every run.
    pub fn state(&self, name: &str) -> Result<PathBuf> {
        created(self.memory.join(name))
    }

    /// The parent cgroup of this run's pods. A later run finds and removes it by its name.
    pub fn cgroup(&self) -> String {
        format!("/{}", cgroup(&self.folder))
    }
}

fn created(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// The reason why no node can be booted on this machine, if there is one.
pub fn obstacle() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some(format!(
            "a node boots on Linux only, and this is {}",
            std::env::consts::OS
        ));
    }
    // The owner of /proc/self is the effective user.
    let uid = fs::metadata("/proc/self").map(|it| std::os::unix::fs::MetadataExt::uid(&it));
    match uid {
        Ok(0) => {}
        _ => return Some("booting a node takes root (namespaces, mounts, cgroups)".to_owned()),
    }
    let trial = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(NAMESPACES)
        .args(["--fork", "true"])
        .output();
    match trial {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return Some(format!(
                "this machine allows no namespaces of one's own: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        Err(error) => {
            return Some(format!(
                "setpriv (Debian: util-linux) can't be run: {error}"
            ));
        }
    }
    let name = format!("migration-gate-trial-{}", std::process::id());
    create_cgroups(&name)
        .and_then(|()| remove_cgroups(&name))
        .err()
        .map(|error| format!("this machine allows no cgroups of one's own: {error:#}"))
}

/// The folder of all runs' folders.
pub(crate) fn runs() -> Result<PathBuf> {
    created(std::env::temp_dir().join("migration-gate-cluster"))
}

/// A command that runs in new namespaces. The caller appends a program and its arguments.
pub fn command() -> Command {
    // Each process ends with its parent: this process, unshare, PID 1, the others.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(NAMESPACES)
        .args(["--fork", "--kill-child=SIGKILL", "sh"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/src/sandbox.sh"))
        .env("NODE_ADDRESS", NODE_ADDRESS)
        .env("SERVICE_ADDRESS", SERVICE_ADDRESS)
        .env("DNS_ADDRESS", DNS_ADDRESS);
    command
}

/// Creates a folder for a run, its cgroups, and the lock that shows that the run is alive. Removes
/// what ended runs have left.
///
/// A lock and not a process ID, which another process may have later.
pub fn new_run(runs: &Path) -> Result<(PathBuf, File)> {
    let _alone = lock(runs)?;
    remove_ended(runs)?;
    let folder = tempfile::Builder::new()
        .prefix("run-")
        .tempdir_in(runs)
        .with_context(|| format!("creating a folder in {}", runs.display()))?
        .keep();
    let lock = File::create(folder.join("lock"))?;
    lock.lock().context("locking the run's folder")?;
    create_cgroups(&cgroup(&folder))?;
    Ok((folder, lock))
}

/// Removes what ended runs have left.
pub fn clean_up(runs: &Path) -> Result<()> {
    let _alone = lock(runs)?;
    remove_ended(runs)
}

/// Only one process at a time may create or remove runs, because a folder that is not locked yet
/// looks like that of an ended run.
fn lock(runs: &Path) -> Result<File> {
    let file = File::create(runs.join("lock"))?;
    file.lock().context("locking the folder of the runs")?;
    Ok(file)
}

/// The name of a run's cgroup.
pub fn cgroup(folder: &Path) -> String {
    format!(
        "migration-gate-{}",
        folder.file_name().unwrap_or_default().to_string_lossy()
    )
}

fn remove_ended(runs: &Path) -> Result<()> {
    for entry in fs::read_dir(runs)? {
        let folder = entry?.path();
        if !folder.is_dir() {
            continue;
        }
        match File::create(folder.join("lock"))?.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => continue,
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        remove_cgroups(&cgroup(&folder))?;
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

/// Creates a cgroup with this name in each hierarchy. The kubelet requires that the root of its
/// pods' cgroups exists.
fn create_cgroups(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(name);
        fs::create_dir(&cgroup)
            .with_context(|| format!("creating the cgroup {}", cgroup.display()))?;
    }
    Ok(())
}

/// Removes the cgroup with this name, and the empty ones in it, from each hierarchy.
fn remove_cgroups(name: &str) -> Result<()> {
    let cgroups = hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.join(name));
    for cgroup in cgroups.filter(|path| path.is_dir()) {
        // The kernel frees the cgroup of a killed process a moment after its end.
        until(
            &format!("the cgroup {} to be empty", cgroup.display()),
            Duration::from_secs(10),
            || match remove_cgroup(&cgroup) {
                Ok(()) => Look::Done(()),
                Err(error) => Look::Pending(error.to_string()),
            },
        )?;
    }
    Ok(())
}

/// The mounted cgroup hierarchies: one in version 2, one for each controller in version 1.
pub fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context("reading the cgroup hierarchies")? {
        // Some hierarchies have two names, of which one is a link.
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn remove_cgroup(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroup(&entry.path())?;
        }
    }
    fs::remove_dir(path)
}
