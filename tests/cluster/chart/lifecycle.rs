//! The chart on a cluster: arriving, being tested, changing and leaving.

use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::render::matrix;
use super::{CHART, template};
use crate::cluster::Cluster;
use crate::harness::Test;
use crate::kubectl::Kubectl;
use crate::poll::{Look, until};
use crate::process;
use crate::release::Release;

pub(crate) const TESTS: [Test; 7] = [
    Test::exclusive(
        "chart::the_api_server_takes_what_is_rendered",
        the_api_server_takes_what_is_rendered,
    ),
    Test::exclusive(
        "chart::helm_test_says_whether_the_webhooks_work",
        helm_test_says_whether_the_webhooks_work,
    ),
    Test::exclusive(
        "chart::uninstalling_leaves_what_waiters_need_and_no_more",
        uninstalling_leaves_what_waiters_need_and_no_more,
    ),
    Test::exclusive(
        "chart::a_gate_may_come_before_its_application",
        a_gate_may_come_before_its_application,
    ),
    Test::exclusive(
        "chart::an_account_of_the_application_stays_its_own",
        an_account_of_the_application_stays_its_own,
    ),
    Test::exclusive(
        "chart::an_upgrade_and_a_rollback_refuse_no_apply",
        an_upgrade_and_a_rollback_refuse_no_apply,
    ),
    Test::exclusive(
        "chart::an_interrupted_install_can_be_run_again",
        an_interrupted_install_can_be_run_again,
    ),
];

const APPLICATION: &str = "piefed-application";
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/piefed");

/// A Deployment that the built-in gate holds.
const HELD: &str = "{apiVersion: apps/v1, kind: Deployment, metadata: {name: piefed-web}, spec: {selector: {matchLabels: {app: web}}, \
     template: {metadata: {labels: {app: web}}, spec: {containers: [{name: web, image: 'piefed/piefed:1.2.0', command: [flask, run]}]}}}}";

/// Everything that can be switched on, but for kinds that no API server knows by itself.
fn options() -> Vec<Value> {
    let anywhere =
        json!({"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Exists"}]}]});
    vec![
        json!({"networkPolicy": {"enabled": true, "from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}, "dashboard": {"enabled": true}}),
        json!({"certificates": {"source": "existingSecret", "existingSecret": "tls"}, "mode": "warn"}),
        json!({"certificates": {"source": "certManager", "certManager": {"issuerRef": {"kind": "ClusterIssuer", "name": "x"}}}}),
        json!({
            "replicas": 1,
            "image": {"digest": format!("sha256:{}", "0".repeat(64)), "pullPolicy": "Always"},
            "imagePullSecrets": [{"name": "registry"}],
            "waiter": {"image": "mirror.example/migration-gate:1", "resources": {"limits": {"memory": "32Mi"}}},
            "webhooks": {
                "failurePolicy": "Ignore", "timeoutSeconds": 30,
                "namespaceSelector": {
                    "matchLabels": {"team": "x"},
                    "matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}],
                },
            },
            "rbac": {"imagePullSecrets": [{"name": "registry"}]},
            "nodeSelector": {"a": "b"},
            "tolerations": [{"key": "a", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": anywhere}},
            "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
            "priorityClassName": "system-cluster-critical",
            "podAnnotations": {"a": "1"}, "podLabels": {"c": "d"}, "extraArgs": ["--log=debug"],
            "podDisruptionBudget": {"enabled": false},
        }),
        json!({"rbac": {"gates": false, "accounts": false}}),
        json!({"prometheusRule": {"enabled": true}, "serviceMonitor": {"enabled": true}}),
    ]
}

fn the_api_server_takes_what_is_rendered(cluster: &Cluster) -> Result<()> {
    let _namespaces = ["migration-gate", APPLICATION, "one", "two"]
        .map(|name| cluster.namespace_named(name))
        .into_iter()
        .collect::<Result<Vec<_>>>()?;
    // A hook's pod is admitted only once its account is there, which a dry run doesn't make.
    cluster
        .kubectl()
        .run("create serviceaccount migration-gate-test --namespace=migration-gate")?;
    for values in matrix().into_iter().chain(options()) {
        let rendered = template(&cluster.kubectl().helm, &values)?;
        // Each document by itself, since YAML that is read and written again would be another.
        let known: Vec<&str> = rendered
            .split("\n---\n")
            .filter(|document| {
                !document.contains("apiVersion: monitoring.coreos.com/")
                    && !document.contains("apiVersion: cert-manager.io/")
            })
            .collect();
        let count = known.iter().filter(|d| d.contains("kind: ")).count();
        let said = cluster
            .kubectl()
            .output(
                &[
                    "apply",
                    "--dry-run=server",
                    "--validate=strict",
                    "--output=name",
                    "-f",
                    "-",
                ],
                &known.join("\n---\n"),
                Duration::from_mins(1),
            )?
            .success()
            .with_context(|| values.to_string())?;
        ensure!(
            said.lines().count() == count,
            "{values}: {count} objects and\n{said}"
        );
    }
    Ok(())
}

/// `helm test`, with what the pod said, which Helm prints on standard error.
fn helm_test(kubectl: &Kubectl) -> Result<String> {
    let output = process::run(
        Command::new(&kubectl.helm)
            .args(["test", "migration-gate", "--timeout=90s"])
            .args(["--namespace", "migration-gate"])
            .env("KUBECONFIG", &kubectl.kubeconfig),
        "",
        Duration::from_mins(2),
    )?;
    let logs = output.stderr.clone();
    Ok(output.success()? + &logs)
}

fn helm_test_says_whether_the_webhooks_work(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let expect = |said: &str, parts: &[&str]| -> Result<()> {
        for part in parts {
            ensure!(said.contains(part), "no `{part}` in\n{said}");
        }
        Ok(())
    };
    let good = [
        "held Deployment piefed-application/piefed-web: waits for Job piefed-db-init",
        "held Deployment piefed-application/piefed-worker: waits for Job piefed-db-init",
        "is refused, for spec.template.spec.containers[0].env[0]",
        "All is as it should be.",
    ];
    expect(&helm_test(release.kubectl())?, &good)?;
    // The rights end with the test.
    for kubectl in [release.kubectl(), &application.kubectl] {
        let left = kubectl.run(
            "get pods,serviceaccounts,roles,rolebindings --selector=app.kubernetes.io/name=migration-gate-test --output=name",
        )?;
        ensure!(left.is_empty(), "{left}");
    }
    let stored = application.kubectl.run("get deployments --output=name")?;
    ensure!(stored.is_empty(), "{stored}");

    // A Deployment that is there already is asked about as it is.
    application.kubectl.apply(HELD)?;
    let before = application.kubectl.get("deployment piefed-web")?;
    expect(&helm_test(release.kubectl())?, &good)?;
    let after = application.kubectl.get("deployment piefed-web")?;
    ensure!(before["metadata"]["generation"] == after["metadata"]["generation"]);

    release.helm("upgrade", "--wait --set=mode=warn")?;
    expect(
        &helm_test(release.kubectl())?,
        &["is let through with a warning"],
    )?;

    application.kubectl.run("delete deployment piefed-web")?;
    cluster
        .kubectl()
        .run("delete mutatingwebhookconfiguration migration-gate")?;
    let said = helm_test(release.kubectl())
        .err()
        .context("a test without a webhook succeeds")?;
    ensure!(said.to_string().contains("fail"), "{said:#}");
    let logs = release.kubectl().logs("migration-gate-test", "check")?;
    expect(
        &logs,
        &[
            "FAIL  gate piefed: held Deployment piefed-application/piefed-web: it would start without waiting for Job piefed-db-init",
        ],
    )?;
    release.kubectl().run("delete pod migration-gate-test")?;
    Ok(())
}

/// The names of what Helm or the chart made, of these kinds.
fn made(kubectl: &Kubectl, kinds: &str) -> Result<Vec<String>> {
    let found = kubectl.run(&format!(
        "get {kinds} --selector=app.kubernetes.io/name=migration-gate --output=name"
    ))?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn uninstalling_leaves_what_waiters_need_and_no_more(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let kubectl = &application.kubectl;
    kubectl.run(&format!("apply -k {EXAMPLE}"))?;
    kubectl.wait("job/piefed-db-init", "jsonpath={.status.ready}=1", 60)?;
    kubectl.exec("job/piefed-db-init", &["finish-migration", "success"])?;
    kubectl.wait("deployment/piefed-web", "condition=Available", 60)?;
    kubectl.wait("configmap/migration-gate-piefed", "create", 30)?;

    release.kubectl().helm("uninstall migration-gate --wait")?;
    let cluster_wide = "mutatingwebhookconfigurations,validatingwebhookconfigurations,clusterroles,clusterrolebindings";
    let left = made(cluster.kubectl(), cluster_wide)?;
    ensure!(left.is_empty(), "{left:?}");
    let everything = "secrets,configmaps,services,deployments,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    let left = made(release.kubectl(), everything)?;
    ensure!(left.is_empty(), "{left:?}");
    let secrets = release.kubectl().run("get secrets --output=name")?;
    ensure!(secrets.is_empty(), "{secrets}");
    let kept = made(kubectl, "roles,rolebindings")?;
    ensure!(
        kept == [
            "role.rbac.authorization.k8s.io/migration-gate-piefed-wait",
            "rolebinding.rbac.authorization.k8s.io/migration-gate-piefed-wait"
        ],
        "{kept:?}"
    );
    kubectl.run("get serviceaccount/piefed-init-checker configmap/migration-gate-piefed")?;

    // A pod that is evicted long after, when the Job is gone by its TTL.
    kubectl.run("delete job piefed-db-init")?;
    kubectl.run(
        "delete pods --selector=app.kubernetes.io/name=piefed-web --wait=true --grace-period=1",
    )?;
    kubectl.run("rollout status deployment/piefed-web --timeout=60s")?;

    // What was kept is taken up again.
    release.helm("install", "--wait")?;
    Ok(())
}

/// A namespace that the chart makes; deleted when the test is over.
struct Made<'c>(&'c Cluster);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        // A failure has nobody to go to, and the next test that wants the name finds out.
        let _ = self
            .0
            .kubectl()
            .run(&format!("delete namespace {APPLICATION} --wait=false"));
    }
}

fn a_gate_may_come_before_its_application(cluster: &Cluster) -> Result<()> {
    // An earlier test's may still be on its way out.
    cluster
        .kubectl()
        .wait(&format!("namespace/{APPLICATION}"), "delete", 120)?;
    let _made = Made(cluster);
    let release = Release::install(cluster)?;
    helm_test(release.kubectl())?;
    release.helm("upgrade", "--wait --set=podAnnotations.a=b")?;
    let kubectl = cluster.kubectl().in_namespace(APPLICATION);
    // The application brings the namespace, too, and its own rights for the waiter.
    kubectl.run(&format!("apply -k {EXAMPLE}"))?;
    release.helm("upgrade", "--wait --set=podAnnotations.a=c")?;
    release.kubectl().helm("uninstall migration-gate --wait")?;
    kubectl.run("get deployment/piefed-web serviceaccount/piefed-init-checker")?;
    Ok(())
}

fn account(by: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: piefed-init-checker, labels: {{app.kubernetes.io/name: {by}}}}}, \
         imagePullSecrets: [{{name: registry}}]}}"
    )
}

fn an_account_of_the_application_stays_its_own(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let kubectl = &application.kubectl;
    let its_own = || -> Result<()> {
        let found = kubectl.get("serviceaccount piefed-init-checker")?;
        ensure!(
            found["metadata"]["labels"]["app.kubernetes.io/name"] == "piefed",
            "{found}"
        );
        ensure!(
            found["imagePullSecrets"] == json!([{"name": "registry"}]),
            "{found}"
        );
        Ok(())
    };
    // It was there first.
    kubectl.apply(&account("piefed"))?;
    let release = Release::install(cluster)?;
    release.helm("upgrade", "--wait --set=podAnnotations.a=b")?;
    its_own()?;
    let found = kubectl.get("serviceaccount piefed-init-checker")?;
    ensure!(
        found["metadata"]
            .pointer("/annotations/meta.helm.sh~1release-name")
            .is_none(),
        "{found}"
    );
    release.kubectl().helm("uninstall migration-gate --wait")?;
    its_own()?;

    // It comes later, as Flux applies it.
    kubectl.run("delete serviceaccount piefed-init-checker")?;
    release.helm("install", "--wait")?;
    let forced = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=kustomize-controller",
        "-f",
        "-",
    ];
    kubectl
        .output(&forced, &account("piefed"), Duration::from_secs(30))?
        .success()?;
    its_own()?;
    for value in ["b", "c"] {
        release.helm("upgrade", &format!("--wait --set=podAnnotations.a={value}"))?;
        its_own()?;
    }
    release.kubectl().helm("uninstall migration-gate --wait")?;
    its_own()
}

fn an_upgrade_and_a_rollback_refuse_no_apply(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install(cluster)?;
    let kubectl = &application.kubectl;
    let gates = json!([{
        "name": "piefed", "namespace": APPLICATION, "job": "piefed-db-init",
        "deployments": ["piefed-web", "piefed-worker", "piefed-beat"], "serviceAccount": "piefed-init-checker",
    }]);
    let upgrade = format!("--wait --set-json=gates={gates} --set=mode=warn");
    for step in ["upgrade", "rollback"] {
        let applied = thread::scope(|scope| -> Result<u32> {
            let helm = scope.spawn(|| match step {
                "upgrade" => release.helm("upgrade", &upgrade),
                _ => release
                    .kubectl()
                    .helm("rollback migration-gate 1 --wait --timeout=90s"),
            });
            let mut applied = 0;
            while !helm.is_finished() {
                let said = kubectl
                    .output(
                        &["apply", "--dry-run=server", "--output=yaml", "-f", "-"],
                        HELD,
                        Duration::from_secs(30),
                    )?
                    .success()
                    .with_context(|| format!("during the {step}, after {applied} applies"))?;
                ensure!(said.contains("wait-for-migrations"), "{step}: {said}");
                applied += 1;
            }
            helm.join()
                .map_err(|_| anyhow::anyhow!("the thread panicked"))??;
            Ok(applied)
        })?;
        eprintln!("chart: {applied} applies during the {step}");
        ensure!(applied > 3, "{applied} applies prove nothing");
        let config =
            release.kubectl().get("configmap migration-gate")?["data"]["config.yaml"].to_string();
        ensure!(
            config.contains("piefed-beat") == (step == "upgrade"),
            "{config}"
        );
    }
    Ok(())
}

fn an_interrupted_install_can_be_run_again(cluster: &Cluster) -> Result<()> {
    let _application = cluster.namespace_named(APPLICATION)?;
    let release = Release::prepare(cluster)?;
    let kubectl = release.kubectl();
    // It waits for an image that nobody has, and is killed.
    let mut helm = Command::new(&kubectl.helm)
        .args([
            "install",
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--wait",
        ])
        .args(["--set=image.repository=example.invalid/none"])
        .env("KUBECONFIG", &kubectl.kubeconfig)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let waiting = until(
        "Helm to have made everything",
        Duration::from_mins(1),
        || match kubectl.run("get validatingwebhookconfiguration migration-gate --ignore-not-found")
        {
            Ok(found) if found.is_empty() => Look::Pending("no webhook configuration".to_owned()),
            Ok(_) => Look::Done(()),
            Err(error) => Look::Failed(error),
        },
    );
    helm.kill()?;
    helm.wait()?;
    waiting?;
    // What Helm tells people to do, and the chart must allow.
    kubectl.helm("uninstall migration-gate --wait")?;
    release.helm("install", "--wait")?;
    helm_test(kubectl)?;

    // One that gave up by itself is simply run again.
    kubectl.helm("uninstall migration-gate --wait")?;
    let gave_up = kubectl.helm(&format!(
        "install migration-gate {CHART} --wait --timeout=3s --set=image.repository=example.invalid/none"
    ));
    ensure!(gave_up.is_err(), "an image that nobody has was installed");
    release.helm("upgrade", "--install --wait")?;
    helm_test(kubectl)?;
    Ok(())
}
