//! The source of the certificate can be changed in an upgrade.

use std::fs;

use anyhow::{Result, ensure};

use super::{APPLICATION, HELD};
use testkit::cluster::Cluster;
use testkit::control_plane::WEBHOOK_CLIENT;
use testkit::pki::ClusterAuthority;
use testkit::release::Release;

testkit::tests! {
    exclusive: the_source_of_the_certificate_can_change;
}

fn the_source_of_the_certificate_can_change(cluster: &Cluster) -> Result<()> {
    let application = cluster.namespace_named(APPLICATION)?;
    super::accepted::define_other_operators_kinds(cluster)?;
    let release = Release::install(cluster)?;
    let kubectl = release.kubectl();
    let held = || application.kubectl.apply(HELD);
    held()?;

    // Change to cert-manager, of which only the CRDs exist: the test creates what it would.
    let folder = tempfile::tempdir()?;
    let authority = ClusterAuthority::create(folder.path())?;
    let pair = authority.server("tls", &["migration-gate.migration-gate.svc"], &[])?;
    kubectl.run(&format!(
        "create secret tls migration-gate-cert-manager --cert={} --key={}",
        pair.certificate.display(),
        pair.key.display()
    ))?;
    // The test's control plane presents a client certificate of the CA that every namespace has.
    let own = cluster.sandbox().is_ok();
    let clients = format!(
        ",webhooks.clientCA.configMap=kube-root-ca.crt,webhooks.clientCA.names={{{WEBHOOK_CLIENT}}}"
    );
    let clients = if own { clients.as_str() } else { "" };
    release.helm(
        "upgrade",
        &format!("--set=certificates.source=certManager{clients}"),
    )?;
    let wanted = kubectl.run("get certificate --output=jsonpath={.items[*].spec.secretName}")?;
    ensure!(
        wanted == "migration-gate-cert-manager migration-gate-cert-manager-ca",
        "{wanted}"
    );
    release.trust(&fs::read(authority.pair().certificate)?)?;
    kubectl.run("rollout status deployment/migration-gate --timeout=170s")?;
    held()?;
    if own {
        let log = kubectl.run("logs deployment/migration-gate")?;
        ensure!(
            log.contains("clients need a certificate that these CAs signed"),
            "{log}"
        );
    }
    let secrets =
        || kubectl.run("get secrets --field-selector=type!=helm.sh/release.v1 --output=name");
    let left = secrets()?;
    ensure!(
        left.trim() == "secret/migration-gate-cert-manager",
        "{left}"
    );

    // Change back. Objects that cert-manager has left do not disturb Helm.
    release.helm("upgrade", "--wait --reset-values")?;
    held()?;
    release.uninstall()?;
    let left = secrets()?;
    ensure!(
        left.trim() == "secret/migration-gate-cert-manager",
        "{left}"
    );
    Ok(())
}
