//! The Install page, by its own commands: from a node without migration-gate to a held Deployment.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::APPLICATION;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image::MIGRATION_GATE;
use testkit::process;

testkit::tests! {
    exclusive: the_install_pages_commands_install;
}

/// What the page makes; deleted when the test is over.
struct Installed<'c>(&'c Cluster);

impl Drop for Installed<'_> {
    fn drop(&mut self) {
        // A failure has nobody to go to, and the next test that installs finds out.
        let release = self.0.kubectl().in_namespace("migration-gate");
        let _ = release.helm("uninstall migration-gate --wait --ignore-not-found");
        let _ = self.0.kubectl().run(&format!(
            "delete namespace migration-gate {APPLICATION} --wait=false"
        ));
    }
}

/// A command of a page, and what the page says that it prints.
struct Shown {
    command: String,
    printed: String,
}

/// The commands of one section, in the order of the page.
fn commands(page: &str, section: &str) -> Result<Vec<Shown>> {
    let (_, text) = page
        .split_once(&format!("\n## {section}\n"))
        .with_context(|| format!("no section {section}"))?;
    let text = text.split("\n## ").next().unwrap_or(text);
    let mut shown: Vec<Shown> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap_or(block);
        for line in block.replace("\\\n", "").lines() {
            match (line.strip_prefix("$ "), shown.last_mut()) {
                (Some(command), _) => shown.push(Shown {
                    command: command.to_owned(),
                    printed: String::new(),
                }),
                (None, Some(last)) => last.printed.push_str(line),
                (None, None) => {}
            }
        }
    }
    Ok(shown)
}

fn the_install_pages_commands_install(cluster: &Cluster) -> Result<()> {
    for name in ["migration-gate", APPLICATION] {
        cluster
            .kubectl()
            .wait(&format!("namespace/{name}"), "delete", 120)?;
    }
    // What `make image` makes is on the node under another name.
    cluster.tag(MIGRATION_GATE, "docker.io/library/migration-gate:dev")?;
    let _installed = Installed(cluster);
    let page = fs::read_to_string(repository().join("docs/install.md"))?;
    let path = format!(
        "{}:{}",
        cluster.programs()?.display(),
        std::env::var("PATH").unwrap_or_default()
    );
    let mut ran = 0;
    for Shown { command, printed } in commands(&page, "A build of your own")? {
        if command == "make image" {
            continue;
        }
        let said = process::run(
            Command::new("sh")
                .args(["-c", &command])
                .env("PATH", &path)
                .env("KUBECONFIG", &cluster.kubectl().kubeconfig)
                .current_dir(repository()),
            "",
            Duration::from_mins(3),
        )?
        .success()
        .with_context(|| command.clone())?;
        ensure!(said.contains(&printed), "{command}: {said}");
        ran += 1;
    }
    ensure!(ran == 5, "{ran} commands were run");
    Ok(())
}
