//! The logs of a failed Job: of its failed pods, newest attempt first, every container.

use std::time::Duration;

use futures::AsyncBufReadExt;
use jiff::Timestamp;
use kube::Client;
use kube::api::{ListParams, LogParams};
use kube::core::Request;
use serde::Deserialize;
use tokio::time::timeout;

use super::output::{Level, Output};
use super::tail::Tail;
use crate::core::explain::Subject;
use crate::observe::chain;

/// Attempts whose logs are shown, the newest ones.
const PODS: usize = 4;
/// Of each container, the last lines…
const LINES: usize = 200;
/// …of at most so much text.
const BYTES: usize = 32 * 1024;
/// For all of it. The Job has failed already, and nobody should wait long to hear it.
const TIME: Duration = Duration::from_secs(20);

/// Prints the logs as well as it can; what it can't, it says.
pub(super) async fn print(client: &Client, subject: &Subject, uid: &str, output: &mut Output) {
    if timeout(TIME, print_all(client, subject, uid, output))
        .await
        .is_err()
    {
        output.say(
            Level::Warn,
            &format!(
                "the logs are not complete: the API server took longer than {}s",
                TIME.as_secs()
            ),
        );
    }
}

async fn print_all(client: &Client, subject: &Subject, uid: &str, output: &mut Output) {
    let path = format!("/api/v1/namespaces/{}/pods", subject.namespace);
    // The uid, not the name: an older Job of the same name may have pods yet.
    let selector = format!("batch.kubernetes.io/controller-uid={uid}");
    let list = match Request::new(&path).list(&ListParams::default().labels(&selector)) {
        Ok(request) => client.request::<Pods>(request).await,
        Err(error) => Err(kube::Error::BuildRequest(error)),
    };
    let pods = match list {
        Ok(pods) => attempts(pods.items),
        Err(error) => {
            let what = format!("list pods -n {}", subject.namespace);
            return output.say(Level::Warn, &cannot("list the Job's pods", &what, &error));
        }
    };
    if pods.is_empty() {
        return output.say(
            Level::Warn,
            &format!(
                "Job {} has no pod left, so there are no logs to show",
                subject.job
            ),
        );
    }
    let total = pods.len();
    for (index, pod) in pods.iter().take(PODS).enumerate() {
        for container in pod.containers() {
            let heading = format!(
                "--- attempt {} of {total}, pod {}, container {}: {}",
                total - index,
                pod.metadata.name,
                container.name,
                container.end,
            );
            output.say(Level::Error, &heading);
            if !container.started {
                continue;
            }
            let lines = match fetch(client, &path, &pod.metadata.name, &container.name).await {
                Ok((lines, dropped)) => {
                    if dropped > 0 {
                        output.say(
                            Level::Warn,
                            &format!("(only the last {} lines)", lines.len()),
                        );
                    }
                    lines
                }
                Err(error) => {
                    let what = format!("get pods/log -n {}", subject.namespace);
                    output.say(Level::Warn, &cannot("read this log", &what, &error));
                    continue;
                }
            };
            for line in &lines {
                output.quote(&pod.metadata.name, &container.name, line);
            }
            // The termination message has room for one log: the newest that ended badly.
            if index == 0 && (container.failed || output.tail.is_empty()) {
                output.tail = lines;
            }
        }
    }
    if total > PODS {
        output.say(
            Level::Warn,
            &format!("--- {} older attempts are not shown", total - PODS),
        );
    }
}

fn cannot(what: &str, verb: &str, error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if matches!(status.code, 401 | 403) => format!(
            "not permitted to {what}: {}; grant it, or look yourself: kubectl auth can-i {verb}",
            status.message
        ),
        kube::Error::Api(status) => format!("cannot {what}: {}", status.message),
        error => format!("cannot {what}: {}", chain(error)),
    }
}

async fn fetch(
    client: &Client,
    path: &str,
    pod: &str,
    container: &str,
) -> kube::Result<(Vec<String>, u64)> {
    let params = LogParams {
        container: Some(container.to_owned()),
        // `limitBytes` would keep the beginning of these lines, and the end is what matters.
        tail_lines: i64::try_from(LINES).ok(),
        ..LogParams::default()
    };
    let request = Request::new(path)
        .logs(pod, &params)
        .map_err(kube::Error::BuildRequest)?;
    let mut log = Box::pin(client.request_stream(request).await?);
    let mut tail = Tail::new(LINES, BYTES);
    loop {
        let piece = log.fill_buf().await.map_err(kube::Error::ReadEvents)?;
        if piece.is_empty() {
            return Ok(tail.finish());
        }
        tail.push(piece);
        let length = piece.len();
        log.consume_unpin(length);
    }
}

/// The failed pods, or whatever pods there are if none is marked as failed; newest first.
fn attempts(mut pods: Vec<Pod>) -> Vec<Pod> {
    if pods.iter().any(|pod| pod.status.phase == "Failed") {
        pods.retain(|pod| pod.status.phase == "Failed");
    }
    pods.sort_by(|a, b| {
        let key = |pod: &Pod| (pod.metadata.creation_timestamp, pod.metadata.name.clone());
        key(b).cmp(&key(a))
    });
    pods
}

/// A container that may have a log.
#[derive(Debug, PartialEq, Eq)]
struct Container {
    name: String,
    /// How it ended, for people.
    end: String,
    started: bool,
    failed: bool,
}

impl Pod {
    /// In the order in which they ran.
    fn containers(&self) -> Vec<Container> {
        let spec = &self.spec;
        let status = &self.status;
        let of = |names: &[Named], statuses: &Option<Vec<ContainerStatus>>| -> Vec<Container> {
            names
                .iter()
                .map(|Named { name }| {
                    let status = statuses
                        .iter()
                        .flatten()
                        .find(|status| status.name == *name);
                    Container::new(name, status.map(|status| &status.state))
                })
                .collect()
        };
        let mut containers = of(
            spec.init_containers.as_deref().unwrap_or_default(),
            &status.init_container_statuses,
        );
        containers.extend(of(&spec.containers, &status.container_statuses));
        containers
    }
}

impl Container {
    fn new(name: &str, state: Option<&ContainerState>) -> Self {
        let (end, started, failed) = match state {
            Some(ContainerState {
                terminated: Some(end),
                ..
            }) => (
                match (end.exit_code, end.reason.as_str()) {
                    (code, "" | "Completed" | "Error") => format!("exit code {code}"),
                    (code, reason) => format!("{reason}, exit code {code}"),
                },
                true,
                end.exit_code != 0,
            ),
            Some(ContainerState {
                waiting: Some(waiting),
                ..
            }) => (format!("not started ({})", waiting.reason), false, false),
            Some(ContainerState {
                running: Some(_), ..
            }) => ("still running".to_owned(), true, false),
            // The kubelet didn't get round to it; there may be a log all the same.
            _ => ("its end is not known".to_owned(), true, false),
        };
        Self {
            name: name.to_owned(),
            end,
            started,
            failed,
        }
    }
}

#[derive(Deserialize)]
struct Pods {
    items: Vec<Pod>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Pod {
    metadata: Metadata,
    spec: Spec,
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    name: String,
    creation_timestamp: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    init_containers: Option<Vec<Named>>,
    containers: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    phase: String,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerStatus {
    name: String,
    state: ContainerState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Reason>,
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<End>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reason {
    reason: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct End {
    exit_code: i64,
    reason: String,
}
