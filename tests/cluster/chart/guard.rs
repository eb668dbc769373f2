//! The webhooks never match system namespaces, and the server has only the permissions that it
//! needs.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::APPLICATION;
use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;
use testkit::release::Release;

testkit::tests! {
    exclusive:
        nothing_that_a_cluster_lives_by_is_held_up,
        the_server_may_no_more_than_it_needs;
}

/// A Deployment without pods that sets the variable.
fn offender() -> String {
    format!(
        "{{apiVersion: apps/v1, kind: Deployment, metadata: {{name: offender}}, spec: {{replicas: 0, selector: {{matchLabels: {{app: offender}}}}, \
         template: {{metadata: {{labels: {{app: offender}}}}, spec: {{containers: [{{name: main, image: {BUSYBOX}, \
         securityContext: {{allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 1, capabilities: {{drop: [ALL]}}, \
         seccompProfile: {{type: RuntimeDefault}}}}, env: [{{name: PIEFED_INIT_CONTAINER, value: 'true'}}]}}]}}}}}}}}"
    )
}

fn nothing_that_a_cluster_lives_by_is_held_up(cluster: &Cluster) -> Result<()> {
    let _application = cluster.namespace_named(APPLICATION)?;
    let chosen = cluster.namespace("chosen")?;
    let other = cluster.namespace("other")?;
    let admin = cluster.kubectl();
    // Label all namespaces that could be selected, except one.
    let label = |name: &str, label: &str| admin.run(&format!("label namespace {name} {label}"));
    for name in [&chosen.name, "kube-system", "kube-node-lease"] {
        label(name, "guarded=yes")?;
    }
    let release = Release::install_with(
        cluster,
        &json!({"replicas": 1, "webhooks": {"namespaceSelector": {"matchLabels": {"guarded": "yes"}}}}),
    )?;
    label("migration-gate", "guarded=yes")?;
    let gate = release.kubectl();
    let refusal = chosen.kubectl.apply_refused(&offender())?;
    ensure!(refusal.contains("containers[0].env[0]"), "{refusal}");

    gate.run("scale deployment/migration-gate --replicas=0")?;
    gate.run(
        "wait pods --selector=app.kubernetes.io/name=migration-gate --for=delete --timeout=170s",
    )?;
    let refusal = chosen.kubectl.apply_refused(&offender())?;
    ensure!(refusal.contains("failed calling webhook"), "{refusal}");
    // The selector is an additional condition.
    other.kubectl.apply(&offender())?;
    for namespace in ["kube-system", "kube-node-lease", "migration-gate"] {
        let kubectl = admin.in_namespace(namespace);
        kubectl.apply(&offender())?;
        kubectl.run("delete deployment offender")?;
    }
    // Objects of nodes are not affected either.
    let node = admin.run("get nodes --output=jsonpath={.items[0].metadata.name}")?;
    admin.run(&format!("label node {node} guarded=yes"))?;
    admin.run(&format!("label node {node} guarded-"))?;
    let leases = admin.in_namespace("kube-node-lease");
    leases.run(&format!("annotate lease {node} guarded=yes"))?;
    leases.run(&format!("annotate lease {node} guarded-"))?;
    for name in ["kube-system", "kube-node-lease"] {
        label(name, "guarded-")?;
    }
    Ok(())
}

fn the_server_may_no_more_than_it_needs(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    let release = Release::install_one(cluster)?;
    let check = |namespace: &str, asked: &str, expect: bool| -> Result<()> {
        let (verb, what) = asked.split_once(' ').context("a verb and an object")?;
        let may = cluster.may(("migration-gate", "migration-gate"), verb, what, namespace)?;
        ensure!(may == expect, "{asked} in {namespace}: {may}");
        Ok(())
    };
    let (own, cluster_wide) = ("migration-gate", "");
    for (namespace, asked) in [
        (own, "patch secrets/migration-gate-certificate"),
        (
            cluster_wide,
            "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/migration-gate",
        ),
        (
            cluster_wide,
            "patch validatingwebhookconfigurations.admissionregistration.k8s.io/migration-gate",
        ),
        (APPLICATION, "watch jobs.batch/piefed-db-init"),
        (APPLICATION, "patch configmaps/migration-gate-piefed"),
        (APPLICATION, "create configmaps"),
        (APPLICATION, "create events.events.k8s.io"),
        (APPLICATION, "watch deployments.apps/piefed-web"),
    ] {
        check(namespace, asked, true)?;
    }
    for (namespace, asked) in [
        (own, "get secrets"),
        (own, "list secrets"),
        (own, "create secrets"),
        (own, "delete secrets/migration-gate-certificate"),
        (own, "get secrets/another"),
        (own, "create pods"),
        (own, "patch deployments.apps/migration-gate"),
        (
            cluster_wide,
            "create mutatingwebhookconfigurations.admissionregistration.k8s.io",
        ),
        (
            cluster_wide,
            "delete mutatingwebhookconfigurations.admissionregistration.k8s.io/migration-gate",
        ),
        (
            cluster_wide,
            "patch mutatingwebhookconfigurations.admissionregistration.k8s.io/another",
        ),
        (
            cluster_wide,
            "patch validatingwebhookconfigurations.admissionregistration.k8s.io/another",
        ),
        (APPLICATION, "get secrets"),
        (APPLICATION, "list secrets"),
        (APPLICATION, "get configmaps/piefed-config"),
        (APPLICATION, "list configmaps"),
        (APPLICATION, "delete configmaps/migration-gate-piefed"),
        (APPLICATION, "get jobs.batch/another"),
        (APPLICATION, "create jobs.batch"),
        (APPLICATION, "delete jobs.batch/piefed-db-init"),
        (APPLICATION, "list pods"),
        (APPLICATION, "create deployments.apps"),
        (APPLICATION, "list deployments.apps"),
        (APPLICATION, "list statefulsets.apps"),
        (APPLICATION, "watch deployments.apps/another"),
        (APPLICATION, "patch events.events.k8s.io"),
        (APPLICATION, "delete events.events.k8s.io"),
        (APPLICATION, "create events"),
        ("default", "create events.events.k8s.io"),
        ("default", "watch deployments.apps/piefed-web"),
        (APPLICATION, "patch deployments.apps/piefed-web"),
        (APPLICATION, "impersonate serviceaccounts"),
        ("kube-system", "create configmaps"),
        ("default", "watch jobs.batch/piefed-db-init"),
    ] {
        check(namespace, asked, false)?;
    }
    drop(release);
    drop(application);
    Ok(())
}
