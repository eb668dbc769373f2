//! migration-gate, installed by its chart as a user would.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Namespace};
use crate::image;
use crate::kubectl::Kubectl;
use crate::pki::Authority;

const NAME: &str = "migration-gate";

/// An installed release; uninstalled when the test is over.
pub(crate) struct Release {
    kubectl: Kubectl,
    // Dropped after the release, which lives in it.
    _namespace: Namespace,
}

impl Release {
    /// Installs the chart with certificates that the test provides, and waits until its webhooks answer.
    pub(crate) fn install(cluster: &Cluster) -> Result<Self> {
        Self::install_with(cluster, &json!({}))
    }

    /// The same, with values of the test's own.
    pub(crate) fn install_with(cluster: &Cluster, values: &Value) -> Result<Self> {
        let namespace = cluster.namespace_named(NAME)?;
        let kubectl = namespace.kubectl.clone();
        let folder = tempfile::tempdir()?;
        let authority = Authority::create(folder.path())?;
        let pair = authority.server("tls", &[&format!("{NAME}.{NAME}.svc")], &[])?;
        kubectl.run(&format!(
            "create secret tls webhook-certificate --cert={} --key={}",
            pair.certificate.display(),
            pair.key.display()
        ))?;
        let release = Self {
            kubectl,
            _namespace: namespace,
        };
        let file = folder.path().join("values.json");
        fs::write(&file, values.to_string())?;
        let image = image::MIGRATION_GATE
            .rsplit_once(':')
            .context("the image has a tag")?;
        release.kubectl.helm(&format!(
            "install {NAME} {} --values={} --set=image.repository={},image.tag={} --set=certificates.existingSecret=webhook-certificate --wait --timeout=90s",
            chart().display(),
            file.display(),
            image.0,
            image.1
        ))?;
        release.trust(&fs::read(authority.pair().certificate)?)?;
        Ok(release)
    }

    /// Puts the authority into the webhook configurations, as cert-manager's injector would.
    fn trust(&self, authority: &[u8]) -> Result<()> {
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
        // A failure has nobody to go to, and the next test that installs finds out.
        let _ = self.kubectl.helm(&format!("uninstall {NAME} --wait"));
    }
}

fn chart() -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/charts/migration-gate"
    ))
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(bytes)
}
