//! What is done to one gate's Deployments, and what all of `eject` reads with.

use anyhow::Context as _;
use k8s_openapi::api::apps::v1::Deployment;
use kube::Client;
use kube::api::{ListParams, Patch};
use serde_json::Value;

use crate::api::Objects;
use crate::cli::say::say;
use migration_gate_core::eject::{eject, gate_of};
use migration_gate_core::gates::Gate;

/// The label that the chart gives its objects.
pub(super) const CHART_LABEL: &str = "app.kubernetes.io/name=migration-gate";

/// What is done for one gate's Deployments.
pub(super) struct Ejection<'c> {
    pub(super) gate: &'c Gate,
    /// Each Deployment as it is, with its patch.
    pub(super) deployments: Vec<(Value, json_patch::Patch)>,
    /// Deployments of the namespace with a waiter of another gate, and that gate.
    pub(super) others: Vec<(String, String)>,
}

impl<'c> Ejection<'c> {
    pub(super) async fn make(client: &Client, gate: &'c Gate) -> anyhow::Result<Self> {
        let mut deployments = Vec::new();
        let mut others = Vec::new();
        let objects = Objects::namespaced::<Deployment>(client, &gate.namespace);
        for deployment in list(&objects, &ListParams::default()).await? {
            let patch = eject(gate, &deployment);
            if !patch.is_empty() {
                deployments.push((deployment, json_patch::Patch(patch)));
            } else if let Some(other) = gate_of(&deployment["spec"]["template"]["spec"]) {
                others.push((name_of(&deployment).to_owned(), other.to_owned()));
            }
        }
        Ok(Self {
            gate,
            deployments,
            others,
        })
    }

    pub(super) async fn take_out(&self, client: &Client) -> anyhow::Result<()> {
        let namespace = self.gate.namespace.as_str();
        let objects = Objects::namespaced::<Deployment>(client, namespace);
        for (deployment, patch) in &self.deployments {
            let name = name_of(deployment);
            say(format_args!(
                "Deployment {namespace}/{name}: taking the waiter out"
            ));
            objects.patch::<Value>(name, &Patch::<()>::Json(patch.clone()))
            .await
            .with_context(|| {
                format!("cannot patch Deployment {namespace}/{name}; if it was changed meanwhile, run this again")
            })?;
        }
        Ok(())
    }
}

pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Those of a collection, with an error that names it.
pub(super) async fn list(objects: &Objects, params: &ListParams) -> anyhow::Result<Vec<Value>> {
    objects
        .list(params)
        .await
        .with_context(|| match objects.namespace() {
            Some(namespace) => format!("cannot list {} in {namespace}", objects.kind().plural),
            None => format!("cannot list {}", objects.kind().plural),
        })
}
