//! The commands in README and documentation, run unchanged by a reader of one page after another.

mod container_engine;
mod old_setup;
pub(crate) mod page;
mod reader;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Result, ensure};

use self::container_engine::an_engine_builds_piefeds_image_and_runs_a_review;
use self::old_setup::the_old_setup_is_left_step_by_step_and_nobody_notices;
use self::reader::Reader;
use testkit::assets::repository;
use testkit::cluster::Cluster;

testkit::tests! {
    helm: every_command_of_the_pages_is_run_or_accounted_for;
}

testkit::soaks! {
    exclusive:
        the_commands_of_the_pages_run_as_they_stand,
        the_old_setup_is_left_step_by_step_and_nobody_notices,
        an_engine_builds_piefeds_image_and_runs_a_review;
}

/// The pages whose commands [`Reader`] runs.
const READ: &[&str] = &[
    "README.md",
    "charts/migration-gate/README.md",
    "docs/gates.md",
    "docs/integration.md",
    "docs/monitoring.md",
    "docs/operating.md",
    "docs/status.md",
    "docs/troubleshooting.md",
    "examples/piefed/README.md",
];

/// Which test runs a command, or why no test can.
enum Elsewhere {
    /// The test with this name runs it.
    Test(&'static str),
    /// No test runs it, because it needs this.
    Needs(&'static str),
}
use Elsewhere::{Needs, Test};

/// The test of the Install page.
const INSTALL: &str = "the_install_pages_commands_lead_from_an_empty_node_to_a_held_deployment";

/// The test of the commands for a container engine.
const ENGINE: &str = "an_engine_builds_piefeds_image_and_runs_a_review";

/// Pages, and beginnings of commands, that the reader does not run.
const ELSEWHERE: &[(&str, &str, Elsewhere)] = &[
    ("certs/README.md", "kubectl", Needs("cert-manager")),
    ("certs/README.md", "helm", Needs("cert-manager")),
    (
        "certs/README.md",
        "certs/development.sh",
        Test("the_script_makes_certificates_that_verify"),
    ),
    (
        "certs/README.md",
        "cargo run",
        Test("the_script_makes_certificates_that_verify"),
    ),
    (
        "certs/README.md",
        "curl",
        Test("the_script_makes_certificates_that_verify"),
    ),
    (
        "README.md",
        "make demo",
        Needs("the build of this very test"),
    ),
    (
        "README.md",
        "make test",
        Needs("the machine to itself: this is one of its tests"),
    ),
    ("README.md", "make image", Test(INSTALL)),
    ("README.md", "kind load", Needs("kind")),
    (
        "docs/gitops.md",
        "kubectl -n argocd",
        Test("a_selective_sync_is_held_until_a_full_one"),
    ),
    (
        "docs/old-setup.md",
        "",
        Test("the_old_setup_is_left_step_by_step_and_nobody_notices"),
    ),
    ("docs/review.md", "", Test("what_the_command_line_prints")),
    (
        "docs/monitoring.md",
        "export MIGRATION_GATE_TEST_PROMETHEUS",
        Test("the_alerts_are_true_and_the_dashboard_shows_it"),
    ),
    (
        "docs/monitoring.md",
        "GENERATE=1 cargo test",
        Test("the_alerts_are_true_and_the_dashboard_shows_it"),
    ),
    (
        "docs/performance.md",
        "make bench",
        Needs("the machine to itself: these are figures"),
    ),
    (
        "docs/reliability.md",
        "cargo test",
        Needs("the machine to itself: these are soaks"),
    ),
    (
        "docs/platforms.md",
        "helm install",
        Test("every_platforms_values_do_what_it_needs"),
    ),
    ("docs/platforms.md", "make image", Test(INSTALL)),
    ("docs/platforms.md", "sudo k3s", Needs("k3s")),
    ("docs/platforms.md", "crane", Needs("a published release")),
    ("docs/install.md", "make image", Test(INSTALL)),
    (
        "docs/install.md",
        "kubectl krew",
        Needs("a published release"),
    ),
    (
        "docs/install.md",
        "kubectl migration-gate",
        Needs("a published release"),
    ),
    ("docs/install.md", "kubectl", Test(INSTALL)),
    ("docs/install.md", "helm", Test(INSTALL)),
    ("docs/install.md", "identity=", Needs("a published release")),
    ("docs/install.md", "issuer=", Needs("a published release")),
    ("docs/install.md", "cosign", Needs("a published release")),
    ("docs/install.md", "gh ", Needs("a published release")),
    ("docs/install.md", "curl", Needs("a published release")),
    ("docs/install.md", "sha256sum", Needs("a published release")),
    ("docs/install.md", "tar ", Needs("a published release")),
    (
        "docs/install.md",
        "./migration-gate",
        Needs("a published release"),
    ),
    ("docs/install.md", "docker", Test(ENGINE)),
    ("docs/install.md", "ctr", Test(INSTALL)),
    ("docs/install.md", "crane", Test(INSTALL)),
    (
        "examples/piefed/README.md",
        "image/build-all.sh",
        Test(ENGINE),
    ),
    (
        "examples/piefed/README.md",
        "kustomize edit",
        Needs("kustomize's own program"),
    ),
];

fn elsewhere(page: &str, command: &str) -> Option<&'static Elsewhere> {
    let mut known = ELSEWHERE.iter();
    known
        .find(|(on, begins, _)| *on == page && command.starts_with(begins))
        .map(|(_, _, elsewhere)| elsewhere)
}

fn every_command_of_the_pages_is_run_or_accounted_for(_: &Path) -> Result<()> {
    let root = repository();
    let mut unknown = Vec::new();
    for page in pages(root)? {
        for shown in page::commands(&page)? {
            if !READ.contains(&&*page) && elsewhere(&page, &shown.command).is_none() {
                unknown.push(format!("{page}: {}", shown.command));
            }
        }
    }
    ensure!(
        unknown.is_empty(),
        "no test runs these, and `ELSEWHERE` doesn't say why: {unknown:#?}"
    );
    let tests = sources(&root.join("tests"))?;
    for (page, begins, elsewhere) in ELSEWHERE {
        if let Test(name) = elsewhere {
            ensure!(
                tests.contains(&format!("fn {name}(")),
                "there is no test {name}"
            );
        }
        let needed = page::commands(page)?;
        ensure!(
            needed.iter().any(|shown| shown.command.starts_with(begins)),
            "{page} has no `{begins}` any more"
        );
    }
    Ok(())
}

/// All pages, except those about the repository itself.
fn pages(root: &Path) -> Result<BTreeSet<String>> {
    let mut pages: BTreeSet<String> = READ.iter().map(|&page| page.to_owned()).collect();
    pages.extend(["SECURITY.md", "certs/README.md"].map(str::to_owned));
    for entry in root.join("docs").read_dir()? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if Path::new(&name)
            .extension()
            .is_some_and(|kind| kind == "md")
        {
            pages.insert(format!("docs/{name}"));
        }
    }
    Ok(pages)
}

/// All Rust files below a folder, as one text.
fn sources(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in folder.read_dir()? {
        let path = entry?.path();
        if path.is_dir() {
            text.push_str(&sources(&path)?);
        } else if path.extension().is_some_and(|kind| kind == "rs") {
            text.push_str(&std::fs::read_to_string(path)?);
        }
    }
    Ok(text)
}

fn the_commands_of_the_pages_run_as_they_stand(cluster: &Cluster) -> Result<()> {
    let reader = Reader::arrives(cluster)?;
    let mut ran = 0;
    for page in READ {
        reader.turns_to(page)?;
        for shown in page::commands(page)? {
            if elsewhere(page, &shown.command).is_none() {
                reader.types(page, &shown.command)?;
                ran += 1;
            }
        }
    }
    println!(
        "{ran} commands of {} pages ran as they stand; not here:",
        READ.len()
    );
    for (page, begins, elsewhere) in ELSEWHERE {
        match elsewhere {
            Test(name) => println!("{page}: {begins}: {name} runs it"),
            Needs(what) => println!("{page}: {begins}: needs {what}"),
        }
    }
    Ok(())
}
