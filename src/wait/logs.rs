//! The logs of a failed Job: every container of its failed pods, newest attempt first.
//!
//! When a Job exceeds `activeDeadlineSeconds`, or `backoffLimit` with containers that restart in
//! place, its controller deletes the running pods before it marks the Job as failed. So their logs
//! are read and kept as soon as the Job is sure to fail.

mod pods;

use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use futures::AsyncBufReadExt;
use kube::Client;
use kube::api::LogParams;
use tokio::time::timeout;

use super::identity;
use super::output::{Output, Severity};
use super::tail::Tail;
use crate::api::{ApiError, Objects};
use migration_gate_core::job::Attempt;
use migration_gate_core::verdict::Failure;
use pods::{Blame, Listed, Pod, Run};

/// Maximum number of attempts whose logs are shown, the newest ones.
const PODS: usize = 4;
/// Maximum number of lines of one log that are shown, the last ones.
const LINES: usize = 200;
/// Maximum size of one log that is shown, in bytes.
const BYTES: usize = 32 * 1024;
/// Maximum size of all logs that are kept until the Job has failed, in bytes.
const KEPT: usize = 256 * 1024;

/// Reads logs, within a time limit for all of them: the Job has failed already, and its logs must
/// not delay the waiter's end for long.
#[derive(Clone)]
pub(super) struct LogReader {
    pods: Objects,
    namespace: String,
    limit: Duration,
}

/// A run's log: uid of the pod, container, and whether it is of the previous run.
type Key = (String, String, bool);

/// Pods and logs that were read before they could be deleted.
#[derive(Default)]
pub(super) struct Kept {
    pods: Vec<Pod>,
    logs: BTreeMap<Key, Log>,
}

/// The end of a log.
#[derive(Default)]
struct Log {
    lines: Vec<String>,
    /// Whether earlier lines were dropped.
    cut: bool,
    /// The error that ended the read, so later lines may be missing.
    error: Option<ApiError>,
}

impl LogReader {
    pub(super) fn new(client: &Client, namespace: &str, limit: Duration) -> Self {
        Self {
            pods: Objects::namespaced::<k8s_openapi::api::core::v1::Pod>(client, namespace),
            namespace: namespace.to_owned(),
            limit,
        }
    }

    /// Reads the pods and logs of the Job with this uid that its controller may soon delete. Errors
    /// are ignored here: [`Self::print`] reads again when the Job has failed, and reports them.
    pub(super) async fn keep(self, uid: String) -> Kept {
        let mut kept = Kept::default();
        let _ = timeout(self.limit, self.fill(&uid, &mut kept)).await;
        kept
    }

    async fn fill(&self, uid: &str, kept: &mut Kept) {
        let fields = "status.phase!=Succeeded";
        let Ok(Listed { pods, .. }) = pods::list(&self.pods, uid, fields, PODS).await else {
            return;
        };
        kept.pods = pods;
        let mut room = KEPT;
        for pod in &kept.pods {
            for run in pod.runs().into_iter().filter(|run| run.started) {
                let log = self.read(pod, &run, room.min(BYTES)).await;
                room -= log.lines.iter().map(String::len).sum::<usize>().min(room);
                kept.logs.insert(key(pod, &run), log);
            }
        }
    }

    /// Prints the logs, and a warning for each one that cannot be read completely.
    pub(super) async fn print(
        &self,
        failure: &Failure,
        kept: impl Future<Output = Kept>,
        output: &mut Output,
    ) {
        let all = async {
            let kept = kept.await;
            self.print_all(failure, kept, output).await;
        };
        if timeout(self.limit, all).await.is_err() {
            output.say(
                Severity::Warn,
                &format!(
                    "the logs are not complete: the API server took longer than {}s",
                    self.limit.as_secs()
                ),
            );
        }
    }

    async fn print_all(&self, failure: &Failure, mut kept: Kept, output: &mut Output) {
        let Listed {
            mut pods,
            mut total,
        } = match self.failed(&failure.uid).await {
            Ok(listed) => listed,
            Err(error) => {
                let verb = "list pods";
                output.say(
                    Severity::Warn,
                    &self.cannot("list the Job's pods", verb, &error),
                );
                if kept.pods.is_empty() {
                    return;
                }
                Listed {
                    pods: Vec::new(),
                    total: 0,
                }
            }
        };
        for pod in kept.pods.drain(..) {
            if !pods.iter().any(|p| p.metadata.uid == pod.metadata.uid) {
                pods.push(pod);
                total += 1;
            }
        }
        pods::newest(&mut pods, PODS);
        if pods.is_empty() {
            return output.say(
                Severity::Warn,
                &format!(
                    "Job {} has no pod left, so there are no logs to show",
                    failure.job
                ),
            );
        }
        // If a pod is missing, the attempts cannot be numbered.
        let attempt = failure
            .attempt
            .filter(|last| u32::try_from(total) == Ok(last.number));
        let mut blame = Blame::None;
        for (index, pod) in pods.iter().enumerate() {
            let name = &pod.metadata.name;
            let heading = match attempt {
                Some(Attempt { of, .. }) => {
                    format!("--- attempt {} of {of}, pod {name}", total - index)
                }
                None => format!("--- pod {name}"),
            };
            if let Some(reason) = pod.reason() {
                output.say(Severity::Error, &format!("{heading}: {reason}"));
            }
            for run in pod.runs() {
                let line = format!("{heading}, container {}: {}", run.container, run.end);
                output.say(Severity::Error, &line);
                if !run.started {
                    continue;
                }
                let lines = self.show(pod, &run, &mut kept, output).await;
                // The termination message has room for one log: the newest that ended badly.
                if index == 0 && !lines.is_empty() && run.blame >= blame {
                    blame = run.blame;
                    output.tail = lines;
                }
            }
        }
        if total > pods.len() {
            output.say(
                Severity::Warn,
                &format!("--- {} older attempts are not shown", total - pods.len()),
            );
        }
    }

    /// The failed pods, or all pods if none is marked as failed.
    async fn failed(&self, uid: &str) -> Result<Listed, ApiError> {
        let list = |fields| pods::list(&self.pods, uid, fields, PODS);
        let failed = list("status.phase=Failed").await?;
        if failed.total > 0 {
            return Ok(failed);
        }
        list("").await
    }

    /// Prints one log as it is now, or as it was kept if it cannot be read now. Returns its lines.
    async fn show(&self, pod: &Pod, run: &Run, kept: &mut Kept, output: &Output) -> Vec<String> {
        let mut log = self.read(pod, run, BYTES).await;
        if log.error.is_some()
            && let Some(before) = kept.logs.remove(&key(pod, run))
            && before.lines.len() >= log.lines.len()
        {
            log = before;
        }
        if log.cut {
            let only = format!("(only the last {} lines)", log.lines.len());
            output.say(Severity::Warn, &only);
        }
        for line in &log.lines {
            output.quote(&pod.metadata.name, &run.container, line);
        }
        if let Some(error) = &log.error {
            let verb = "get pods --subresource=log";
            output.say(Severity::Warn, &self.cannot("read this log", verb, error));
        }
        log.lines
    }

    async fn read(&self, pod: &Pod, run: &Run, bytes: usize) -> Log {
        let mut tail = Tail::new(LINES, bytes);
        let error = self.read_into(&mut tail, pod, run).await.err();
        let (lines, dropped) = tail.finish();
        Log {
            lines,
            cut: dropped > 0,
            error,
        }
    }

    async fn read_into(&self, tail: &mut Tail, pod: &Pod, run: &Run) -> Result<(), ApiError> {
        let params = LogParams {
            container: Some(run.container.clone()),
            previous: run.previous,
            // One line more than is shown, to know whether there are more. `limitBytes` would keep
            // the beginning of these lines, but the end is needed.
            tail_lines: i64::try_from(LINES + 1).ok(),
            ..LogParams::default()
        };
        let mut log = pin!(self.pods.log(&pod.metadata.name, &params).await?);
        loop {
            let piece = log.fill_buf().await.map_err(kube::Error::ReadEvents)?;
            if piece.is_empty() {
                return Ok(());
            }
            tail.push(piece);
            let length = piece.len();
            log.consume_unpin(length);
        }
    }

    fn cannot(&self, what: &str, verb: &str, error: &ApiError) -> String {
        if !error.is_denied() {
            return format!("cannot {what}: {error}");
        }
        format!(
            "not permitted to {what}: {error}; grant it, or read it yourself: kubectl auth can-i {verb} --as={user} -n {namespace}",
            user = identity::user(&error.to_string()),
            namespace = self.namespace,
        )
    }
}

fn key(pod: &Pod, run: &Run) -> Key {
    (
        pod.metadata.uid.clone(),
        run.container.clone(),
        run.previous,
    )
}
