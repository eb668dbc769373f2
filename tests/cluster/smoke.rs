//! Tests that the cluster works, which the other tests require.

use std::time::Duration;

use anyhow::{Result, ensure};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::Role;
use kube::Api;
use kube::api::ListParams;
use tokio::time::timeout;

use testkit::client::{block_on, client};
use testkit::cluster::Cluster;
use testkit::control_plane::{ControlPlane, PlaneSettings};
use testkit::image::BUSYBOX;
use testkit::process::says;
use testkit::sandbox::Sandbox;

testkit::tests! {
    shared:
        a_pod_runs_to_completion,
        a_pod_reaches_the_api_with_its_token,
        a_service_account_may_do_what_its_role_says,
        a_migration_ends_when_the_test_says_so;
    exclusive: a_webhook_is_dialled_through_its_service;
    standalone: an_api_server_stops_and_starts;
}

fn a_pod_runs_to_completion(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("pod")?;
    let kubectl = &namespace.kubectl;
    let manifest = include_str!("smoke/greeter.yaml").replace("BUSYBOX", BUSYBOX);
    kubectl.apply(&manifest)?;
    kubectl.wait("pod/greeter", "condition=Ready", 30)?;
    let said = namespace.says("greeter", "main", &["hello"])?;
    ensure!(said == "hello\n", "{said}");
    kubectl.exec("greeter", &["touch", "/tmp/go"])?;
    kubectl.wait("pod/greeter", "jsonpath={.status.phase}=Succeeded", 30)?;
    ensure!(kubectl.logs("greeter", "main")? == "hello\ngoodbye\n");
    Ok(())
}

fn a_pod_reaches_the_api_with_its_token(cluster: &Cluster) -> Result<()> {
    let programs = cluster.programs()?.display();
    let namespace = cluster.namespace("token")?;
    let kubectl = &namespace.kubectl;
    let manifest = include_str!("smoke/caller.yaml").replace("BUSYBOX", BUSYBOX);
    let manifest = manifest.replace("PROGRAMS", &programs.to_string());
    kubectl.apply(&manifest)?;
    kubectl.wait("pod/caller", "jsonpath={.status.phase}=Succeeded", 30)?;
    let logs = kubectl.logs("caller", "main")?;
    ensure!(logs.starts_with("10.96.0.1\n"), "{logs}");
    ensure!(
        logs.contains(&format!("system:serviceaccount:{}:default", namespace.name)),
        "{logs}"
    );
    Ok(())
}

fn a_service_account_may_do_what_its_role_says(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("account")?;
    let kubectl = &namespace.kubectl;
    let account = format!("{}:reader", namespace.name);
    kubectl.run("create role reader --verb=get,list --resource=configmaps")?;
    kubectl.run("create serviceaccount reader")?;
    kubectl.run(&format!(
        "create rolebinding reader --role=reader --serviceaccount={account}"
    ))?;

    let reader = cluster.kubectl_as(&namespace.name, "reader")?;
    ensure!(reader.get("configmap kube-root-ca.crt")?["kind"] == "ConfigMap");
    let refusal = reader.refused("get secrets")?;
    ensure!(refusal.contains("forbidden"), "{refusal}");

    let roles: Api<Role> = Api::namespaced(cluster.client(), &namespace.name);
    ensure!(
        block_on(roles.get("reader"))?
            .rules
            .is_some_and(|rules| rules.len() == 1)
    );

    let secrets = cluster.audit_events()?.into_iter().filter(|event| {
        event["user"]["username"] == format!("system:serviceaccount:{account}")
            && event["objectRef"]["resource"] == "secrets"
    });
    let codes: Vec<_> = secrets
        .map(|event| event["responseStatus"]["code"].clone())
        .collect();
    ensure!(codes == [403], "the audit log says {codes:?}");
    Ok(())
}

fn a_migration_ends_when_the_test_says_so(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("migration")?;
    let kubectl = &namespace.kubectl;
    let pod = |name: &str, version: &str| {
        format!(
            "
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  restartPolicy: Never
  containers:
  - {{name: main, image: 'piefed/piefed:{version}', command: [flask, db, upgrade]}}
---"
        )
    };
    kubectl.apply(&(pod("good", "1.2.0") + &pod("bad", "1.3.0")))?;
    for (name, verdict, phase, last) in [
        ("good", "success", "Succeeded", "Migration complete"),
        ("bad", "failure", "Failed", "@piefed-db:5432/piefed"),
    ] {
        let pod = format!("pod/{name}");
        kubectl.wait(&pod, "condition=Ready", 30)?;
        kubectl.exec(&pod, &["finish-migration", verdict])?;
        kubectl.wait(&pod, &format!("jsonpath={{.status.phase}}={phase}"), 30)?;
        let logs = kubectl.logs(name, "main")?;
        ensure!(logs.trim_end().ends_with(last), "{logs}");
    }
    Ok(())
}

/// The server behind the Service has no TLS. The API server's error about that shows that it has
/// reached the server.
fn a_webhook_is_dialled_through_its_service(cluster: &Cluster) -> Result<()> {
    let namespace = cluster.namespace("webhook")?;
    let name = &namespace.name;
    let kubectl = &namespace.kubectl;
    let manifests = include_str!("smoke/server.yaml").replace("BUSYBOX", BUSYBOX);
    let manifests = manifests.replace("NAME", name);
    kubectl.apply(&manifests)?;
    let outcome = (|| {
        kubectl.wait("pod/server", "condition=Ready", 30)?;
        let slice = kubectl.get("endpointslice --selector=kubernetes.io/service-name=server")?;
        ensure!(
            slice["items"][0]["endpoints"][0]["conditions"]["ready"] == true,
            "{slice:#}"
        );
        kubectl.apply_refused("{apiVersion: v1, kind: Secret, metadata: {name: canary}}")
    })();
    cluster
        .kubectl()
        .run(&format!("delete validatingwebhookconfiguration {name}"))?;
    let refusal = outcome?;
    says(&refusal, &["server gave HTTP response to HTTPS client"])?;
    ensure!(kubectl.helm("list --output=json")?.trim() == "[]");
    Ok(())
}

fn an_api_server_stops_and_starts(sandbox: &Sandbox) -> Result<()> {
    let control_plane = ControlPlane::start(sandbox, PlaneSettings::bare("stops-and-starts", 0)?)?;
    let maps: Api<ConfigMap> = Api::all(client(control_plane.admin())?);
    let name = "kube-apiserver-legacy-service-account-token-tracking";
    let list = || {
        // In an async block, because `timeout` must be created inside the runtime.
        block_on(async {
            timeout(Duration::from_secs(90), maps.list(&ListParams::default())).await
        })
    };
    let before = list()??;
    ensure!(
        before
            .items
            .iter()
            .any(|map| map.metadata.name.as_deref() == Some(name)),
        "{before:?}"
    );
    control_plane.stop_api_server()?;
    ensure!(list()?.is_err(), "a stopped API server answers");
    control_plane.start_api_server()?;
    ensure!(list()??.items.len() == before.items.len());
    control_plane.check()
}
