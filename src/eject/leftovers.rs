//! What `helm uninstall` left for the waiters of some gates.

use std::fmt::Write as _;

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, DeleteParams, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt as _};
use serde_json::Value;

use super::{CHART_LABEL, Plan, list, name_of};
use crate::cli::say::say;
use migration_gate_core::eject::{eject, is_controlled, is_taken_over};
use migration_gate_core::injection::account;
use migration_gate_core::names;
use migration_gate_core::podspec::{self, POD_KINDS};

/// Objects in the order in which they can go.
pub(super) struct Leftovers {
    deleted: Vec<Leftover>,
    /// Accounts that stay, and why.
    kept: Vec<(String, String)>,
}

#[derive(PartialEq)]
struct Leftover {
    kind: ApiResource,
    namespace: String,
    name: String,
}

impl Leftovers {
    /// What would be left once the plans' patches are in.
    pub(super) async fn find(client: &Client, plans: &[Plan<'_>]) -> anyhow::Result<Self> {
        let mut deleted: Vec<Leftover> = Vec::new();
        let mut kept = Vec::new();
        for plan in plans {
            let gate = plan.gate;
            let leftover = |kind: &ApiResource, name: String| Leftover {
                kind: kind.clone(),
                namespace: gate.namespace.clone(),
                name,
            };
            let record = ApiResource::erase::<ConfigMap>(&());
            if exists(client, &gate.namespace, &record, &names::record(&gate.name)).await? {
                deleted.push(leftover(&record, names::record(&gate.name)));
            }
            // Those of the namespace's other gates bear the same label of the chart.
            let ours = ListParams::default().labels(&format!(
                "{CHART_LABEL},{}={}",
                names::GATE_LABEL,
                gate.name
            ));
            for kind in [
                ApiResource::erase::<RoleBinding>(&()),
                ApiResource::erase::<Role>(&()),
            ] {
                for found in list(client, &gate.namespace, &kind, &ours).await? {
                    deleted.push(leftover(&kind, found.name_any()));
                }
            }
        }
        // Gates may share an account, so these are judged when it is known what else goes.
        for plan in plans {
            let (namespace, name) = (&plan.gate.namespace, &plan.gate.service_account);
            let kind = ApiResource::erase::<ServiceAccount>(&());
            let ours = ListParams::default()
                .labels(CHART_LABEL)
                .fields(&format!("metadata.name={name}"));
            let found = list(client, namespace, &kind, &ours).await?;
            let Some(found) = found.first() else {
                continue;
            };
            let account = Leftover {
                kind,
                namespace: namespace.clone(),
                name: name.clone(),
            };
            let shown = format!("ServiceAccount {namespace}/{name}");
            if deleted.contains(&account) || kept.iter().any(|(known, _)| *known == shown) {
                continue;
            }
            if is_taken_over(&serde_json::to_value(found)?) {
                kept.push((shown, "somebody else has applied it".to_owned()));
                continue;
            }
            match user(client, namespace, name, plans, &deleted).await? {
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
            let api = Api::<DynamicObject>::namespaced_with(client.clone(), namespace, kind);
            match api.delete(name, &DeleteParams::default()).await {
                // Somebody may have been faster.
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot delete {} {namespace}/{name}", kind.kind)
                    });
                }
            }
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
    Api::<DynamicObject>::namespaced_with(client.clone(), namespace, kind)
        .get_metadata_opt(name)
        .await
        .map(|found| found.is_some())
        .with_context(|| format!("cannot get {} {namespace}/{name}", kind.kind))
}

/// What would still need an account: a pod template that names it, or a `RoleBinding` of the
/// chart that isn't among what goes, and so is another gate's.
async fn user(
    client: &Client,
    namespace: &str,
    name: &str,
    plans: &[Plan<'_>],
    going: &[Leftover],
) -> anyhow::Result<Option<String>> {
    for kind in &POD_KINDS {
        let resource = ApiResource::from_gvk_with_plural(
            &kube::core::GroupVersionKind::gvk(kind.group, kind.version, kind.kind),
            kind.resource,
        );
        for found in list(client, namespace, &resource, &ListParams::default()).await? {
            let object = serde_json::to_value(&found)?;
            // What a controller made follows the controller's own template, and goes with it.
            if is_controlled(&object) {
                continue;
            }
            let object = patched(object, kind, plans)?;
            if kind.pod_spec(&object).and_then(account) == Some(name) {
                return Ok(Some(format!(
                    "{} {namespace}/{}",
                    kind.kind,
                    name_of(&object)
                )));
            }
        }
    }
    let kind = ApiResource::erase::<RoleBinding>(&());
    let ours = ListParams::default().labels(CHART_LABEL);
    for found in list(client, namespace, &kind, &ours).await? {
        let binding = Leftover {
            kind: kind.clone(),
            namespace: namespace.to_owned(),
            name: found.name_any(),
        };
        let names_it = podspec::list(&found.data, "subjects")
            .iter()
            .any(|subject| {
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

/// A Deployment as the plans leave it; anything else as it is.
fn patched(
    mut object: Value,
    kind: &podspec::PodKind,
    plans: &[Plan<'_>],
) -> anyhow::Result<Value> {
    if kind.kind == "Deployment" {
        for plan in plans {
            let patch = eject(plan.gate, &object);
            json_patch::patch(&mut object, &patch)
                .with_context(|| format!("Deployment {}", name_of(&object)))?;
        }
    }
    Ok(object)
}
