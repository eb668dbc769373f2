//! The rows that need pods: a Job with a real controller, and the logs of its pods.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::rights;
use testkit::cluster::Cluster;
use testkit::gate::JOB;
use testkit::image;
use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::waiter::Waiter;

testkit::tests! {
    shared:
        a_job_is_followed_from_its_suspension_to_its_last_attempts_logs,
        the_charts_role_reads_logs_and_without_it_the_exit_code_stays,
        the_log_of_a_pod_that_the_jobs_deadline_ends_is_shown;
}

const PASSWORD: &str = "s3cr3t-p4ssw0rd";

/// The surroundings of a waiter: a namespace on the node, and a folder for termination messages.
struct NodePlace {
    namespace: Namespace,
    folder: tempfile::TempDir,
}

impl NodePlace {
    fn new(cluster: &Cluster, stem: &str) -> Result<Self> {
        Ok(Self {
            namespace: cluster.namespace(stem)?,
            folder: tempfile::tempdir()?,
        })
    }

    /// A waiter for an image of version 1.2.0, as the user of a kubectl.
    fn waiter(&self, user: &Kubectl) -> Waiter {
        let namespace = format!("--namespace={}", self.namespace.name);
        let job = format!("--job={JOB}");
        let args = ["--gate=g", "--image=web:1.2.0", &namespace, &job];
        Waiter::spawn(&user.kubeconfig, self.folder.path(), args)
    }
}

/// A Job whose containers run these commands.
fn job(spec: &Value, containers: &[(&str, &str, &[&str])]) -> Value {
    let containers: Vec<Value> = containers
        .iter()
        .map(|(name, image, command)| json!({"name": name, "image": image, "command": command}))
        .collect();
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": JOB},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": false, "containers": containers,
        }}},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        job["spec"][field] = value.clone();
    }
    job
}

fn a_job_is_followed_from_its_suspension_to_its_last_attempts_logs(
    cluster: &Cluster,
) -> Result<()> {
    let place = NodePlace::new(cluster, "waiter-node")?;
    let kubectl = &place.namespace.kubectl;
    // A quota prevents the Job's pod until the test removes it.
    kubectl.run("create quota pods --hard=pods=0")?;
    kubectl.wait("quota/pods", "jsonpath={.status.hard.pods}=0", 30)?;
    let piefed = "piefed/piefed:1.2.0";
    let migration = ("migrate", piefed, &["flask", "db", "upgrade"][..]);
    let spec = json!({"suspend": true, "backoffLimit": 1});
    kubectl.apply(&job(&spec, &[migration]).to_string())?;
    let mut waiter = place.waiter(kubectl);
    waiter.says("waiting: Job db-init is suspended");
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"suspend":false}}}}"#
    ))?;
    waiter.says("waiting: Job db-init has no pod yet");
    kubectl.run("delete quota pods")?;
    waiter.says("waiting: Job db-init is running (attempt 1 of 2, ");
    kubectl.wait(&format!("job/{JOB}"), "jsonpath={.status.ready}=1", 60)?;
    kubectl.exec(&format!("job/{JOB}"), &["finish-migration", "failure"])?;
    waiter.says("waiting: Job db-init is about to try again (attempt 2 of 2, ");
    waiter.says("waiting: Job db-init is running (attempt 2 of 2, ");
    let second = await_running_pod(kubectl)?;
    kubectl.exec(&second, &["finish-migration", "failure"])?;
    waiter.says("waiting: Job db-init is failing, and its pods are ending");
    let ended = waiter.ends_with(3);

    // The newest attempt comes first, each with its whole output.
    let second = second.trim_start_matches("pod/");
    let headings: Vec<&str> = ended
        .output
        .lines()
        .filter(|line| line.starts_with("--- "))
        .collect();
    ensure!(
        headings.len() == 2
            && headings[0]
                == format!("--- attempt 2 of 2, pod {second}, container migrate: exit code 1")
            && headings[1].starts_with("--- attempt 1 of 2, pod db-init-"),
        "{headings:?}"
    );
    for printed in [
        "INFO  [alembic.runtime.migration] Running upgrade",
        "could not connect with postgresql://piefed:***@piefed-db:5432/piefed",
    ] {
        ensure!(
            ended.output.matches(printed).count() == 2,
            "{}",
            ended.output
        );
    }
    ensure!(
        ended.termination.starts_with(
            "Job db-init has failed (BackoffLimitExceeded: Job has reached the specified backoff limit), "
        ) && ended.termination.ends_with("@piefed-db:5432/piefed"),
        "{}",
        ended.termination
    );
    for shown in [&ended.output, &ended.termination] {
        ensure!(!shown.contains(PASSWORD), "{shown}");
    }
    Ok(())
}

/// The Job's pod that runs, as `pod/NAME`.
fn await_running_pod(kubectl: &Kubectl) -> Result<String> {
    kubectl.wait(&format!("job/{JOB}"), "jsonpath={.status.ready}=1", 60)?;
    let pods = kubectl.run(&format!(
        "get pods --selector=batch.kubernetes.io/job-name={JOB} --field-selector=status.phase=Running --output=name"
    ))?;
    let mut pods = pods.lines();
    let pod = pods.next().context("no pod runs")?;
    ensure!(pods.next().is_none(), "more than one pod runs");
    Ok(pod.to_owned())
}

fn the_charts_role_reads_logs_and_without_it_the_exit_code_stays(cluster: &Cluster) -> Result<()> {
    let place = NodePlace::new(cluster, "waiter-role")?;
    let Namespace { name, kubectl, .. } = &place.namespace;
    let rules = rights::rules(kubectl, name)?;
    kubectl.run("create serviceaccount waiter")?;
    let grant = |rules: &Value| -> Result<()> {
        let subject = json!({"kind": "ServiceAccount", "name": "waiter", "namespace": name});
        rights::grant(kubectl, "waiter", &subject, rules)
    };
    grant(&rules)?;
    let user = cluster.kubectl_as(name, "waiter")?;

    let print = |text: &str| format!("echo {text}; exit ");
    let (good, bad) = (print("connected") + "0", print("no-such-table") + "7");
    let containers: [(&str, &str, &[&str]); 2] = [
        ("proxy", image::BUSYBOX, &["sh", "-c", &good]),
        ("migrate", "piefed/piefed:1.2.0", &["sh", "-c", &bad]),
    ];
    let mut failing = job(&json!({"backoffLimit": 0}), &containers);
    failing["spec"]["template"]["metadata"] =
        json!({"annotations": {"kubectl.kubernetes.io/default-container": "migrate"}});
    kubectl.apply(&failing.to_string())?;
    let ended = place.waiter(&user).ends_with(3);
    ensure!(!ended.output.contains("not permitted"), "{}", ended.output);
    for part in [
        "container proxy: exit code 0\n| connected\n",
        "container migrate: exit code 7\n| no-such-table\n",
    ] {
        ensure!(ended.output.contains(part), "{}", ended.output);
    }
    // The log is that of the container that failed.
    ensure!(
        ended.termination.ends_with("\n| no-such-table"),
        "{}",
        ended.termination
    );

    // Without each of the permissions to read logs.
    for (resource, says) in [
        (
            "pods/log",
            "not permitted to read this log: pods \"db-init-",
        ),
        (
            "pods",
            "not permitted to list the Job's pods: pods is forbidden: User \"system:serviceaccount:",
        ),
    ] {
        let fewer: Value = rules
            .as_array()
            .context("rules")?
            .iter()
            .filter(|rule| rule["resources"] != json!([resource]))
            .cloned()
            .collect();
        ensure!(fewer != rules, "the Role has no {resource}");
        grant(&fewer)?;
        await_refusal(&user, resource)?;
        let ended = place.waiter(&user).ends_with(3);
        ensure!(ended.output.contains(says), "{}", ended.output);
        ensure!(
            ended.termination.starts_with("Job db-init has failed ("),
            "{}",
            ended.termination
        );
    }
    Ok(())
}

/// The Job controller deletes the pod before it marks the Job as failed.
fn the_log_of_a_pod_that_the_jobs_deadline_ends_is_shown(cluster: &Cluster) -> Result<()> {
    let place = NodePlace::new(cluster, "waiter-late")?;
    let kubectl = &place.namespace.kubectl;
    let command = ["sh", "-c", "echo it takes a long time; exec sleep 3600"];
    let mut job = job(&json!({}), &[("migrate", "piefed/piefed:1.2.0", &command)]);
    job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = json!(5);
    kubectl.apply(&job.to_string())?;
    let mut waiter = place.waiter(kubectl);
    waiter.says("waiting: Job db-init is running (attempt 1 of 7, ");
    let pod = await_running_pod(kubectl)?;
    let pod = pod.trim_start_matches("pod/");
    place
        .namespace
        .says(pod, "migrate", &["it takes a long time"])?;
    kubectl.run(&format!(
        r#"patch job {JOB} --type=merge --patch={{"spec":{{"activeDeadlineSeconds":1}}}}"#
    ))?;
    let ended = waiter.ends_with(3);
    // On a busy machine, the waiter may read only after the grace period.
    let shown = ["it was running", "exit code 137"]
        .map(|state| format!("pod {pod}, container migrate: {state}\n| it takes a long time\n"));
    ensure!(
        shown.iter().any(|shown| ended.output.contains(shown)),
        "{}",
        ended.output
    );
    ensure!(
        ended
            .termination
            .starts_with("Job db-init has failed (DeadlineExceeded: ")
            && ended.termination.ends_with("\n| it takes a long time"),
        "{}",
        ended.termination
    );
    Ok(())
}

/// Waits until the authorizer has seen the smaller Role.
fn await_refusal(user: &Kubectl, resource: &str) -> Result<()> {
    let question = match resource {
        "pods/log" => &["get", "pods", "--subresource=log"][..],
        _ => &["list", resource],
    };
    until(
        "the right to be gone",
        Duration::from_secs(90),
        || match user.output(
            &[&["auth", "can-i"], question].concat(),
            "",
            Duration::from_mins(3),
        ) {
            Ok(output) if output.stdout.trim() == "no" => Look::Done(()),
            Ok(output) => Look::Pending(output.stdout),
            Err(error) => Look::Failed(error),
        },
    )
}
