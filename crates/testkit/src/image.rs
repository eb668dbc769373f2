//! The container images that the tests run: migration-gate's own, and stand-ins made of busybox.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::assets::{printed, repository};
use crate::process;

/// busybox: a shell and the usual tools. The node also uses it for its pods' sandboxes.
pub const BUSYBOX: &str = "migration-gate.test/busybox:1";
/// The release build of migration-gate.
pub const MIGRATION_GATE: &str = "docker.io/library/migration-gate:test";
/// The same under another name, for tests of upgrades.
pub const MIGRATION_GATE_NEXT: &str = "docker.io/library/migration-gate:test-next";
/// The previous release of migration-gate, from [`previous`].
pub const MIGRATION_GATE_PREVIOUS: &str = "docker.io/library/migration-gate:0.1";
/// The versions of PieFed's stand-in, `piefed/piefed:<version>`, whose program is in
/// `tests/cluster/piefed/`.
pub const PIEFED_VERSIONS: [&str; 2] = ["1.2.0", "1.3.0"];

/// Builds migration-gate's image from this working tree, as an archive.
pub(crate) fn migration_gate(archive: &Path) -> Result<()> {
    eprintln!(
        "cluster: building migration-gate's image (a static release binary: minutes at first, then seconds)"
    );
    let mut script = Command::new(repository().join("build/image.sh"));
    script.arg(archive).arg(MIGRATION_GATE);
    printed(script).map(drop)
}

/// The environment variable with the path of migration-gate's image archive, for the process
/// inside.
pub(crate) const ARCHIVE: &str = "MIGRATION_GATE_CLUSTER_IMAGE";

/// The archive of migration-gate's image that was built for this run.
pub fn archive() -> Result<PathBuf> {
    std::env::var_os(ARCHIVE)
        .map(PathBuf::from)
        .context("the sandbox was entered without an image")
}

/// The environment variable with the path of the release build, for the process inside.
pub const RELEASED_BINARY: &str = "MIGRATION_GATE_CLUSTER_BINARY";

/// Makes the release build of migration-gate's binary, and returns its path.
pub fn release() -> Result<PathBuf> {
    printed(Command::new(repository().join("build/binary.sh"))).map(PathBuf::from)
}

/// The path of the binary that [`release`] has built.
pub fn released_binary() -> Result<PathBuf> {
    std::env::var_os(RELEASED_BINARY)
        .map(PathBuf::from)
        .context("the sandbox was entered without a released binary")
}

/// The environment variable with the path of the archive that [`applications`] builds, for the
/// process inside.
pub const APPLICATIONS: &str = "MIGRATION_GATE_CLUSTER_APPLICATIONS";

/// Builds the images of the stories' application and of its services, or finds them in the cache.
/// Returns the archive's path.
pub fn applications() -> Result<PathBuf> {
    let script = repository().join("tests/cluster/apps/build.sh");
    printed(Command::new(script)).map(PathBuf::from)
}

/// The environment variable with the folder of [`build_previous`], for the process inside.
pub const PREVIOUS: &str = "MIGRATION_GATE_CLUSTER_PREVIOUS";

/// Builds the previous release, or finds it in the cache. Returns the folder with its `chart` and
/// its `image.tar`.
pub(crate) fn build_previous() -> Result<PathBuf> {
    let script = repository().join("tests/cluster/previous.sh");
    printed(Command::new(script)).map(PathBuf::from)
}

/// The folder that [`build_previous`] has built.
pub fn previous() -> Result<PathBuf> {
    std::env::var_os(PREVIOUS)
        .map(PathBuf::from)
        .context("the sandbox was entered without the previous release")
}

/// Packs the stand-ins into `folder`, and returns the archives' paths.
pub fn stand_ins(folder: &Path) -> Result<Vec<PathBuf>> {
    let rootfs = folder.join("rootfs");
    busybox(&rootfs)?;
    let mut archives = vec![pack(
        &rootfs,
        &folder.join("busybox.tar"),
        BUSYBOX,
        r#"{"Cmd":["/bin/sleep","2147483647"]}"#,
    )?];

    let programs = rootfs.join("usr/local/bin");
    fs::create_dir_all(&programs)?;
    for program in ["flask", "finish-migration"] {
        fs::copy(
            repository().join("tests/cluster/piefed").join(program),
            programs.join(program),
        )?;
    }
    for program in ["gunicorn", "celery"] {
        symlink("flask", programs.join(program))?;
    }
    // What the example's manifests run.
    let entrypoints = rootfs.join("app/k8s");
    fs::create_dir_all(&entrypoints)?;
    for task in ["init", "web", "worker", "notifs", "maintenance"] {
        let entrypoint = entrypoints.join(format!("entrypoint-{task}.sh"));
        symlink("/usr/local/bin/flask", entrypoint)?;
    }
    for version in PIEFED_VERSIONS {
        // As with the originals, the content of two versions differs.
        fs::write(rootfs.join("version"), version)?;
        let reference = format!("docker.io/piefed/piefed:{version}");
        let config = r#"{"Cmd":["gunicorn"]}"#;
        archives.push(pack(
            &rootfs,
            &folder.join(format!("piefed-{version}.tar")),
            &reference,
            config,
        )?);
    }
    Ok(archives)
}

fn busybox(rootfs: &Path) -> Result<()> {
    let bin = rootfs.join("bin");
    fs::create_dir_all(&bin)?;
    let list = process::run(
        Command::new("busybox").arg("--list"),
        "",
        Duration::from_secs(10),
    )
    .context("the stand-ins' images are made of a static busybox (Debian: busybox-static)")?
    .success()?;
    let found = process::run(
        Command::new("sh").args(["-c", "command -v busybox"]),
        "",
        Duration::from_secs(10),
    )?;
    fs::copy(found.success()?.trim(), bin.join("busybox")).context("copying busybox")?;
    for applet in list.lines().filter(|&name| name != "busybox") {
        symlink("busybox", bin.join(applet)).with_context(|| format!("linking {applet}"))?;
    }
    let temporary = rootfs.join("tmp");
    fs::create_dir_all(&temporary)?;
    // Writable for every user that a pod may run as.
    fs::set_permissions(&temporary, Permissions::from_mode(0o1777))?;
    Ok(())
}

fn pack(rootfs: &Path, output: &Path, reference: &str, config: &str) -> Result<PathBuf> {
    let mut script = Command::new(repository().join("build/oci-archive.sh"));
    script.args([rootfs, output]).args([reference, config]);
    process::run(&mut script, "", Duration::from_mins(3))?.success()?;
    Ok(output.to_owned())
}
