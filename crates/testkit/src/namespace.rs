//! Namespaces that end with their tests.
//!
//! kube-rs creates and deletes them, not kubectl: nearly every test needs some, and one kubectl
//! costs as much as many requests.

use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use futures::{AsyncBufReadExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{self, Pod, ServiceAccount};
use kube::Api;
use kube::api::{DeleteParams, ListParams, LogParams, ObjectMeta, PostParams};

use crate::client::{await_gone, await_object, block_on};
use crate::kubectl::{Kubectl, PATIENCE};
use crate::poll::{Look, until};

/// A namespace that is deleted with everything in it when the test is over, unless `stays` is set.
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// kubectl in this namespace.
    pub kubectl: Kubectl,
    /// Whether it stays until its cluster ends.
    pub stays: bool,
    client: kube::Client,
}

impl Namespace {
    /// A new namespace of exactly this name. Waits until an earlier test's namespace of this name
    /// is gone.
    pub fn create(
        client: kube::Client,
        kubectl: &Kubectl,
        name: &str,
        labels: &[(&str, &str)],
    ) -> Result<Self> {
        let namespaces: Api<v1::Namespace> = Api::all(client.clone());
        if let Some(found) = block_on(namespaces.get_opt(name))? {
            let annotations = found.metadata.annotations.unwrap_or_default();
            if found.metadata.deletion_timestamp.is_some() {
                // It is an earlier test's, and is being deleted.
            } else if annotations.contains_key("meta.helm.sh/release-name") {
                // The chart has created it for a gate after an earlier test had deleted its own,
                // and kept it.
                block_on(namespaces.delete(name, &DeleteParams::default()))?;
            } else {
                bail!(
                    "the namespace {name} exists; these tests create and delete it, so they won't touch yours"
                );
            }
            await_gone(&namespaces, name, Duration::from_secs(120 * PATIENCE))?;
        }
        let namespace = v1::Namespace {
            metadata: ObjectMeta {
                name: Some(name.to_owned()),
                labels: Some(
                    labels
                        .iter()
                        .map(|&(key, value)| (key.into(), value.into()))
                        .collect(),
                ),
                ..ObjectMeta::default()
            },
            ..v1::Namespace::default()
        };
        block_on(namespaces.create(&PostParams::default(), &namespace))?;
        let this = Self {
            name: name.to_owned(),
            kubectl: kubectl.in_namespace(name),
            stays: false,
            client,
        };
        // Pods are refused until the controller manager has created the ServiceAccount.
        let accounts: Api<ServiceAccount> = Api::namespaced(this.client.clone(), name);
        let patience = Duration::from_secs(30 * PATIENCE);
        await_object(&accounts, "default", "to be made", patience, |_| true)?;
        Ok(this)
    }

    /// Follows a container's log until it contains all of `parts`. Returns the log so far.
    pub fn says(&self, pod: &str, container: &str, parts: &[&str]) -> Result<String> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        let parameters = LogParams {
            container: Some(container.to_owned()),
            follow: true,
            ..LogParams::default()
        };
        let all_in = |log: &str| parts.iter().all(|part| log.contains(part));
        let patience = Duration::from_secs(60 * PATIENCE);
        let is_there = block_on(pods.get(pod)).map(|pod| has(&pod, container))?;
        ensure!(is_there, "pod {pod} has no container {container}");
        // There is no log before the container has started.
        await_object(&pods, pod, "to have started", patience, |pod| {
            has_started(pod, container)
        })?;
        until(
            &format!("{container} in {pod} to say {parts:?}"),
            patience,
            || {
                let mut log = String::new();
                let follow = async {
                    let mut lines = pods.log_stream(pod, &parameters).await?.lines();
                    while !all_in(&log)
                        && let Some(line) = lines.try_next().await?
                    {
                        log.push_str(&line);
                        log.push('\n');
                    }
                    anyhow::Ok(())
                };
                match block_on(async { tokio::time::timeout(patience, follow).await }) {
                    Ok(Ok(())) if all_in(&log) => Look::Done(log),
                    // The container has ended without all parts, and may start again.
                    Ok(Ok(())) => Look::Pending(log),
                    Ok(Err(error)) => Look::Pending(format!("{error:#}")),
                    Err(_) => Look::Failed(anyhow!("after {patience:?} it has said\n{log}")),
                }
            },
        )
    }
}

/// Whether a pod's spec has a container.
fn has(pod: &Pod, container: &str) -> bool {
    let spec = pod.spec.iter();
    let mut all = spec.flat_map(|it| it.init_containers.iter().flatten().chain(&it.containers));
    all.any(|one| one.name == container)
}

/// Whether a container runs, or has run.
fn has_started(pod: &Pod, container: &str) -> bool {
    let status = pod.status.iter();
    let mut containers = status.flat_map(|status| {
        let init = status.init_container_statuses.iter().flatten();
        init.chain(status.container_statuses.iter().flatten())
    });
    containers
        .find(|status| status.name == container)
        .into_iter()
        .flat_map(|status| [&status.state, &status.last_state])
        .flatten()
        .any(|state| state.running.is_some() || state.terminated.is_some())
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.stays {
            return;
        }
        let namespaces: Api<v1::Namespace> = Api::all(self.client.clone());
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.name);
        let at_once = DeleteParams::default().grace_period(0);
        block_on(async {
            // A failure cannot be reported here. The next test that uses the name notices it.
            let _ = namespaces
                .delete(&self.name, &DeleteParams::default())
                .await;
            // Nothing can be created in it any more, and no pod needs its grace period.
            let _ = pods
                .delete_collection(&at_once, &ListParams::default())
                .await;
        });
    }
}
