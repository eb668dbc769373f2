//! Tests of everything that can happen to a watch.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use k8s_openapi::api::batch::v1::Job;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::Value;

use super::rights;
use testkit::client::block_on;
use testkit::gate::{JOB, V2, complete, running};
use testkit::poll::until_is;
use testkit::proxy::Proxy;
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene};
use testkit::world::{await_watches, count};

testkit::tests! {
    standalone:
        a_version_that_is_gone_and_an_outage_of_30_s_are_survived,
        a_completion_takes_four_requests;
}

const OUTAGE: Duration = Duration::from_secs(30);

/// By the API server's audit log. The waiter has a user of its own.
fn a_completion_takes_four_requests(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "four-requests")?;
    let user = plane.user(&scene.namespace)?;
    let kubectl = plane.kubectl.in_namespace(&scene.namespace);
    let rules = rights::rules(&kubectl, &scene.namespace)?;
    rights::grant_user(&kubectl, &scene.namespace, &rules)?;
    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter_as(&user, &[V2])?;
    waiter.says("waiting: Job db-init is running");
    await_watches(plane, &scene.namespace, 1)?;
    scene.status(&complete())?;
    waiter.ends_with(0);
    let requests: BTreeSet<String> = plane
        .server
        .audit_events_with(&scene.namespace)?
        .iter()
        .filter(|event| event["user"]["username"] == scene.namespace)
        .map(|event| format!("{} {}", event["auditID"], event["requestURI"]))
        .collect();
    ensure!(requests.len() == 4, "{requests:#?}");
    Ok(())
}

fn a_version_that_is_gone_and_an_outage_of_30_s_are_survived(sandbox: &Sandbox) -> Result<()> {
    let mut plane = Plane::start(sandbox, "waiter-outage", 5)?;
    let folder = tempfile::tempdir()?;
    let kubeconfig = folder.path().join("kubeconfig");
    let proxy = Proxy::start(plane.server.admin(), &kubeconfig)?;
    a_version_that_is_gone_is_listed_anew(&mut plane, &proxy, &kubeconfig)?;
    an_outage_is_waited_out(&mut plane)
}

/// An API server that has just started has no changes from before its start. So it answers a watch
/// that resumes from an earlier version with 410 Gone.
fn a_version_that_is_gone_is_listed_anew(
    plane: &mut Plane,
    proxy: &Proxy,
    kubeconfig: &std::path::Path,
) -> Result<()> {
    let scene = Scene::on(plane, "gone")?;
    scene.create("2")?;
    scene.status(&running())?;
    let jobs: Api<Job> = Api::namespaced(plane.client.clone(), &scene.namespace);
    let version = block_on(jobs.list(&ListParams::default()))?
        .metadata
        .resource_version
        .unwrap_or_default();
    let mut waiter = scene.waiter_as(kubeconfig, &[V2, "--timeout=1h"])?;
    waiter.says("waiting: Job db-init is running");
    await_watches(plane, &scene.namespace, 1)?;
    // The waiter must resume its watch, so it must not notice the stopped API server.
    proxy.hold();
    proxy.cut();
    plane.server.stop_api_server()?;
    plane.server.start_api_server()?;
    // The test's own watch shows that the version is no longer available.
    let gone = block_on(async {
        use futures::StreamExt as _;
        let events = jobs.watch(&WatchParams::default(), &version).await?;
        anyhow::Ok(Box::pin(events).next().await)
    })?;
    match gone {
        Some(Ok(WatchEvent::Error(status))) if status.code == 410 => {}
        other => anyhow::bail!("the version {version} isn't gone: {other:?}"),
    }
    let lists = |plane: &Plane| -> Result<usize> {
        let requests = plane.requests(&scene.namespace)?;
        let own: Vec<Value> = requests.into_iter().filter(is_narrow).collect();
        Ok(count(&own, "list", "jobs", "ResponseComplete"))
    };
    ensure!(lists(plane)? == 1, "{}", lists(plane)?);
    proxy.release();
    let wait = Duration::from_mins(3);
    until_is("another list", wait, || lists(plane), |lists| *lists == 2)?;
    scene.status(&complete())?;
    waiter.ends_with(0);
    Ok(())
}

/// Whether a request selects the Job by its name, as a waiter's does.
fn is_narrow(event: &Value) -> bool {
    let uri = event["requestURI"].as_str().unwrap_or_default();
    uri.contains(&format!("fieldSelector=metadata.name%3D{JOB}"))
}

fn an_outage_is_waited_out(plane: &mut Plane) -> Result<()> {
    let scene = Scene::on(plane, "outage")?;
    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter(&[V2])?;
    waiter.says("waiting: Job db-init is running");
    await_watches(plane, &scene.namespace, 1)?;
    let stopped = Instant::now();
    plane.server.kill_api_server()?;
    waiter.says("waiting: the API server does not answer: ");
    // The test needs an outage of this length, and there is no event to wait for.
    sleep(OUTAGE.saturating_sub(stopped.elapsed()));
    plane.server.start_api_server()?;
    waiter.says("waiting: Job db-init is running");
    scene.status(&complete())?;
    let ended = waiter.ends_with(0);
    ensure!(ended.output.lines().count() == 4, "{}", ended.output);
    Ok(())
}
