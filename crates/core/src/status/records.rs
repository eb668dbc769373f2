//! Problems of records, permissions and `ServiceAccount`s.

use std::collections::BTreeSet;

use super::commands::{SERVER_LOGS, quoted};
use super::diagnosis::{Diagnosis, TroubleCode as Code};
use super::grants::Right;
use super::passage::{Decided, View, version_of};
use super::seen::{Installation, JobSeen, NamespaceSeen, Server, Snapshot, WaiterPlace};
use crate::explain;
use crate::gates::Gate;
use crate::job::JobState;
use crate::names;
use crate::record::{Entry, Recorded};

/// How long the server may take to record a completion, in seconds.
const RECORDING: u64 = 30;

/// The needed permissions that none of the read objects grants. The caller asks the API server
/// about them.
pub fn doubtful_rights(snapshot: &Snapshot<'_>) -> Vec<Right> {
    let mut rights = BTreeSet::new();
    for gate in &snapshot.gates {
        let Some(namespace) = snapshot.namespaces.get(&gate.namespace) else {
            continue;
        };
        let needed = waiters(gate, namespace).into_iter().flat_map(|account| {
            let exists = has_account(namespace, &account).unwrap_or(true);
            exists
                .then(|| waiter_rights(gate, &account))
                .into_iter()
                .flatten()
        });
        let server = snapshot.release.as_ref().and_then(server_account);
        let server = server.map(|(home, account)| server_rights(gate, home, account));
        let needed = needed.chain(server.into_iter().flatten());
        rights.extend(needed.filter(|right| !namespace.grants.allow(right)));
    }
    rights.into_iter().collect()
}

/// The `ServiceAccount`s of the held workloads that have a waiter.
fn waiters(gate: &Gate, namespace: &NamespaceSeen) -> BTreeSet<String> {
    let workloads = namespace.workloads.iter().flatten();
    workloads
        .filter(|workload| workload.gates.first() == Some(&gate.name))
        .filter(|workload| !matches!(workload.waiter, WaiterPlace::Missing | WaiterPlace::Windows))
        .map(|workload| {
            workload
                .account
                .clone()
                .unwrap_or_else(|| "default".to_owned())
        })
        .collect()
}

fn has_account(namespace: &NamespaceSeen, account: &str) -> Option<bool> {
    Some(namespace.accounts.as_ref()?.contains(account))
}

fn server_account(release: &Installation) -> Option<(&str, &str)> {
    match release.server.as_ref()? {
        Server::Present { account, .. } => Some((&release.namespace, account)),
        Server::Missing => None,
    }
}

/// The permissions to watch a gate's Jobs.
fn job_rights(
    gate: &Gate,
    right: impl Fn(&'static str, &'static str, &'static str, &str) -> Right,
) -> Vec<Right> {
    let requirements = gate.requirements();
    let sources = requirements.iter().flat_map(|of| &of.any_of);
    sources
        .map(|source| {
            right(
                "watch",
                "batch",
                "jobs",
                source.exact_name().unwrap_or_default(),
            )
        })
        .collect()
}

fn waiter_rights(gate: &Gate, account: &str) -> Vec<Right> {
    let right = to(gate, &gate.namespace, account);
    let mut rights = job_rights(gate, &right);
    rights.push(right("watch", "", "configmaps", &names::record(&gate.name)));
    rights.push(right("list", "", "pods", ""));
    rights.push(Right {
        subresource: "log",
        ..right("get", "", "pods", "")
    });
    rights
}

fn server_rights(gate: &Gate, home: &str, account: &str) -> Vec<Right> {
    let right = to(gate, home, account);
    let mut rights = job_rights(gate, &right);
    rights.push(right("patch", "", "configmaps", &names::record(&gate.name)));
    rights.push(right("create", "", "configmaps", ""));
    rights
}

fn to(
    gate: &Gate,
    home: &str,
    account: &str,
) -> impl Fn(&'static str, &'static str, &'static str, &str) -> Right {
    let (namespace, home) = (gate.namespace.clone(), home.to_owned());
    let account = account.to_owned();
    move |verb, group, resource, name| Right {
        home: home.clone(),
        account: account.clone(),
        namespace: namespace.clone(),
        verb,
        group,
        resource,
        subresource: "",
        name: name.to_owned(),
    }
}

/// The permissions that the API server has said are missing, in words.
fn refused(snapshot: &Snapshot<'_>, rights: &[Right]) -> Vec<String> {
    let is_refused = |right: &&Right| snapshot.answers.get(right) == Some(&false);
    rights.iter().filter(is_refused).map(Right::words).collect()
}

/// Problems of the gates' namespaces.
pub(super) fn namespaces(snapshot: &Snapshot<'_>) -> Vec<Diagnosis> {
    let names: BTreeSet<&str> = snapshot
        .gates
        .iter()
        .map(|g| g.namespace.as_str())
        .collect();
    names
        .into_iter()
        .filter_map(|name| of_namespace(snapshot, name))
        .collect()
}

fn of_namespace(snapshot: &Snapshot<'_>, name: &str) -> Option<Diagnosis> {
    let namespace = snapshot.namespaces.get(name)?;
    let object = format!("Namespace {name}");
    if namespace.absent {
        let cause = format!("There is no namespace {name}, so there is nothing to hold.");
        let create = snapshot
            .flags
            .kubectl_alone(&format!("create namespace {}", quoted(name)));
        let start = Diagnosis::new(Code::NamespaceMissing, object, cause).milder_if(true);
        return Some(match reapply(snapshot) {
            Some(reapply) => start.fix(
                "Create it, and apply the chart's objects again:",
                format!("{create} && {reapply}"),
            ),
            None => start.fix("Create it, and apply the chart again:", create),
        });
    }
    if !is_new(snapshot, namespace) {
        return None;
    }
    let lacking = lacking(snapshot, name, namespace);
    (!lacking.is_empty()).then(|| {
        let cause = format!(
            "It was created after the release was installed, so the chart's objects for its gates are gone: {}.",
            lacking.join("; ")
        );
        let start = Diagnosis::new(Code::NamespaceNew, object, cause);
        fix_by_chart(snapshot, start)
    })
}

/// Whether a namespace was created after the release's configuration.
fn is_new(snapshot: &Snapshot<'_>, namespace: &NamespaceSeen) -> bool {
    let installed = snapshot
        .release
        .as_ref()
        .and_then(|release| release.created);
    match (namespace.created, installed) {
        (Some(created), Some(installed)) => created > installed,
        _ => false,
    }
}

/// The `ServiceAccount`s and permissions that a namespace's gates lack, in words.
fn lacking(snapshot: &Snapshot<'_>, name: &str, namespace: &NamespaceSeen) -> Vec<String> {
    let mut lacking = BTreeSet::new();
    for gate in snapshot.gates.iter().filter(|gate| gate.namespace == name) {
        for account in waiters(gate, namespace) {
            if has_account(namespace, &account) == Some(false) {
                lacking.insert(format!("ServiceAccount {account}"));
            }
            for right in refused(snapshot, &waiter_rights(gate, &account)) {
                lacking.insert(format!("{account} may not {right}"));
            }
        }
        if let Some((home, account)) = snapshot.release.as_ref().and_then(server_account) {
            for right in refused(snapshot, &server_rights(gate, home, account)) {
                lacking.insert(format!("the server may not {right}"));
            }
        }
    }
    lacking.into_iter().collect()
}

fn reapply(snapshot: &Snapshot<'_>) -> Option<String> {
    let release = snapshot.release.as_ref()?;
    let helm = release.helm.as_ref()?;
    Some(snapshot.flags.reapply(helm, &release.namespace))
}

/// Adds the remedy that creates the chart's objects again.
pub(super) fn fix_by_chart(snapshot: &Snapshot<'_>, start: Diagnosis) -> Diagnosis {
    match reapply(snapshot) {
        Some(reapply) => start.fix("Apply the chart's objects again:", reapply),
        None => start.advise("Install the chart's objects again, as they were installed."),
    }
}

/// Problems of a gate's record, permissions and `ServiceAccount`s.
pub(super) fn diagnose(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    if view.namespace.absent {
        return;
    }
    let before = troubles.len();
    if !is_new(view.snapshot, view.namespace) {
        of_accounts(view, troubles);
    }
    of_record(view, troubles);
    for trouble in &mut troubles[before..] {
        trouble.gate = Some(view.gate.name.clone());
        trouble.namespace = Some(view.gate.namespace.clone());
    }
}

fn of_accounts(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    let (snapshot, gate, namespace) = (view.snapshot, view.gate, view.namespace);
    for account in waiters(gate, namespace) {
        let object = format!("ServiceAccount {account}");
        if has_account(namespace, &account) == Some(false) {
            let cause = "It does not exist, so no new pod of the held workloads can be created.";
            let create = format!("create serviceaccount {}", quoted(&account));
            let create = snapshot.flags.kubectl(&gate.namespace, &create);
            let start = Diagnosis::new(Code::AccountMissing, object, cause);
            let start = fix_by_chart(snapshot, start);
            troubles.push(start.fix("Or, if the application's manifests have it:", create));
            continue;
        }
        let mut missing = refused(snapshot, &waiter_rights(gate, &account));
        // If the user may not ask the API server about permissions, a waiter that ended may have
        // reported the missing one.
        let said = view
            .pods()
            .find_map(|pod| pod.ended.as_ref().filter(|(code, _)| *code == 5));
        let details = match said {
            Some((_, message)) if !message.is_empty() => vec![first_line(message)],
            _ => Vec::new(),
        };
        let mut rights = waiter_rights(gate, &account).into_iter();
        let is_doubtful = rights.any(|right| !namespace.grants.allow(&right));
        if missing.is_empty() && said.is_some() && is_doubtful && snapshot.answers.is_empty() {
            missing.push("watch the Job".to_owned());
        }
        if missing.is_empty() {
            continue;
        }
        let only_logs = missing.iter().all(|right| right.contains(" pods"));
        let cause = format!(
            "It may not {}{}.",
            missing.join(", "),
            if only_logs {
                ", so waiters cannot show a failed Job's log"
            } else {
                ", so waiters give up"
            }
        );
        let start = Diagnosis::new(Code::WaiterRights, object, cause)
            .milder_if(only_logs)
            .with(&details);
        let known = account == gate.service_account || gate.extra_accounts.contains(&account);
        troubles.push(if known {
            fix_by_chart(snapshot, start)
        } else {
            start.fix(
                format!(
                    "Add {account} to extraAccounts of gate {} in the chart's values; until then:",
                    gate.name
                ),
                bind(view, &account),
            )
        });
    }
    if let Some((home, account)) = snapshot.release.as_ref().and_then(server_account) {
        let missing = refused(snapshot, &server_rights(gate, home, account));
        if !missing.is_empty() {
            let cause = format!(
                "The server may not {}, so new completions are not recorded.",
                missing.join(", ")
            );
            let object = format!("ServiceAccount {home}/{account}");
            troubles.push(fix_by_chart(
                snapshot,
                Diagnosis::new(Code::ServerRights, object, cause),
            ));
        }
    }
}

/// The command that binds a ServiceAccount to the chart's Role for waiters.
fn bind(view: &View<'_>, account: &str) -> String {
    let release = view.snapshot.release.as_ref();
    let name = release.map_or("migration-gate", |release| release.name.as_str());
    let (gate, namespace) = (&view.gate.name, &view.gate.namespace);
    view.snapshot.flags.kubectl(
        namespace,
        &format!(
            "create rolebinding {account}-waits --role={name}-{gate}-wait \
             --serviceaccount={namespace}:{account}"
        ),
    )
}

fn first_line(text: &str) -> String {
    explain::quoted(text.lines().next().unwrap_or_default())
}

fn of_record(view: &View<'_>, troubles: &mut Vec<Diagnosis>) {
    let (snapshot, gate) = (view.snapshot, view.gate);
    let name = names::record(&gate.name);
    let object = format!("ConfigMap {name}");
    let Some(read) = view.namespace.records.get(&gate.name) else {
        return;
    };
    let kubectl = |rest: &str| snapshot.flags.kubectl(&gate.namespace, rest);
    if let Some(record) = read {
        if record.immutable {
            let cause = "It is immutable, so no completed migration can be recorded.";
            troubles.push(
                Diagnosis::new(Code::RecordImmutable, object.clone(), cause).fix(
                    "Create it again, with the same data:",
                    // The server also creates a record as soon as this one is deleted.
                    format!(
                        "RECORD=\"$({} | sed -E '/^immutable: true$|^  (uid|resourceVersion): /d')\" \
                         && {} && echo \"$RECORD\" | {}",
                        kubectl(&format!("get configmap {name} -o yaml")),
                        kubectl(&format!("delete configmap {name}")),
                        kubectl("apply -f -")
                    ),
                ),
            );
        }
        for (key, reason) in &record.corrupt {
            let cause = format!(
                "{} is ignored: {}.",
                explain::quoted(key),
                first_line(reason)
            );
            let patch = serde_json::json!({"data": {key.as_str(): null}, "binaryData": {key.as_str(): null}});
            let patch = kubectl(&format!(
                "patch configmap {name} --type=merge -p {}",
                quoted(&patch.to_string())
            ));
            let start = Diagnosis::new(Code::RecordCorrupt, object.clone(), cause);
            troubles.push(start.fix("A running server removes it. By hand:", patch));
        }
    }
    let unrecorded = view.jobs().find_map(|seen| {
        let JobState::Complete { .. } = seen.job.state else {
            return None;
        };
        let old = view
            .seconds_since(seen.ended)
            .is_some_and(|seconds| seconds > RECORDING);
        let entry = Entry::of(&seen.job, gate.version.as_ref(), view.now).filter(|_| old)?;
        let word = entry.version.to_string();
        let known = read.as_ref().is_some_and(|record| {
            let same = |known: &Entry| match &known.version {
                Recorded::Word(said) => *said == word,
                version => known.uid == entry.uid || *version == entry.version,
            };
            record.has_forgotten(&entry.uid) || record.entries.values().any(same)
        });
        (!known).then_some(seen)
    });
    let Some(seen) = unrecorded else {
        return;
    };
    let cause = format!(
        "Job {} is complete and not in the record. Once it is deleted, new pods of its version wait.",
        seen.job.name
    );
    let start = Diagnosis::new(Code::RecordIncomplete, object, cause);
    troubles.push(match word_for(view, seen) {
        Some(version) => {
            let done = format!("record done {} --yes", quoted(&version));
            start
                .advise("The server records it as soon as it can.")
                .fix("By hand:", snapshot.flags.own(&done, &gate.name))
        }
        None => match &snapshot.release {
            Some(release) => start.fix(
                "The server records it as soon as it can. Its log says what prevents it:",
                snapshot.flags.kubectl(&release.namespace, SERVER_LOGS),
            ),
            None => start.advise("The server records it as soon as it can."),
        },
    });
}

/// The word for `record done` after a Job's migration. It opens only what is open already.
fn word_for(view: &View<'_>, seen: &JobSeen) -> Option<String> {
    let gate = view.gate;
    let word = version_of(&seen.job, gate)?;
    // A tag that moves does not identify a version.
    if gate.version.is_none() && gate.moving_tags().contains(&word) {
        return None;
    }
    let mut called = view.held.iter().filter(|(workload, _)| {
        let wanted = workload.version();
        wanted.is_some_and(|wanted| wanted.is_called(&word))
    });
    let first = called.next()?;
    let opens = |(_, decided): &(_, Option<Decided>)| matches!(decided, Some(Decided::Opens(_)));
    (opens(first) && called.all(opens)).then_some(word)
}
