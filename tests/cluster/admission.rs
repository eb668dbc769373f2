//! Tests of the rules that need a real cluster: running controllers, appliers of every kind,
//! subresources.

mod calls;

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use serde_json::Value;

use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::process::says;
use testkit::release::Release;

use self::calls::Calls;

testkit::tests! {
    exclusive:
        an_offender_from_before_is_corrected_and_rolls_out,
        applying_again_restarts_nothing_whoever_applies,
        each_request_costs_the_calls_that_it_needs,
        what_is_refused_and_what_is_not;
}

pub(crate) const APPLICATION: &str = "piefed-application";
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

/// The Deployment controller works on a ReplicaSet, and the ReplicaSet controller on pods, that
/// still set the variable.
fn an_offender_from_before_is_corrected_and_rolls_out(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("offender")?;
    let kubectl = &namespace.kubectl;
    let _application = cluster.namespace_named(APPLICATION)?;
    for name in ["old", "scaled"] {
        kubectl.apply(&deployment(name, FORBIDDEN))?;
        kubectl.run(&format!("scale deployment/{name} --replicas=2"))?;
        kubectl.run(&format!("rollout status deployment/{name} --timeout=170s"))?;
    }

    let _release = Release::install_one(cluster)?;
    let refusal =
        kubectl.apply_refused(&deployment("old", &format!("{FORBIDDEN}, {{name: A}}")))?;
    says(&refusal, &["spec.template.spec.containers[0].env[0]"])?;
    // A running workload can be scaled down and up, although its new pods are refused.
    for replicas in [0, 3] {
        kubectl.run(&format!("scale deployment/scaled --replicas={replicas}"))?;
        kubectl.run(&format!(
            "wait replicaset --selector=app=scaled --for=jsonpath={{.spec.replicas}}={replicas} --timeout=170s"
        ))?;
    }

    // After the correction it rolls out: the old ReplicaSet is scaled down pod by pod, and the new
    // one up.
    kubectl.apply(&deployment("old", ""))?;
    kubectl.run("rollout status deployment/old --timeout=170s")?;
    let sets = kubectl.get("replicasets --selector=app=old")?;
    let mut replicas: Vec<_> = sets["items"]
        .as_array()
        .context("a list")?
        .iter()
        .map(|set| {
            let env = &set["spec"]["template"]["spec"]["containers"][0]["env"];
            let offends = env[0]["name"] == "PIEFED_INIT_CONTAINER";
            (offends, set["spec"]["replicas"].as_i64())
        })
        .collect();
    replicas.sort_unstable();
    ensure!(
        replicas == [(false, Some(2)), (true, Some(0))],
        "{replicas:?}"
    );
    Ok(())
}

/// Checks that neither the object nor its generation has changed: a new generation would begin a
/// roll-out.
fn untouched(kubectl: &Kubectl, since: &Value, what: &str) -> Result<()> {
    let now = kubectl.get("deployment piefed-web")?;
    let (before, after) = (&since["metadata"], &now["metadata"]);
    let same = before["generation"] == after["generation"];
    ensure!(same, "{what}: {before:#}\nbecame {after:#}");
    unchanged(kubectl, since, what)
}

fn unchanged(kubectl: &Kubectl, since: &Value, what: &str) -> Result<()> {
    let now = kubectl.get("deployment piefed-web")?;
    let (before, after) = (&since["spec"], &now["spec"]);
    ensure!(before == after, "{what}: {before:#}\nbecame {after:#}");
    Ok(())
}

fn applying_again_restarts_nothing_whoever_applies(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let release = Release::install_one(cluster)?;
    // The manifest has the controller's own annotation: a PUT without it would be a change, too.
    let manifest = deployment("piefed-web", "").replace(
        "{name: piefed-web}\nspec",
        "{name: piefed-web, annotations: {deployment.kubernetes.io/revision: '1'}}\nspec",
    );
    let apply = |options: &str| {
        let options: Vec<&str> = options.split(' ').chain(["-f", "-"]).collect();
        let applied = kubectl.output(&options, &manifest, Duration::from_secs(90));
        applied?.success()
    };
    apply("apply --server-side")?;
    kubectl.wait(
        "deployment/piefed-web",
        "jsonpath={.status.observedGeneration}=1",
        30,
    )?;
    let first = kubectl.get("deployment piefed-web")?;
    let appliers = [
        "apply --server-side",
        "apply --server-side --field-manager=another --force-conflicts",
        // A PUT of the author's manifest.
        "replace",
    ];
    for applier in appliers {
        apply(applier)?;
        untouched(kubectl, &first, applier)?;
    }

    // Another release wants another waiter, but the application has not changed.
    release.helm(
        "upgrade",
        "--set=waiter.resources.requests.cpu=11m,waiter.resources.requests.memory=17Mi --wait",
    )?;
    for applier in appliers {
        apply(applier)?;
        untouched(kubectl, &first, &format!("after an upgrade, {applier}"))?;
    }
    kubectl.run("annotate deployment/piefed-web note=x")?;
    unchanged(kubectl, &first, "annotate")?;
    let sets = kubectl.run("get replicasets --selector=app=piefed-web --output=name")?;
    ensure!(sets.lines().count() == 1, "{sets}");

    // With a change of its own, it gets the new waiter.
    kubectl.run("rollout restart deployment/piefed-web")?;
    let stored = kubectl.get("deployment piefed-web")?;
    let waiter = &stored["spec"]["template"]["spec"]["initContainers"][0];
    ensure!(waiter["resources"]["requests"]["cpu"] == "11m", "{waiter}");
    Ok(())
}

/// The workloads have no pods, whose controllers would send requests of their own.
fn each_request_costs_the_calls_that_it_needs(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let elsewhere = cluster.namespace("calls")?;
    let _release = Release::install_one(cluster)?;
    costs_its_calls(&application.kubectl, &elsewhere.kubectl)
}

/// Checks the calls in the application's namespace, and in a namespace without a gate.
pub(crate) fn costs_its_calls(kubectl: &Kubectl, elsewhere: &Kubectl) -> Result<()> {
    let asleep = |name: &str, env: &str| {
        deployment(name, env).replace("spec:\n  selector", "spec:\n  replicas: 0\n  selector")
    };
    let held = asleep("piefed-web", "");
    let apply = |manifest: &str| {
        let options = ["apply", "--server-side", "-f", "-"];
        let applied = kubectl.output(&options, manifest, Duration::from_secs(90));
        applied?.success()
    };
    let variables: Vec<_> = (0..10)
        .map(|i| format!("{{name: V{i}, value: x}}"))
        .collect();
    let variables = variables.join(", ");
    let map = |key: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: env}}, data: {{{key}: 'true'}}}}"
        )
    };
    let inject: &[_] = &[("inject", 1)];
    let mut calls = Calls::so_far(kubectl)?;
    // Only conditions check the injected object.
    calls.cost("a held workload", inject, || apply(&held))?;
    calls.cost("the same again", &[], || apply(&held))?;
    calls.cost("a label", &[], || {
        kubectl.run("label deployment/piefed-web note=x")
    })?;
    calls.cost("a pause", &[], || {
        kubectl.run("patch deployment/piefed-web --patch={\"spec\":{\"paused\":true}}")
    })?;
    calls.cost("a new template", inject, || {
        apply(&asleep("piefed-web", &variables))
    })?;
    calls.cost("a workload that no gate holds", &[], || {
        apply(&asleep("redis", &variables))
    })?;
    calls.cost("a held name elsewhere", &[], || {
        elsewhere.apply(&asleep("piefed-web", &variables))
    })?;
    calls.cost("the variable", &[("pod-specs", 1)], || {
        elsewhere.apply_refused(&asleep("old", FORBIDDEN))
    })?;
    calls.cost("a ConfigMap", &[], || kubectl.apply(&map("KEY")))?;
    calls.cost("the variable's key", &[("forbidden-key", 1)], || {
        kubectl.apply_refused(&map("PIEFED_INIT_CONTAINER"))
    })?;
    calls.cost("its end", &[], || {
        kubectl.run("delete deployment/piefed-web")
    })
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
    // Two objects that would be refused, and that a finalizer keeps while they are being deleted.
    for (name, env) in [("leaving", FORBIDDEN), ("piefed-worker", "")] {
        let held = format!("{{name: {name}, finalizers: [example.org/held]}}");
        let manifest = deployment(name, env)
            .replace(&format!("{{name: {name}}}\nspec"), &format!("{held}\nspec"));
        kubectl.apply(&manifest)?;
    }
    let release = Release::install_one(cluster)?;
    shows_what_it_does(release.kubectl())?;

    // Ephemeral containers: an existing pod with the variable can be debugged, but no new container
    // may set it.
    let debug = "debug pod/from-before --image=migration-gate.test/busybox:1 --attach=false";
    kubectl.run(&format!("{debug} --container=clean -- true"))?;
    let refusal = kubectl.refused(&format!(
        "{debug} --container=dirty --env=PIEFED_INIT_CONTAINER=true -- true"
    ))?;
    says(&refusal, &["spec.ephemeralContainers[1].env[0]"])?;

    // A key that envFrom would make the variable, in a gate's namespace.
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: env}, data: {PIEFED_INIT_CONTAINER: 'true'}}";
    let refusal = kubectl.apply_refused(map)?;
    ensure!(refusal.contains("data.PIEFED_INIT_CONTAINER"), "{refusal}");
    let elsewhere = cluster.namespace("elsewhere")?;
    elsewhere.kubectl.apply(map)?;

    // The name in last-applied-configuration is no violation: after a correction, it stays there
    // for a moment.
    elsewhere
        .kubectl
        .apply(&pod("annotated", "{name: A, value: PIEFED_INIT_CONTAINER}"))?;

    // An object that is being deleted is always allowed.
    for name in ["leaving", "piefed-worker"] {
        kubectl.run(&format!("delete deployment/{name} --wait=false"))?;
        kubectl.run(&format!("label deployment/{name} on-its-way=out"))?;
        let let_go = r#"--type=json --patch=[{"op":"remove","path":"/metadata/finalizers"}]"#;
        kubectl.run(&format!("patch deployment/{name} {let_go}"))?;
        kubectl.wait(&format!("deployment/{name}"), "delete", 30)?;
    }
    kubectl.run("delete pod/from-before --grace-period=0 --force --wait=false")?;
    kubectl.wait("pod/from-before", "delete", 30)?;

    // A held Deployment must not pass admission without its waiter, even if the mutating webhook
    // was deleted.
    cluster
        .kubectl()
        .run("delete mutatingwebhookconfiguration migration-gate")?;
    let refusal = kubectl.apply_refused(&deployment("piefed-web", ""))?;
    let part = "spec.template.spec.initContainers: `wait-for-migrations` is missing";
    says(&refusal, &[part])?;
    kubectl.apply(&deployment("redis", ""))?;
    is_audited(cluster)
}

/// Checks a replica's metrics: of the gate, which the chart's permissions let it watch, and of the
/// certificate.
fn shows_what_it_does(kubectl: &Kubectl) -> Result<()> {
    let pods =
        kubectl.run("get pods --selector=app.kubernetes.io/name=migration-gate --output=name")?;
    let pod = pods
        .lines()
        .next()
        .and_then(|name| name.strip_prefix("pod/"));
    let path = format!(
        "/api/v1/namespaces/migration-gate/pods/{}:8080/proxy/metrics",
        pod.context("a replica")?
    );
    until(
        "the gate's state",
        Duration::from_secs(90),
        || match kubectl.run(&format!("get --raw {path}")) {
            Ok(metrics) if metrics.contains(r#"gate_state{gate="piefed",state="unknown"} 0"#) => {
                let expiry = "migration_gate_certificate_expiry_timestamp_seconds ";
                let expiry = metrics.lines().find_map(|line| line.strip_prefix(expiry));
                match expiry.and_then(|expiry| expiry.parse::<u64>().ok()) {
                    Some(1..) => Look::Done(()),
                    other => Look::Failed(anyhow!("it expires at {other:?}")),
                }
            }
            Ok(metrics) => Look::Pending(metrics),
            Err(error) => Look::Failed(error),
        },
    )
}

/// Checks that the audit log has each denial, with the names of the webhook and the gate.
fn is_audited(cluster: &Cluster) -> Result<()> {
    let decision = |event: &Value, webhook: &str, key: &str| {
        event["annotations"][format!("{webhook}.migration-gate.io/{key}")].clone()
    };
    until(
        "the denials in the audit log",
        Duration::from_secs(90),
        || {
            let events = match cluster.audit_events_with("migration-gate.io/decision") {
                Ok(events) => events,
                Err(error) => return Look::Failed(error),
            };
            let held = events.iter().any(|event| {
                decision(event, "pod-specs", "decision") == "denied"
                    && decision(event, "pod-specs", "gate") == "piefed"
                    && event["responseStatus"]["code"] == 403
            });
            let key = |event| decision(event, "forbidden-key", "decision") == "denied";
            if held && events.iter().any(key) {
                Look::Done(())
            } else {
                Look::Pending(format!("{} decisions", events.len()))
            }
        },
    )
}
