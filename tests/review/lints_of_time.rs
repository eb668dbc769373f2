//! Warnings about Jobs that are created too seldom, and about roll-outs that do not work well with
//! waiting.

use migration_gate::cli::config::parse;

use super::lints::{FORCE, JOB, RBAC, WEB, changes, check, codes_with};

#[test]
fn a_job_that_is_a_hook_of_one_phase() {
    changes("a_job_that_is_a_hook_of_one_phase");
}

/// Each of the gate's requirements needs a Job in both phases.
#[test]
fn jobs_that_are_hooks_of_two_phases() {
    let job = |name: &str, hook: &str| {
        JOB.replace("piefed-db-init", name)
            .replace(FORCE, &format!("helm.sh/hook: {hook}"))
    };
    let jobs = [job("first", "pre-install"), job("next", "pre-upgrade")].concat();
    let check = |required: &str, expect: &[&str]| {
        let gate = format!(
            "gates: [{{name: g, namespace: piefed-application, jobs: {required}, deployments: [piefed-web], serviceAccount: s}}]\n"
        );
        let config = parse(&gate, "f").expect("valid");
        assert_eq!(codes_with(&config, &[&jobs, WEB]), expect, "{required}");
    };
    check("[{anyOf: [{name: first}, {name: next}]}]", &[]);
    check(
        "[{name: first}, {name: next}]",
        &["hook-phase", "hook-phase"],
    );
    check("[{name: next}]", &["hook-phase"]);
}

#[test]
fn a_job_that_is_gone_when_it_has_ended() {
    changes("a_job_that_is_gone_when_it_has_ended");
}

#[test]
fn a_deployment_that_is_called_failed_while_its_pods_wait() {
    let check = |timeout: &str, spec: &str, expect: &[&str]| {
        let gate = format!(
            "gates: [{{name: piefed, namespace: piefed-application, job: piefed-db-init, deployments: [piefed-web], serviceAccount: s, timeout: {timeout}}}]\n"
        );
        let config = parse(&gate, "f").expect("valid");
        let web = WEB.replace("spec:\n  template", &format!("spec:\n  {spec}template"));
        assert_eq!(
            codes_with(&config, &[JOB, &web]),
            expect,
            "{timeout} {spec}"
        );
    };
    let late = &["progress-deadline"];
    check("10m", "", &[]);
    check("11m", "", late);
    check("2h", "progressDeadlineSeconds: 7199\n  ", late);
    check("2h", "progressDeadlineSeconds: 7200\n  ", &[]);
    check("5m", "progressDeadlineSeconds: 299\n  ", late);
    check("5m", "progressDeadlineSeconds: 300\n  ", &[]);
    // A Rollout has the same field, with the same default.
    let gate = "gates: [{name: piefed, namespace: piefed-application, job: piefed-db-init, workloads: [{kind: Rollout, name: piefed-web}, {kind: StatefulSet, name: piefed-web}], serviceAccount: s, timeout: 11m}]\n";
    let config = parse(gate, "f").expect("valid");
    let rollout = WEB
        .replace("apps/v1", "argoproj.io/v1alpha1")
        .replace("Deployment", "Rollout");
    assert_eq!(codes_with(&config, &[JOB, &rollout]), late);
    let set = WEB.replace("Deployment", "StatefulSet");
    assert!(codes_with(&config, &[JOB, &set]).is_empty());
}

#[test]
fn a_roll_out_that_stops_old_pods_first() {
    changes("a_roll_out_that_stops_old_pods_first");
}

#[test]
fn a_container_that_may_migrate_by_itself() {
    changes("a_container_that_may_migrate_by_itself");
}

#[test]
fn a_waiter_that_nothing_keeps() {
    let waiter = "      initContainers:\n      - name: wait-for-migrations\n        image: migration-gate/migration-gate:0.1.0\n        args: [wait, --gate=old, --job=j]\n        volumeMounts: [{name: migration-gate-token}]\n      containers";
    let stale = WEB
        .replace("piefed-web", "piefed-old")
        .replace("piefed/piefed", "redis")
        .replace("      containers", waiter);
    check(&[JOB, WEB, RBAC, &stale], &["stale-waiter"]);
    // A hand-written one is ignored, and a held one is kept.
    let by_hand = stale.replace("[wait, ", "[sh, ");
    check(&[JOB, WEB, RBAC, &by_hand], &[]);
    check(&[JOB, &WEB.replace("      containers", waiter), RBAC], &[]);
    // A ReplicaSet's Deployment is what people change.
    let owned = stale.replace(
        "metadata:\n  name",
        "metadata:\n  ownerReferences: [{controller: true}]\n  name",
    );
    check(&[JOB, WEB, RBAC, &owned], &[]);
}

#[test]
fn a_release_whose_workloads_are_not_there() {
    let release = "apiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: piefed, namespace: flux-system}\nspec: {targetNamespace: piefed-application}\n---\n";
    check(&[JOB, release], &["not-held"]);
    check(&[JOB, WEB, release], &[]);
    check(&[release], &[]);
    check(&[JOB, &release.replace("piefed-application", "other")], &[]);
    let here = release.replace("flux-system", "piefed-application");
    check(
        &[JOB, &here.replace("targetNamespace: ", "chart: ")],
        &["not-held"],
    );
}

#[test]
fn an_application_whose_workloads_are_not_there() {
    let application = "apiVersion: argoproj.io/v1alpha1\nkind: Application\nmetadata: {name: piefed, namespace: argocd}\nspec: {destination: {namespace: piefed-application, name: in-cluster}}\n---\n";
    let set = application
        .replace("Application\n", "ApplicationSet\n")
        .replace("spec: {", "spec: {template: {spec: {")
        .replace("}}\n---", "}}}}\n---");
    let chart = "apiVersion: helm.cattle.io/v1\nkind: HelmChart\nmetadata: {name: piefed, namespace: kube-system}\nspec: {chart: piefed, targetNamespace: piefed-application}\n---\n";
    for installer in [application, &set, chart] {
        check(&[JOB, installer], &["not-held"]);
        check(&[JOB, WEB, installer], &[]);
        check(
            &[JOB, &installer.replace("piefed-application", "other")],
            &[],
        );
    }
}

/// The lints of a Job need no workload beside it.
#[test]
fn a_job_alone_is_looked_at() {
    check(&[&JOB.replace(FORCE, "a: b")], &["job-not-replaceable"]);
    check(&[JOB], &[]);
}
