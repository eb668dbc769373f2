//! A Job's pods, with the fields that reading their logs needs.

use jiff::Timestamp;
use kube::api::ListParams;
use serde::Deserialize;

use migration_gate_core::explain::quoted;

use crate::api::objects::Page;
use crate::api::{ApiError, Objects};

/// Number of pods in one page of a list. A Job may have thousands.
const PAGE: u32 = 50;

/// The newest of the Job's pods, newest first.
pub(super) struct Listed {
    pub(super) pods: Vec<Pod>,
    /// The number of all pods that were selected, including omitted ones.
    pub(super) total: usize,
}

/// Lists the pods of the Job with this uid that match a field selector. Keeps the newest `most` of
/// them. Fails only if no page could be read.
pub(super) async fn list(
    objects: &Objects,
    uid: &str,
    fields: &str,
    most: usize,
) -> Result<Listed, ApiError> {
    // The uid, not the name: an older Job of the same name may still have pods.
    let selector = format!("batch.kubernetes.io/controller-uid={uid}");
    let mut params = ListParams::default().labels(&selector).limit(PAGE);
    if !fields.is_empty() {
        params = params.fields(fields);
    }
    let (mut pods, mut total): (Vec<Pod>, usize) = (Vec::new(), 0);
    loop {
        let page: Page<Pod> = match objects.page(&params).await {
            Ok(page) => page,
            // Some pods are better than none.
            Err(_) if total > 0 => return Ok(Listed { pods, total }),
            Err(error) => return Err(error),
        };
        total += page.items.len();
        pods.extend(page.items);
        newest(&mut pods, most);
        match page.metadata.next() {
            Some(next) => params = params.continue_token(&next),
            None => return Ok(Listed { pods, total }),
        }
    }
}

/// Sorts the pods, newest first, and keeps `most` of them.
pub(super) fn newest(pods: &mut Vec<Pod>, most: usize) {
    pods.sort_by(|a, b| {
        let key = |pod: &Pod| (pod.metadata.creation_timestamp, pod.metadata.name.clone());
        key(b).cmp(&key(a))
    });
    pods.truncate(most);
}

/// One run of a container, which may have a log.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) container: String,
    /// How it ended, in words.
    pub(super) end: String,
    /// Whether this is the run before the container's last restart.
    pub(super) previous: bool,
    pub(super) started: bool,
    pub(super) blame: Blame,
}

/// The likelihood that a run caused the failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Blame {
    /// It succeeded, or never started.
    None,
    /// Its end is not known, or it was still running.
    Some,
    /// It failed.
    All,
}

impl Pod {
    /// The runs of all containers, in their order.
    pub(super) fn runs(&self) -> Vec<Run> {
        let (spec, status) = (&self.spec, &self.status);
        [
            (&spec.init_containers, &status.init_container_statuses),
            (&spec.containers, &status.container_statuses),
            (
                &spec.ephemeral_containers,
                &status.ephemeral_container_statuses,
            ),
        ]
        .into_iter()
        .flat_map(|(names, statuses)| {
            names.iter().flatten().flat_map(move |Named { name }| {
                let mut statuses = statuses.iter().flatten();
                runs(name, statuses.find(|status| status.name == *name))
            })
        })
        .collect()
    }

    /// The reason why the pod failed, if no container did.
    pub(super) fn reason(&self) -> Option<String> {
        let PodStatus {
            reason, message, ..
        } = &self.status;
        let why = match (reason.as_str(), message.as_str()) {
            ("", "") => return None,
            (text, "") | ("", text) => text.to_owned(),
            (reason, message) => format!("{reason}: {message}"),
        };
        Some(quoted(&why))
    }
}

fn runs(name: &str, status: Option<&ContainerStatus>) -> Vec<Run> {
    let run = |end: String, previous, started, blame| Run {
        container: name.to_owned(),
        end,
        previous,
        started,
        blame,
    };
    let ended = |end: &Ending, previous, after: &str| {
        let text = match (end.exit_code, end.reason.as_str()) {
            (code, "" | "Completed" | "Error") => format!("exit code {code}"),
            (code, reason) => format!("{}, exit code {code}", quoted(reason)),
        };
        let blame = match end.exit_code {
            0 => Blame::None,
            _ => Blame::All,
        };
        run(format!("{text}{after}"), previous, true, blame)
    };
    // The kubelet has not reported this container, but it may have a log.
    let unknown = || {
        let end = "its end is not known".to_owned();
        vec![run(end, false, true, Blame::Some)]
    };
    let Some(status) = status else {
        return unknown();
    };
    let restarts = match status.restart_count {
        0 => String::new(),
        1 => ", after 1 restart".to_owned(),
        n => format!(", after {n} restarts"),
    };
    match (&status.state, &status.last_state.terminated) {
        (
            ContainerState {
                terminated: Some(end),
                ..
            },
            _,
        ) => vec![ended(end, false, &restarts)],
        // The container was restarted in place, so the previous run failed.
        (
            ContainerState {
                running: Some(_), ..
            },
            before,
        ) => before
            .iter()
            .map(|end| ended(end, true, ", then restarted"))
            .chain([run("it was running".to_owned(), false, true, Blame::Some)])
            .collect(),
        (
            ContainerState {
                waiting: Some(_), ..
            },
            Some(end),
        ) => vec![ended(end, true, &restarts)],
        (
            ContainerState {
                waiting: Some(waiting),
                ..
            },
            None,
        ) => {
            let end = format!("not started ({})", quoted(&waiting.reason));
            vec![run(end, false, false, Blame::None)]
        }
        _ => unknown(),
    }
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Pod {
    pub(super) metadata: PodMeta,
    spec: PodSpec,
    status: PodStatus,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct PodMeta {
    pub(super) name: String,
    pub(super) uid: String,
    creation_timestamp: Option<Timestamp>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodSpec {
    init_containers: Option<Vec<Named>>,
    containers: Option<Vec<Named>>,
    ephemeral_containers: Option<Vec<Named>>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct PodStatus {
    reason: String,
    message: String,
    init_container_statuses: Option<Vec<ContainerStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    ephemeral_container_statuses: Option<Vec<ContainerStatus>>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct ContainerStatus {
    name: String,
    restart_count: u32,
    state: ContainerState,
    last_state: ContainerState,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ContainerState {
    waiting: Option<Reason>,
    running: Option<serde::de::IgnoredAny>,
    terminated: Option<Ending>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reason {
    reason: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Ending {
    exit_code: i64,
    reason: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn check(statuses: &Value, expect: &[(&str, &str, bool, bool, Blame)]) {
        let mut pod = json!({"spec": {
            "initContainers": [{"name": "init"}],
            "containers": [{"name": "main"}],
            "ephemeralContainers": [{"name": "debug"}],
        }});
        pod["status"] = statuses.clone();
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let expect: Vec<_> = expect
            .iter()
            .map(|&(container, end, previous, started, blame)| Run {
                container: container.to_owned(),
                end: end.to_owned(),
                previous,
                started,
                blame,
            })
            .collect();
        assert_eq!(pod.runs(), expect, "{statuses}");
    }

    #[test]
    fn a_run_ends_as_its_container_says() {
        let killed = "OOMKilled, exit code 137, after 2 restarts";
        let pulled = "not started (ImagePullBackOff)";
        let init = json!([{"name": "init", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
        check(
            &json!({
                "initContainerStatuses": init,
                "containerStatuses": [{"name": "main", "restartCount": 2,
                    "state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}],
                "ephemeralContainerStatuses": [{"name": "debug", "state": {"running": {"startedAt": null}}}],
            }),
            &[
                ("init", "exit code 0", false, true, Blame::None),
                ("main", killed, false, true, Blame::All),
                ("debug", "it was running", false, true, Blame::Some),
            ],
        );
        check(
            &json!({
                "initContainerStatuses": init,
                "containerStatuses": [{"name": "main", "state": {"waiting": {"reason": "ImagePullBackOff"}}}],
            }),
            &[
                ("init", "exit code 0", false, true, Blame::None),
                ("main", pulled, false, false, Blame::None),
                ("debug", "its end is not known", false, true, Blame::Some),
            ],
        );
    }

    #[test]
    fn a_container_that_was_restarted_in_place_has_failed_before() {
        let failed = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
        let again = "exit code 1, after 1 restart";
        let then = "exit code 1, then restarted";
        let unknown = |name| (name, "its end is not known", false, true, Blame::Some);
        check(
            &json!({"containerStatuses": [{"name": "main", "restartCount": 1, "lastState": failed,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}),
            &[
                unknown("init"),
                ("main", again, true, true, Blame::All),
                unknown("debug"),
            ],
        );
        check(
            &json!({"containerStatuses": [{"name": "main", "restartCount": 1, "lastState": failed,
                "state": {"running": {}}}]}),
            &[
                unknown("init"),
                ("main", then, true, true, Blame::All),
                ("main", "it was running", false, true, Blame::Some),
                unknown("debug"),
            ],
        );
    }

    #[test]
    fn a_pod_may_fail_as_a_whole() {
        let check = |status: Value, expect: Option<&str>| {
            let pod: Pod = serde_json::from_value(json!({ "status": status })).expect("a pod");
            assert_eq!(pod.reason().as_deref(), expect);
        };
        let evicted = json!({"reason": "Evicted", "message": "The node was low on memory."});
        check(evicted, Some("Evicted: The node was low on memory."));
        check(json!({"reason": "Evicted"}), Some("Evicted"));
        check(json!({}), None);
    }
}
