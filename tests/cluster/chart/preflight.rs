//! With an image that cannot be pulled, no webhooks without a server are installed.

use std::cell::Cell;

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::api::apps::v1::Deployment;
use kube::Api;
use kube::api::PatchParams;
use serde_json::json;

use super::upgrading::{applying, has_waiter};
use super::{APPLICATION, CHART, HELD};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::release::Release;

testkit::tests! {
    exclusive: an_image_that_cannot_be_pulled_holds_nobody_up;
}

/// An image that no registry has, and a deadline that the test can wait for.
const NONE: &str =
    "--set=image.repository=example.invalid/none,preflight.deadlineSeconds=3 --timeout=100s";

/// Runs Helm, which must fail at the preflight, while the application is applied all the time.
fn gives_up(
    kubectl: &Kubectl,
    application: &Api<Deployment>,
    verb: &str,
    held: bool,
) -> Result<()> {
    let parameters = PatchParams::apply("flux").dry_run();
    let applied = Cell::new(0);
    let refusal = applying(
        application,
        &parameters,
        || Ok(kubectl.helm(&format!("{verb} migration-gate {CHART} {NONE}"))),
        |deployment| {
            let deployment = deployment.with_context(|| format!("during the {verb}"))?;
            ensure!(has_waiter(&deployment) == held, "{}", json!(deployment));
            applied.set(applied.get() + 1);
            Ok(())
        },
    )?
    .err()
    .with_context(|| format!("{verb}: an image that no one has was installed"))?
    .to_string();
    ensure!(
        refusal.contains("migration-gate-preflight not ready"),
        "{refusal}"
    );
    ensure!(applied.get() > 3, "{} applies prove nothing", applied.get());
    Ok(())
}

fn an_image_that_cannot_be_pulled_holds_nobody_up(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace_named(APPLICATION)?;
    let application = Api::namespaced(cluster.client(), APPLICATION);
    let release = Release::prepare(cluster)?;
    let kubectl = release.kubectl();
    let webhooks = || {
        cluster
            .kubectl()
            .run("get mutatingwebhookconfigurations,validatingwebhookconfigurations --output=name")
    };
    // Try again with the failed release, as Flux and as operators do.
    for verb in ["install", "upgrade --install"] {
        gives_up(kubectl, &application, verb, false)?;
        let left = webhooks()?;
        ensure!(left.is_empty(), "{verb}: {left}");
    }
    // The object that Helm's error names shows the cause.
    let events = kubectl.run("events --for=job/migration-gate-preflight")?;
    ensure!(events.contains("DeadlineExceeded"), "{events}");

    let (repository, tag) = testkit::image::MIGRATION_GATE
        .rsplit_once(':')
        .context("the image has a tag")?;
    kubectl.helm(&format!(
        "upgrade --install migration-gate {CHART} --wait --timeout=170s --set=image.repository={repository},image.tag={tag}"
    ))?;
    let left = kubectl.run("get jobs --output=name")?;
    ensure!(left.is_empty(), "{left}");
    namespace.kubectl.apply(HELD)?;

    // An upgrade changes nothing before its image can be pulled.
    let before = kubectl.get("deployment migration-gate")?;
    gives_up(kubectl, &application, "upgrade", true)?;
    let after = kubectl.get("deployment migration-gate")?;
    ensure!(
        before["metadata"]["generation"] == after["metadata"]["generation"],
        "{before}\n{after}"
    );
    Ok(())
}
