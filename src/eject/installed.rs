//! Whether an installed release would inject the waiters again.

use anyhow::{Context as _, bail};
use kube::{Client, ResourceExt as _};

use super::ejection::Ejection;
use crate::cli::installed;
use migration_gate_core::gates::Config;
use migration_gate_core::held::holding;
use migration_gate_core::request::{Operation, Request};

/// Fails if an installed release has one of the gates, or holds one of the workloads. A release
/// that does neither is accepted, so one gate of several can be removed.
pub(super) async fn refuse_while_held(
    client: &Client,
    ejections: &[Ejection<'_>],
) -> anyhow::Result<()> {
    for found in installed::webhooks(client).await? {
        let release = found
            .annotations()
            .get("meta.helm.sh/release-name")
            .map_or("of migration-gate", String::as_str);
        let config = installed::configuration_of(client, &found).await.with_context(|| {
            format!(
                "MutatingWebhookConfiguration {} is installed, and what it holds cannot be determined; run `helm uninstall` for the release {release} first",
                found.name_any()
            )
        })?;
        if let Some(held) = held(&config, ejections) {
            bail!(
                "MutatingWebhookConfiguration {} is installed and would inject the waiters of {held} again; take the gate out of the values of the release {release}, or run `helm uninstall` for it, first",
                found.name_any()
            );
        }
    }
    Ok(())
}

/// The ejections that an installed configuration would undo, in words.
fn held(config: &Config, ejections: &[Ejection<'_>]) -> Option<String> {
    ejections.iter().find_map(|ejection| {
        let gate = ejection.gate;
        let same = config
            .gates
            .iter()
            .any(|other| other.name == gate.name && other.namespace == gate.namespace);
        if same {
            return Some(format!("gate {}", gate.name));
        }
        ejection.workloads.iter().find_map(|ejected| {
            let pods = ejected.kind.pod_kind();
            // The items of a list do not contain their kind.
            let request = Request {
                operation: Operation::Create,
                group: pods.group,
                kind: pods.kind,
                subresource: "",
                namespace: &gate.namespace,
                object: &ejected.object,
                old: None,
            };
            let held = holding(config, &request).next().is_some();
            held.then(|| ejected.shown(&gate.namespace))
        })
    })
}
