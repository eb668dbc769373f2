//! The commands of the pages that need a container engine: Podman, under Docker's name.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::page;
use crate::registry::ImageRegistry;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image;
use testkit::process;
use testkit::shell::Shell;
use testkit::skip::Skip;

/// An image that migrates in its entrypoint, like PieFed's own.
const STOCK: &str = "migration-gate.test/piefed-old:1.0.0";
const PATIENCE: Duration = Duration::from_mins(5);

pub(super) fn an_engine_builds_piefeds_image_and_runs_a_review(cluster: &Cluster) -> Result<()> {
    let registry = ImageRegistry::start(cluster)?;
    let folder = cluster.sandbox()?.state("engine")?;
    let engine = Engine::new(cluster, &registry, &folder)?;

    registry.publish(&image::archive()?)?;
    engine.reviews()?;

    let pull = format!(
        "docker pull docker-archive:{}:{STOCK}",
        image::applications()?.display()
    );
    engine.run(&pull)?;
    let build = shown("examples/piefed/README.md", "image/build-all.sh")?;
    engine.builds(&format!("STOCK={STOCK} {build}"))?;
    engine.run("docker image prune --all --force")?;
    engine.run(&pull)?;
    let source = piefeds_repository(&folder)?;
    engine.builds(&format!("REPOSITORY={source} {build}"))
}

/// A reader with Podman and a registry.
struct Engine<'r> {
    registry: &'r ImageRegistry,
    shell: Shell,
}

impl<'r> Engine<'r> {
    fn new(cluster: &Cluster, registry: &'r ImageRegistry, folder: &Path) -> Result<Self> {
        if process::run(Command::new("podman").arg("--version"), "", PATIENCE).is_err() {
            return Err(Skip("there is no podman; `make soak` installs it".to_owned()).into());
        }
        let docker = folder.join("docker");
        fs::write(&docker, "#!/bin/sh\nexec podman \"$@\"\n")?;
        fs::set_permissions(&docker, fs::Permissions::from_mode(0o755))?;
        // The storage needs no kernel module and is deleted with the folder. The limits may be set
        // inside of a container. The host's network reaches the registry.
        let at = |name: &str| json!(folder.join(name));
        let storage = format!(
            "[storage]\ndriver = \"vfs\"\ngraphroot = {}\nrunroot = {}\n",
            at("graph"),
            at("run")
        );
        fs::write(folder.join("storage.conf"), storage)?;
        fs::write(
            folder.join("containers.conf"),
            "[containers]\nnetns = \"host\"\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=4096:4096\"]\n\
             [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n",
        )?;
        let (variable, authority) = registry.environment();
        let shell = Shell::new(cluster.kubectl(), folder)?
            .with("CONTAINERS_STORAGE_CONF", &folder.join("storage.conf"))
            .with("CONTAINERS_CONF", &folder.join("containers.conf"))
            .with(variable, authority);
        Ok(Self { registry, shell })
    }

    fn run(&self, line: &str) -> Result<String> {
        let ran = self.shell.run(line, PATIENCE)?;
        ran.success().with_context(|| line.to_owned())
    }

    /// Checks that the container of the Install page prints the same as the program.
    fn reviews(&self) -> Result<()> {
        let from = repository().join("examples/piefed-old");
        self.run(&format!("cp -r {} deploy", from.display()))?;
        let review = shown("docs/install.md", "docker run")?
            .replace("REGISTRY", self.registry.host())
            .replace("OWNER", "owner");
        let contained = self.shell.run(&review, PATIENCE)?;
        let itself = self.shell.run("migration-gate review deploy/", PATIENCE)?;
        let said = &contained.stdout;
        ensure!(said.contains("forbidden-env"), "{said}{}", contained.stderr);
        ensure!(*said == itself.stdout, "{said}\n{}", itself.stdout);
        ensure!(contained.status == itself.status, "{}", contained.status);
        Ok(())
    }

    /// Runs README's `build-all.sh`. The image that it pushes must have one task in each
    /// entrypoint.
    fn builds(&self, line: &str) -> Result<()> {
        let image = format!("{}/piefed:1.2.0", self.registry.host());
        let line = line.replace("registry.example", self.registry.host());
        let example = repository().join("examples/piefed");
        let said = self.run(&format!("cd {} && {line}", example.display()))?;
        ensure!(said.contains(&format!("piefed/piefed={image}")), "{said}");

        let config: Value = serde_json::from_str(&self.run(&format!("crane config {image}"))?)?;
        let config = &config["config"];
        ensure!(config["Entrypoint"].is_null(), "{config}");
        ensure!(
            config["Cmd"] == json!(["/app/k8s/entrypoint-web.sh"]),
            "{config}"
        );
        let init = format!("docker run --rm {image} /app/k8s/entrypoint-init.sh");
        let said = self.shell.run(&init, PATIENCE)?.failure()?;
        ensure!(said.contains("DATABASE_URL is not set"), "{said}");
        Ok(())
    }
}

/// The only command of a page that starts with `begins`.
fn shown(page: &str, begins: &str) -> Result<String> {
    let commands = page::commands(page)?;
    let mut found = commands.into_iter().map(|shown| shown.command);
    found
        .find(|command| command.starts_with(begins))
        .with_context(|| format!("{page} has no `{begins}`"))
}

/// A repository in place of PieFed's, with the tag 1.2.0 and the files that `build-all.sh` needs.
fn piefeds_repository(folder: &Path) -> Result<String> {
    let source = folder.join("source");
    fs::create_dir(&source)?;
    fs::write(source.join("Dockerfile"), format!("FROM {STOCK}\n"))?;
    let git = "git -c user.name=test -c user.email=test@example.com";
    let line = format!(
        "git init --quiet && git add . && {git} commit --quiet --message=1.2.0 && git tag v1.2.0"
    );
    let mut shell = Command::new("bash");
    shell.args(["-euc", &line]).current_dir(&source);
    process::run(&mut shell, "", PATIENCE)?.success()?;
    Ok(format!("file://{}", source.display()))
}
