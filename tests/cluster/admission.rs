//! The rules, where only a real cluster can show them: controllers at work, appliers of every kind, subresources.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cluster::Cluster;
use crate::harness::Test;
use crate::image::BUSYBOX;
use crate::kubectl::Kubectl;
use crate::release::Release;

pub(crate) const TESTS: [Test; 3] = [
    Test::exclusive(
        "admission::an_offender_from_before_is_corrected_and_rolls_out",
        an_offender_from_before_is_corrected_and_rolls_out,
    ),
    Test::exclusive(
        "admission::applying_again_restarts_nothing_whoever_applies",
        applying_again_restarts_nothing_whoever_applies,
    ),
    Test::exclusive(
        "admission::what_is_refused_and_what_is_not",
        what_is_refused_and_what_is_not,
    ),
];

const APPLICATION: &str = "piefed-application";
const FORBIDDEN: &str = "{name: PIEFED_INIT_CONTAINER, value: 'true'}";

fn deployment(name: &str, env: &str) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}}}
spec:
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {{name: main, image: {BUSYBOX}, env: [{env}]}}
"
    )
}

/// The Deployment controller works on a ReplicaSet, and the ReplicaSet controller on pods, that still set the variable.
fn an_offender_from_before_is_corrected_and_rolls_out(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("offender")?;
    let kubectl = &namespace.kubectl;
    let _application = cluster.namespace_named(APPLICATION)?;
    kubectl.apply(&deployment("old", FORBIDDEN))?;
    kubectl.wait("deployment/old", "condition=Available", 60)?;

    let _release = Release::install(cluster)?;
    let refusal =
        kubectl.apply_refused(&deployment("old", &format!("{FORBIDDEN}, {{name: A}}")))?;
    ensure!(
        refusal.contains("spec.template.spec.containers[0].env[0]"),
        "{refusal}"
    );
    // What runs can be scaled, and loses nothing.
    kubectl.run("scale deployment/old --replicas=0")?;
    kubectl.wait(
        "deployment/old",
        "jsonpath={.status.observedGeneration}=2",
        60,
    )?;

    kubectl.apply(&deployment("old", ""))?;
    kubectl.run("scale deployment/old --replicas=1")?;
    kubectl.run("rollout status deployment/old --timeout=50s")?;
    let sets = kubectl.get("replicasets --selector=app=old")?;
    let replicas: Vec<_> = sets["items"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|set| set["status"]["replicas"].as_i64())
        .collect();
    ensure!(
        replicas.len() == 2 && replicas.iter().flatten().sum::<i64>() == 1,
        "{replicas:?}"
    );
    Ok(())
}

/// The generation tells nothing here: a PUT drops the controller's own annotation, which counts as a change too.
fn unchanged(kubectl: &Kubectl, since: &Value, what: &str) -> Result<()> {
    let now = kubectl.get("deployment piefed-web")?;
    ensure!(
        now["spec"] == since["spec"],
        "{what}: {:#}\nbecame {:#}",
        since["spec"],
        now["spec"]
    );
    Ok(())
}

fn applying_again_restarts_nothing_whoever_applies(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install(cluster)?;
    let manifest = deployment("piefed-web", "");
    let apply = |options: &[&str]| {
        kubectl
            .output(
                &[options, &["-f", "-"]].concat(),
                &manifest,
                Duration::from_secs(30),
            )?
            .success()
    };
    apply(&["apply", "--server-side"])?;
    let first = kubectl.get("deployment piefed-web")?;
    let appliers: [&[&str]; 3] = [
        &["apply", "--server-side"],
        &[
            "apply",
            "--server-side",
            "--field-manager=another",
            "--force-conflicts",
        ],
        // A PUT of what the author wrote.
        &["replace"],
    ];
    for applier in appliers {
        apply(applier)?;
        unchanged(kubectl, &first, &format!("{applier:?}"))?;
    }

    // Another release wants another waiter; nobody touched the application.
    release.helm(
        "upgrade",
        "--set=waiter.resources.requests.cpu=11m,waiter.resources.requests.memory=17Mi --wait",
    )?;
    for applier in appliers {
        apply(applier)?;
        unchanged(kubectl, &first, &format!("after an upgrade, {applier:?}"))?;
    }
    kubectl.run("annotate deployment/piefed-web note=x")?;
    unchanged(kubectl, &first, "annotate")?;
    let sets = kubectl.run("get replicasets --selector=app=piefed-web --output=name")?;
    ensure!(sets.lines().count() == 1, "{sets}");

    // With a change of its own, it gets the new one.
    kubectl.run("rollout restart deployment/piefed-web")?;
    let stored = kubectl.get("deployment piefed-web")?;
    let waiter = &stored["spec"]["template"]["spec"]["initContainers"][0];
    ensure!(waiter["resources"]["requests"]["cpu"] == "11m", "{waiter}");
    Ok(())
}

fn what_is_refused_and_what_is_not(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let pod = |name: &str, env: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: main, image: '{BUSYBOX}', env: [{env}]}}]}}}}"
        )
    };
    kubectl.apply(&pod("from-before", FORBIDDEN))?;
    let _release = Release::install(cluster)?;

    // Ephemeral containers: a pod from before can be debugged, and no new one brings the variable.
    let debug = "debug pod/from-before --image=migration-gate.test/busybox:1 --attach=false";
    kubectl.run(&format!("{debug} --container=clean -- true"))?;
    let refusal = kubectl.refused(&format!(
        "{debug} --container=dirty --env=PIEFED_INIT_CONTAINER=true -- true"
    ))?;
    ensure!(
        refusal.contains("spec.ephemeralContainers[1].env[0]"),
        "{refusal}"
    );

    // A key that envFrom would turn into the variable, where a gate's pods could load it.
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: env}, data: {PIEFED_INIT_CONTAINER: 'true'}}";
    let refusal = kubectl.apply_refused(map)?;
    ensure!(refusal.contains("data.PIEFED_INIT_CONTAINER"), "{refusal}");
    let elsewhere = cluster.namespace("elsewhere")?;
    elsewhere.kubectl.apply(map)?;

    // The name in last-applied-configuration is no offence: an applied offender, corrected, keeps it there for a moment.
    elsewhere
        .kubectl
        .apply(&pod("annotated", "{name: A, value: PIEFED_INIT_CONTAINER}"))?;

    // What is going away is never held up.
    kubectl.run("delete pod/from-before --grace-period=0 --force --wait=false")?;
    kubectl.wait("pod/from-before", "delete", 30)?;

    // A held Deployment must leave admission with its waiter, even if the mutating webhook was taken away.
    cluster
        .kubectl()
        .run("delete mutatingwebhookconfiguration migration-gate")?;
    let refusal = kubectl.apply_refused(&deployment("piefed-web", ""))?;
    ensure!(
        refusal.contains("spec.template.spec.initContainers: `wait-for-migrations` is missing"),
        "{refusal}"
    );
    kubectl.apply(&deployment("redis", ""))?;
    Ok(())
}
