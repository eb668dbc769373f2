//! The commands of the Install page, from a node without migration-gate to a held Deployment.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::APPLICATION;
use crate::pages::page;
use crate::registry::ImageRegistry;
use testkit::assets::repository;
use testkit::cluster::Cluster;
use testkit::image;
use testkit::node;
use testkit::shell::Shell;

testkit::tests! {
    exclusive: the_install_pages_commands_lead_from_an_empty_node_to_a_held_deployment;
}

const PAGE: &str = "docs/install.md";

fn the_install_pages_commands_lead_from_an_empty_node_to_a_held_deployment(
    cluster: &Cluster,
) -> Result<()> {
    for name in ["migration-gate", APPLICATION] {
        cluster
            .kubectl()
            .wait(&format!("namespace/{name}"), "delete", 120)?;
    }
    let registry = ImageRegistry::start(cluster)?;
    let reader = Newcomer::of(cluster, &registry)?;
    reader.empties_the_node()?;
    reader.types("A build of your own", "make image")?;
    registry.publish(&repository().join("target/image/migration-gate.tar"))?;
    reader.types("The published chart", "")?;
    reader.types("Check that it holds", "")?;

    reader.empties_the_node()?;
    reader.types("A build of your own", "ctr ")?;
    reader.types("An image that was imported", "")?;
    reader.types("Check that it holds", "")?;

    reader.empties_the_node()?;
    reader.types("A build of your own", "crane ")?;
    reader.types("An image that was pushed", "")
}

/// A reader with a checkout, a registry, and a cluster of one node.
struct Newcomer<'c> {
    cluster: &'c Cluster,
    registry: &'c ImageRegistry,
    shell: Shell,
}

impl<'c> Newcomer<'c> {
    fn of(cluster: &'c Cluster, registry: &'c ImageRegistry) -> Result<Self> {
        let (variable, path) = registry.environment();
        let shell = Shell::new(cluster.kubectl(), repository())?
            .with("CONTAINERD_ADDRESS", &node::socket(cluster.sandbox()?)?)
            .with(variable, path);
        Ok(Self {
            cluster,
            registry,
            shell,
        })
    }

    /// Runs the commands of a section that start with `beginning`. Each must print what the page
    /// shows.
    fn types(&self, section: &str, beginning: &str) -> Result<()> {
        let mut ran = 0;
        for shown in page::commands(PAGE)? {
            if shown.section == section && shown.command.starts_with(beginning) {
                let said = self.runs(&shown.command)?;
                ensure!(said.contains(&shown.printed), "{}: {said}", shown.command);
                ran += 1;
            }
        }
        ensure!(ran > 0, "{PAGE}, {section}: no `{beginning}`");
        Ok(())
    }

    fn runs(&self, line: &str) -> Result<String> {
        let line = line
            .replace("REGISTRY", self.registry.host())
            .replace("OWNER", "owner");
        let ran = self.shell.run(&line, Duration::from_mins(3))?;
        ran.success().context(line)
    }

    /// Uninstalls the release, and removes all names of the image: its content is deleted with the
    /// last one.
    fn empties_the_node(&self) -> Result<()> {
        self.runs(
            "helm uninstall migration-gate --namespace migration-gate --wait --ignore-not-found",
        )?;
        let list = || self.runs("ctr --namespace k8s.io images list");
        let found = list()?;
        let images: Vec<(&str, &str)> = found
            .lines()
            .filter_map(|line| {
                let mut columns = line.split_whitespace();
                Some((columns.next()?, columns.nth(1)?))
            })
            .collect();
        let ours =
            |name: &str| name.contains("/migration-gate:") || name.contains("/migration-gate@");
        let names: Vec<&str> = images
            .iter()
            .filter(|(_, digest)| images.iter().any(|(name, of)| ours(name) && of == digest))
            .map(|(name, _)| *name)
            .collect();
        ensure!(!names.is_empty(), "the node has no image of ours: {found}");
        self.runs(&format!(
            "ctr --namespace k8s.io images remove --sync {}",
            names.join(" ")
        ))?;
        let left = list()?;
        ensure!(!ours(&left), "{left}");
        Ok(())
    }
}

impl Drop for Newcomer<'_> {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that installs notices it.
        let release = self.cluster.kubectl().in_namespace("migration-gate");
        let _ = release.helm("uninstall migration-gate --wait --ignore-not-found");
        let _ = self.cluster.kubectl().run(&format!(
            "delete namespace migration-gate {APPLICATION} --ignore-not-found --wait=false"
        ));
        let _ = image::archive().and_then(|archive| self.cluster.import(&archive));
    }
}
