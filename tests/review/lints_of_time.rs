//! Warnings of Jobs that come too seldom and of roll-outs that don't go well with waiting.

use migration_gate::cli::config::parse;

use super::lints::{JOB, RBAC, WEB, changed, check, codes_with};

const FORCE: &str = "kustomize.toolkit.fluxcd.io/force: enabled";

#[test]
fn a_job_that_is_a_hook_of_one_phase() {
    let with = |annotation: &str, expect: &[&str]| changed(JOB, FORCE, annotation, expect);
    let one = &["hook-phase"];
    with("helm.sh/hook: pre-upgrade", one);
    with("helm.sh/hook: pre-install", one);
    with("helm.sh/hook: 'pre-upgrade, pre-rollback'", one);
    with("helm.sh/hook: test", one);
    with("helm.sh/hook: post-upgrade", &["deadlock", "hook-phase"]);
    with("helm.sh/hook: pre-install,pre-upgrade", &[]);
    with("helm.sh/hook: 'pre-upgrade, pre-install'", &[]);
    with("argocd.argoproj.io/hook: SyncFail", one);
    with("argocd.argoproj.io/hook: PreSync", &[]);
    // Argo CD's own hook overrules Helm's.
    with(
        "helm.sh/hook: pre-upgrade\n    argocd.argoproj.io/hook: Sync",
        &[],
    );
    with(FORCE, &[]);
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
    let with = |ttl: &str, expect: &[&str]| {
        let spec = format!("spec:\n  ttlSecondsAfterFinished: {ttl}\n  template");
        changed(JOB, "spec:\n  template", &spec, expect);
    };
    with("0", &["job-deleted-at-once"]);
    with("60", &[]);
    with("null", &[]);
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
}

#[test]
fn a_roll_out_that_stops_old_pods_first() {
    let with = |spec: &str, expect: &[&str]| {
        let spec = format!("spec:\n  {spec}\n  template");
        changed(WEB, "spec:\n  template", &spec, expect);
    };
    let early = &["recreate"];
    with("strategy: {type: Recreate}", early);
    with(
        "strategy: {rollingUpdate: {maxSurge: 0, maxUnavailable: 1}}",
        early,
    );
    with(
        "strategy: {rollingUpdate: {maxSurge: 0%, maxUnavailable: 1}}",
        early,
    );
    with(
        "replicas: 1\n  strategy: {rollingUpdate: {maxUnavailable: 1}}",
        early,
    );
    with("strategy: {rollingUpdate: {maxUnavailable: 100%}}", early);
    with(
        "strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 0}}",
        &[],
    );
    with(
        "replicas: 3\n  strategy: {rollingUpdate: {maxUnavailable: 1}}",
        &[],
    );
    with("strategy: {type: RollingUpdate}", &[]);
    with("replicas: 0\n  strategy: {type: Recreate}", &[]);
}

#[test]
fn a_container_that_may_migrate_by_itself() {
    let command = "        command: [flask, run]\n";
    let own = &["migrates-itself"];
    changed(WEB, command, "", own);
    changed(WEB, command, "        command: []\n", own);
    changed(WEB, command, "        args: [web]\n", own);
    changed(WEB, command, command, &[]);
    // A sidecar of another image has nothing to migrate with.
    changed(
        WEB,
        "      - name: web",
        "      - {name: redis, image: 'redis:7'}\n      - name: web",
        &["which-container"],
    );
}

#[test]
fn a_waiter_that_nothing_keeps() {
    let waiter = "      initContainers:\n      - name: wait-for-migrations\n        image: migration-gate/migration-gate:0.1.0\n        args: [wait, --gate=old, --job=j]\n        volumeMounts: [{name: migration-gate-token}]\n      containers";
    let stale = WEB
        .replace("piefed-web", "piefed-old")
        .replace("piefed/piefed", "redis")
        .replace("      containers", waiter);
    check(&[JOB, WEB, RBAC, &stale], &["stale-waiter"]);
    // One that somebody wrote by hand is no business of ours, and a held one is kept.
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

/// The lints of a Job need no workload beside it.
#[test]
fn a_job_alone_is_looked_at() {
    check(&[&JOB.replace(FORCE, "a: b")], &["job-not-replaceable"]);
    check(&[JOB], &[]);
}
