//! A memory cgroup with the chart's limit, as a container has one.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

/// The chart's memory limit, in bytes.
pub const LIMIT: u64 = 256 << 20;

/// A cgroup of this run's own. Dropping it removes it, once its processes have ended.
pub struct Cgroup {
    folder: PathBuf,
    peak: &'static str,
}

impl Cgroup {
    /// A new one, or the reason why there is none.
    ///
    /// # Panics
    ///
    /// In CI, where a test that cannot run must not go unnoticed.
    pub fn create() -> Result<Self, String> {
        let made = Self::try_create().map_err(|error| {
            format!("no memory cgroup can be made here, so the process's own peak counts: {error}")
        });
        if let Err(error) = &made {
            let in_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!in_ci, "{error}");
        }
        made
    }

    fn try_create() -> Result<Self, String> {
        let root = Path::new("/sys/fs/cgroup");
        // One hierarchy in version 2, one for each controller in version 1.
        let (parent, limit, peak) = if root.join("cgroup.controllers").exists() {
            (root.to_owned(), "memory.max", "memory.peak")
        } else {
            let limit = "memory.limit_in_bytes";
            (root.join("memory"), limit, "memory.max_usage_in_bytes")
        };
        let said = |what: &str, error: &std::io::Error| format!("{what}: {error}");
        let name = format!("migration-gate-attacks-{}", std::process::id());
        let (mut folder, mut number) = (parent.join(&name), 0);
        while let Err(error) = fs::create_dir(&folder) {
            if error.kind() != std::io::ErrorKind::AlreadyExists {
                return Err(said(&folder.display().to_string(), &error));
            }
            number += 1;
            folder = parent.join(format!("{name}-{number}"));
        }
        let this = Self { folder, peak };
        this.write(limit, &LIMIT.to_string())
            .map_err(|error| said(limit, &error))?;
        this.read(peak).map_err(|error| said(peak, &error))?;
        Ok(this)
    }

    /// The file that takes the ids of the processes that join the cgroup.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The peak memory of its processes, in bytes, with the kernel's memory that is charged to
    /// them.
    pub fn peak(&self) -> u64 {
        self.read(self.peak).unwrap().trim().parse().unwrap()
    }

    fn read(&self, file: &str) -> std::io::Result<String> {
        fs::read_to_string(self.folder.join(file))
    }

    fn write(&self, file: &str, text: &str) -> std::io::Result<()> {
        fs::write(self.folder.join(file), text)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel frees it a moment after the last process is gone.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
    }
}
