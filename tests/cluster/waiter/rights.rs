//! Tests of the waiter's permissions.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::chart;
use testkit::gate::{JOB, RECORD, V2, complete, failed, manifest, running};
use testkit::kubectl::Kubectl;
use testkit::sandbox::Sandbox;
use testkit::scene::{Plane, Scene, set_status};

testkit::tests! {
    standalone:
        the_charts_role_is_enough_and_nothing_wider,
        exact_names_are_all_that_a_role_for_several_jobs_shows,
        a_pattern_needs_every_job_of_the_namespace_and_no_more,
        rights_that_never_come_end_the_wait,
        without_the_right_to_read_the_record_the_job_decides;
}

/// The rules of the waiter's Role in the chart, for a gate in this namespace.
pub(super) fn rules(kubectl: &Kubectl, namespace: &str) -> Result<Value> {
    rules_for(kubectl, namespace, &json!([{"name": JOB}]))
}

/// The same, for a gate that waits for these Jobs.
fn rules_for(kubectl: &Kubectl, namespace: &str, jobs: &Value) -> Result<Value> {
    let gate = json!({
        "name": "g", "namespace": namespace, "jobs": jobs, "deployments": ["web"],
        "serviceAccount": "waiter",
    });
    let rendered = chart::template(&kubectl.helm, &json!({"gates": [gate]}))?;
    let role = chart::objects(&rendered)?
        .into_iter()
        .find(|object| {
            object["kind"] == "Role"
                && object["metadata"]["name"]
                    .as_str()
                    .is_some_and(|name| name.ends_with("-g-wait"))
        })
        .context("the chart has no Role for the waiter")?;
    Ok(role["rules"].clone())
}

/// Grants a user exactly these permissions in the namespace.
pub(super) fn grant_user(kubectl: &Kubectl, user: &str, rules: &Value) -> Result<()> {
    let subject = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user});
    grant(kubectl, user, &subject, rules)
}

/// Grants a subject these permissions, by a Role and a RoleBinding with the user's name.
pub(super) fn grant(kubectl: &Kubectl, user: &str, subject: &Value, rules: &Value) -> Result<()> {
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
        "metadata": {"name": user}, "rules": rules,
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [subject],
    });
    kubectl.apply(&format!("{role}\n---\n{binding}"))?;
    Ok(())
}

/// A user without permissions, and kubectl as the administrator in the scene's namespace.
fn stranger(plane: &Plane, scene: &Scene) -> Result<(PathBuf, Kubectl)> {
    Ok((
        plane.user(&scene.namespace)?,
        plane.kubectl.in_namespace(&scene.namespace),
    ))
}

fn the_charts_role_is_enough_and_nothing_wider(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "right-role")?;
    let (user, kubectl) = stranger(plane, &scene)?;
    grant_user(&kubectl, "right-role", &rules(&kubectl, &scene.namespace)?)?;

    scene.create("2")?;
    scene.status(&running())?;
    let mut waiter = scene.waiter_as(&user, &[V2])?;
    waiter.says("waiting: Job db-init is running");
    scene.status(&complete())?;
    let ended = waiter.ends_with(0);
    ensure!(ended.output.lines().count() == 2, "{}", ended.output);
    scene.record(&["3"])?;
    scene.waiter_as(&user, &["--image=web:3"])?.ends_with(0);
    scene.delete()?;
    scene.create("2")?;
    scene.status(&failed())?;
    let ended = scene.waiter_as(&user, &[V2])?.ends_with(3);
    ensure!(!ended.output.contains("not permitted"), "{}", ended.output);

    // The user can read no other Job or ConfigMap, and write nothing.
    let own = kubectl.with_kubeconfig(&user);
    for allowed in [
        format!("watch jobs.batch/{JOB}"),
        format!("watch configmaps/{RECORD}"),
    ] {
        can_i(&own, &allowed, "yes")?;
    }
    for refused in [
        "list jobs.batch",
        "watch jobs.batch/another",
        "list configmaps",
        "get configmaps/another",
        "get secrets",
        &format!("delete jobs.batch/{JOB}"),
        &format!("update configmaps/{RECORD}"),
        "create configmaps",
        "create pods",
    ] {
        can_i(&own, refused, "no")?;
    }
    Ok(())
}

fn exact_names_are_all_that_a_role_for_several_jobs_shows(sandbox: &Sandbox) -> Result<()> {
    let jobs = json!([{"name": JOB}, {"anyOf": [{"name": "prepare"}, {"name": "pre-migrate"}]}]);
    let alternatives = "--job=prepare|pre-migrate";
    let own = waits_with_the_charts_role(sandbox, "right-names", &jobs, alternatives)?;
    can_i(&own, "watch jobs.batch/prepare", "yes")?;
    can_i(&own, "watch jobs.batch/another", "no")?;
    can_i(&own, "list jobs.batch", "no")
}

fn a_pattern_needs_every_job_of_the_namespace_and_no_more(sandbox: &Sandbox) -> Result<()> {
    let jobs = json!([{"name": JOB}, {"name": "pre-*"}]);
    let own = waits_with_the_charts_role(sandbox, "right-pattern", &jobs, "--job=pre-*")?;
    can_i(&own, "watch jobs.batch", "yes")?;
    can_i(&own, "delete jobs.batch", "no")?;
    can_i(&own, "list configmaps", "no")
}

/// Checks that a waiter for [`JOB`] and the arguments `others` opens with only the permissions of
/// the chart's Role for `jobs`. Returns its user's kubectl.
fn waits_with_the_charts_role(
    sandbox: &Sandbox,
    name: &str,
    jobs: &Value,
    others: &str,
) -> Result<Kubectl> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, name)?;
    let (user, kubectl) = stranger(plane, &scene)?;
    grant_user(&kubectl, name, &rules_for(&kubectl, name, jobs)?)?;
    scene.create("2")?;
    let short = "--permission-timeout=1s";
    let mut waiter = scene.waiter_as(&user, &[others, V2, short])?;
    waiter.says("waiting: Job db-init");
    scene.status(&complete())?;
    scene.create_job(manifest("pre-migrate", "2"))?;
    set_status(scene.jobs(), "pre-migrate", &complete())?;
    let ended = waiter.ends();
    ensure!(ended.code == Some(0), "{}", ended.output);
    Ok(kubectl.with_kubeconfig(&user))
}

/// Checks the answer of `kubectl auth can-i`.
fn can_i(kubectl: &Kubectl, question: &str, answer: &str) -> Result<()> {
    let words = question.split(' ');
    let words: Vec<&str> = ["auth", "can-i"].into_iter().chain(words).collect();
    let output = kubectl.output(&words, "", std::time::Duration::from_mins(3))?;
    let found = output.stdout.trim();
    ensure!(found == answer, "{question}: {found}");
    Ok(())
}

fn rights_that_never_come_end_the_wait(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "right-none")?;
    let (user, kubectl) = stranger(plane, &scene)?;
    scene.create("2")?;
    let ended = scene
        .waiter_as(&user, &[V2, "--permission-timeout=1s"])?
        .ends_with(5);
    let can_i = "kubectl auth can-i list jobs.batch/db-init --as=right-none -n right-none";
    let expect = format!(
        "not permitted to watch Job db-init for 1s: jobs.batch \"db-init\" is forbidden: User \"right-none\" cannot list resource \
         \"jobs\" in API group \"batch\" in the namespace \"right-none\"; check that the Role and RoleBinding exist: {can_i}"
    );
    ensure!(ended.termination == expect, "{}", ended.termination);
    ensure!(ended.output.ends_with(&expect), "{}", ended.output);

    // The printed command shows the same, before and after the permission is granted.
    let run = || -> Result<String> {
        let words: Vec<&str> = can_i.split(' ').skip(1).collect();
        let output = kubectl.output(&words, "", std::time::Duration::from_mins(3))?;
        Ok(output.stdout.trim().to_owned())
    };
    ensure!(run()? == "no");
    let mut waiter = scene.waiter_as(&user, &[V2, "--permission-timeout=1h"])?;
    waiter
        .says("waiting: not permitted to watch Job db-init: jobs.batch \"db-init\" is forbidden: ");
    grant_user(&kubectl, "right-none", &rules(&kubectl, &scene.namespace)?)?;
    waiter.says("waiting: Job db-init has no pod yet");
    ensure!(run()? == "yes");
    scene.status(&complete())?;
    waiter.ends_with(0);

    // A token that the API server does not know.
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&user)?)?;
    config["users"][0]["user"] = json!({"token": "no one's"});
    let folder = tempfile::tempdir()?;
    let unknown = folder.path().join("kubeconfig");
    fs::write(&unknown, config.to_string())?;
    let ended = scene
        .waiter_as(&unknown, &[V2, "--permission-timeout=1s"])?
        .ends_with(5);
    let told = "not permitted to watch Job db-init for 1s: Unauthorized; ";
    let message = &ended.termination;
    ensure!(message.starts_with(told), "{message}");
    Ok(())
}

fn without_the_right_to_read_the_record_the_job_decides(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::shared(sandbox)?;
    let scene = Scene::on(plane, "right-job")?;
    let (user, kubectl) = stranger(plane, &scene)?;
    let rules = rules(&kubectl, &scene.namespace)?;
    let jobs: Value = rules
        .as_array()
        .context("rules")?
        .iter()
        .filter(|rule| rule["resources"] == json!(["jobs"]))
        .cloned()
        .collect();
    grant_user(&kubectl, "right-job", &jobs)?;
    scene.record(&["2"])?;
    scene.create("2")?;
    let mut waiter = scene.waiter_as(&user, &[V2])?;
    waiter.says(
        "not permitted to read the record; continuing with the Job alone: configmaps \"migration-gate-g\" is forbidden: ",
    );
    scene.status(&complete())?;
    waiter.ends_with(0);
    scene.delete()?;
    scene.create("2")?;
    scene.status(&failed())?;
    let ended = scene.waiter_as(&user, &[V2])?.ends_with(3);
    let told = "not permitted to list the Job's pods: pods is forbidden: ";
    ensure!(ended.output.contains(told), "{}", ended.output);
    Ok(())
}
