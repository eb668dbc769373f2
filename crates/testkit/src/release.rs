//! migration-gate, installed by its chart as a user would.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::assets::repository;
use crate::cluster::Cluster;
use crate::image;
use crate::kubectl::Kubectl;
use crate::namespace::Namespace;
use crate::pki::ClusterAuthority;
use crate::ungated::{self, SET_UP};

const NAME: &str = "migration-gate";

/// An installed release; uninstalled when the test is over.
pub struct Release {
    kubectl: Kubectl,
    /// The number of replicas, if it is not the chart's default.
    replicas: Option<u8>,
    // Dropped after the release, which is in it.
    _namespace: Option<Namespace>,
}

impl Release {
    /// Installs the chart with its default values, and waits until its webhooks answer.
    pub fn install(cluster: &Cluster) -> Result<Self> {
        let release = Self::prepare(cluster)?;
        release.helm("install", "--wait")?;
        Ok(release)
    }

    /// The same with one replica, also after upgrades: half the pods, for tests that do not depend
    /// on their number.
    pub fn install_one(cluster: &Cluster) -> Result<Self> {
        let mut release = Self::prepare(cluster)?;
        release.replicas = Some(1);
        release.helm("install", "--wait")?;
        Ok(release)
    }

    /// The same with values of the test's own.
    pub fn install_with(cluster: &Cluster, values: &Value) -> Result<Self> {
        let release = Self::prepare(cluster)?;
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("values.json");
        fs::write(&file, values.to_string())?;
        release.helm("install", &format!("--wait --values={}", file.display()))?;
        Ok(release)
    }

    /// Installs the chart with a certificate from elsewhere, and trusts it.
    pub fn install_with_certificate(cluster: &Cluster) -> Result<Self> {
        let release = Self::prepare(cluster)?;
        let folder = tempfile::tempdir()?;
        let authority = ClusterAuthority::create(folder.path())?;
        let pair = authority.server("tls", &[&format!("{NAME}.{NAME}.svc")], &[])?;
        release.kubectl.run(&format!(
            "create secret tls webhook-certificate --cert={} --key={}",
            pair.certificate.display(),
            pair.key.display()
        ))?;
        release.helm(
            "install",
            "--set=certificates.source=existingSecret,certificates.existingSecret=webhook-certificate",
        )?;
        // No replica is ready before the API server trusts its certificate.
        release.trust(&fs::read(authority.pair().certificate)?)?;
        release
            .kubectl
            .wait(&format!("deployment/{NAME}"), "condition=Available", 60)?;
        Ok(release)
    }

    /// Creates the namespace, without installing anything.
    pub fn prepare(cluster: &Cluster) -> Result<Self> {
        // The strictest Pod Security Standard, for the server's pods and the pod of `helm test`.
        let restricted = ("pod-security.kubernetes.io/enforce", "restricted");
        let namespace = cluster
            .namespace_with(NAME, &[restricted])
            .context(SET_UP)?;
        Ok(Self {
            kubectl: namespace.kubectl.clone(),
            replicas: None,
            _namespace: Some(namespace),
        })
    }

    /// A release in a namespace that the test has created itself.
    pub fn of(kubectl: &Kubectl) -> Self {
        Self {
            kubectl: kubectl.clone(),
            replicas: None,
            _namespace: None,
        }
    }

    /// `helm install` or `helm upgrade` of the chart, with the image of this working tree. The
    /// preflight is disabled: it has tests of its own, and would cost a pod each time.
    pub fn helm(&self, verb: &str, options: &str) -> Result<String> {
        let (repository, tag) = image::MIGRATION_GATE
            .rsplit_once(':')
            .context("the image has a tag")?;
        let replicas = self.replicas.map(|count| format!(",replicas={count}"));
        let done = self.kubectl.helm(&format!(
            "{verb} {NAME} {} --set=image.repository={repository},image.tag={tag}{} --no-hooks --timeout=170s{} {options}",
            chart().display(),
            replicas.unwrap_or_default(),
            ungated::option(),
        ));
        done.context(SET_UP)
    }

    /// `helm uninstall`.
    pub fn uninstall(&self) -> Result<String> {
        self.kubectl.helm(&format!("uninstall {NAME} --wait"))
    }

    /// kubectl and Helm in the release's namespace.
    pub fn kubectl(&self) -> &Kubectl {
        &self.kubectl
    }

    /// Writes the authority to the webhook configurations, as cert-manager's injector would.
    pub fn trust(&self, authority: &[u8]) -> Result<()> {
        for kind in ["mutating", "validating"] {
            let configuration = format!("{kind}webhookconfiguration/{NAME}");
            let webhooks = self.kubectl.get(&configuration)?["webhooks"].clone();
            let count = webhooks.as_array().map_or(0, Vec::len);
            let patch: Value = (0..count)
                .map(|index| {
                    json!({
                        "op": "add",
                        "path": format!("/webhooks/{index}/clientConfig/caBundle"),
                        "value": base64(authority),
                    })
                })
                .collect();
            self.kubectl.run(&format!(
                "patch {configuration} --type=json --patch={patch}"
            ))?;
        }
        Ok(())
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // A failure cannot be reported here. The next test that installs notices it.
        let _ = self.uninstall();
    }
}

fn chart() -> PathBuf {
    repository().join("charts/migration-gate")
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
