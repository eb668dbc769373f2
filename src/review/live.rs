//! What is in a cluster, as sources: so that it is known what the rules will say before they are
//! installed.

use std::time::Duration;

use kube::api::{Api, DynamicObject, ListParams};
use kube::core::ApiResource;
use kube::{Client, ResourceExt};
use serde_json::Value;

use super::input::{MAX_INPUT, SourceText, Unreadable};
use super::render;
use crate::api::client as cluster;
use crate::cli;
use migration_gate_core::gates::Config;
use migration_gate_core::podspec::POD_KINDS;

/// How many objects are asked for at once.
const PAGE: u32 = 250;

/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Every object of the cluster that a rule or a warning is about, each as a source of its own, and
/// what could not be listed.
///
/// What a controller owns is left out: its owner is there, and that is what people change. Secrets
/// are not read.
pub fn fetch(
    config: &Config,
    namespace: Option<&str>,
) -> anyhow::Result<(Vec<SourceText>, Vec<Unreadable>)> {
    cli::block_on(async {
        let client = cluster::connect().await?;
        let mut fetcher = Fetcher {
            client,
            left: MAX_INPUT,
            sources: Vec::new(),
            unreadable: Vec::new(),
        };
        for kind in &POD_KINDS {
            let resource = resource(kind.group, kind.version, kind.kind, kind.resource);
            fetcher.list(&resource, namespace).await;
        }
        let mut gates: Vec<&str> = config.gates.iter().map(|g| g.namespace.as_str()).collect();
        gates.sort_unstable();
        gates.dedup();
        for gate in gates {
            if namespace.is_none_or(|namespace| namespace == gate) {
                fetcher.surroundings(gate).await;
            }
        }
        Ok((fetcher.sources, fetcher.unreadable))
    })
}

fn resource(group: &str, version: &str, kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: group.to_owned(),
        version: version.to_owned(),
        api_version: if group.is_empty() {
            version.to_owned()
        } else {
            format!("{group}/{version}")
        },
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

struct Fetcher {
    client: Client,
    left: u64,
    sources: Vec<SourceText>,
    unreadable: Vec<Unreadable>,
}

impl Fetcher {
    /// What warnings look at in a gate's namespace, besides workloads.
    async fn surroundings(&mut self, namespace: &str) {
        const RBAC: &str = "rbac.authorization.k8s.io";
        for (group, kind, plural) in [
            ("", "ConfigMap", "configmaps"),
            ("", "Service", "services"),
            ("", "ServiceAccount", "serviceaccounts"),
            (RBAC, "Role", "roles"),
            (RBAC, "RoleBinding", "rolebindings"),
        ] {
            let resource = resource(group, "v1", kind, plural);
            self.list(&resource, Some(namespace)).await;
        }
    }

    async fn list(&mut self, resource: &ApiResource, namespace: Option<&str>) {
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, resource),
            None => Api::all_with(self.client.clone(), resource),
        };
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let page = match tokio::time::timeout(PATIENCE, api.list(&params)).await {
                Ok(Ok(page)) => page,
                Ok(Err(error)) => {
                    let message = refusal(&error, resource, namespace);
                    return self.fail(resource, namespace, message);
                }
                Err(_) => {
                    let message = format!("no answer within {}s", PATIENCE.as_secs());
                    return self.fail(resource, namespace, message);
                }
            };
            let next = page.metadata.continue_.filter(|next| !next.is_empty());
            for object in page.items {
                if !self.object(object, resource) {
                    let message = format!(
                        "more than {} MiB in all; review the cluster by namespace, with `--namespace`",
                        MAX_INPUT >> 20
                    );
                    return self.fail(resource, namespace, message);
                }
            }
            match next {
                Some(next) => params.continue_token = Some(next),
                None => return,
            }
        }
    }

    /// Whether there was room for the object.
    fn object(&mut self, mut object: DynamicObject, resource: &ApiResource) -> bool {
        let controlled =
            |owner: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| {
                owner.controller == Some(true)
            };
        if object.owner_references().iter().any(controlled) {
            return true;
        }
        object.types = Some(kube::core::TypeMeta {
            api_version: resource.api_version.clone(),
            kind: resource.kind.clone(),
        });
        // Bookkeeping that nobody applies.
        object.metadata.managed_fields = None;
        if let Some(data) = object.data.as_object_mut() {
            data.remove("status");
        }
        let name = format!(
            "live/{}/{}/{}.yaml",
            object.namespace().unwrap_or_default(),
            resource.plural,
            object.name_any()
        );
        let text = serde_json::to_value(&object)
            .ok()
            .and_then(|value: Value| render::yaml(&value));
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
            namespace: None,
            stored: true,
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

fn refusal(error: &kube::Error, resource: &ApiResource, namespace: Option<&str>) -> String {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => {
            let name = match resource.group.as_str() {
                "" => resource.plural.clone(),
                group => format!("{}.{group}", resource.plural),
            };
            let place = match namespace {
                Some(namespace) => format!("--namespace {namespace}"),
                None => "--all-namespaces".to_owned(),
            };
            format!(
                "may not be listed: {}; see `kubectl auth can-i list {name} {place}`",
                status.message
            )
        }
        error => format!("cannot be listed: {error}"),
    }
}
