//! The application in a namespace, with the source from which it is deployed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, ResourceExt as _};
use serde_json::{Value, json};

use testkit::client::{await_list, await_object, block_on};
use testkit::cluster::Cluster;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::{dns, image, process};

pub(crate) const WEB: &str = "piefed-web";
pub(crate) const WORKER: &str = "piefed-worker";
pub(crate) const JOB: &str = "piefed-db-init";
pub(crate) const WAITER: &str = "wait-for-migrations";

/// The application of one story. Its migrations wait until [`Self::let_migrate`], so they take as
/// long as the story needs.
pub(crate) struct Application {
    pub(crate) namespace: Namespace,
    client: kube::Client,
    source: tempfile::TempDir,
}

impl Application {
    /// An empty namespace, and a source without a release.
    pub(crate) fn new(cluster: &Cluster, namespace: Namespace) -> Result<Self> {
        provide(cluster)?;
        let source = tempfile::tempdir()?;
        for (folder, name) in [
            ("tests/cluster/apps/manifests", "base"),
            ("examples/piefed", "example"),
            ("tests/cluster/example/without-media", "without-media"),
        ] {
            let mut copy = std::process::Command::new("cp");
            copy.arg("-r")
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(folder))
                .arg(source.path().join(name));
            process::run(&mut copy, "", Duration::from_secs(10))?.success()?;
        }
        Ok(Self {
            namespace,
            client: cluster.client(),
            source,
        })
    }

    pub(crate) fn kubectl(&self) -> &Kubectl {
        &self.namespace.kubectl
    }

    pub(crate) fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// The source at this release. Two releases differ only in one tag.
    pub(crate) fn at(&self, tag: &str) -> Result<PathBuf> {
        self.patched(tag, &json!([]))
    }

    /// The same, with further kustomize patches.
    pub(crate) fn patched(&self, tag: &str, patches: &Value) -> Result<PathBuf> {
        let hold = patch(
            "ConfigMap",
            "piefed-config",
            &json!([{"op": "add", "path": "/data/MIGRATION_HOLD", "value": "true"}]),
        );
        let hold = json!([hold]);
        let patches: Vec<&Value> = [&hold, patches]
            .into_iter()
            .filter_map(Value::as_array)
            .flatten()
            .collect();
        let kustomization = json!({
            "apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization",
            "namespace": self.namespace.name,
            "resources": ["base"],
            "images": [{"name": "migration-gate.test/piefed", "newTag": tag}],
            "patches": patches,
        });
        let folder = self.source.path();
        fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?;
        Ok(folder.to_owned())
    }

    /// Waits until a migration of this release waits. PostgreSQL and Redis then run, too.
    pub(crate) fn migration_holds(&self, tag: &str) -> Result<()> {
        self.redis(&["brpoplpush", &format!("holding:{tag}"), "seen", "120"])?;
        Ok(())
    }

    /// Lets this release's migration continue, also if it has not started yet.
    pub(crate) fn let_migrate(&self, tag: &str) -> Result<()> {
        self.redis(&["lpush", &format!("go:{tag}"), "go"])?;
        Ok(())
    }

    /// Makes the next migration of this release wait again.
    pub(crate) fn forbid_migration(&self, tag: &str) -> Result<()> {
        self.redis(&["del", &format!("go:{tag}"), &format!("holding:{tag}")])?;
        Ok(())
    }

    /// The lines that the application's processes have written because the schema was not migrated
    /// for them.
    pub(crate) fn unmigrated(&self) -> Result<Vec<String>> {
        let lines = self.redis(&["lrange", "unmigrated", "0", "-1"])?;
        Ok(lines
            .lines()
            .filter(|line| !line.is_empty())
            .map(str::to_owned)
            .collect())
    }

    /// Fails with these lines if there are any: in Redis, or in the logs of existing pods.
    pub(crate) fn met_no_unmigrated_schema(&self) -> Result<()> {
        let kept = self.unmigrated()?;
        // If a container has just started, the kubelet may have no log yet.
        let logs = until("all pods' logs", PATIENCE, || {
            let logs =
                "logs --selector=app.kubernetes.io/part-of=piefed --all-containers --tail=-1";
            match self.kubectl().run(logs) {
                Ok(logs) => Look::Done(logs),
                Err(error) => Look::Pending(format!("{error:#}")),
            }
        })?;
        let logged = logs.lines().filter(|line| line.contains("UNMIGRATED"));
        let lines: Vec<&str> = kept.iter().map(String::as_str).chain(logged).collect();
        ensure!(
            lines.is_empty(),
            "{} requests met an unmigrated schema: {lines:#?}",
            lines.len()
        );
        Ok(())
    }

    /// Waits until there is such a line.
    pub(crate) fn await_unmigrated(&self) -> Result<()> {
        let line = self.redis(&["brpoplpush", "unmigrated", "unmigrated", "120"])?;
        ensure!(
            line.starts_with("UNMIGRATED"),
            "no process met an unmigrated schema: {line}"
        );
        Ok(())
    }

    /// The schema's revision, by Alembic's table.
    pub(crate) fn revision(&self) -> Result<String> {
        let said = self.kubectl().exec(
            "statefulset/piefed-db",
            &["sh", "-c", "/usr/lib/postgresql/*/bin/psql -h /tmp -At -c 'SELECT version_num FROM alembic_version' piefed piefed"],
        )?;
        Ok(said.trim().to_owned())
    }

    /// Waits until both Deployments have rolled out their current template.
    pub(crate) fn rolled_out(&self) -> Result<()> {
        for name in [WEB, WORKER] {
            self.kubectl()
                .run(&format!("rollout status deployment/{name} --timeout=170s"))?;
        }
        Ok(())
    }

    /// The pods of a Deployment that have this release and are not being deleted.
    pub(crate) fn pods(&self, deployment: &str, tag: &str) -> Result<Vec<Pod>> {
        let selected = ListParams::default().labels(&of(deployment));
        let mut pods = block_on(self.api::<Pod>().list(&selected))?.items;
        pods.retain(|pod| stays(pod, tag));
        Ok(pods)
    }

    /// Waits until a Deployment has `count` pods of a release, all in their waiters. Returns their
    /// names.
    pub(crate) fn waiting(&self, deployment: &str, tag: &str, count: usize) -> Result<Vec<String>> {
        let pods = self.await_pods(deployment, tag, count)?;
        for pod in &pods {
            await_object(
                &self.api::<Pod>(),
                pod,
                "to be in its waiter",
                PATIENCE,
                |pod| {
                    let status = &json!(pod)["status"]["initContainerStatuses"][0];
                    status["name"] == WAITER && status["state"].get("running").is_some()
                },
            )?;
        }
        Ok(pods)
    }

    /// Waits until a Deployment has `count` pods of a release. Returns their names.
    pub(crate) fn await_pods(
        &self,
        deployment: &str,
        tag: &str,
        count: usize,
    ) -> Result<Vec<String>> {
        await_list(
            &self.api::<Pod>(),
            &of(deployment),
            &format!("{deployment} to have {count} pods of {tag}"),
            PATIENCE,
            |pods| {
                let pods = pods.iter().filter(|pod| stays(pod, tag));
                let names: Vec<_> = pods.map(|pod| pod.name_any()).collect();
                (names.len() >= count).then_some(names)
            },
        )
    }

    /// Watches one pod until `condition` holds.
    pub(crate) fn await_pod(
        &self,
        name: &str,
        what: &str,
        condition: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        let pod = await_object(&self.api::<Pod>(), name, what, PATIENCE, |pod| {
            condition(&json!(pod))
        })?;
        Ok(json!(pod))
    }

    /// Follows a waiter's log until it contains `what`. Returns the log so far.
    pub(crate) fn says(&self, pod: &str, what: &str) -> Result<String> {
        self.namespace.says(pod, WAITER, &[what])
    }

    /// Checks that each pod of a release started because of the Job. Returns a text with the
    /// delays.
    ///
    /// Kubernetes stores these times in whole seconds.
    pub(crate) fn started_after_the_migration(&self, tag: &str, count: usize) -> Result<String> {
        let job = self.kubectl().get(&format!("job {JOB}"))?;
        let completed = time(&job["status"]["completionTime"])?;
        let (mut pods, mut delays) = (0, Vec::new());
        for pod in [self.pods(WEB, tag)?, self.pods(WORKER, tag)?].concat() {
            let pod = json!(pod);
            let waiter = &pod["status"]["initContainerStatuses"][0];
            let ended = &waiter["state"]["terminated"];
            ensure!(
                waiter["name"] == WAITER && ended["exitCode"] == 0,
                "{waiter}"
            );
            let main =
                time(&pod["status"]["containerStatuses"][0]["state"]["running"]["startedAt"])?;
            let finished = time(&ended["finishedAt"])?;
            ensure!(
                completed <= finished && finished <= main,
                "the Job completed at {completed}; {}",
                pod["status"]
            );
            pods += 1;
            // Pods that were created later found the gate open.
            if time(&ended["startedAt"])? < completed {
                delays.push(main.duration_since(completed).as_secs());
            }
        }
        ensure!(pods == count, "{pods} pods of {tag}, not {count}");
        Ok(format!(
            "{} of {count} pods waited, and started {delays:?} s after the Job's completion",
            delays.len()
        ))
    }

    pub(crate) fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client(), &self.namespace.name)
    }

    fn redis(&self, command: &[&str]) -> Result<String> {
        let deployments = self.api::<Deployment>();
        await_object(&deployments, "redis", "to be available", PATIENCE, |it| {
            let conditions = it.status.iter().flat_map(|it| &it.conditions);
            conditions
                .flatten()
                .any(|it| it.type_ == "Available" && it.status == "True")
        })?;
        let line = [&["redis-cli"], command].concat();
        self.kubectl()
            .output(
                &[&["exec", "deployment/redis", "--"], &line[..]].concat(),
                "",
                PATIENCE * 3,
            )?
            .success()
    }
}

/// The selector of a Deployment's pods.
pub(super) fn of(deployment: &str) -> String {
    format!("app.kubernetes.io/name={deployment}")
}

/// Whether a pod has this release and is not being deleted.
fn stays(pod: &Pod, tag: &str) -> bool {
    let image = format!(":{tag}");
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    pod.metadata.deletion_timestamp.is_none()
        && containers
            .filter_map(|container| container.image.as_deref())
            .any(|reference| reference.ends_with(&image))
}

fn time(value: &Value) -> Result<Timestamp> {
    let text = value
        .as_str()
        .with_context(|| format!("a time, not {value}"))?;
    text.parse().with_context(|| format!("reading {text}"))
}

/// A patch that allows only one attempt, because Kubernetes' back-off between attempts takes
/// minutes.
pub(crate) fn one_attempt() -> Value {
    let once = json!([{"op": "replace", "path": "/spec/backoffLimit", "value": 0}]);
    json!([patch("Job", JOB, &once)])
}

/// One of kustomize's patches: operations on one object.
pub(crate) fn patch(kind: &str, name: &str, operations: &Value) -> Value {
    json!({"target": {"kind": kind, "name": name}, "patch": operations.to_string()})
}

/// Time limit on a busy machine for actions that take seconds on an idle one.
pub(crate) const PATIENCE: Duration = Duration::from_mins(3);

/// Puts the images on the node and starts its DNS, once.
pub(crate) fn provide(cluster: &Cluster) -> Result<()> {
    static PROVIDED: Mutex<bool> = Mutex::new(false);
    let mut provided = PROVIDED.lock().unwrap_or_else(PoisonError::into_inner);
    if !*provided {
        // Skip the test on a given cluster, which has neither these images nor this DNS.
        cluster.sandbox()?;
        let archive = std::env::var_os(image::APPLICATIONS);
        cluster.import(Path::new(
            &archive.context("the sandbox was entered without the applications' images")?,
        ))?;
        dns::serve(cluster.client())?;
        *provided = true;
    }
    Ok(())
}
