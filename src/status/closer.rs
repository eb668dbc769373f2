//! More reads where the lists are not enough: a failed Job's log, pods that can't be created, what
//! runs during a roll-out, rights, and whether the webhooks answer.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures::{AsyncReadExt as _, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{ListParams, LogParams, Patch};
use serde_json::{Value, json};

use super::found::{Unread, text};
use super::reading::each_of;
use crate::api::objects::workload;
use crate::api::{ApiError, Objects};
use migration_gate_core::explain::quoted;
use migration_gate_core::gates::HeldKind;
use migration_gate_core::injection::waiter_of;
use migration_gate_core::job::JobState;
use migration_gate_core::podspec::list;
use migration_gate_core::status::{
    Calling, JobSeen, PodSeen, Reduction, Right, Snapshot, WaiterPlace, WorkloadSeen,
    doubtful_rights,
};

/// Maximum number of Jobs to look at more closely, and of workloads whose revisions are read.
const MOST: usize = 20;

/// Maximum number of concurrent requests about rights.
const AT_ONCE: usize = 16;

/// Time that mounting a pod's volumes may take, in seconds.
const MOUNTING: i64 = 10;

/// Messages of the kubelet and the attacher about a pod that they cannot prepare.
const UNPREPARED: [&str; 4] = [
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
];

/// Maximum number of lines of a log that are shown.
const LOG_LINES: i64 = 5;

/// Maximum size of a log that is read, in bytes.
const LOG_BYTES: usize = 4096;

/// The objects that could not be read.
type Gaps = RefCell<BTreeSet<Unread>>;

fn gap(gaps: &Gaps, what: &str, why: &impl ToString) {
    gaps.borrow_mut().insert(Unread {
        what: what.to_owned(),
        why: why.to_string(),
    });
}

/// Completes a snapshot. Returns what could not be read; it stays unknown in the snapshot.
pub(super) async fn look(client: &Client, snapshot: &mut Snapshot<'_>) -> Vec<Unread> {
    let gaps = Gaps::default();
    let (answers, runs, answer, told, unmounted) = futures::join!(
        rights(client, snapshot, &gaps),
        running(client, snapshot, &gaps),
        webhooks(client, snapshot, &gaps),
        jobs(client, snapshot, &gaps),
        unprepared(client, snapshot, &gaps),
    );
    snapshot.answers = answers;
    if let Some(release) = &mut snapshot.release {
        release.answer = answer;
    }
    for seen in snapshot.namespaces.values_mut() {
        for workload in seen.workloads.iter_mut().flatten() {
            if let Some(versions) = runs.get(&workload.uid) {
                workload.runs.clone_from(versions);
            }
        }
        for pod in seen.pods.iter_mut().flatten() {
            pod.blocked = pod.blocked.take().or(unmounted.get(&pod.uid).cloned());
        }
        for job in seen.jobs.iter_mut().flatten() {
            if let Some(told) = told.get(&job.job.uid) {
                job.log.clone_from(&told.log);
                job.refusal.clone_from(&told.refusal);
                job.crash.clone_from(&told.crash);
            }
        }
    }
    gaps.into_inner().into_iter().collect()
}

/// Asks about the rights that no known Role gives. Empty if the user may not ask.
async fn rights(client: &Client, snapshot: &Snapshot<'_>, gaps: &Gaps) -> BTreeMap<Right, bool> {
    let reviews = Objects::cluster::<SubjectAccessReview>(client);
    let reviews = &reviews;
    let ask = |right: Right| async move {
        match reviews.create::<Value>(&review(&right)).await {
            Ok(answer) => Some((right, answer["status"]["allowed"] == true)),
            Err(error) => {
                gap(
                    gaps,
                    "the rights of accounts, where no Role of the chart gives them",
                    &error,
                );
                None
            }
        }
    };
    let mut doubtful = doubtful_rights(snapshot).into_iter();
    // If the first question is not permitted, none is.
    let Some(first) = doubtful.next() else {
        return BTreeMap::new();
    };
    let Some(first) = ask(first).await else {
        return BTreeMap::new();
    };
    let mut answers: BTreeMap<Right, bool> = [first].into();
    let mut others = stream::iter(doubtful.map(ask)).buffer_unordered(AT_ONCE);
    while let Some(answer) = others.next().await {
        answers.extend(answer);
    }
    answers
}

fn review(right: &Right) -> Value {
    let user = format!("system:serviceaccount:{}:{}", right.home, right.account);
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{}", right.home),
        "system:authenticated".to_owned(),
    ];
    json!({
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": {
            "namespace": right.namespace, "verb": right.verb, "group": right.group,
            "resource": right.resource, "subresource": right.subresource, "name": right.name,
        }},
    })
}

/// The running versions of each Deployment in a roll-out, by its uid.
async fn running(
    client: &Client,
    snapshot: &Snapshot<'_>,
    gaps: &Gaps,
) -> BTreeMap<String, Vec<String>> {
    let held = snapshot
        .namespaces
        .values()
        .flat_map(|seen| seen.workloads.iter().flatten());
    let rolling = |w: &&WorkloadSeen| {
        matches!(w.kind, HeldKind::Deployment | HeldKind::Rollout)
            && !w.rolled_out
            && !w.gates.is_empty()
    };
    let mut runs = BTreeMap::new();
    let mut namespaces: BTreeMap<&str, Vec<&WorkloadSeen>> = BTreeMap::new();
    for workload in held {
        if rolling(&workload) {
            namespaces
                .entry(&workload.namespace)
                .or_default()
                .push(workload);
        }
    }
    let reduction = Reduction::new(snapshot.config);
    for (namespace, workloads) in namespaces.into_iter().take(MOST) {
        let found: RefCell<Vec<(String, String)>> = RefCell::default();
        let take = |set: &Value| {
            if set["status"]["readyReplicas"].as_u64() == Some(0) {
                return;
            }
            for owner in list(&set["metadata"], "ownerReferences") {
                let mut workloads = workloads.iter();
                let owned = workloads.find(|w| *w.uid == *text(&owner["uid"]));
                let Some(workload) = owned.filter(|_| set["status"]["readyReplicas"].is_u64())
                else {
                    continue;
                };
                let gate = workload.gates.first().map_or("", String::as_str);
                let version = reduction.version(namespace, gate, &set["spec"]["template"]);
                let found_here = version.map(|version| (workload.uid.clone(), version));
                found.borrow_mut().extend(found_here);
            }
        };
        let sets = Objects::namespaced::<ReplicaSet>(client, namespace);
        if let Err(error) = each_of(&sets, &ListParams::default(), &take).await {
            gap(gaps, &format!("replicasets in {namespace}"), &error);
            continue;
        }
        for (uid, version) in found.take() {
            let versions: &mut Vec<String> = runs.entry(uid).or_default();
            if !versions.contains(&version) {
                versions.push(version);
            }
        }
    }
    runs
}

/// The result of a dry run of a change to a held workload's pod template.
async fn webhooks(client: &Client, snapshot: &Snapshot<'_>, gaps: &Gaps) -> Option<Calling> {
    const WHAT: &str = "whether the webhooks answer";
    snapshot.release.as_ref()?;
    let mut workloads = snapshot
        .namespaces
        .values()
        .flat_map(|n| n.workloads.iter().flatten());
    let held = workloads.find(|w| {
        !w.gates.is_empty() && w.offences.is_empty() && w.waiter != WaiterPlace::Windows
    })?;
    let pods = held.kind.pod_kind();
    let objects = Objects::of(client, workload(pods), Some(&held.namespace));
    let mut change = json!({"metadata": {"annotations": {"migration-gate.io/status": "asked"}}});
    for field in pods.path[..pods.path.len() - 1].iter().rev() {
        change = json!({ *field: change });
    }
    let answer = match objects.try_patch(&held.name, &Patch::Merge(change)).await {
        Ok(answer) => answer,
        Err(error) => {
            gap(gaps, WHAT, &error);
            return None;
        }
    };
    let message = text(&answer.body["message"]);
    let calling = ["failed calling webhook", "failed to call webhook"];
    if calling.iter().any(|failed| message.contains(failed)) {
        if message.contains(".migration-gate.io\"") {
            return Some(Calling::Failed(message.to_owned()));
        }
        // Another webhook has failed, which says nothing about the gate's.
        gap(gaps, WHAT, &quoted(message));
        return None;
    }
    if answer.code < 300 {
        let spec = pods.pod_spec(&answer.body).unwrap_or(&Value::Null);
        return Some(match waiter_of(spec) {
            Some(_) => Calling::Good,
            None => Calling::NotCalled(format!(
                "{} {}/{}",
                held.kind.as_str(),
                held.namespace,
                held.name
            )),
        });
    }
    // The denial is in their name, so they were called.
    if message.contains(".migration-gate.io\" denied") {
        return Some(Calling::Good);
    }
    gap(gaps, WHAT, &quoted(message));
    None
}

/// A Job's Events and its log.
#[derive(Default)]
struct JobTold {
    log: Vec<String>,
    refusal: Option<String>,
    crash: Option<String>,
}

/// The end of the log of each failed or repeatedly failing Job, and the Events of each Job without
/// a pod, by the Jobs' uids.
async fn jobs(client: &Client, snapshot: &Snapshot<'_>, gaps: &Gaps) -> BTreeMap<String, JobTold> {
    let jobs = snapshot
        .namespaces
        .values()
        .flat_map(|n| n.jobs.iter().flatten());
    let is_unclear = |seen: &&JobSeen| {
        let state = &seen.job.state;
        let is_unclear = matches!(
            state,
            JobState::Failed { .. } | JobState::NoPod | JobState::PodNotReady
        );
        is_unclear && is_asked_for(snapshot, seen)
    };
    let mut unclear: Vec<&JobSeen> = jobs.filter(is_unclear).collect();
    // Pods are more likely to wait for recent Jobs than for old ones.
    unclear.sort_by_key(|seen| std::cmp::Reverse(seen.job.created));
    let looks = unclear.into_iter().take(MOST).map(|seen| async move {
        let told = match seen.job.state {
            JobState::NoPod => JobTold {
                refusal: refusal(client, seen, gaps).await,
                ..JobTold::default()
            },
            _ => said(client, seen, gaps).await,
        };
        (seen.job.uid.clone(), told)
    });
    stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// The messages about volumes that cannot be mounted and networks that cannot be set up, by the
/// uids of the pods that wait for them.
async fn unprepared(
    client: &Client,
    snapshot: &Snapshot<'_>,
    gaps: &Gaps,
) -> BTreeMap<String, String> {
    let now = Timestamp::now();
    let waits = |pod: &PodSeen| {
        let patience = SignedDuration::from_secs(MOUNTING);
        pod.prepares
            && pod
                .since
                .is_some_and(|since| now.duration_since(since) > patience)
    };
    let namespaces = snapshot.namespaces.iter();
    let stuck = namespaces.filter(|(_, seen)| seen.pods.iter().flatten().any(waits));
    let looks = stuck.take(MOST).map(|(namespace, _)| async move {
        let events = Objects::namespaced::<Event>(client, namespace);
        let params = ListParams::default().fields("involvedObject.kind=Pod,type=Warning");
        match events.list::<Value>(&params).await {
            Ok(events) => events,
            Err(error) => {
                gap(gaps, &format!("events in {namespace}"), &error);
                Vec::new()
            }
        }
    });
    let events = futures::future::join_all(looks).await;
    let events = events.iter().flatten();
    let told = events.filter_map(|event| {
        let reason = text(&event["reason"]);
        let uid = text(&event["involvedObject"]["uid"]).to_owned();
        let message = text(&event["message"]);
        UNPREPARED
            .contains(&reason)
            .then(|| (uid, format!("{reason}: {message}")))
    });
    told.collect()
}

fn is_asked_for(snapshot: &Snapshot<'_>, seen: &JobSeen) -> bool {
    let mut gates = snapshot.gates.iter();
    gates.any(|gate| {
        let requirements = gate.requirements();
        let mut sources = requirements.iter().flat_map(|of| &of.any_of);
        gate.namespace == seen.namespace && sources.any(|source| seen.job.is_of(source))
    })
}

/// The Job controller's message about pods that it cannot create.
async fn refusal(client: &Client, seen: &JobSeen, gaps: &Gaps) -> Option<String> {
    let events = Objects::namespaced::<Event>(client, &seen.namespace);
    let params = ListParams::default().fields(&format!(
        "involvedObject.uid={},reason=FailedCreate",
        seen.job.uid
    ));
    let events: Vec<Value> = match events.list(&params).await {
        Ok(events) => events,
        Err(error) => {
            gap(gaps, &format!("events in {}", seen.namespace), &error);
            return None;
        }
    };
    let mut events = events.iter().rev();
    let of_job = events.find(|event| *text(&event["involvedObject"]["uid"]) == *seen.job.uid)?;
    Some(text(&of_job["message"]).to_owned())
}

/// The end of the log of the Job's last pod, and how its container ended if it is restarting.
async fn said(client: &Client, seen: &JobSeen, gaps: &Gaps) -> JobTold {
    let JobSeen { namespace, job, .. } = seen;
    match pod_of(client, seen).await {
        Ok(Some(pod)) => {
            let crash = crash(&pod);
            if crash.is_none() && !matches!(job.state, JobState::Failed { .. }) {
                return JobTold::default();
            }
            let log = log(client, namespace, &pod).await;
            let log = log.unwrap_or_else(|error| {
                gap(
                    gaps,
                    &format!("the log of Job {} in {namespace}", job.name),
                    &error,
                );
                Vec::new()
            });
            JobTold {
                log,
                crash,
                refusal: None,
            }
        }
        Ok(None) => JobTold::default(),
        Err(error) => {
            gap(
                gaps,
                &format!("the pods of Job {} in {namespace}", job.name),
                &error,
            );
            JobTold::default()
        }
    }
}

/// The Job's last pod.
async fn pod_of(client: &Client, seen: &JobSeen) -> Result<Option<Value>, ApiError> {
    let pods = Objects::namespaced::<Pod>(client, &seen.namespace);
    let labels = format!("batch.kubernetes.io/job-name={}", seen.job.name);
    let mut found: Vec<Value> = pods.list(&ListParams::default().labels(&labels)).await?;
    found.retain(|pod| {
        *text(&pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"]) == *seen.job.uid
    });
    let created = |pod: &Value| text(&pod["metadata"]["creationTimestamp"]).to_owned();
    Ok(found.into_iter().max_by_key(created))
}

/// The end of the log of a pod's failed container.
async fn log(client: &Client, namespace: &str, pod: &Value) -> Result<Vec<String>, ApiError> {
    let Some(container) = failed_container(pod) else {
        return Ok(Vec::new());
    };
    let params = LogParams {
        container: Some(container.to_owned()),
        tail_lines: Some(LOG_LINES),
        ..LogParams::default()
    };
    let pods = Objects::namespaced::<Pod>(client, namespace);
    let log = pods.log(text(&pod["metadata"]["name"]), &params).await?;
    let mut bytes = Vec::new();
    // A part of the log is better than nothing.
    let _ = log.take(LOG_BYTES as u64).read_to_end(&mut bytes).await;
    let text = String::from_utf8_lossy(&bytes);
    Ok(text.lines().map(quoted).collect())
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists
        .into_iter()
        .flat_map(|field| list(&pod["status"], field))
}

/// How a container ended that is in `CrashLoopBackOff`.
fn crash(pod: &Value) -> Option<String> {
    let crashing = |c: &&Value| c["state"]["waiting"]["reason"] == "CrashLoopBackOff";
    let container = statuses(pod).find(crashing)?;
    let ended = &container["lastState"]["terminated"];
    let reason = text(&ended["reason"]);
    Some(format!(
        "Pod {}: container {} has been started {} times; it ended with exit code {} ({reason})",
        text(&pod["metadata"]["name"]),
        text(&container["name"]),
        container["restartCount"].as_u64().unwrap_or_default() + 1,
        ended["exitCode"].as_i64().unwrap_or_default(),
    ))
}

/// The name of the first container that failed, else of the first one.
fn failed_container(pod: &Value) -> Option<&str> {
    let bad = |c: &&Value| {
        let ended = [&c["state"]["terminated"], &c["lastState"]["terminated"]];
        let mut codes = ended.iter().filter_map(|ended| ended["exitCode"].as_i64());
        codes.next().is_some_and(|code| code != 0)
    };
    let failed = statuses(pod).find(bad);
    failed
        .and_then(|container| container["name"].as_str())
        .or_else(|| pod["spec"]["containers"][0]["name"].as_str())
}
