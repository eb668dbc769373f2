//! Reads the objects of a cluster as sources, to show the rules' decisions before the rules are
//! installed.

use anyhow::Context as _;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::ListParams;
use kube::core::ApiResource;
use serde_json::{Map, Value, json};

use super::input::{MAX_INPUT, SourceText, Unreadable};
use super::render;
use crate::api::objects::{PAGE, Page, workload};
use crate::api::{ApiError, Objects};
use crate::cli::{self, ClusterArgs};
use migration_gate_core::eject::is_controlled;
use migration_gate_core::gates::{Config, Gate};
use migration_gate_core::podspec::{POD_KINDS, PodKind};

/// Every object of the cluster that a rule or a warning can concern, each as a source of its own,
/// and the kinds that could not be listed.
///
/// Objects that a controller owns are omitted: their owner is reviewed. Secrets are not read.
pub fn fetch(
    cluster: &ClusterArgs,
    config: &Config,
    namespace: Option<&str>,
) -> anyhow::Result<(Vec<SourceText>, Vec<Unreadable>)> {
    cli::block_on(async {
        let client = cluster.connect().await?.client;
        let mut fetcher = Fetcher {
            client,
            left: MAX_INPUT,
            sources: Vec::new(),
            unreadable: Vec::new(),
        };
        let held: Vec<_> = config.gates.iter().flat_map(Gate::kinds).collect();
        let is_held = |kind: &PodKind| held.iter().any(|held| held.pod_kind() == kind);
        // A user who may read all built-in kinds may lack the right to read those that an operator
        // adds.
        for kind in POD_KINDS
            .iter()
            .filter(|kind| !kind.is_custom() || is_held(kind))
        {
            fetcher.list(workload(kind), namespace).await?;
        }
        let mut gates: Vec<&str> = config.gates.iter().map(|g| g.namespace.as_str()).collect();
        gates.sort_unstable();
        gates.dedup();
        for gate in gates {
            if namespace.is_none_or(|namespace| namespace == gate) {
                fetcher.surroundings(gate).await?;
            }
        }
        Ok((fetcher.sources, fetcher.unreadable))
    })
}

struct Fetcher {
    client: Client,
    left: u64,
    sources: Vec<SourceText>,
    unreadable: Vec<Unreadable>,
}

impl Fetcher {
    /// The kinds that warnings need in a gate's namespace, besides workloads.
    async fn surroundings(&mut self, namespace: &str) -> anyhow::Result<()> {
        for kind in [
            ApiResource::erase::<ConfigMap>(&()),
            ApiResource::erase::<Service>(&()),
            ApiResource::erase::<ServiceAccount>(&()),
            ApiResource::erase::<Role>(&()),
            ApiResource::erase::<RoleBinding>(&()),
        ] {
            self.list(kind, Some(namespace)).await?;
        }
        Ok(())
    }

    /// Lists a kind. Fails if the server does not answer. A refused list is noted as unreadable,
    /// and the review continues.
    async fn list(&mut self, resource: ApiResource, namespace: Option<&str>) -> anyhow::Result<()> {
        let objects = Objects::of(&self.client, resource, namespace);
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let Page { metadata, items } = match objects.page(&params).await {
                Ok(page) => page,
                Err(error) if error.code().is_none() => {
                    return Err(error)
                        .with_context(|| format!("cannot list {}", objects.kind().plural));
                }
                // Only some clusters know the kind.
                Err(error) if error.code() == Some(404) => return Ok(()),
                Err(error) => {
                    let message = refusal(&error, objects.kind(), namespace);
                    self.fail(objects.kind(), namespace, message);
                    return Ok(());
                }
            };
            for object in items {
                if !self.object(object, objects.kind()) {
                    let message = format!(
                        "more than {} MiB in all; review the cluster by namespace, with `--namespace`",
                        MAX_INPUT >> 20
                    );
                    self.fail(objects.kind(), namespace, message);
                    return Ok(());
                }
            }
            match metadata.next() {
                Some(next) => params.continue_token = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Adds an object as a source. False if it exceeds the maximum size of the input.
    fn object(&mut self, stored: Map<String, Value>, resource: &ApiResource) -> bool {
        // The items of a list lack `apiVersion` and `kind`.
        let mut object = json!({"apiVersion": resource.api_version, "kind": resource.kind});
        if let Value::Object(object) = &mut object {
            object.extend(stored);
            // Bookkeeping that is never applied.
            object.remove("status");
            if let Some(Value::Object(metadata)) = object.get_mut("metadata") {
                metadata.remove("managedFields");
            }
        }
        if is_controlled(&object) {
            return true;
        }
        let metadata = |field: &str| object["metadata"][field].as_str().unwrap_or_default();
        let name = format!(
            "live/{}/{}/{}.yaml",
            metadata("namespace"),
            resource.plural,
            metadata("name")
        );
        let text = render::yaml(&object);
        let Some(text) = text else {
            self.unreadable.push(Unreadable {
                name,
                message: "its values nest too deep".to_owned(),
            });
            return true;
        };
        let Some(left) = self.left.checked_sub(text.len() as u64) else {
            return false;
        };
        self.left = left;
        self.sources.push(SourceText {
            name,
            text,
            stored: true,
            ..SourceText::default()
        });
        true
    }

    fn fail(&mut self, resource: &ApiResource, namespace: Option<&str>, message: String) {
        self.unreadable.push(Unreadable {
            name: format!("live/{}/{}", namespace.unwrap_or("*"), resource.plural),
            message,
        });
    }
}

fn refusal(error: &ApiError, resource: &ApiResource, namespace: Option<&str>) -> String {
    if !error.is_denied() {
        return format!("cannot be listed: {error}");
    }
    let name = match resource.group.as_str() {
        "" => resource.plural.clone(),
        group => format!("{}.{group}", resource.plural),
    };
    let place = match namespace {
        Some(namespace) => format!("--namespace {namespace}"),
        None => "--all-namespaces".to_owned(),
    };
    format!("may not be listed: {error}; see `kubectl auth can-i list {name} {place}`")
}
