//! Namespaces of its own for everything that a cluster test starts.
//!
//! The test program runs itself once more as a child of PID 1 in new network, mount and PID namespaces. etcd, kubelet,
//! containerd and every pod live in there with it, so when the test ends, however it ends, the kernel kills
//! every process and drops every mount, link and network namespace. Two things outlive it, a folder of logs and empty
//! cgroups, and [`clean_up`] removes those of this run and of any that died.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};

use crate::assets::Assets;
use crate::errand;
use crate::poll::{Look, until};

/// The node's address, which every pod can reach.
pub(crate) const NODE_ADDRESS: &str = "10.240.0.1";
/// The first address of the Service range, where pods find the API server.
pub(crate) const SERVICE_ADDRESS: &str = "10.96.0.1";
/// Where they look for DNS.
pub(crate) const DNS_ADDRESS: &str = "10.96.0.10";

/// What is new inside, in the words of unshare.
const NAMESPACES: [&str; 4] = ["--net", "--mount", "--pid", "--mount-proc"];

pub(crate) const RUN_FOLDER: &str = "MIGRATION_GATE_CLUSTER_RUN";

/// The inside of the namespaces, and what a node is made from there.
#[derive(Clone)]
pub(crate) struct Sandbox {
    pub(crate) assets: Assets,
    folder: PathBuf,
    memory: PathBuf,
}

impl Sandbox {
    /// The sandbox that this process is in, if it is in one.
    pub(crate) fn current() -> Result<Option<Self>> {
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
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder for logs in it: it is there after a failed run.
    pub(crate) fn logs(&self, name: &str) -> Result<PathBuf> {
        created(self.folder.join(name))
    }

    /// A folder for state, in the sandbox's memory: it ends with the sandbox. Its path is short and the same in every
    /// run, as the paths of sockets must be.
    pub(crate) fn state(&self, name: &str) -> Result<PathBuf> {
        created(self.memory.join(name))
    }

    /// The cgroup under which this run's pods live, by which the next run finds what is left of it.
    pub(crate) fn cgroup(&self) -> String {
        format!("/{}", cgroup(&self.folder))
    }
}

fn created(folder: PathBuf) -> Result<PathBuf> {
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    Ok(folder)
}

/// Why no node can be booted on this machine, if so.
pub(crate) fn obstacle() -> Option<String> {
    if !cfg!(target_os = "linux") {
        return Some(format!(
            "a node boots on Linux only, and this is {}",
            std::env::consts::OS
        ));
    }
    // Owning /proc/self is being root in every way that matters here.
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

/// This program once more, inside, where it waits for tests to run. Dropping it ends everything in there.
pub(crate) struct Inside {
    folder: PathBuf,
    lock: File,
    process: Child,
}

impl Inside {
    /// Enters a new sandbox. It ends with the calling thread, too.
    pub(crate) fn enter(environment: &[(&str, &OsStr)]) -> Result<Self> {
        let runs = runs()?;
        let turn = take_turn(&runs)?;
        clean_up(&runs)?;
        let (folder, lock) = claim(&runs)?;
        drop(turn);

        let process = inside()
            .arg(std::env::current_exe().context("finding this program's own path")?)
            .envs(environment.iter().copied())
            .env(RUN_FOLDER, &folder)
            .stdin(Stdio::null())
            .spawn()
            .context("starting setpriv (Debian: util-linux)")?;
        let mut this = Self {
            folder,
            lock,
            process,
        };
        let socket = errand::socket(&this.folder);
        until(
            "the sandbox to be set up",
            Duration::from_mins(3),
            || match this.process.try_wait() {
                Err(error) => Look::Failed(error.into()),
                Ok(Some(status)) => Look::Failed(anyhow!("it ended ({status})")),
                Ok(None) if socket.exists() => Look::Done(()),
                Ok(None) => Look::Pending(format!("no {}", socket.display())),
            },
        )?;
        Ok(this)
    }

    /// Where the components' logs are.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Ends everything inside, and leaves nothing of it.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.end();
        // A process that another thread is just starting may hold a copy of the lock, so it isn't enough to close it.
        self.lock.unlock()?;
        let runs = runs()?;
        let _turn = take_turn(&runs)?;
        clean_up(&runs)
    }

    fn end(&mut self) {
        // Both fail only for a child that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.end();
    }
}

/// The folder of all runs' folders.
fn runs() -> Result<PathBuf> {
    created(std::env::temp_dir().join("migration-gate-cluster"))
}

/// The beginning of a command that runs in namespaces of its own; program and arguments are still to come.
pub(crate) fn inside() -> Command {
    // Each link of the chain dies with the one before it: this process, unshare, PID 1, everything else.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare"])
        .args(NAMESPACES)
        .args(["--fork", "--kill-child=SIGKILL", "sh"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/sandbox.sh"))
        .env("NODE_ADDRESS", NODE_ADDRESS)
        .env("SERVICE_ADDRESS", SERVICE_ADDRESS)
        .env("DNS_ADDRESS", DNS_ADDRESS);
    command
}

/// One run at a time claims a folder or cleans up, so that none takes a folder that isn't locked yet for a dead one.
fn take_turn(runs: &Path) -> Result<File> {
    let turn = File::create(runs.join("turn"))?;
    turn.lock().context("locking the folder of the runs")?;
    Ok(turn)
}

/// A new folder for this run, and the lock that tells others that the run is alive.
///
/// A lock rather than a process id, which another process may have by now.
pub(crate) fn claim(runs: &Path) -> Result<(PathBuf, File)> {
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

pub(crate) fn cgroup(folder: &Path) -> String {
    format!(
        "migration-gate-{}",
        folder.file_name().unwrap_or_default().to_string_lossy()
    )
}

/// Removes what ended runs left behind.
pub(crate) fn clean_up(runs: &Path) -> Result<()> {
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

/// Creates a cgroup of that name in each hierarchy. kubelet wants the root of its pods' cgroups to exist.
fn create_cgroups(name: &str) -> Result<()> {
    for hierarchy in hierarchies()? {
        let cgroup = hierarchy.join(name);
        fs::create_dir(&cgroup)
            .with_context(|| format!("creating the cgroup {}", cgroup.display()))?;
    }
    Ok(())
}

/// Removes the cgroup of that name, and the empty ones in it, from each hierarchy.
fn remove_cgroups(name: &str) -> Result<()> {
    let cgroups = hierarchies()?
        .into_iter()
        .map(|hierarchy| hierarchy.join(name));
    for cgroup in cgroups.filter(|path| path.is_dir()) {
        // The kernel frees a killed process's cgroup a moment after the process is gone.
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
pub(crate) fn hierarchies() -> Result<Vec<PathBuf>> {
    let root = Path::new("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return Ok(vec![root.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in fs::read_dir(root).context("reading the cgroup hierarchies")? {
        // Some of them go by two names, of which one is a link.
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
