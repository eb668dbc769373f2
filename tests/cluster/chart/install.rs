//! The Install page, by its own commands: from a node without migration-gate to a held Deployment.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::APPLICATION;
use crate::pages::page;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image::MIGRATION_GATE;
use testkit::shell::Shell;

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

fn the_install_pages_commands_install(cluster: &Cluster) -> Result<()> {
    for name in ["migration-gate", APPLICATION] {
        cluster
            .kubectl()
            .wait(&format!("namespace/{name}"), "delete", 120)?;
    }
    // What `make image` makes is on the node under another name.
    cluster.tag(MIGRATION_GATE, "docker.io/library/migration-gate:dev")?;
    let _installed = Installed(cluster);
    let shell = Shell::new(cluster.kubectl(), repository())?;
    let mut ran = 0;
    for shown in page::commands("docs/install.md")? {
        if shown.section != "A build of your own" || shown.command == "make image" {
            continue;
        }
        let said = shell
            .run(&shown.command, Duration::from_mins(3))?
            .success()
            .with_context(|| shown.command.clone())?;
        ensure!(said.contains(&shown.printed), "{}: {said}", shown.command);
        ran += 1;
    }
    ensure!(ran == 5, "{ran} commands were run");
    Ok(())
}
