//! The objects that `helm uninstall` leaves, because the waiters of some gates still need them.

use std::fmt::Write as _;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::ListParams;
use kube::core::ApiResource;
use serde_json::Value;

use super::ejection::{Ejection, list, list_if_known, name_of};
use crate::api::Objects;
use crate::api::objects::workload;
use crate::cli::installed::CHART_LABEL;
use crate::cli::say::say;
use migration_gate_core::eject::{eject, is_controlled, is_taken_over};
use migration_gate_core::gates::HeldKind;
use migration_gate_core::injection::account;
use migration_gate_core::names;
use migration_gate_core::podspec::{self, POD_KINDS};

/// The objects to delete, in the order of their deletion, and those to keep.
pub(super) struct Leftovers {
    deleted: Vec<Leftover>,
    /// `ServiceAccount`s that are kept, and why.
    kept: Vec<(String, String)>,
}

#[derive(PartialEq)]
struct Leftover {
    kind: ApiResource,
    namespace: String,
    name: String,
}

impl Leftovers {
    /// The objects that remain after the ejections' patches.
    pub(super) async fn find(client: &Client, ejections: &[Ejection<'_>]) -> anyhow::Result<Self> {
        let mut deleted: Vec<Leftover> = Vec::new();
        let mut kept = Vec::new();
        for ejection in ejections {
            let gate = ejection.gate;
            let leftover = |kind: &ApiResource, name: String| Leftover {
                kind: kind.clone(),
                namespace: gate.namespace.clone(),
                name,
            };
            let record = ApiResource::erase::<ConfigMap>(&());
            if exists(client, &gate.namespace, &record, &names::record(&gate.name)).await? {
                deleted.push(leftover(&record, names::record(&gate.name)));
            }
            // The objects of the namespace's other gates have the same chart label, so select by
            // gate, too.
            let ours = ListParams::default().labels(&format!(
                "{CHART_LABEL},{}={}",
                names::GATE_LABEL,
                gate.name
            ));
            for kind in [
                ApiResource::erase::<RoleBinding>(&()),
                ApiResource::erase::<Role>(&()),
            ] {
                let objects = Objects::of(client, kind.clone(), Some(&gate.namespace));
                for found in list(&objects, &ours).await? {
                    deleted.push(leftover(&kind, name_of(&found).to_owned()));
                }
            }
        }
        // Gates may share a ServiceAccount, so decide about these after all other objects to delete
        // are known.
        for ejection in ejections {
            let (namespace, name) = (&ejection.gate.namespace, &ejection.gate.service_account);
            let accounts = Objects::namespaced::<ServiceAccount>(client, namespace);
            let ours = ListParams::default()
                .labels(CHART_LABEL)
                .fields(&format!("metadata.name={name}"));
            let found = list(&accounts, &ours).await?;
            let Some(found) = found.first() else {
                continue;
            };
            let account = Leftover {
                kind: accounts.kind().clone(),
                namespace: namespace.clone(),
                name: name.clone(),
            };
            let shown = format!("ServiceAccount {namespace}/{name}");
            if deleted.contains(&account) || kept.iter().any(|(known, _)| *known == shown) {
                continue;
            }
            if is_taken_over(found) {
                kept.push((shown, "another client has applied it".to_owned()));
                continue;
            }
            match user(client, namespace, name, ejections, &deleted).await? {
                Some(user) => kept.push((shown, format!("{user} names it"))),
                None => deleted.push(account),
            }
        }
        Ok(Self { deleted, kept })
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for Leftover {
            kind,
            namespace,
            name,
        } in &self.deleted
        {
            let _ = writeln!(text, "{} {namespace}/{name}: deleted", kind.kind);
        }
        for (account, why) in &self.kept {
            let _ = writeln!(text, "{account}: kept, because {why}");
        }
        text
    }

    pub(super) async fn delete(&self, client: &Client) -> anyhow::Result<()> {
        for Leftover {
            kind,
            namespace,
            name,
        } in &self.deleted
        {
            say(format_args!(
                "{} {namespace}/{name}: deleting it",
                kind.kind
            ));
            Objects::of(client, kind.clone(), Some(namespace))
                .delete(name)
                .await
                .with_context(|| format!("cannot delete {} {namespace}/{name}", kind.kind))?;
        }
        for (account, why) in &self.kept {
            say(format_args!("{account}: kept, because {why}"));
        }
        Ok(())
    }
}

async fn exists(
    client: &Client,
    namespace: &str,
    kind: &ApiResource,
    name: &str,
) -> anyhow::Result<bool> {
    Objects::of(client, kind.clone(), Some(namespace))
        .get::<Value>(name)
        .await
        .map(|found| found.is_some())
        .with_context(|| format!("cannot get {} {namespace}/{name}", kind.kind))
}

/// The object that still uses a ServiceAccount: a workload whose pod template names it, or a
/// `RoleBinding` of the chart that is not deleted because it belongs to another gate.
async fn user(
    client: &Client,
    namespace: &str,
    name: &str,
    ejections: &[Ejection<'_>],
    going: &[Leftover],
) -> anyhow::Result<Option<String>> {
    for kind in &POD_KINDS {
        let objects = Objects::of(client, workload(kind), Some(namespace));
        for object in list_if_known(&objects).await? {
            // An object that a controller owns follows the template of its owner, which is checked
            // itself.
            if is_controlled(&object) {
                continue;
            }
            let object = patched(object, kind, ejections)?;
            if kind.pod_spec(&object).and_then(account) == Some(name) {
                return Ok(Some(format!(
                    "{} {namespace}/{}",
                    kind.kind,
                    name_of(&object)
                )));
            }
        }
    }
    let bindings = Objects::namespaced::<RoleBinding>(client, namespace);
    let ours = ListParams::default().labels(CHART_LABEL);
    for found in list(&bindings, &ours).await? {
        let binding = Leftover {
            kind: bindings.kind().clone(),
            namespace: namespace.to_owned(),
            name: name_of(&found).to_owned(),
        };
        let names_it = podspec::list(&found, "subjects").iter().any(|subject| {
            subject["kind"] == "ServiceAccount"
                && subject["name"] == name
                && subject["namespace"] == namespace
        });
        if names_it && !going.contains(&binding) {
            return Ok(Some(format!("RoleBinding {namespace}/{}", binding.name)));
        }
    }
    Ok(None)
}

/// A workload after the ejections' patches; any other object unchanged.
fn patched(
    mut object: Value,
    kind: &podspec::PodKind,
    ejections: &[Ejection<'_>],
) -> anyhow::Result<Value> {
    if let Some(held) = HeldKind::of(kind.group, kind.kind) {
        for ejection in ejections {
            let patch = eject(ejection.gate, held, &object);
            json_patch::patch(&mut object, &patch)
                .with_context(|| format!("{} {}", kind.kind, name_of(&object)))?;
        }
    }
    Ok(object)
}
