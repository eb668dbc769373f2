//! Tests of a gate without problems, and then of each problem alone.

#![allow(
    clippy::needless_pass_by_value,
    reason = "objects are made for the call"
)]

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize as _;
use serde_json::{Value, json};

use super::*;
use crate::gates::{Config, HeldKind};
use crate::injection::Injection;
use crate::record::{Entry, Record, Recorded};

const NOW: &str = "2026-01-01T12:00:00Z";
const CA: &str = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----";

/// A snapshot of a cluster with a gate `shop`.
struct Stage {
    config: Config,
    job: Option<Value>,
    web: Value,
    pods: Vec<Value>,
    record: Option<Value>,
    namespace: NamespaceSeen,
    release: Option<Installation>,
    /// The API server's answer about permissions that no Role grants.
    allowed: bool,
    /// Whether the API server could be asked.
    is_asked: bool,
    record_is_read: bool,
}

impl Stage {
    /// Version 2 is migrated and runs.
    fn well() -> Self {
        Self::of(
            json!({"name": "shop", "namespace": "shop", "job": "migrate",
                        "deployments": ["web"], "serviceAccount": "waiter"}),
        )
    }

    fn of(gate: Value) -> Self {
        let config: Config = serde_json::from_value(json!({"gates": [gate]})).expect("a gate");
        let mut web = json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "w"},
            "spec": {"replicas": 2, "progressDeadlineSeconds": 600, "template": {"spec": {
                "serviceAccountName": "waiter",
                "containers": [{"name": "web", "image": "shop:2"}],
            }}},
            "status": {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2},
        });
        let template = web["spec"]["template"].clone();
        let injection = Injection::wanted(&config.gates[0], &config.waiter, &template);
        web["spec"]["template"]["spec"]["initContainers"] = json!([injection.container]);
        web["spec"]["template"]["spec"]["volumes"] = json!([injection.volume]);
        let job = job(
            "2",
            json!({
                "startTime": "2026-01-01T11:00:00Z", "completionTime": "2026-01-01T11:01:00Z",
                "succeeded": 1, "conditions": [{"type": "Complete", "status": "True"}],
            }),
        );
        let mut stage = Self {
            record: Some(recorded(&job)),
            job: Some(job),
            web,
            pods: Vec::new(),
            namespace: NamespaceSeen {
                created: "2026-01-01T00:00:00Z".parse().ok(),
                accounts: Some(["default", "waiter"].map(str::to_owned).into()),
                ..NamespaceSeen::default()
            },
            release: Some(release()),
            config,
            allowed: true,
            is_asked: true,
            record_is_read: true,
        };
        stage.namespace.absent = false;
        stage
    }

    /// Version 2 is wanted, and a pod of it waits for the Job. The record is empty.
    fn waiting(job: Option<Value>) -> Self {
        let mut stage = Self::well();
        stage.job = job;
        stage.record = None;
        stage.web["status"]["updatedReplicas"] = json!(1);
        stage
            .pods
            .push(stage.pod(json!({"running": {"startedAt": "2026-01-01T11:59:00Z"}})));
        stage
    }

    /// Grants every ServiceAccount everything in the namespace.
    fn grant_all(&mut self) {
        let metadata = json!({"name": "all", "namespace": "shop"});
        self.namespace
            .grants
            .add_role(&json!({"metadata": metadata, "rules": [
                {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]},
            ]}));
        let accounts = [("shop", "waiter"), ("ops", "migration-gate")];
        let subjects = accounts.map(|(namespace, name)| {
            json!({"kind": "ServiceAccount", "namespace": namespace, "name": name})
        });
        self.namespace.grants.add_binding(&json!({
            "metadata": metadata, "subjects": subjects,
            "roleRef": {"kind": "Role", "name": "all"},
        }));
    }

    fn template(&mut self) -> &mut Value {
        &mut self.web["spec"]["template"]
    }

    /// A pod of `web` whose waiter is in this state.
    fn pod(&self, state: Value) -> Value {
        json!({
            "metadata": {"name": "web-1", "namespace": "shop"},
            "spec": self.web["spec"]["template"]["spec"],
            "status": {"phase": "Pending", "initContainerStatuses": [
                {"name": "wait-for-migrations", "state": state, "restartCount": 1,
                 "lastState": {"terminated": {"exitCode": 3, "message": "failed"}}},
            ]},
        })
    }

    fn look(self) -> Overview {
        let reduction = Reduction::new(&self.config);
        let mut namespace = self.namespace;
        let web = reduction.workload(HeldKind::Deployment, &self.web);
        namespace.workloads = Some(web.into_iter().collect());
        namespace.jobs = Some(self.job.iter().filter_map(JobSeen::of).collect());
        namespace.pods = Some(
            self.pods
                .iter()
                .filter_map(|pod| reduction.pod(pod))
                .collect(),
        );
        let record = self
            .record
            .map(|record| Record::deserialize(record).expect("a record"));
        if self.record_is_read {
            namespace.records.insert("shop".to_owned(), record);
        }
        let mut snapshot = Snapshot {
            config: &self.config,
            gates: self.config.gates.iter().collect(),
            flags: Flags::default(),
            release: self.release,
            namespaces: [("shop".to_owned(), namespace)].into(),
            answers: BTreeMap::new(),
        };
        let mut doubtful = doubtful_rights(&snapshot);
        if !self.is_asked {
            doubtful.clear();
        }
        snapshot.answers = doubtful
            .into_iter()
            .map(|right| (right, self.allowed))
            .collect();
        overview(&snapshot, NOW.parse().expect("a time"))
    }

    /// The level of the only problem, and the command that fixes it.
    fn trouble(self, code: TroubleCode) -> (Grade, String) {
        let troubles = self.look().troubles;
        let [trouble] = troubles.as_slice() else {
            panic!("{troubles:#?}");
        };
        assert_eq!(trouble.code, code, "{trouble:#?}");
        assert!(!trouble.remedies.is_empty(), "{trouble:#?}");
        let command = trouble
            .remedies
            .iter()
            .find_map(|remedy| remedy.command.clone());
        (trouble.level, command.unwrap_or_default())
    }
}

fn job(tag: &str, status: Value) -> Value {
    json!({
        "metadata": {"name": "migrate", "namespace": "shop", "uid": format!("job-{tag}"),
                     "creationTimestamp": "2026-01-01T11:00:00Z", "annotations": {
                         "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "spec": {"backoffLimit": 3, "template": {"spec": {
            "containers": [{"name": "migrate", "image": format!("shop:{tag}")}],
        }}},
        "status": status,
    })
}

fn running(since: &str) -> Value {
    job("2", json!({"startTime": since, "active": 1, "ready": 1}))
}

fn running_job() -> Value {
    running("2026-01-01T11:59:00Z")
}

fn over(kind: &str) -> Value {
    json!({"startTime": "2026-01-01T11:00:00Z", "failed": 4, "conditions": [
        {"type": kind, "status": "True", "reason": "BackoffLimitExceeded", "message": "too often",
         "lastTransitionTime": "2026-01-01T11:01:00Z"},
    ]})
}

/// The record of a Job's completion.
fn recorded(job: &Value) -> Value {
    let job = JobSeen::of(job).expect("a Job").job;
    let entry = Entry::of(&job, None, Timestamp::UNIX_EPOCH).expect("an entry");
    json!({"metadata": {}, "data": {entry.key(): entry.to_value()}})
}

fn release() -> Installation {
    let trusting = Some(Webhooks {
        bundles: vec![CA.to_owned()],
    });
    Installation {
        name: "migration-gate".to_owned(),
        namespace: "ops".to_owned(),
        helm: Some("gate".to_owned()),
        version: Some("0.1.0".to_owned()),
        created: "2026-01-01T01:00:00Z".parse().ok(),
        server: Some(Server::Present {
            replicas: 2,
            ready: 2,
            account: "migration-gate".to_owned(),
        }),
        webhooks: [
            ("MutatingWebhookConfiguration".to_owned(), trusting.clone()),
            ("ValidatingWebhookConfiguration".to_owned(), trusting),
        ]
        .into(),
        certificate: Some(Certificate {
            secret: "migration-gate-certificate".to_owned(),
            source: CertificateMaker::SelfManaged,
            not_before: "2025-12-01T00:00:00Z".parse().ok(),
            not_after: "2026-03-01T00:00:00Z".parse().ok(),
            authorities: CA.to_owned(),
        }),
        answer: Some(Calling::Good),
    }
}

#[test]
fn a_gate_that_is_well_has_no_trouble() {
    let overview = Stage::well().look();
    assert_eq!(overview.troubles, []);
    assert!(overview.is_open() && !overview.is_wrong());
    let gate = &overview.gates[0];
    assert_eq!(gate.state, Passage::Open);
    assert_eq!(
        (gate.jobs[0].state, gate.jobs[0].seconds),
        ("complete", Some(60))
    );
    assert_eq!(gate.jobs[0].version.as_deref(), Some("2"));
    let web = &gate.workloads[0];
    assert_eq!((web.waiter, web.open), ("in-place", Some(true)));
    assert_eq!(web.wants.as_deref(), Some("2"));
}

#[test]
fn a_migration_that_runs_is_no_trouble() {
    let overview = Stage::waiting(Some(running("2026-01-01T11:59:30Z"))).look();
    assert_eq!(overview.troubles, []);
    let gate = &overview.gates[0];
    assert_eq!(gate.state, Passage::Waiting);
    let pod = &gate.pods[0];
    assert_eq!((pod.seconds, pod.gives_up_in), (Some(60), Some(540)));
    assert_eq!(pod.why, ["Job migrate is running"]);
}

#[test]
fn a_job_that_does_not_open_the_gate_is_a_trouble() {
    let check = |job: Option<Value>, code: TroubleCode, fixes: &str| {
        let (level, command) = Stage::waiting(job.clone()).trouble(code);
        assert_eq!(level, Grade::Error, "{code:?}");
        assert!(command.contains(fixes), "{code:?}: {command}");
        // No pod waits yet. A failure is an error all the same.
        let mut stage = Stage::waiting(job);
        stage.pods.clear();
        let expected = match code {
            TroubleCode::JobFailed => Grade::Error,
            _ => Grade::Warning,
        };
        assert_eq!(stage.trouble(code).0, expected, "{code:?}");
    };
    let again = "kubectl -n shop apply view-last-applied job migrate -o json | \
                 kubectl -n shop replace --force -f -";
    check(
        Some(job("2", over("Failed"))),
        TroubleCode::JobFailed,
        again,
    );
    check(
        None,
        TroubleCode::JobMissing,
        "migration-gate record done 2 --yes --gate shop",
    );
    check(
        Some(job("1", json!({"active": 1, "ready": 1}))),
        TroubleCode::JobOfAnotherVersion,
        "kubectl -n shop delete job migrate",
    );
    let mut suspended = job("2", json!({}));
    suspended["spec"]["suspend"] = json!(true);
    check(
        Some(suspended.clone()),
        TroubleCode::JobSuspended,
        r#"kubectl -n shop patch job migrate --type=merge -p '{"spec":{"suspend":false}}'"#,
    );
    suspended["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("batch");
    check(
        Some(suspended),
        TroubleCode::JobQueued,
        "get workloads.kueue",
    );
    check(
        Some(job("2", json!({}))),
        TroubleCode::JobNoPod,
        "describe job migrate",
    );
    let mut empty = job("2", over("Complete"));
    empty["spec"]["completions"] = json!(0);
    check(Some(empty), TroubleCode::JobEmpty, again);
    let mut deleting = job("2", json!({"active": 1, "ready": 1}));
    deleting["metadata"]["deletionTimestamp"] = json!("2026-01-01T11:50:00Z");
    check(Some(deleting), TroubleCode::JobDeleting, "get job migrate");
}

#[test]
fn who_applied_the_job_can_apply_it_again() {
    let check = |metadata: Value, fixes: &str| {
        let mut job = job("2", over("Failed"));
        job["metadata"]["annotations"] = metadata["annotations"].clone();
        job["metadata"]["labels"] = metadata["labels"].clone();
        let (_, command) = Stage::waiting(Some(job)).trouble(TroubleCode::JobFailed);
        assert_eq!(command, fixes);
    };
    let delete = "kubectl -n shop delete job migrate";
    check(json!({}), delete);
    check(
        json!({"annotations": {"meta.helm.sh/release-name": "shop"}}),
        delete,
    );
    check(
        json!({"labels": {"kustomize.toolkit.fluxcd.io/name": "apps",
                          "kustomize.toolkit.fluxcd.io/namespace": "flux-system"}}),
        &format!(
            "{delete} && now=$(date +%s) && kubectl -n flux-system annotate \
             kustomizations.kustomize.toolkit.fluxcd.io apps --overwrite \
             reconcile.fluxcd.io/requestedAt=\"$now\""
        ),
    );
    check(
        json!({"labels": {"helm.toolkit.fluxcd.io/name": "shop",
                          "helm.toolkit.fluxcd.io/namespace": "apps"},
               "annotations": {"meta.helm.sh/release-name": "shop"}}),
        &format!(
            "{delete} && now=$(date +%s) && kubectl -n apps annotate \
             helmreleases.helm.toolkit.fluxcd.io shop --overwrite \
             reconcile.fluxcd.io/requestedAt=\"$now\" reconcile.fluxcd.io/forceAt=\"$now\""
        ),
    );
    let tracked = "shop:batch/Job:shop/migrate";
    check(
        json!({"annotations": {"argocd.argoproj.io/tracking-id": tracked,
                               "argocd.argoproj.io/hook": "PreSync"}}),
        "argocd app sync shop",
    );
    check(
        json!({"annotations": {"argocd.argoproj.io/tracking-id": tracked}}),
        &format!("{delete} && argocd app sync shop"),
    );
}

/// A completed hook is deleted, so only the workload shows who applies the Job.
#[test]
fn who_applies_the_workload_can_apply_the_job() {
    let first = |annotations: Value| {
        let mut stage = Stage::waiting(None);
        stage.web["metadata"]["annotations"] = annotations;
        let overview = stage.look();
        let trouble = overview.troubles.iter();
        let mut trouble = trouble.filter(|it| it.code == TroubleCode::JobMissing);
        let remedies = &trouble.next().expect("it waits").remedies;
        (remedies[0].text.clone(), remedies[0].command.clone())
    };
    let (_, command) =
        first(json!({"argocd.argoproj.io/tracking-id": "shop:apps/Deployment:shop/web"}));
    assert_eq!(command.as_deref(), Some("argocd app sync shop"));
    let (text, command) = first(json!({"meta.helm.sh/release-name": "shop"}));
    assert_eq!(
        (text.as_str(), command),
        ("Upgrade release shop again, which applies the Job.", None)
    );
    assert_eq!(first(json!({})).0, "Apply the migration Job.");
}

#[test]
fn a_completion_that_was_forgotten_is_a_trouble() {
    let well = Stage::well();
    let mut record = well.record.clone().expect("a record");
    record["data"] = json!({"-forgotten": json!({
        "image": "none:-forgotten", "job": "", "uid": "", "completed": "1970-01-01T00:00:00Z",
        "forgotten": ["job-2"],
    }).to_string()});
    let mut stage = Stage::waiting(well.job);
    stage.record = Some(record);
    let (_, command) = stage.trouble(TroubleCode::JobForgotten);
    assert!(command.contains("replace --force"), "{command}");
}

#[test]
fn a_jobs_pod_that_can_not_start_is_a_trouble() {
    let check = |status: Value, fixes: &str| {
        let mut stage = Stage::waiting(Some(job("2", json!({"active": 1, "ready": 0}))));
        stage.pods.push(json!({
            "metadata": {"name": "migrate-1", "namespace": "shop",
                         "labels": {"batch.kubernetes.io/job-name": "migrate"}},
            "spec": {}, "status": status,
        }));
        let (_, command) = stage.trouble(TroubleCode::JobPodBlocked);
        assert!(command.contains(fixes), "{command}");
    };
    let waiting = |reason: &str| {
        json!({"phase": "Pending", "containerStatuses": [
            {"name": "migrate", "state": {"waiting": {"reason": reason, "message": "m"}}},
        ]})
    };
    check(waiting("ImagePullBackOff"), "replace --force");
    check(
        waiting("CreateContainerConfigError"),
        "describe pod migrate-1",
    );
    check(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False",
               "message": "persistentvolumeclaim \"x\" not found"}]}),
        "get persistentvolumeclaims",
    );
}

#[test]
fn a_migration_that_takes_far_longer_than_the_last_is_a_trouble() {
    let at = |since: &str, recorded_before: bool| {
        let mut stage = Stage::waiting(Some(running(since)));
        if recorded_before {
            let first = job(
                "1",
                json!({
                    "startTime": "2026-01-01T10:00:00Z", "completionTime": "2026-01-01T10:00:30Z",
                    "conditions": [{"type": "Complete", "status": "True"}],
                }),
            );
            stage.record = Some(recorded(&first));
        }
        stage
    };
    let (level, command) = at("2026-01-01T11:58:00Z", true).trouble(TroubleCode::JobSlow);
    assert_eq!(level, Grade::Warning);
    assert!(command.contains("--prefix"), "{command}");
    assert_eq!(at("2026-01-01T11:59:00Z", true).look().troubles, []);
    // Without an earlier migration, the gate's timeout counts.
    assert_eq!(at("2026-01-01T11:51:00Z", false).look().troubles, []);
    at("2026-01-01T11:49:00Z", false).trouble(TroubleCode::JobSlow);
}

#[test]
fn a_record_that_does_not_serve_is_a_trouble() {
    let mut stage = Stage::well();
    stage.record.as_mut().expect("a record")["immutable"] = json!(true);
    let (_, command) = stage.trouble(TroubleCode::RecordImmutable);
    assert_eq!(
        command,
        "RECORD=\"$(kubectl -n shop get configmap migration-gate-shop -o yaml | \
         sed -E '/^immutable: true$|^  (uid|resourceVersion): /d')\" && \
         kubectl -n shop delete configmap migration-gate-shop && \
         echo \"$RECORD\" | kubectl -n shop apply -f -"
    );

    let mut stage = Stage::well();
    stage.record.as_mut().expect("a record")["data"]["x"] = json!("garbage");
    let (_, command) = stage.trouble(TroubleCode::RecordCorrupt);
    assert!(command.contains(r#"-p '{"data":{"x":null}"#), "{command}");

    let mut stage = Stage::well();
    stage.record = None;
    let (_, command) = stage.trouble(TroubleCode::RecordIncomplete);
    assert_eq!(command, "migration-gate record done 2 --yes --gate shop");

    // `record done` refuses a tag that moves.
    let mut stage = Stage::well();
    stage.record = None;
    let latest = json!([{"name": "migrate", "image": "shop:latest"}]);
    stage.job.as_mut().expect("a Job")["spec"]["template"]["spec"]["containers"] = latest;
    stage.template()["spec"]["containers"][0]["image"] = json!("shop:latest");
    let troubles = stage.look().troubles;
    let incomplete = TroubleCode::RecordIncomplete;
    let found = troubles.iter().find(|trouble| trouble.code == incomplete);
    let remedies = &found.expect("a trouble").remedies;
    assert!(
        remedies
            .iter()
            .filter_map(|r| r.command.as_ref())
            .all(|c| c.contains(" logs ")),
        "{remedies:#?}"
    );
}

/// The commands for a record that lacks a completion.
fn commands_for_incomplete(stage: Stage) -> Vec<String> {
    let mut troubles = stage.look().troubles;
    troubles.retain(|trouble| trouble.code == TroubleCode::RecordIncomplete);
    let remedies = troubles.into_iter().flat_map(|trouble| trouble.remedies);
    remedies.filter_map(|remedy| remedy.command).collect()
}

#[test]
fn no_command_records_more_than_what_is_migrated() {
    let see = "kubectl -n ops logs -l app.kubernetes.io/name=migration-gate --prefix --tail=20";
    // Another Job of the gate has failed.
    let two = json!({"name": "shop", "namespace": "shop", "jobs": [{"name": "migrate"}, {"name": "seed"}],
                     "deployments": ["web"], "serviceAccount": "waiter"});
    let mut stage = Stage::of(two);
    stage.record = None;
    assert_eq!(commands_for_incomplete(stage), [see]);

    // Two images have the same tag and different digests.
    let digest = |digit: &str| format!("shop:2@sha256:{}", digit.repeat(64));
    let mut stage = Stage::well();
    stage.record = None;
    let containers = json!([{"name": "migrate", "image": digest("b")}]);
    stage.job.as_mut().expect("a Job")["spec"]["template"]["spec"]["containers"] = containers;
    stage.template()["spec"]["containers"][0]["image"] = json!(digest("a"));
    assert_eq!(commands_for_incomplete(stage), [see]);

    // The version was recorded by hand.
    let mut stage = Stage::well();
    let mut entry = Entry::of(
        &JobSeen::of(stage.job.as_ref().expect("a Job"))
            .expect("a Job")
            .job,
        None,
        Timestamp::UNIX_EPOCH,
    )
    .expect("an entry");
    entry.version = Recorded::Word("2".to_owned());
    entry.uid = String::new();
    stage.record = Some(json!({"metadata": {}, "data": {entry.key(): entry.to_value()}}));
    assert_eq!(stage.look().troubles, []);
}

#[test]
fn what_could_not_be_read_is_not_judged() {
    // There is no Job, and the record, which could not be read, may have the version.
    let mut stage = Stage::waiting(None);
    stage.record_is_read = false;
    let overview = stage.look();
    assert_eq!(overview.troubles, []);
    assert_eq!(overview.gates[0].state, Passage::Unknown);
    assert_eq!(overview.gates[0].workloads[0].open, None);
    // A complete Job opens the gate without the record.
    let mut stage = Stage::well();
    stage.record_is_read = false;
    assert_eq!(stage.look().gates[0].state, Passage::Open);

    // A ServiceAccount has all permissions now, and its waiter failed before.
    let mut stage = Stage::well();
    stage.allowed = false;
    stage.is_asked = false;
    let mut pod = stage.pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
    pod["status"]["initContainerStatuses"][0]["lastState"]["terminated"]["exitCode"] = json!(5);
    stage.pods.push(pod.clone());
    let codes: Vec<TroubleCode> = stage.look().troubles.iter().map(|t| t.code).collect();
    assert_eq!(codes, [TroubleCode::WaiterRights, TroubleCode::PodBackOff]);
    let mut stage = Stage::well();
    stage.grant_all();
    stage.is_asked = false;
    stage.pods.push(pod);
    stage.trouble(TroubleCode::PodBackOff);
}

#[test]
fn a_workload_that_goes_says_nothing() {
    let mut stage = Stage::well();
    stage.web["metadata"]["name"] = json!("other");
    stage.web["metadata"]["deletionTimestamp"] = json!(NOW);
    assert_eq!(stage.look().troubles, []);
}

#[test]
fn a_waiter_that_waits_for_something_else_is_not_known_to_open() {
    let mut stage = Stage::well();
    let args = &mut stage.template()["spec"]["initContainers"][0]["args"];
    let args = args.as_array_mut().expect("arguments");
    for arg in args.iter_mut().filter(|arg| **arg == "--job=migrate") {
        *arg = json!("--job=other");
    }
    let overview = stage.look();
    assert_eq!(overview.troubles[0].code, TroubleCode::WaiterStale);
    assert_eq!(overview.gates[0].state, Passage::Unknown);
    assert_eq!(overview.gates[0].workloads[0].open, None);
    assert!(!overview.is_open());
}

#[test]
fn a_paused_deployment_is_not_restarted() {
    let mut stage = Stage::well();
    stage.web["spec"]["paused"] = json!(true);
    let spec = &mut stage.template()["spec"];
    spec.as_object_mut()
        .map(|spec| spec.remove("initContainers"));
    let (_, command) = stage.trouble(TroubleCode::WaiterMissing);
    assert!(
        command.starts_with("kubectl -n shop patch deployment/web"),
        "{command}"
    );
}

#[test]
fn the_job_of_a_pattern_is_not_made_anew_for_another_version() {
    let gate = json!({"name": "shop", "namespace": "shop", "job": "migr*",
                      "deployments": ["web"], "serviceAccount": "waiter"});
    let mut stage = Stage::of(gate);
    let old = job("1", over("Complete"));
    stage.record = Some(recorded(&old));
    stage.job = Some(old);
    let command = stage.trouble(TroubleCode::JobOfAnotherVersion).1;
    assert_eq!(command, "migration-gate record done 2 --yes --gate shop");
}

#[test]
fn what_no_word_says_is_recorded_as_it_is_wanted() {
    for images in [&["shop:latest"][..], &["shop:2", "proxy:7"]] {
        let mut stage = Stage::waiting(None);
        let container = |image: &&str| json!({"name": image.split(':').next(), "image": image});
        stage.template()["spec"]["containers"] = images.iter().map(container).collect();
        let troubles = stage.look().troubles;
        let missing = TroubleCode::JobMissing;
        let found = troubles.iter().find(|trouble| trouble.code == missing);
        let remedies = &found.expect("a trouble").remedies;
        let commands: Vec<_> = remedies
            .iter()
            .filter_map(|r| r.command.as_deref())
            .collect();
        let done = "migration-gate record done --wanted --yes --gate shop";
        assert_eq!(commands, [done], "{images:?}");
    }
}

#[test]
fn missing_rights_and_accounts_are_troubles() {
    let chart = "helm -n ops get manifest gate | kubectl annotate --local -f - -o yaml \
                 meta.helm.sh/release-name=gate meta.helm.sh/release-namespace=ops | kubectl apply -f -";
    let mut stage = Stage::well();
    stage.namespace.accounts = Some(BTreeSet::new());
    let (level, command) = stage.trouble(TroubleCode::AccountMissing);
    assert_eq!((level, command.as_str()), (Grade::Error, chart));

    let mut stage = Stage::well();
    stage.allowed = false;
    let codes: Vec<TroubleCode> = stage.look().troubles.iter().map(|t| t.code).collect();
    assert_eq!(
        codes,
        [TroubleCode::WaiterRights, TroubleCode::ServerRights]
    );

    // The application has its own ServiceAccount.
    let mut stage = Stage::well();
    stage.template()["spec"]["serviceAccountName"] = json!("own");
    stage.namespace.accounts = Some(["own".to_owned()].into());
    stage.allowed = false;
    let troubles = stage.look().troubles;
    let command = troubles[0].remedies[0].command.as_deref();
    assert_eq!(
        command,
        Some(
            "kubectl -n shop create rolebinding own-waits --role=migration-gate-shop-wait \
             --serviceaccount=shop:own"
        )
    );

    // Everything is missing in a namespace that was created again.
    let mut stage = Stage::well();
    stage.allowed = false;
    stage.namespace.created = "2026-01-01T02:00:00Z".parse().ok();
    let (_, command) = stage.trouble(TroubleCode::NamespaceNew);
    assert_eq!(command, chart);
    let mut stage = Stage::well();
    stage.namespace.created = "2026-01-01T02:00:00Z".parse().ok();
    assert_eq!(stage.look().troubles, []);

    let mut stage = Stage::well();
    stage.namespace.absent = true;
    stage.job = None;
    stage.web = json!({});
    stage.record = None;
    let (_, command) = stage.trouble(TroubleCode::NamespaceMissing);
    assert!(
        command.starts_with("kubectl create namespace shop && "),
        "{command}"
    );
}

#[test]
fn what_roles_are_seen_to_give_is_not_asked_about() {
    let mut stage = Stage::well();
    stage.allowed = false;
    let rules = json!([
        {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["watch"]},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": ["watch", "patch", "create"]},
        {"apiGroups": [""], "resources": ["pods", "pods/log"], "verbs": ["list", "get"]},
    ]);
    let grants = &mut stage.namespace.grants;
    grants.add_role(&json!({"metadata": {"name": "r"}, "rules": rules}));
    grants.add_binding(
        &json!({"roleRef": {"kind": "Role", "name": "r"}, "subjects": [
            {"kind": "ServiceAccount", "namespace": "shop", "name": "waiter"},
            {"kind": "ServiceAccount", "namespace": "ops", "name": "migration-gate"},
        ]}),
    );
    assert_eq!(stage.look().troubles, []);
}

#[test]
fn a_waiter_that_does_not_hold_is_a_trouble() {
    let restart = "kubectl -n shop rollout restart deployment/web";
    let check = |change: &dyn Fn(&mut Value), code: TroubleCode, expect: Grade| {
        let mut stage = Stage::well();
        change(stage.template());
        let (level, command) = stage.trouble(code);
        assert_eq!((level, command.as_str()), (expect, restart));
    };
    check(
        &|template| template["spec"]["initContainers"] = json!([]),
        TroubleCode::WaiterMissing,
        Grade::Warning,
    );
    check(
        &|template| template["spec"]["initContainers"][0]["args"][0] = json!("sleep"),
        TroubleCode::WaiterStale,
        Grade::Error,
    );
    check(
        &|template| {
            let args = &mut template["spec"]["initContainers"][0]["args"];
            let text = args.to_string().replace("shop:2", "shop:1");
            *args = serde_json::from_str(&text).expect("JSON");
        },
        TroubleCode::WaiterStale,
        Grade::Error,
    );
    check(
        &|template| {
            let containers = &mut template["spec"]["initContainers"];
            *containers = json!([{"name": "other"}, containers[0]]);
        },
        TroubleCode::WaiterNotFirst,
        Grade::Error,
    );
}

#[test]
fn a_waiter_that_no_gate_keeps_is_a_trouble() {
    let mut stage = Stage::well();
    stage.web["metadata"]["name"] = json!("other");
    let (_, command) = stage.trouble(TroubleCode::WaiterUnkept);
    assert_eq!(
        command,
        r#"kubectl -n shop patch deployment/other --type=json -p '[{"op":"remove","path":"/spec/template/spec/initContainers"},{"op":"remove","path":"/spec/template/spec/volumes"}]'"#
    );
}

#[test]
fn other_troubles_of_workloads() {
    let mut stage = Stage::well();
    let env = json!([{"name": "PIEFED_INIT_CONTAINER", "value": "1"}]);
    stage.template()["spec"]["containers"][0]["env"] = env;
    let (_, command) = stage.trouble(TroubleCode::Offender);
    assert_eq!(
        command,
        "kubectl -n shop set env deployment/web PIEFED_INIT_CONTAINER-"
    );

    let mut stage = Stage::waiting(Some(running("2026-01-01T11:55:00Z")));
    stage.web["status"]["conditions"] = json!([{"type": "Progressing", "status": "False",
        "reason": "ProgressDeadlineExceeded", "message": "too long"}]);
    let (level, command) = stage.trouble(TroubleCode::ProgressDeadline);
    assert_eq!(level, Grade::Warning);
    assert!(
        command.contains(r#"{"progressDeadlineSeconds":1200}"#),
        "{command}"
    );

    let mut stage = Stage::well();
    stage.web["status"]["conditions"] = json!([{"type": "ReplicaFailure", "status": "True",
        "message": "exceeded quota: q"}]);
    let troubles = stage.look().troubles;
    let commands = troubles[0].remedies.iter().map(|r| r.command.as_deref());
    assert_eq!(
        commands.collect::<Vec<_>>(),
        [
            Some("kubectl -n shop describe resourcequotas"),
            Some(
                "kubectl -n shop annotate deployment/web --overwrite \
                  migration-gate.io/retried=1767268800"
            ),
        ]
    );

    let mut stage = Stage::of(
        json!({"name": "shop", "namespace": "shop", "job": "migrate",
        "deployments": ["web"], "serviceAccount": "waiter", "container": "app"}),
    );
    stage.job = None;
    stage.trouble(TroubleCode::VersionUnknown);

    let mut stage = Stage::well();
    let mut second = stage.config.gates[0].clone();
    second.name = "second".to_owned();
    stage.config.gates.push(second);
    let (_, command) = stage.trouble(TroubleCode::TwoGates);
    assert_eq!(
        command,
        "kubectl -n ops get configmap migration-gate -o yaml"
    );
}

#[test]
fn pods_that_do_not_notice_are_a_trouble() {
    let mut stage = Stage::well();
    stage
        .pods
        .push(stage.pod(json!({"waiting": {"reason": "CrashLoopBackOff"}})));
    let (_, command) = stage.trouble(TroubleCode::PodBackOff);
    assert_eq!(command, "kubectl -n shop delete pod web-1");

    let mut stage = Stage::well();
    stage
        .pods
        .push(stage.pod(json!({"waiting": {"reason": "ErrImagePull", "message": "m"}})));
    stage.trouble(TroubleCode::PodBlocked);

    // The waiter has been running for long enough to have seen it.
    let mut stage = Stage::well();
    let running = |since: &str| json!({"running": {"startedAt": since}});
    let mut pod = stage.pod(running("2026-01-01T11:58:00Z"));
    let ended = &mut pod["status"]["initContainerStatuses"][0]["lastState"]["terminated"];
    *ended = json!({"exitCode": 4, "message": "gave up: the API server cannot be reached"});
    stage.pods.push(pod);
    let overview = stage.look();
    assert_eq!(overview.troubles[0].code, TroubleCode::WaiterCutOff);
    assert_eq!(overview.troubles[0].level, Grade::Error);
    assert!(overview.troubles[0].details[0].contains("cannot be reached"));
    let mut stage = Stage::well();
    stage.pods.push(stage.pod(running("2026-01-01T11:59:30Z")));
    assert_eq!(stage.look().troubles, []);

    // The waiter is killed, with an open or a closed gate.
    for mut stage in [Stage::well(), Stage::waiting(Some(running_job()))] {
        stage.pods.clear();
        let mut pod = stage.pod(json!({"waiting": {"reason": "CrashLoopBackOff"}}));
        let ended = &mut pod["status"]["initContainerStatuses"][0]["lastState"]["terminated"];
        *ended = json!({"exitCode": 137, "reason": "OOMKilled"});
        stage.pods.push(pod);
        let overview = stage.look();
        let [trouble] = overview.troubles.as_slice() else {
            panic!("{:#?}", overview.troubles);
        };
        assert_eq!(trouble.code, TroubleCode::PodBlocked);
        assert!(trouble.remedies[0].text.contains("waiter.resources"));
    }

    // A StatefulSet does not replace a pod of its last revision that was never ready.
    let mut stage = Stage::well();
    let mut pod = stage.pod(running("2026-01-01T11:58:00Z"));
    pod["spec"]["containers"][0]["image"] = json!("shop:1");
    pod["metadata"]["ownerReferences"] = json!([{"kind": "StatefulSet", "name": "web"}]);
    stage.pods.push(pod);
    let (level, command) = stage.trouble(TroubleCode::PodOutdated);
    assert_eq!(level, Grade::Error);
    assert_eq!(command, "kubectl -n shop delete pod/web-1");

    // Its waiter has succeeded, so the pod waits for something else.
    let mut stage = Stage::well();
    stage
        .pods
        .push(stage.pod(json!({"terminated": {"exitCode": 0}})));
    assert_eq!(stage.look().gates[0].pods, []);
}

#[test]
fn a_server_that_waits_for_its_webhooks_is_no_trouble_of_its_own() {
    let mut stage = Stage::well();
    let release = stage.release.as_mut().expect("a release");
    release.server = Some(Server::Present {
        replicas: 2,
        ready: 0,
        account: "migration-gate".to_owned(),
    });
    let kind = "ValidatingWebhookConfiguration".to_owned();
    release.webhooks.insert(kind, None);
    stage.trouble(TroubleCode::WebhookMissing);
}

#[test]
fn troubles_of_the_release() {
    let check = |change: &dyn Fn(&mut Installation), code: TroubleCode, fixes: &str| {
        let mut stage = Stage::well();
        change(stage.release.as_mut().expect("a release"));
        let (_, command) = stage.trouble(code);
        assert!(command.contains(fixes), "{code:?}: {command}");
    };
    let chart = "helm -n ops get manifest gate | kubectl annotate --local -f - -o yaml \
                 meta.helm.sh/release-name=gate meta.helm.sh/release-namespace=ops | kubectl apply -f -";
    let replicas = |replicas, ready| {
        Some(Server::Present {
            replicas,
            ready,
            account: "migration-gate".to_owned(),
        })
    };
    check(
        &|r| r.server = Some(Server::Missing),
        TroubleCode::ServerMissing,
        chart,
    );
    check(
        &|r| r.server = replicas(0, 0),
        TroubleCode::ServerNotReady,
        "kubectl -n ops scale deployment migration-gate --replicas=2",
    );
    check(
        &|r| r.server = replicas(2, 0),
        TroubleCode::ServerNotReady,
        "kubectl -n ops describe pods",
    );
    let mutating = "MutatingWebhookConfiguration";
    check(
        &|r| drop(r.webhooks.insert(mutating.to_owned(), None)),
        TroubleCode::WebhookMissing,
        chart,
    );
    for bundle in [
        "",
        "-----BEGIN CERTIFICATE-----\nQg==\n-----END CERTIFICATE-----",
    ] {
        let bundles = vec![CA.to_owned(), bundle.to_owned()];
        let untrusting = Webhooks { bundles };
        let set = |r: &mut Installation, source| {
            r.webhooks
                .insert(mutating.to_owned(), Some(untrusting.clone()));
            r.certificate.as_mut().expect("a certificate").source = source;
        };
        let code = TroubleCode::WebhookUntrusted;
        check(
            &|r| set(r, CertificateMaker::SelfManaged),
            code,
            "rollout restart deployment",
        );
        check(
            &|r| set(r, CertificateMaker::CertManager),
            code,
            "cainjector",
        );
        check(
            &|r| set(r, CertificateMaker::Files),
            code,
            "for i in 0 1; do",
        );
    }
    check(
        &|r| r.answer = Some(Calling::Failed("x509".to_owned())),
        TroubleCode::WebhookNotAnswering,
        chart,
    );
    check(
        &|r| r.answer = Some(Calling::NotCalled("Deployment web".to_owned())),
        TroubleCode::WebhookNotCalled,
        chart,
    );
    check(
        &|r| {
            let certificate = r.certificate.as_mut().expect("a certificate");
            certificate.not_after = "2026-01-03T00:00:00Z".parse().ok();
        },
        TroubleCode::CertificateExpiring,
        "logs -l app.kubernetes.io/name=migration-gate --prefix",
    );
    let mut stage = Stage::well();
    stage.release = None;
    stage.trouble(TroubleCode::NotInstalled);
}

#[test]
fn what_was_not_read_is_not_judged() {
    let config = Config::default();
    let snapshot = Snapshot {
        config: &config,
        gates: config.gates.iter().collect(),
        flags: Flags::default(),
        release: Some(Installation::default()),
        namespaces: BTreeMap::new(),
        answers: BTreeMap::new(),
    };
    let overview = overview(&snapshot, NOW.parse().expect("a time"));
    assert_eq!(overview.troubles, []);
    assert_eq!(overview.gates[0].state, Passage::Unknown);
}

#[test]
fn managed_fields_are_left_out_and_all_else_is_kept() {
    let object = json!({
        "apiVersion": "v1", "metadata": {"name": "a", "managedFields": [{"manager": "x"}]},
        "data": {"k": "v"}, "immutable": true,
    });
    let Lean(lean) = serde_json::from_value(object).expect("an object");
    assert_eq!(lean["metadata"]["name"], "a");
    assert_eq!(
        (&lean["data"]["k"], &lean["immutable"]),
        (&json!("v"), &json!(true))
    );
    assert!(!lean.to_string().contains("manager"), "{lean}");
}

#[test]
fn every_code_has_a_word_of_its_own() {
    let words: BTreeSet<&str> = TroubleCode::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(words.len(), TroubleCode::ALL.len());
}
