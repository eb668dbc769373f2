//! `status` on a real node: the tests cause many problems at a time, one report shows them all, and
//! the commands that it prints fix them.
//!
//! Most of them concern workloads without pods, and Jobs whose status the test writes, so they cost
//! little.

mod objects;
mod operator;
mod size;

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Pod, Secret};
use kube::Api;
use kube::api::{Patch, PatchParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use time::OffsetDateTime;

use self::objects::{AGAIN, GONE, QUOTA, SHOP, UNNAMED};
use self::operator::{Operator, PATIENCE, Trouble};
use self::size::status_of_a_large_cluster;
use testkit::client::{await_list, block_on};
use testkit::cluster::Cluster;
use testkit::gate::{complete, running};
use testkit::image::BUSYBOX;
use testkit::namespace::Namespace;
use testkit::pki::ClusterAuthority;
use testkit::release::Release;

testkit::tests! {
    exclusive: each_trouble_is_mended_by_the_command_that_is_printed;
}

testkit::soaks! {
    exclusive: a_server_in_trouble_is_mended_by_the_command_that_is_printed;
    standalone: status_of_a_large_cluster;
}

/// The problems of gates and of the release's objects that one report shows.
const TOGETHER: &[(&str, &str)] = &[
    ("job-failed", "Job failed in status-shop"),
    ("job-missing", "Job missing in status-shop"),
    ("job-of-another-version", "Job other in status-shop"),
    ("job-suspended", "Job suspended in status-shop"),
    ("job-queued", "Job queued in status-shop"),
    ("job-no-pod", "Job quota in status-quota"),
    ("job-pod-blocked", "Job image in status-shop"),
    ("job-pod-blocked", "Job volume in status-shop"),
    ("job-pod-blocked", "Job secret in status-shop"),
    ("job-slow", "Job slow in status-shop"),
    ("progress-deadline", "Deployment suspended in status-shop"),
    ("pods-refused", "Deployment quota in status-quota"),
    ("waiter-rights", "ServiceAccount role in status-shop"),
    ("waiter-rights", "ServiceAccount binding in status-shop"),
    ("account-missing", "ServiceAccount account in status-shop"),
    (
        "server-rights",
        "ServiceAccount migration-gate/migration-gate in status-shop",
    ),
    ("namespace-missing", "Namespace status-gone"),
    ("namespace-new", "Namespace status-again"),
    (
        "record-corrupt",
        "ConfigMap migration-gate-corrupt in status-shop",
    ),
    (
        "record-immutable",
        "ConfigMap migration-gate-immutable in status-shop",
    ),
    (
        "record-incomplete",
        "ConfigMap migration-gate-again in status-again",
    ),
    ("waiter-missing", "Deployment bare in status-shop"),
    ("waiter-stale", "Deployment stale in status-shop"),
    ("waiter-not-first", "Deployment second in status-shop"),
    ("waiter-unkept", "Deployment stray in status-shop"),
    ("offender", "Deployment offender in status-shop"),
    ("two-gates", "Deployment twice in status-shop"),
    (
        "webhook-missing",
        "MutatingWebhookConfiguration migration-gate",
    ),
    (
        "webhook-missing",
        "ValidatingWebhookConfiguration migration-gate",
    ),
];

fn each_trouble_is_mended_by_the_command_that_is_printed(cluster: &Cluster) -> Result<()> {
    let shop = Shop::open(cluster)?;
    shop.operator.is_well()?;
    shop.told("nothing is wrong");
    shop.breaks()?;
    let report = shop.operator.finds_all(TOGETHER)?;
    shop.told("all of it is broken and found");
    shop.a_reader_of_few_rights_sees_some_of_it()?;
    shop.is_mended(&report)?;
    shop.told("all that was printed is done");
    shop.a_pod_in_back_off()?;
    shop.told("all of it is well again");
    Ok(())
}

/// Restarts of the server take long, so this is a test of its own.
fn a_server_in_trouble_is_mended_by_the_command_that_is_printed(cluster: &Cluster) -> Result<()> {
    let shop = Shop::open(cluster)?;
    shop.operator.is_well()?;
    shop.no_server()?;
    shop.told("the server is well again");
    shop.no_service()?;
    shop.told("its Service is well again");
    Ok(())
}

/// A release whose gates are in some namespaces, and its operator.
struct Shop<'c> {
    operator: Operator,
    release: Release,
    cluster: &'c Cluster,
    _quota: Namespace,
    _again: Namespace,
}

impl<'c> Shop<'c> {
    /// Installs all gates with their workloads. Most of the gates are open.
    fn open(cluster: &'c Cluster) -> Result<Self> {
        // The test adds names to images on the node.
        cluster.sandbox()?;
        let namespace = cluster.namespace_named(SHOP)?;
        let quota = cluster.namespace_named(QUOTA)?;
        let again = cluster.namespace_named(AGAIN)?;
        let gates = objects::gates();
        let release = Release::install_with(cluster, &json!({"replicas": 1, "gates": gates}))?;
        let operator = Operator::new(namespace, &gates)?;
        let shop = Self {
            operator,
            release,
            cluster,
            _quota: quota,
            _again: again,
        };
        cluster.kubectl().apply(&objects::well().to_string())?;
        shop.status_of(SHOP, "done", &complete())?;
        shop.status_of(AGAIN, "again", &complete())?;
        Ok(shop)
    }

    fn told(&self, what: &str) {
        eprintln!("status: {what} after {:.1} s", self.operator.seconds());
    }

    /// Writes the status of a Job without a controller.
    fn status_of(&self, namespace: &str, job: &str, status: &Value) -> Result<()> {
        let jobs: Api<Job> = Api::namespaced(self.cluster.client(), namespace);
        let patch = Patch::Merge(json!({"status": status}));
        block_on(jobs.patch_status(job, &PatchParams::default(), &patch))?;
        Ok(())
    }

    fn breaks(&self) -> Result<()> {
        let kubectl = self.operator.kubectl();
        let (again, gone) = (kubectl.in_namespace(AGAIN), kubectl.in_namespace(GONE));
        kubectl
            .in_namespace(QUOTA)
            .run("create quota pods --hard=pods=0")?;
        let kept = objects::kept(&again.get("deployment again")?);
        gone.run(&format!("delete namespace {AGAIN} {GONE} --wait=false"))?;

        // Jobs, and the workloads that wait for them. The webhooks still inject the waiters.
        self.cluster
            .kubectl()
            .apply(&objects::broken().to_string())?;
        self.status_of(SHOP, "slow", &running())?;
        kubectl.apply(&objects::in_the_queue().to_string())?;
        // Without the webhooks, everything is allowed.
        kubectl.run(
            "delete mutatingwebhookconfiguration/migration-gate \
             validatingwebhookconfiguration/migration-gate",
        )?;
        for (name, patch) in objects::waiters() {
            kubectl.run(&format!(
                "patch deployment {name} --type=json --patch={patch}"
            ))?;
        }
        let stray = objects::stray(&kubectl.get("deployment bystander")?);
        kubectl.apply(&stray.to_string())?;
        kubectl.run("label deployment twice held=twice")?;

        // Permissions first, and then objects that the server would fix with them.
        kubectl.run(
            "delete role/migration-gate-role-wait rolebinding/migration-gate-binding-wait \
             rolebinding/migration-gate-corrupt-record serviceaccount/account",
        )?;
        kubectl.run(
            "patch configmap migration-gate-immutable --type=merge --patch={\"immutable\":true}",
        )?;
        kubectl.run(
            "patch configmap migration-gate-corrupt --type=merge --patch={\"data\":{\"x\":\"y\"}}",
        )?;

        // One namespace is created again, with the objects of its applier.
        kubectl.run(&format!(
            "wait namespace/{AGAIN} namespace/{GONE} --for=delete --timeout=170s"
        ))?;
        kubectl.run(&format!("create namespace {AGAIN}"))?;
        again.apply(&kept.to_string())?;
        self.status_of(AGAIN, "again", &complete())
    }

    /// Runs all printed commands, and does by hand what the remedies require before and after them.
    fn is_mended(&self, report: &[Trouble]) -> Result<()> {
        let operator = &self.operator;
        let of = |code: &str| {
            let mut troubles = report.iter();
            troubles
                .find(|trouble| trouble.code == code)
                .context("a trouble")
        };
        // The chart's objects come first: without the webhooks, no change updates a waiter.
        let by_chart = ["namespace-missing", "webhook-missing"];
        for code in by_chart {
            operator.fixes(of(code)?)?;
        }
        operator.until("the webhooks", |report| {
            report["release"]["answers"] == true
        })?;
        self.told("the webhooks answer again");
        self.is_helms("mutatingwebhookconfiguration")?;
        self.is_helms("validatingwebhookconfiguration")?;
        let mut failures = Vec::new();
        for trouble in report {
            // This gate opens later.
            let later = trouble.place == "Job backoff in status-shop";
            if later || by_chart.contains(&trouble.code.as_str()) {
                continue;
            }
            let fixed = self.before(trouble).and_then(|()| {
                let shown = operator.fixes(trouble)?;
                self.after(trouble, &shown)
            });
            failures.extend(fixed.err().map(|error| format!("{error:#}")));
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    /// Checks that an object has Helm's annotations: `helm uninstall` leaves objects without them.
    fn is_helms(&self, kind: &str) -> Result<()> {
        let object = self
            .operator
            .kubectl()
            .get(&format!("{kind} migration-gate"))?;
        let annotations = &object["metadata"]["annotations"];
        for key in ["release-name", "release-namespace"] {
            let owner = &annotations[format!("meta.helm.sh/{key}")];
            ensure!(owner == "migration-gate", "{kind}: {annotations:#}");
        }
        Ok(())
    }

    /// Does what a remedy requires before its command.
    fn before(&self, trouble: &Trouble) -> Result<()> {
        let kubectl = self.operator.kubectl();
        match trouble.place.as_str() {
            "Job failed in status-shop" => {
                let log = ["looking for the schema"];
                ensure!(trouble.details == log, "{:?}", trouble.details);
                let key =
                    r#"patch configmap migrated --type=merge --patch={"data":{"failed":"1"}}"#;
                kubectl.run(key)?;
            }
            "Job image in status-shop" => {
                self.cluster.tag(BUSYBOX, objects::PUSHED)?;
            }
            "Job secret in status-shop" => {
                kubectl.run("create secret generic credentials")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Does what a command's output requires.
    fn after(&self, trouble: &Trouble, shown: &str) -> Result<()> {
        let kubectl = self.operator.kubectl();
        let tells = |part: &str| {
            ensure!(
                shown.contains(part),
                "{trouble:?} shows no `{part}`:\n{shown}"
            );
            anyhow::Ok(())
        };
        match (trouble.code.as_str(), trouble.place.as_str()) {
            ("job-of-another-version", _) => {
                kubectl.apply(&objects::job("other", "2", &json!({})).to_string())?;
            }
            ("job-queued", _) => {
                tells("waiting-for-room")?;
                // Kueue does this when it admits the Job.
                kubectl
                    .run(r#"patch job queued --type=merge --patch={"spec":{"suspend":false}}"#)?;
            }
            ("job-pod-blocked", "Job volume in status-shop") => {
                kubectl.apply(&objects::volume().to_string())?;
            }
            ("job-slow", _) => {
                tells("waiting for a lock")?;
                self.status_of(SHOP, "slow", &complete())?;
            }
            ("job-no-pod" | "pods-refused", _) => {
                // Both problems show the same quota, which exists only for the first one.
                if trouble.code == "pods-refused" {
                    tells("pods")?;
                }
                kubectl
                    .in_namespace(QUOTA)
                    .run("delete quota pods --ignore-not-found")?;
                self.operator
                    .runs(trouble.commands.get(1).context("a second command")?)?;
            }
            ("two-gates", _) => {
                tells("held: twice")?;
                kubectl.run("label deployment twice held-")?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Checks the report of a user who may only read the namespace.
    fn a_reader_of_few_rights_sees_some_of_it(&self) -> Result<()> {
        let kubectl = self.operator.kubectl();
        kubectl.run("create serviceaccount reader")?;
        kubectl.run(&format!(
            "create rolebinding reader --clusterrole=view --serviceaccount={SHOP}:reader"
        ))?;
        let reader = self.cluster.kubectl_as(SHOP, "reader")?;
        let refused = self
            .operator
            .status_as(&reader.kubeconfig, &[])?
            .failure()?;
        ensure!(refused.contains("name them with --config"), "{refused}");
        let config = format!("--config={}", self.operator.config().display());
        let report = self.operator.report_as(&reader.kubeconfig, &[&config])?;
        let unread = report["unread"].to_string();
        for what in [
            "the installed release",
            "roles in status-shop",
            "jobs in status-quota",
        ] {
            ensure!(unread.contains(what), "no `{what}` in {unread}");
        }
        let codes: Vec<&str> = operator::troubles(&report)
            .filter_map(|trouble| trouble["code"].as_str())
            .collect();
        for code in ["job-failed", "job-suspended", "waiter-stale", "offender"] {
            ensure!(codes.contains(&code), "no {code} in {codes:?}");
        }
        for code in [
            "waiter-rights",
            "server-rights",
            "webhook-missing",
            "not-installed",
        ] {
            ensure!(!codes.contains(&code), "{code} in {codes:?}, unread");
        }
        Ok(())
    }

    /// Its gate opens while the waiter is in back-off.
    fn a_pod_in_back_off(&self) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.cluster.client(), SHOP);
        await_list(
            &pods,
            "app=backoff",
            "a pod to be in back-off",
            PATIENCE,
            |pods| pods.iter().any(|pod| rests(&json!(**pod))).then_some(()),
        )?;
        self.operator
            .runs("migration-gate record done 1 --gate backoff --yes")?;
        let found = self.operator.finds("pod-back-off")?;
        self.operator.fixes(&found)?;
        self.operator.is_well()
    }

    /// Checks a release without replicas, with another CA in the configurations, and with a
    /// certificate that is about to expire.
    fn no_server(&self) -> Result<()> {
        let own = self.release.kubectl();
        own.run("scale deployment migration-gate --replicas=0")?;
        own.run(
            "wait pods --selector=app.kubernetes.io/name=migration-gate --for=delete --timeout=120s",
        )?;
        let folder = tempfile::tempdir()?;
        let authority = ClusterAuthority::create(folder.path())?;
        self.release
            .trust(&fs::read(authority.pair().certificate)?)?;
        let secrets: Api<Secret> = Api::namespaced(self.cluster.client(), "migration-gate");
        let patch = Patch::Merge(json!({"stringData": about_to_expire()?}));
        let name = "migration-gate-certificate";
        block_on(secrets.patch(name, &PatchParams::default(), &patch))?;
        let report = self.operator.finds_all(&[
            (
                "server-not-ready",
                "Deployment migration-gate in migration-gate",
            ),
            (
                "webhook-untrusted",
                "MutatingWebhookConfiguration migration-gate",
            ),
            (
                "webhook-untrusted",
                "ValidatingWebhookConfiguration migration-gate",
            ),
            (
                "certificate-expiring",
                "Secret migration-gate-certificate in migration-gate",
            ),
        ])?;
        let (look, fixes): (Vec<_>, Vec<_>) = report
            .iter()
            .partition(|trouble| trouble.code == "certificate-expiring");
        // Both configurations have the same remedy: a restart.
        let commands: BTreeSet<&String> = fixes.iter().filter_map(|t| t.commands.first()).collect();
        for command in commands {
            self.operator.runs(command)?;
        }
        self.operator.is_well()?;
        for trouble in look {
            let said = self.operator.fixes(trouble)?;
            ensure!(said.contains("certificate"), "{said}");
        }
        Ok(())
    }

    /// Deletes the release's Service, and then also its Deployment.
    fn no_service(&self) -> Result<()> {
        let own = self.release.kubectl();
        own.run("delete service migration-gate")?;
        // The API server would go on with its open connections.
        own.run("delete pods --selector=app.kubernetes.io/name=migration-gate")?;
        let one = self.operator.finds("webhook-not-answering")?;
        own.run("delete deployment migration-gate")?;
        let other = self.operator.finds("server-missing")?;
        ensure!(
            one.commands.first() == other.commands.first(),
            "{one:?} {other:?}"
        );
        self.operator
            .runs(one.commands.first().context("a command")?)?;
        self.operator.is_well()
    }
}

impl Drop for Shop<'_> {
    fn drop(&mut self) {
        // Objects outside of the test's namespaces. A failure cannot be reported here.
        let kubectl = self.operator.kubectl();
        let _ = kubectl.run(&format!("delete {UNNAMED} --ignore-not-found --wait=false"));
    }
}

/// Whether a pod's waiter will not be started for some seconds.
fn rests(pod: &Value) -> bool {
    let waiter = &pod["status"]["initContainerStatuses"][0];
    let restarts = waiter["restartCount"].as_u64().unwrap_or_default();
    let ended = &waiter["lastState"]["terminated"]["finishedAt"];
    let ended = ended.as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let rests_until = ended.map(|at| at + SignedDuration::from_secs(10 << restarts.min(4)));
    waiter["state"]["waiting"]["reason"] == "CrashLoopBackOff"
        && restarts > 0
        && rests_until > Some(Timestamp::now() + SignedDuration::from_secs(8))
}

/// The data of a Secret with a certificate that has an hour of its three months left.
fn about_to_expire() -> Result<Value> {
    let now = Timestamp::now().as_second();
    let mut params = CertificateParams::new(vec!["migration-gate.migration-gate.svc".to_owned()])?;
    params.not_before = OffsetDateTime::from_unix_timestamp(now - 90 * 24 * 3600)?;
    params.not_after = OffsetDateTime::from_unix_timestamp(now + 3600)?;
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?.pem();
    Ok(json!({"tls.crt": certificate, "tls.key": key.serialize_pem()}))
}
