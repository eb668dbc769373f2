//! No replica of migration-gate answers while an application runs.

use anyhow::{Context as _, Result, ensure};
use kube::api::ResourceExt;

use super::application::{Application, WEB, WORKER};
use super::operations::{NAMESPACE, evict};
use super::traffic::Traffic;
use crate::flux::Flux;
use testkit::cluster::Cluster;
use testkit::image;
use testkit::release::Release;

testkit::tests! {
    exclusive: every_replica_is_down;
}

/// One object of each of the most common kinds.
const OTHER_KINDS: &str = "
{apiVersion: v1, kind: ConfigMap, metadata: {name: bystander}, data: {A: b}}
---
{apiVersion: v1, kind: Secret, metadata: {name: bystander}, stringData: {PIEFED_INIT_CONTAINER: 'true'}}
---
{apiVersion: v1, kind: Service, metadata: {name: bystander}, spec: {ports: [{port: 80}]}}
---
{apiVersion: batch/v1, kind: Job, metadata: {name: bystander}, spec: {template: {spec: {restartPolicy: Never,
  containers: [{name: main, image: migration-gate.test/busybox:1, command: ['true']}]}}}}
---
{apiVersion: batch/v1, kind: CronJob, metadata: {name: bystander}, spec: {schedule: '0 0 1 1 *', jobTemplate: {spec:
  {template: {spec: {restartPolicy: Never, containers: [{name: main, image: migration-gate.test/busybox:1}]}}}}}}
";

fn every_replica_is_down(cluster: &Cluster) -> Result<()> {
    let flux = Flux::of(cluster)?;
    let application = Application::new(cluster, cluster.namespace_named(NAMESPACE)?)?;
    let kubectl = application.kubectl();
    let other = cluster.namespace("bystander")?;
    let switch = "[{name: PIEFED_INIT_CONTAINER, value: 'true'}]";
    other.kubectl.apply(&deployment("from-before", switch))?;
    let _release = Release::install(cluster)?;
    let kustomization = flux.kustomization(NAMESPACE)?;
    let revision = kustomization.publish(&application.at("1.0.0")?)?;
    application.let_migrate("1.0.0")?;
    kustomization.settled(&revision)?.success()?;
    let traffic = Traffic::start(&application);
    traffic.until("a page", |seen| !seen.pages.is_empty())?;

    let gate = cluster.kubectl().in_namespace("migration-gate");
    gate.run("scale deployment/migration-gate --replicas=0")?;
    gate.run(
        "wait pods --selector=app.kubernetes.io/name=migration-gate --for=delete --timeout=170s",
    )?;

    // Objects without a rule are accepted.
    for namespace in [&other.kubectl, kubectl] {
        namespace.apply(&deployment("bystander", "[]"))?;
        namespace.run("scale deployment/bystander --replicas=1")?;
        namespace.apply(OTHER_KINDS)?;
        namespace.run("wait --for=condition=Available deployment/bystander --timeout=170s")?;
        namespace.run("delete deployment,configmap,secret,service,job,cronjob bystander")?;
    }
    // Objects that a rule would deny, or that need an injection, are refused.
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: switch}, data: {PIEFED_INIT_CONTAINER: 'true'}}";
    for (namespace, refused) in [
        (&other.kubectl, deployment("offender", switch)),
        (
            &other.kubectl,
            deployment("from-before", &switch.replace("true", "yes")),
        ),
        (kubectl, map.to_owned()),
    ] {
        let said = namespace.apply_refused(&refused)?;
        ensure!(said.contains("failed calling webhook"), "{said}");
    }
    // An existing object with the variable can be updated without new pods, and deleted. A
    // ConfigMap in a namespace without a gate is accepted.
    other
        .kubectl
        .run("scale deployment/from-before --replicas=2")?;
    other
        .kubectl
        .wait("deployment/from-before", "condition=ReplicaFailure", 60)?;
    other.kubectl.wait(
        "deployment/from-before",
        "jsonpath={.status.readyReplicas}=1",
        60,
    )?;
    other.kubectl.run("delete deployment from-before")?;
    other.kubectl.apply(map)?;
    let refused = kubectl.refused(&format!(
        "set image deployment/{WEB} web=migration-gate.test/piefed:1.1.0"
    ))?;
    ensure!(refused.contains("failed calling webhook"), "{refused}");
    // Updates that do not change the pod template cause no call, so Flux can reconcile.
    kustomization.reconcile()?.success()?;
    kubectl.run(&format!("label deployment/{WEB} a=b"))?;

    // The application goes on: containers restart, pods are rescheduled, and pods are added.
    restart_a_container(&application)?;
    evict(&application)?;
    let ready = |count: u32| {
        let condition = format!("jsonpath={{.status.readyReplicas}}={count}");
        kubectl.wait(&format!("deployment/{WEB}"), &condition, 60)
    };
    kubectl.run(&format!("scale deployment/{WEB} --replicas=3"))?;
    ready(3)?;
    kubectl.run(&format!(
        "autoscale deployment/{WEB} --min=4 --max=5 --cpu=80%"
    ))?;
    ready(4)?;
    kubectl.run(&format!("delete horizontalpodautoscaler {WEB}"))?;
    let seen = traffic.until("pages", |seen| !seen.pages.is_empty())?;
    let pages = seen.pages["1.0.0"];
    traffic.until("more pages", |seen| seen.pages["1.0.0"] >= pages + 10)?;

    // Deletions are always allowed. Deleted objects can be created again when the replicas are
    // back.
    kubectl.run(&format!("delete deployment {WORKER}"))?;

    gate.run("scale deployment/migration-gate --replicas=2")?;
    gate.wait("deployment/migration-gate", "condition=Available", 60)?;
    kustomization.reconcile()?.success()?;
    kubectl.wait(
        &format!("deployment/{WEB}"),
        "jsonpath={.status.replicas}=2",
        60,
    )?;
    application.rolled_out()?;
    let seen = traffic.stop()?;
    eprintln!("stories: every replica is down: {seen}");
    ensure!(seen.unmigrated == 0 && seen.outages == 0, "{seen}");
    application.met_no_unmigrated_schema()
}

/// Ends the first container of a web pod, and waits until the kubelet has started it again.
fn restart_a_container(application: &Application) -> Result<()> {
    let pods = application.pods(WEB, "1.0.0")?;
    let pod = pods.first().context("a web pod")?.name_any();
    let interrupt = "import os, signal; os.kill(1, signal.SIGINT)";
    application
        .kubectl()
        .exec(&format!("pod/{pod}"), &["python3", "-c", interrupt])?;
    application.await_pod(&pod, "to run again", |pod| {
        let main = &pod["status"]["containerStatuses"][0];
        main["restartCount"] == 1 && main["ready"] == true
    })?;
    Ok(())
}

fn deployment(name: &str, env: &str) -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: {name}}}, spec: {{selector: {{matchLabels: {{app: {name}}}}}, \
         template: {{metadata: {{labels: {{app: {name}}}}}, spec: {{terminationGracePeriodSeconds: 0, \
         containers: [{{name: main, image: {}, env: {env}}}]}}}}}}}}",
        image::BUSYBOX
    )
}
