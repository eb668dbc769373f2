//! The changes of one gate's workloads, and the reads that all of `eject` uses.

use anyhow::Context as _;
use kube::Client;
use kube::api::{ListParams, Patch};
use serde_json::Value;

use crate::api::Objects;
use crate::api::objects::workload;
use crate::cli::say::say;
use migration_gate_core::eject::{eject, gate_of};
use migration_gate_core::gates::{Gate, HeldKind};

/// The changes of one gate's workloads.
pub(super) struct Ejection<'c> {
    pub(super) gate: &'c Gate,
    pub(super) workloads: Vec<Ejected>,
    /// Workloads of the namespace with another gate's waiter, as they are printed, and that gate's
    /// name.
    pub(super) others: Vec<(String, String)>,
}

/// A workload as it is, and the patch that removes its waiter.
pub(super) struct Ejected {
    pub(super) kind: HeldKind,
    pub(super) object: Value,
    pub(super) patch: json_patch::Patch,
}

impl Ejected {
    /// The workload as it is printed: `Deployment shop/web`.
    pub(super) fn shown(&self, namespace: &str) -> String {
        shown(self.kind, namespace, &self.object)
    }
}

fn shown(kind: HeldKind, namespace: &str, object: &Value) -> String {
    format!("{} {namespace}/{}", kind.as_str(), name_of(object))
}

impl<'c> Ejection<'c> {
    pub(super) async fn make(client: &Client, gate: &'c Gate) -> anyhow::Result<Self> {
        let namespace = gate.namespace.as_str();
        let (mut workloads, mut others) = (Vec::new(), Vec::new());
        for kind in HeldKind::ALL {
            let pods = kind.pod_kind();
            let objects = Objects::of(client, workload(pods), Some(namespace));
            for object in list_if_known(&objects).await? {
                let patch = eject(gate, kind, &object);
                if !patch.is_empty() {
                    workloads.push(Ejected {
                        kind,
                        object,
                        patch: json_patch::Patch(patch),
                    });
                } else if let Some(other) = pods.pod_spec(&object).and_then(gate_of) {
                    others.push((shown(kind, namespace, &object), other.to_owned()));
                }
            }
        }
        Ok(Self {
            gate,
            workloads,
            others,
        })
    }

    pub(super) async fn take_out(&self, client: &Client) -> anyhow::Result<()> {
        let namespace = self.gate.namespace.as_str();
        for ejected in &self.workloads {
            let shown = ejected.shown(namespace);
            say(format_args!("{shown}: removing the waiter"));
            let kind = workload(ejected.kind.pod_kind());
            let patch = Patch::<()>::Json(ejected.patch.clone());
            Objects::of(client, kind, Some(namespace))
                .patch::<Value>(name_of(&ejected.object), &patch)
                .await
                .with_context(|| {
                    format!("cannot patch {shown}; if it was changed meanwhile, run this again")
                })?;
        }
        Ok(())
    }
}

pub(super) fn name_of(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

/// Lists objects. The error names their kind and namespace.
pub(super) async fn list(objects: &Objects, params: &ListParams) -> anyhow::Result<Vec<Value>> {
    let listed = objects.list(params).await;
    listed.with_context(|| cannot_list(objects))
}

/// Lists all objects; returns none if the kind is not installed.
pub(super) async fn list_if_known(objects: &Objects) -> anyhow::Result<Vec<Value>> {
    match objects.list(&ListParams::default()).await {
        Err(error) if error.code() == Some(404) => Ok(Vec::new()),
        listed => listed.with_context(|| cannot_list(objects)),
    }
}

fn cannot_list(objects: &Objects) -> String {
    match objects.namespace() {
        Some(namespace) => format!("cannot list {} in {namespace}", objects.kind().plural),
        None => format!("cannot list {}", objects.kind().plural),
    }
}
