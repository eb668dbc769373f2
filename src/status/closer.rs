//! A closer look at what the lists leave open: a failed Job's log, pods that can't be created, what
//! runs during a roll-out, rights, and whether the webhooks answer.

use std::cell::RefCell;
use std::collections::BTreeMap;

use futures::{AsyncReadExt as _, StreamExt as _, stream};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::authorization::v1::SubjectAccessReview;
use k8s_openapi::api::core::v1::{Event, Pod};
use kube::Client;
use kube::api::{ListParams, LogParams, Patch};
use serde_json::{Value, json};

use super::found::text;
use super::reading::each_of;
use crate::api::Objects;
use crate::api::objects::workload;
use migration_gate_core::explain::quoted;
use migration_gate_core::gates::HeldKind;
use migration_gate_core::injection::waiter_of;
use migration_gate_core::job::JobState;
use migration_gate_core::podspec::list;
use migration_gate_core::status::{
    Calling, FAILED_MOUNT, JobSeen, PodSeen, Reduction, Right, Snapshot, WorkloadSeen,
    doubtful_rights,
};

/// How many Jobs are looked at more closely, and how many workloads' revisions.
const MOST: usize = 20;

/// How many rights are asked about at a time.
const AT_ONCE: usize = 16;

/// How long a pod's volumes may take, in seconds.
const MOUNTING: i64 = 10;

/// How much of a log is shown.
const LOG_LINES: i64 = 5;

/// How much of it is read.
const LOG_BYTES: usize = 4096;

/// Completes a snapshot. What can't be read stays unknown: it is only for better words.
pub(super) async fn look(client: &Client, snapshot: &mut Snapshot<'_>) {
    let (answers, runs, answer, told, unmounted) = futures::join!(
        rights(client, snapshot),
        running(client, snapshot),
        webhooks(client, snapshot),
        jobs(client, snapshot),
        unmounted(client, snapshot),
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
            if let Some((log, refusal)) = told.get(&job.job.uid) {
                job.log.clone_from(log);
                job.refusal.clone_from(refusal);
            }
        }
    }
}

/// Asks about the rights that no Role was seen to give. Where that isn't permitted, there are no
/// answers.
async fn rights(client: &Client, snapshot: &Snapshot<'_>) -> BTreeMap<Right, bool> {
    let reviews = Objects::cluster::<SubjectAccessReview>(client);
    let reviews = &reviews;
    let ask = |right: Right| async move {
        let answer: Value = reviews.create(&review(&right)).await.ok()?;
        Some((right, answer["status"]["allowed"] == true))
    };
    let mut doubtful = doubtful_rights(snapshot).into_iter();
    // Who may not ask once may not ask at all.
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

/// The versions that run of each Deployment that is being rolled out, by its uid.
async fn running(client: &Client, snapshot: &Snapshot<'_>) -> BTreeMap<String, Vec<String>> {
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
        if each_of(&sets, &ListParams::default(), &take).await.is_ok() {
            for (uid, version) in found.take() {
                let versions: &mut Vec<String> = runs.entry(uid).or_default();
                if !versions.contains(&version) {
                    versions.push(version);
                }
            }
        }
    }
    runs
}

/// What a dry run of a change to a held workload's pod template comes to.
async fn webhooks(client: &Client, snapshot: &Snapshot<'_>) -> Option<Calling> {
    snapshot.release.as_ref()?;
    let mut workloads = snapshot
        .namespaces
        .values()
        .flat_map(|n| n.workloads.iter().flatten());
    let held = workloads.find(|w| !w.gates.is_empty() && w.offences.is_empty())?;
    let pods = held.kind.pod_kind();
    let objects = Objects::of(client, workload(pods), Some(&held.namespace));
    let mut change = json!({"metadata": {"annotations": {"migration-gate.io/status": "asked"}}});
    for field in pods.path[..pods.path.len() - 1].iter().rev() {
        change = json!({ *field: change });
    }
    let answer = objects
        .try_patch(&held.name, &Patch::Merge(change))
        .await
        .ok()?;
    let message = text(&answer.body["message"]);
    if message.contains("failed calling webhook") || message.contains("failed to call webhook") {
        return Some(Calling::Failed(message.to_owned()));
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
    // Refused, which only they can do if they say so.
    message
        .contains(".migration-gate.io\" denied")
        .then_some(Calling::Good)
}

/// The end of each failed Job's log, and what is said of each Job without a pod, by their uids.
async fn jobs(
    client: &Client,
    snapshot: &Snapshot<'_>,
) -> BTreeMap<String, (Vec<String>, Option<String>)> {
    let jobs = snapshot
        .namespaces
        .values()
        .flat_map(|n| n.jobs.iter().flatten());
    let unclear = jobs.filter(|seen| {
        let failed = matches!(seen.job.state, JobState::Failed { .. });
        (failed || seen.job.state == JobState::NoPod) && is_asked_for(snapshot, seen)
    });
    let looks = unclear.take(MOST).map(|seen| async move {
        let uid = seen.job.uid.clone();
        let told = match seen.job.state {
            JobState::NoPod => (Vec::new(), refusal(client, seen).await),
            _ => (log(client, seen).await.unwrap_or_default(), None),
        };
        (uid, told)
    });
    stream::iter(looks)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await
}

/// What is said of volumes that can't be mounted, by the uids of the pods that wait for them.
async fn unmounted(client: &Client, snapshot: &Snapshot<'_>) -> BTreeMap<String, String> {
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
        let params = ListParams::default().fields("reason=FailedMount");
        events.list::<Value>(&params).await.unwrap_or_default()
    });
    let events = futures::future::join_all(looks).await;
    let events = events.iter().flatten();
    let told = events
        .filter(|event| event["reason"] == "FailedMount")
        .map(|event| {
            let uid = text(&event["involvedObject"]["uid"]).to_owned();
            (uid, format!("{FAILED_MOUNT}{}", text(&event["message"])))
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

/// What the Job controller says of pods that it can't create.
async fn refusal(client: &Client, seen: &JobSeen) -> Option<String> {
    let events = Objects::namespaced::<Event>(client, &seen.namespace);
    let params = ListParams::default().fields(&format!(
        "involvedObject.uid={},reason=FailedCreate",
        seen.job.uid
    ));
    let events: Vec<Value> = events.list(&params).await.ok()?;
    let mut events = events.iter().rev();
    let of_job = events.find(|event| *text(&event["involvedObject"]["uid"]) == *seen.job.uid)?;
    Some(text(&of_job["message"]).to_owned())
}

/// The end of the log of the Job's last pod.
async fn log(client: &Client, seen: &JobSeen) -> Option<Vec<String>> {
    let pods = Objects::namespaced::<Pod>(client, &seen.namespace);
    let labels = format!("batch.kubernetes.io/job-name={}", seen.job.name);
    let mut found: Vec<Value> = pods
        .list(&ListParams::default().labels(&labels))
        .await
        .ok()?;
    found.retain(|pod| {
        *text(&pod["metadata"]["labels"]["batch.kubernetes.io/controller-uid"]) == *seen.job.uid
    });
    let pod = found
        .iter()
        .max_by_key(|pod| text(&pod["metadata"]["creationTimestamp"]))?;
    let params = LogParams {
        container: Some(failed_container(pod)?.to_owned()),
        tail_lines: Some(LOG_LINES),
        ..LogParams::default()
    };
    let mut bytes = Vec::new();
    let log = pods
        .log(text(&pod["metadata"]["name"]), &params)
        .await
        .ok()?;
    let mut log = log.take(LOG_BYTES as u64);
    log.read_to_end(&mut bytes).await.ok()?;
    let text = String::from_utf8_lossy(&bytes);
    Some(text.lines().map(quoted).collect())
}

/// The first container that ended badly, else the first.
fn failed_container(pod: &Value) -> Option<&str> {
    let status = &pod["status"];
    let lists = ["initContainerStatuses", "containerStatuses"];
    let mut statuses = lists.iter().flat_map(|field| list(status, field));
    let bad = |c: &&Value| {
        c["state"]["terminated"]["exitCode"]
            .as_i64()
            .is_some_and(|code| code != 0)
    };
    let failed = statuses
        .find(bad)
        .and_then(|container| container["name"].as_str());
    failed.or_else(|| pod["spec"]["containers"][0]["name"].as_str())
}
