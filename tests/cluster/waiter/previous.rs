//! The previous release is upgraded to this one, and rolled back. Running pods go on, and each
//! release reads the other's record.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::application::{GatedApplication, JOB, WAITER, WEB, manifests};
use testkit::cluster::Cluster;
use testkit::image::{self, MIGRATION_GATE, MIGRATION_GATE_PREVIOUS};
use testkit::kubectl::Kubectl;
use testkit::poll::{Look, until};
use testkit::release::Release;

testkit::soaks! {
    exclusive: an_upgrade_from_the_previous_release_and_back_rolls_nothing_out;
}

const NAMESPACE: &str = "piefed-application";
const RECORD: &str = "configmap/migration-gate-piefed";
const WORKER: &str = "background";

/// Values of the previous release: one Deployment by its name, and one by its label, with a
/// ServiceAccount of its own.
fn values() -> Value {
    json!({"gates": [{
        "name": "piefed", "namespace": NAMESPACE, "job": JOB, "deployments": [WEB],
        "selector": {"matchLabels": {"app": "worker"}},
        "serviceAccount": "piefed-init-checker", "extraAccounts": ["worker"],
        "timeout": "10m", "freshness": "version",
    }]})
}

/// The second Deployment, with this image.
fn worker(image: &str) -> String {
    let labels = json!({"app": "worker"});
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "worker"},
    });
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": WORKER, "labels": labels},
        "spec": {"selector": {"matchLabels": labels}, "template": {
            "metadata": {"labels": labels},
            "spec": {
                "serviceAccountName": "worker", "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "worker", "image": image, "command": ["celery"]}],
            },
        }},
    });
    format!("{account}\n---\n{deployment}")
}

/// The previous release, installed by its chart in place of this one.
struct Previous {
    release: Release,
    values: PathBuf,
    _folder: tempfile::TempDir,
}

impl Previous {
    fn install(cluster: &Cluster) -> Result<Self> {
        let previous = image::previous()?;
        cluster.import(&previous.join("image.tar"))?;
        let folder = tempfile::tempdir()?;
        let values = folder.path().join("values.json");
        fs::write(&values, self::values().to_string())?;
        let release = Release::prepare(cluster)?;
        let (repository, tag) = MIGRATION_GATE_PREVIOUS
            .rsplit_once(':')
            .context("the image has a tag")?;
        // Packed, as in a registry.
        let (chart, packed) = (previous.join("chart"), folder.path());
        release.kubectl().helm(&format!(
            "package {} --version=0.1.0 --destination={}",
            chart.display(),
            packed.display()
        ))?;
        release.kubectl().helm(&format!(
            "install migration-gate {}/migration-gate-0.1.0.tgz --wait --timeout=170s \
             --values={} --set=image.repository={repository},image.tag={tag}",
            packed.display(),
            values.display()
        ))?;
        Ok(Self {
            release,
            values,
            _folder: folder,
        })
    }

    fn upgrade(&self) -> Result<()> {
        let values = format!("--wait --values={}", self.values.display());
        self.release.helm("upgrade", &values)?;
        self.serves_alone(MIGRATION_GATE)
    }

    fn roll_back(&self) -> Result<()> {
        let kubectl = self.release.kubectl();
        kubectl.helm("rollback migration-gate 1 --wait --timeout=170s")?;
        self.serves_alone(MIGRATION_GATE_PREVIOUS)
    }

    /// Waits until the replicas of the other release have ended. They still answer until then.
    fn serves_alone(&self, image: &str) -> Result<()> {
        let images = "get pods --output=jsonpath={.items[*].spec.containers[*].image}";
        until(
            &format!("{image} to serve alone"),
            Duration::from_mins(3),
            || match self.release.kubectl().run(images) {
                Ok(found) if found.split_whitespace().all(|found| found == image) => Look::Done(()),
                Ok(found) => Look::Pending(found),
                Err(error) => Look::Pending(format!("{error:#}")),
            },
        )
    }
}

/// The state that must not change: the template of each Deployment, and the uid and restarts of
/// each pod.
fn running(kubectl: &Kubectl) -> Result<Vec<Value>> {
    let found = kubectl.get("deployments,replicasets,pods")?;
    let items = found["items"].as_array().context("a list")?;
    let of_job = |object: &&Value| object["metadata"]["labels"]["job-name"].is_null();
    let kept = |object: &Value| {
        json!([
            object["metadata"]["name"],
            object["metadata"]["uid"],
            object["spec"]["template"],
            object["status"]["containerStatuses"][0]["restartCount"],
        ])
    };
    let all = items.iter().filter(of_job);
    let stay = all.filter(|object| object["metadata"]["deletionTimestamp"].is_null());
    Ok(stay.map(kept).collect())
}

/// The Deployments' generations, which also count changes of their annotations.
fn generations(kubectl: &Kubectl) -> Result<String> {
    kubectl.run("get deployments --output=jsonpath={.items[*].metadata.generation}")
}

/// Fails with the differences.
fn same(what: &str, before: &[Value], after: &[Value]) -> Result<()> {
    for (before, after) in before.iter().zip(after) {
        ensure!(before == after, "{what}: {before}\nbecame\n{after}");
    }
    ensure!(
        before.len() == after.len(),
        "{what}: {before:?}\nbecame\n{after:?}"
    );
    Ok(())
}

/// Applies as Flux does. The first apply takes over the fields that kubectl has applied.
fn reconcile(kubectl: &Kubectl, manifests: &str) -> Result<()> {
    // Without the Job, which would be created again and run.
    let (_job, deployments) = manifests.split_once("\n---\n").context("several objects")?;
    let apply = [
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=kustomize-controller",
        "-f",
        "-",
    ];
    kubectl
        .output(&apply, deployments, Duration::from_mins(3))?
        .success()?;
    Ok(())
}

/// Makes the usual changes of controllers and appliers, which do not change pod templates.
fn touch(kubectl: &Kubectl, manifests: &str, value: &str) -> Result<()> {
    kubectl.run(&format!(
        "annotate deployments --all --overwrite example.org/seen={value}"
    ))?;
    reconcile(kubectl, manifests)?;
    let before = generations(kubectl)?;
    reconcile(kubectl, manifests)?;
    let after = generations(kubectl)?;
    ensure!(before == after, "{value}: {before} became {after}");
    Ok(())
}

/// The image and output of the waiters of all pods that a change creates, after the roll-out.
fn of_new_pods(
    kubectl: &Kubectl,
    deployment: &str,
    labels: &str,
    change: &str,
) -> Result<Vec<(String, String)>> {
    let names = || -> Result<BTreeSet<String>> {
        let names = kubectl.run(&format!("get pods --selector={labels} --output=name"))?;
        Ok(names.lines().map(str::to_owned).collect())
    };
    let before = names()?;
    kubectl.run(change)?;
    kubectl.run(&format!(
        "rollout status deployment/{deployment} --timeout=170s"
    ))?;
    let new = names()?;
    let waiter = |pod: &String| -> Result<(String, String)> {
        let image = format!("get {pod} --output=jsonpath={{.spec.initContainers[0].image}}");
        Ok((kubectl.run(&image)?, kubectl.logs(pod, WAITER)?))
    };
    new.difference(&before).map(waiter).collect()
}

/// Checks that there is one new pod, whose waiter has this image and has opened by the record of
/// this version.
fn opened_by_the_record(new: &[(String, String)], image: &str, version: &str) -> Result<()> {
    let opened = format!("open: the record has version {version}, ");
    let opens = |said: &str| {
        said.lines()
            .last()
            .is_some_and(|line| line.starts_with(&opened))
    };
    let right = |(of, said): &(String, String)| of == image && opens(said);
    ensure!(
        new.len() == 1 && right(&new[0]),
        "{image}, {version}: {new:?}"
    );
    Ok(())
}

/// Waits until the record has an entry of this version and of the existing Job.
fn await_entry(kubectl: &Kubectl, version: &str) -> Result<Value> {
    let job = kubectl.get(&format!("job {JOB}"))?;
    until(
        "the completion to be recorded",
        Duration::from_mins(1),
        || {
            let record = match kubectl.get(RECORD) {
                Ok(record) => record,
                Err(error) => return Look::Pending(format!("{error:#}")),
            };
            let text = record["data"][version].as_str().unwrap_or_default();
            match serde_json::from_str::<Value>(text) {
                Ok(entry) if entry["uid"] == job["metadata"]["uid"] => Look::Done(entry),
                _ => Look::Pending(record["data"].to_string()),
            }
        },
    )
}

fn an_upgrade_from_the_previous_release_and_back_rolls_nothing_out(
    cluster: &Cluster,
) -> Result<()> {
    let namespace = cluster.namespace_named(NAMESPACE)?;
    let previous = Previous::install(cluster)?;
    let application = GatedApplication::of(cluster, namespace);
    let kubectl = application.kubectl();
    let [v2, v3] = ["piefed/piefed:1.2.0", "piefed/piefed:1.3.0"];
    let first = format!("{}\n---\n{}", manifests(v2), worker(v2));
    kubectl.apply(&first)?;
    application.migrates_first(v2)?;
    kubectl.run(&format!(
        "rollout status deployment/{WORKER} --timeout=170s"
    ))?;
    let entry = await_entry(kubectl, "1.2.0")?;
    ensure!(
        entry.get("containers").is_none(),
        "a new release's: {entry}"
    );
    kubectl.run(&format!("delete job {JOB}"))?;

    // Upgrade, and check that nothing else has changed.
    let (before, counted) = (running(kubectl)?, generations(kubectl)?);
    let unchanged = |what: &str| same(what, &before, &running(kubectl)?);
    previous.upgrade()?;
    unchanged("the upgrade")?;
    ensure!(counted == generations(kubectl)?, "not {counted}");
    touch(kubectl, &first, "upgraded")?;
    unchanged("what controllers and appliers do")?;

    // Waiters of both releases use the previous release's entries,
    let (web, workers) = ("app=web", "app=worker");
    let scale = |name: &str, to: u8| format!("scale deployment/{name} --replicas={to}");
    let restart = |value: &str| {
        let annotations = json!({"annotations": {"restarted": value}});
        let patch = json!({"spec": {"replicas": 1, "template": {"metadata": annotations}}});
        format!("patch deployment/{WEB} --patch={patch}")
    };
    let new = of_new_pods(kubectl, WORKER, workers, &scale(WORKER, 2))?;
    opened_by_the_record(&new, MIGRATION_GATE_PREVIOUS, "1.2.0")?;
    let new = of_new_pods(kubectl, WEB, web, &restart("upgraded"))?;
    opened_by_the_record(&new, MIGRATION_GATE, "1.2.0")?;
    // and waiters of the previous release use this one's.
    kubectl.apply(&first)?;
    application.migrate()?;
    let entry = await_entry(kubectl, "1.2.0")?;
    ensure!(
        entry.get("containers").is_some(),
        "an old release's: {entry}"
    );
    kubectl.run(&format!("delete job {JOB}"))?;
    let new = of_new_pods(kubectl, WORKER, workers, &scale(WORKER, 3))?;
    opened_by_the_record(&new, MIGRATION_GATE_PREVIOUS, "1.2.0")?;

    // One Deployment is upgraded, and the other is scaled out, while the migration runs.
    kubectl.apply(&manifests(v3))?;
    application.holds(v3, "waiting: Job piefed-db-init is running")?;
    let new = of_new_pods(kubectl, WORKER, workers, &scale(WORKER, 4))?;
    opened_by_the_record(&new, MIGRATION_GATE_PREVIOUS, "1.2.0")?;
    application.migrates_first(v3)?;
    await_entry(kubectl, "1.3.0")?;
    kubectl.run(&format!("delete job {JOB}"))?;

    // Roll back to the previous release.
    let record = kubectl.get(RECORD)?["data"].take();
    let (before, counted) = (running(kubectl)?, generations(kubectl)?);
    let unchanged = |what: &str| same(what, &before, &running(kubectl)?);
    previous.roll_back()?;
    unchanged("the rollback")?;
    ensure!(counted == generations(kubectl)?, "not {counted}");
    touch(kubectl, &manifests(v3), "rolled-back")?;
    unchanged("what controllers and appliers do after it")?;
    let new = of_new_pods(kubectl, WEB, web, &scale(WEB, 2))?;
    opened_by_the_record(&new, MIGRATION_GATE, "1.3.0")?;
    let new = of_new_pods(kubectl, WEB, web, &restart("rolled-back"))?;
    opened_by_the_record(&new, MIGRATION_GATE_PREVIOUS, "1.3.0")?;
    let kept = kubectl.get(RECORD)?["data"].take();
    ensure!(record == kept, "{record:#} became {kept:#}");

    // Its server adds completions beside this release's entries.
    kubectl.apply(&manifests(v3))?;
    application.migrate()?;
    await_entry(kubectl, "1.3.0")?;
    let kept = kubectl.get(RECORD)?["data"].take();
    ensure!(
        record["1.2.0"] == kept["1.2.0"],
        "{record:#} became {kept:#}"
    );
    Ok(())
}
