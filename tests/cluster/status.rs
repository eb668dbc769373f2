//! `status` on a real node: each trouble is brought about, found, and mended by the command that was
//! printed.
//!
//! Most of it happens to workloads without pods and to Jobs that end at once, so that it costs little.

mod many;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use testkit::cluster::Cluster;
use testkit::image::BUSYBOX;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::process::{self, program};
use testkit::release::Release;

pub(crate) use self::many::soaks;

testkit::tests! {
    exclusive: each_trouble_is_mended_by_the_command_that_is_printed;
}

const SHOP: &str = "status-shop";

/// How long a trouble may take to show or to go.
const PATIENCE: Duration = Duration::from_mins(3);

fn each_trouble_is_mended_by_the_command_that_is_printed(cluster: &Cluster) -> Result<()> {
    let begun = Instant::now();
    let shop = Shop::open(cluster)?;
    shop.is_well()?;
    eprintln!(
        "status: nothing wrong, after {} s",
        begun.elapsed().as_secs()
    );
    jobs(&shop)?;
    eprintln!("status: Jobs, after {} s", begun.elapsed().as_secs());
    workloads(&shop)?;
    eprintln!("status: workloads, after {} s", begun.elapsed().as_secs());
    rights(&shop)?;
    eprintln!("status: rights, after {} s", begun.elapsed().as_secs());
    a_reader_of_few_rights(cluster, &shop)?;
    server(&shop)?;
    eprintln!("status: the server, after {} s", begun.elapsed().as_secs());
    namespace(&shop)?;
    eprintln!(
        "status: the namespace, after {} s",
        begun.elapsed().as_secs()
    );
    Ok(())
}

/// A Job of a version, with further fields in its `spec`.
fn job(version: &str, spec: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "migrate", "labels": {"version": version}},
        "spec": {"backoffLimit": 0, "template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "migrate", "image": BUSYBOX, "command": ["true"]}],
        }}},
    });
    json_patch::merge(&mut job["spec"], spec);
    job
}

/// The same, whose container has a variable from a key of ConfigMap `migrated`.
fn job_that_reads(version: &str, optional: bool) -> Value {
    let from = json!({"configMapKeyRef": {"name": "migrated", "key": version,
                                          "optional": optional}});
    let command = "echo looking for the schema; test -n \"$SCHEMA\"";
    let container = json!({
        "name": "migrate", "image": BUSYBOX, "command": ["sh", "-c", command],
        "env": [{"name": "SCHEMA", "valueFrom": from}],
    });
    job(
        version,
        &json!({"template": {"spec": {"containers": [container]}}}),
    )
}

fn deployment(name: &str, version: &str, replicas: u8) -> Value {
    let labels = json!({"app": name, "version": version});
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "progressDeadlineSeconds": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": labels}, "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": BUSYBOX}],
            }},
        },
    })
}

/// Deployments without pods.
const IDLE: [&str; 5] = ["bare", "stale", "second", "offender", "twice"];

/// A gate `shop` that goes by a label, and the release that has it.
struct Shop {
    namespace: Namespace,
    release: Release,
    context: String,
    folder: tempfile::TempDir,
}

impl Shop {
    fn open(cluster: &Cluster) -> Result<Self> {
        let namespace = cluster.namespace_named(SHOP)?;
        let names = [&["web"][..], &IDLE].concat();
        let gates = json!([
            {"name": "shop", "namespace": SHOP, "job": "migrate", "deployments": names,
             "serviceAccount": "waiter", "version": {"label": "version"}},
            {"name": "both", "namespace": SHOP, "job": "migrate", "serviceAccount": "waiter",
             "selector": {"matchLabels": {"held": "twice"}}, "version": {"label": "version"}},
        ]);
        let release = Release::install_with(cluster, &json!({"replicas": 1, "gates": gates}))?;
        let context = namespace.kubectl.run("config current-context")?;
        let shop = Self {
            namespace,
            release,
            context: context.trim().to_owned(),
            folder: tempfile::tempdir()?,
        };
        fs::write(
            shop.folder.path().join("gates.yaml"),
            json!({"gates": gates}).to_string(),
        )?;
        let kubectl = shop.kubectl();
        kubectl.apply(&job("1", &json!({})).to_string())?;
        kubectl.apply(&deployment("web", "1", 1).to_string())?;
        for name in IDLE {
            kubectl.apply(&deployment(name, "1", 0).to_string())?;
        }
        kubectl.wait("deployment/web", "condition=Available", 60)?;
        Ok(shop)
    }

    fn kubectl(&self) -> &Kubectl {
        &self.namespace.kubectl
    }

    /// The version that the application is to be of from now on.
    fn wants(&self, version: &str) -> Result<()> {
        self.kubectl()
            .apply(&deployment("web", version, 1).to_string())?;
        Ok(())
    }

    /// The report, and whether the exit code says that something is wrong.
    fn status_as(&self, kubeconfig: &Path, options: &[&str]) -> Result<Value> {
        let mut command = Command::new(program());
        command
            .args(["status", "--output=json", "--context", &self.context])
            .args(options)
            .env("KUBECONFIG", kubeconfig);
        let output = process::run(&mut command, "", Duration::from_mins(1))?;
        let report: Value = serde_json::from_str(&output.stdout)
            .with_context(|| format!("{}\n{}", output.stdout, output.stderr))?;
        let code = i32::from(report["wrong"] == true);
        ensure!(
            output.status.code() == Some(code),
            "{}: {report:#}",
            output.status
        );
        Ok(report)
    }

    fn status(&self) -> Result<Value> {
        self.status_as(&self.kubectl().kubeconfig, &[])
    }

    /// The report, once it fulfils a condition.
    fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut first = true;
        until(what, PATIENCE, || {
            // Nothing announces it, and a look costs as much as a small roll-out.
            if !std::mem::take(&mut first) {
                thread::sleep(Duration::from_millis(500));
            }
            match self.status() {
                Ok(report) if holds(&report) => Look::Done(report),
                Ok(report) => Look::Pending(format!("{:#}", report["troubles"])),
                Err(error) => Look::Failed(error),
            }
        })
    }

    fn is_well(&self) -> Result<()> {
        self.until("nothing to be wrong", |report| {
            report["troubles"] == json!([])
        })?;
        Ok(())
    }

    /// Waits until there is such a trouble; gives the commands that mend it.
    fn finds(&self, code: &str) -> Result<Vec<String>> {
        let report = self.until(code, |report| trouble(report, code).is_some())?;
        let trouble = trouble(&report, code).context("a trouble")?;
        let remedies = trouble["remedies"].as_array().context("remedies")?;
        let commands = remedies.iter().filter_map(|one| one["command"].as_str());
        Ok(commands.map(str::to_owned).collect())
    }

    /// The same, and runs the first command.
    fn mends(&self, code: &str) -> Result<String> {
        let commands = self.finds(code)?;
        let command = commands
            .first()
            .with_context(|| format!("{code} has no command"))?;
        self.runs(command)
    }

    /// Runs a command as it was printed, in a shell as its reader would.
    fn runs(&self, line: &str) -> Result<String> {
        let kubectl = self.kubectl();
        let folders = [&kubectl.program, &kubectl.helm, &program()]
            .map(|program| program.parent().map(PathBuf::from).unwrap_or_default());
        let own = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(folders.into_iter().chain(std::env::split_paths(&own)))?;
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", line])
            .env("PATH", path)
            .env("KUBECONFIG", &kubectl.kubeconfig)
            .env("KUBECACHEDIR", &kubectl.cache)
            .env("KUBERC", "off")
            .env("HELM_CACHE_HOME", kubectl.cache.join("helm"))
            .env("HELM_CONFIG_HOME", kubectl.cache.join("helm"))
            .env("HELM_DATA_HOME", kubectl.cache.join("helm"));
        let output = process::run(&mut shell, "", PATIENCE)?;
        output
            .success()
            .with_context(|| format!("running `{line}`"))
    }
}

fn trouble<'r>(report: &'r Value, code: &str) -> Option<&'r Value> {
    let troubles = report["troubles"].as_array()?;
    troubles.iter().find(|trouble| trouble["code"] == code)
}

fn jobs(shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    // The Job is of version 1. Then there is none. Then 2 counts as migrated.
    shop.wants("2")?;
    shop.finds("progress-deadline")?;
    shop.mends("job-of-another-version")?;
    shop.mends("job-missing")?;
    shop.is_well()?;

    kubectl.apply(&job("3", &json!({"suspend": true})).to_string())?;
    shop.wants("3")?;
    shop.mends("job-suspended")?;
    shop.is_well()?;

    // Somebody says that it has to run again.
    shop.runs(&format!(
        "migration-gate record forget 3 --gate shop --yes --config {}",
        shop.folder.path().join("gates.yaml").display()
    ))?;
    shop.mends("job-forgotten")?;
    shop.mends("job-suspended")?;
    shop.is_well()?;

    // Of the queues' own there is nothing here; what admits the Job does this.
    kubectl.run("delete job migrate")?;
    let mut queued = job("4", &json!({"suspend": true}));
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("batch");
    kubectl.apply(&queued.to_string())?;
    shop.wants("4")?;
    shop.finds("job-queued")?;
    kubectl.run(r#"patch job migrate --type=merge --patch={"spec":{"suspend":false}}"#)?;
    shop.is_well()?;

    // It fails for want of a key, which comes.
    kubectl.run("delete job migrate")?;
    kubectl.run("create configmap migrated --from-literal=none=yes")?;
    kubectl.apply(&job_that_reads("5", true).to_string())?;
    shop.wants("5")?;
    let report = shop.until("the log", |report| {
        trouble(report, "job-failed")
            .is_some_and(|trouble| trouble["details"] == json!(["looking for the schema"]))
    })?;
    ensure!(report["gates"][0]["state"] == "failed", "{report:#}");
    let key = r#"patch configmap migrated --type=merge --patch={"data":{"5":"yes","6":""}}"#;
    kubectl.run(key)?;
    shop.mends("job-failed")?;
    shop.is_well()?;

    // Its pod can't start for want of a key.
    kubectl.run("delete job migrate")?;
    kubectl.apply(&job_that_reads("7", false).to_string())?;
    shop.wants("7")?;
    shop.mends("job-pod-blocked")?;
    kubectl.run(r#"patch configmap migrated --type=merge --patch={"data":{"7":"yes"}}"#)?;
    shop.is_well()?;

    // There is room for no pod more.
    kubectl.run("delete job migrate")?;
    kubectl.run("create quota pods --hard=pods=0")?;
    kubectl.apply(&job("8", &json!({})).to_string())?;
    shop.wants("8")?;
    let described = shop.mends("job-no-pod")?;
    ensure!(described.contains("pods"), "{described}");
    shop.mends("pods-refused")?;
    kubectl.run("delete quota pods")?;
    shop.is_well()
}

fn workloads(shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    kubectl.run("label deployment twice held=twice")?;
    let shown = shop.mends("two-gates")?;
    ensure!(shown.contains("held: twice"), "{shown}");
    kubectl.run("label deployment twice held-")?;

    // Without the webhooks, everything is let through.
    let configurations = "mutatingwebhookconfiguration/migration-gate \
                          validatingwebhookconfiguration/migration-gate";
    kubectl.run(&format!("delete {configurations}"))?;
    let (spec, waiter) = (
        "/spec/template/spec",
        "/spec/template/spec/initContainers/0",
    );
    for (name, patch) in [
        (
            "bare",
            json!([{"op": "remove", "path": format!("{spec}/initContainers")}]),
        ),
        (
            "stale",
            json!([{"op": "replace", "path": format!("{waiter}/args/1"),
                          "value": "--gate=none"}]),
        ),
        (
            "second",
            json!([{"op": "add", "path": waiter,
                           "value": {"name": "first", "image": BUSYBOX}}]),
        ),
        (
            "offender",
            json!([{"op": "add", "path": format!("{spec}/containers/0/env"),
                             "value": [{"name": "PIEFED_INIT_CONTAINER", "value": "1"}]}]),
        ),
    ] {
        kubectl.run(&format!(
            "patch deployment {name} --type=json --patch={patch}"
        ))?;
    }
    let stray = kubectl.run("get deployment twice -o json")?;
    let stray = stray.replace("\"name\": \"twice\"", "\"name\": \"stray\"");
    let mut stray: Value = serde_json::from_str(&stray)?;
    stray["metadata"] = json!({"name": "stray"});
    kubectl.apply(&stray.to_string())?;
    for code in [
        "waiter-missing",
        "waiter-stale",
        "waiter-not-first",
        "offender",
        "waiter-unkept",
    ] {
        shop.finds(code)?;
    }
    shop.mends("webhook-missing")?;
    shop.until("the webhooks", |report| {
        trouble(report, "webhook-missing").is_none()
            && trouble(report, "webhook-untrusted").is_none()
            && report["release"]["answers"] == true
    })?;
    for code in [
        "offender",
        "waiter-missing",
        "waiter-stale",
        "waiter-not-first",
        "waiter-unkept",
    ] {
        shop.mends(code)?;
    }
    shop.is_well()
}

fn rights(shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    for (names, code) in [
        (
            "rolebinding/migration-gate-shop-wait rolebinding/migration-gate-both-wait",
            "waiter-rights",
        ),
        (
            "role/migration-gate-shop-wait role/migration-gate-both-wait",
            "waiter-rights",
        ),
        ("rolebinding/migration-gate-shop-record", "server-rights"),
        ("serviceaccount/waiter", "account-missing"),
    ] {
        kubectl.run(&format!("delete {names}"))?;
        shop.mends(code)?;
        shop.is_well()?;
    }

    let patch = r#"patch configmap migration-gate-shop --type=merge --patch={"immutable":true}"#;
    kubectl.run(patch)?;
    shop.mends("record-immutable")?;
    shop.is_well()
}

/// Somebody who may see the namespace, and nothing else.
fn a_reader_of_few_rights(cluster: &Cluster, shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    kubectl.run("create serviceaccount reader")?;
    kubectl.run(&format!(
        "create rolebinding reader --clusterrole=view --serviceaccount={SHOP}:reader"
    ))?;
    let reader = cluster.kubectl_as(SHOP, "reader")?;
    let config = shop.folder.path().join("gates.yaml");
    let config = format!("--config={}", config.display());
    let report = until("the reader's rights", PATIENCE, || {
        match shop.status_as(&reader.kubeconfig, &[&config]) {
            Ok(report) if report["gates"][0]["state"] == "open" => Look::Done(report),
            Ok(report) => Look::Pending(format!("{report:#}")),
            Err(error) => Look::Failed(error),
        }
    })?;
    ensure!(report["troubles"] == json!([]), "{report:#}");
    let unread = report["unread"].to_string();
    for what in ["the installed release", "roles in status-shop"] {
        ensure!(unread.contains(what), "{unread}");
    }
    Ok(())
}

fn server(shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    let own = shop.release.kubectl();
    own.run("scale deployment migration-gate --replicas=0")?;
    own.run(
        "wait pods --selector=app.kubernetes.io/name=migration-gate --for=delete --timeout=120s",
    )?;
    kubectl
        .run("patch configmap migration-gate-shop --type=merge --patch={\"data\":{\"x\":\"y\"}}")?;
    kubectl.run(
        "patch mutatingwebhookconfiguration/migration-gate --type=json \
         --patch=[{\"op\":\"remove\",\"path\":\"/webhooks/0/clientConfig/caBundle\"}]",
    )?;
    shop.finds("webhook-untrusted")?;
    shop.mends("record-corrupt")?;
    kubectl.run("delete configmap migration-gate-shop")?;
    let by_hand = shop.finds("record-incomplete")?;
    shop.runs(by_hand.first().context("a command")?)?;
    shop.mends("server-not-ready")?;
    shop.is_well()?;

    own.run("delete deployment migration-gate")?;
    shop.mends("server-missing")?;
    shop.is_well()?;

    own.run("delete service migration-gate")?;
    shop.mends("webhook-not-answering")?;
    shop.is_well()
}

/// The namespace goes, and comes back empty.
fn namespace(shop: &Shop) -> Result<()> {
    let kubectl = shop.kubectl();
    kubectl.run(&format!("delete namespace {SHOP} --timeout=170s"))?;
    shop.mends("namespace-missing")?;
    shop.is_well()?;
    kubectl.run("delete rolebindings,roles,serviceaccounts --all")?;
    kubectl.apply(&deployment("bare", "1", 0).to_string())?;
    kubectl.apply(&job("1", &json!({})).to_string())?;
    shop.mends("namespace-new")?;
    // Who has waited for its account long enough starts at last.
    shop.is_well()?;
    let report = shop.status()?;
    if report["gates"][0]["state"] != "open" {
        bail!("{report:#}");
    }
    Ok(())
}
