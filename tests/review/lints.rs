//! Each warning, next to the nearest manifests that don't get it.

use migration_gate::cli::config::parse;
use migration_gate_core::gates::{Config, Freshness, Mode};
use migration_gate_yaml::documents;
use serde_json::json;

use super::{found, loaded, review};

pub(super) const FORCE: &str = "kustomize.toolkit.fluxcd.io/force: enabled";

pub(super) const JOB: &str = include_str!("setup/job.yaml");

pub(super) const WEB: &str = include_str!("setup/web.yaml");

pub(super) const RBAC: &str = include_str!("setup/rbac.yaml");

/// The codes that these manifests get, without the lines.
pub(super) fn codes_with(config: &Config, parts: &[&str]) -> Vec<String> {
    let mut codes: Vec<String> = found(config, &parts.concat())
        .into_iter()
        .map(|found| found.split(' ').next().unwrap_or_default().to_owned())
        .collect();
    codes.sort();
    codes
}

pub(super) fn check(parts: &[&str], expect: &[&str]) {
    let codes = codes_with(&Config::default(), parts);
    assert_eq!(codes, expect, "{}", parts.concat());
}

/// The changes that `lints.yaml` has for a test, each to manifests that get no warning.
pub(super) fn changes_of(manifests: &[&str], test: &str) {
    let changes = documents(include_str!("lints.yaml")).next();
    let changes = changes.expect("one").expect("valid").value;
    for change in changes[test].as_array().expect(test) {
        let field = |i: usize| change[i].as_str().expect("a text");
        let kind = format!("kind: {}\n", field(0));
        let parts = manifests.iter().map(|manifest| {
            if !manifest.contains(&kind) {
                return (*manifest).to_owned();
            }
            assert!(manifest.contains(field(1)), "{change}");
            manifest.replace(field(1), field(2))
        });
        let codes = codes_with(&Config::default(), &[&parts.collect::<String>()]);
        assert_eq!(json!(codes), change[3], "{change}");
    }
}

pub(super) fn changes(test: &str) {
    changes_of(&[JOB, WEB, RBAC], test);
}

#[test]
fn a_sound_setup_gets_none() {
    check(&[JOB, WEB, RBAC], &[]);
    check(&[JOB], &[]);
    check(&[RBAC], &[]);
}

#[test]
fn an_object_can_ignore_a_warning() {
    let ignoring = |codes: &str| {
        let line = format!("\n  annotations:\n    migration-gate.io/ignore: {codes}");
        JOB.replace("\n  annotations:", &line)
            .replace("    kustomize", "    x")
            .replace("template:", "suspend: true\n  template:")
    };
    let check = |codes: &str, expect: &[&str]| check(&[&ignoring(codes), WEB, RBAC], expect);
    check("''", &["job-not-replaceable", "job-suspended"]);
    check("job-suspended", &["job-not-replaceable"]);
    check("job-suspended, job-not-replaceable", &[]);
    check("job-suspende", &["job-not-replaceable", "job-suspended"]);
    // An object ignores only its own warnings, and no refusal.
    let web = WEB.replace(
        "  name: piefed-web",
        "  name: piefed-web\n  annotations: {migration-gate.io/ignore: 'forbidden-env job-suspended'}",
    );
    let web = web.replace(
        "name: web\n",
        "name: web\n        env: [{name: PIEFED_INIT_CONTAINER}]\n",
    );
    self::check(
        &[&ignoring("x"), &web, RBAC],
        &["forbidden-env", "job-not-replaceable", "job-suspended"],
    );
}

#[test]
fn findings_stand_in_the_order_of_their_lines() {
    let text = [JOB, WEB]
        .concat()
        .replace(":1.2.0", "")
        .replace("    kustomize", "    x");
    assert_eq!(
        found(&Config::default(), &text),
        ["job-not-replaceable 6", "mutable-tag 28"]
    );
}

/// Only one of several Jobs is in the file.
#[test]
fn a_job_says_nothing_of_the_others() {
    let gate = "gates: [{name: piefed, namespace: piefed-application, jobs: [{name: piefed-db-init}, {name: other}], deployments: [piefed-web], serviceAccount: s}]\n";
    let config = parse(gate, "f").expect("valid");
    assert!(codes_with(&config, &[JOB]).is_empty());
    assert_eq!(codes_with(&config, &[JOB, WEB]), ["no-job"]);
}

#[test]
fn no_job() {
    check(&[WEB, RBAC], &["no-job"]);
    changes("no_job");
}

#[test]
fn versions() {
    changes("versions");
    let mut config = Config::default();
    config.gates[0].freshness = Freshness::Any;
    let other = WEB.replace(":1.2.0", "");
    assert_eq!(codes_with(&config, &[JOB, &other, RBAC]), ["freshness-any"]);
    assert!(codes_with(&config, &[JOB]).is_empty());
}

/// Objects that are read from a cluster show who applies them.
#[test]
fn a_job_that_its_applier_cannot_replace_names_that_one() {
    for (mark, way) in [
        (
            "argocd.argoproj.io/tracking-id: 'shop:batch/Job:a/b'",
            "let Argo CD replace it",
        ),
        ("meta.helm.sh/release-name: shop", "let Helm replace it"),
        (
            "kubectl.kubernetes.io/last-applied-configuration: '{}'",
            "kubectl cannot replace it",
        ),
        ("a: b", "tell the applier to replace it"),
    ] {
        let job = JOB.replace(FORCE, mark);
        let loaded = loaded(&[&job, WEB].concat());
        let findings = review(&Config::default(), &loaded, None).findings;
        assert!(
            findings.iter().any(|it| it.message.contains(way)),
            "{mark}: {findings:#?}"
        );
    }
}

#[test]
fn a_job_that_an_applier_cannot_replace() {
    changes("a_job_that_an_applier_cannot_replace");
    // Flux replaces it where its Kustomization says so.
    let flux = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps, namespace: flux-system}\nspec: {path: ./apps, force: true}\n---\n";
    let job = JOB.replace(FORCE, "a: b");
    check(&[&job, WEB, flux], &[]);
    let silent = flux.replace(", force: true", "");
    check(&[&job, WEB, &silent], &["job-not-replaceable"]);
    let elsewhere = flux.replace("force", "targetNamespace: other, force");
    check(&[&job, WEB, &elsewhere], &["job-not-replaceable"]);
    let here = flux.replace("force", "targetNamespace: piefed-application, force");
    check(&[&job, WEB, &here], &[]);
}

#[test]
fn a_suspended_job() {
    changes("a_suspended_job");
}

#[test]
fn rights_that_are_missing() {
    let web = WEB.replace(
        "    spec:\n      containers",
        "    spec:\n      serviceAccountName: own\n      containers",
    );
    let rbac = RBAC.replace("piefed-init-checker", "own");
    // An account of its own that has every right is what the warning asks for.
    check(&[JOB, &web, &rbac], &[]);
    check(&[JOB, &web], &["account-kept", "missing-rbac"]);
    changes_of(&[JOB, &web, &rbac], "rights_that_are_missing");
}

/// The chart gives the rights to the gate's own account.
#[test]
fn the_account_of_the_gate_needs_no_rights_of_its_own() {
    check(&[JOB, WEB], &[]);
    changes("the_account_of_the_gate_needs_no_rights_of_its_own");
}

/// The configuration may say that the chart gives no rights.
#[test]
fn without_the_chart_s_rights_every_account_needs_its_own() {
    let mut config = Config::default();
    config.gates[0].extra_accounts.insert("own".to_owned());
    let own = WEB.replace(
        "    spec:\n      containers",
        "    spec:\n      serviceAccountName: own\n      containers",
    );
    for web in [WEB, &own] {
        assert!(codes_with(&config, &[JOB, web]).is_empty());
    }
    config.rbac.gates = false;
    for web in [WEB, &own] {
        assert_eq!(codes_with(&config, &[JOB, web]), ["missing-rbac"]);
    }
    assert!(codes_with(&config, &[JOB, WEB, RBAC]).is_empty());
    let rbac = RBAC.replace("piefed-init-checker", "own");
    assert!(codes_with(&config, &[JOB, &own, &rbac]).is_empty());
}

/// Each kind has its pod spec in a place of its own.
#[test]
fn rights_that_are_missing_for_a_cron_job() {
    let gate = "gates: [{name: piefed, namespace: piefed-application, job: piefed-db-init, workloads: [{kind: CronJob, name: c}], serviceAccount: s}]\nrbac: {gates: false}\n";
    let config = parse(gate, "f").expect("valid");
    let cron_job = "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: c, namespace: piefed-application}\nspec:\n  jobTemplate:\n    spec:\n      template:\n        spec:\n          serviceAccountName: s\n          containers: [{name: c, image: 'piefed/piefed:1.2.0', command: [c]}]\n";
    assert_eq!(
        found(&config, &[JOB, cron_job].concat()),
        ["missing-rbac 24"]
    );
}

/// The pods of a Rollout with a `workloadRef` are those of the Deployment that it names.
#[test]
fn a_rollout_that_refers_to_a_deployment() {
    let gate = |workloads: &str| {
        let text = format!(
            "gates: [{{name: piefed, namespace: piefed-application, job: piefed-db-init, workloads: [{{kind: Rollout, name: roll}}{workloads}], serviceAccount: s}}]\n"
        );
        parse(&text, "f").expect("valid")
    };
    let rollout = "apiVersion: argoproj.io/v1alpha1\nkind: Rollout\nmetadata: {name: roll, namespace: piefed-application}\nspec: {workloadRef: {apiVersion: apps/v1, kind: Deployment, name: piefed-web}}\n---\n";
    let by_name = gate(", {kind: Deployment, name: piefed-*}");
    let by_label = gate(", {kind: Deployment, selector: {matchLabels: {app: web}}}");
    let check = |config: &Config, parts: &[&str], expect: &[&str]| {
        assert_eq!(codes_with(config, parts), expect, "{}", parts.concat());
    };
    check(&gate(""), &[JOB, rollout], &["workload-ref"]);
    check(
        &gate(""),
        &[JOB, rollout, WEB],
        &["not-held", "workload-ref"],
    );
    check(&by_name, &[JOB, rollout], &[]);
    check(&by_name, &[JOB, rollout, WEB], &[]);
    // Whether a gate's labels match the Deployment is known only if it is among the manifests.
    check(&by_label, &[JOB, rollout], &[]);
    check(
        &by_label,
        &[JOB, rollout, WEB],
        &["not-held", "workload-ref"],
    );
    let labelled = WEB.replace(
        "  name: piefed-web",
        "  name: piefed-web\n  labels: {app: web}",
    );
    check(&by_label, &[JOB, rollout, &labelled], &[]);
    let set = rollout.replace("kind: Deployment", "kind: ReplicaSet");
    check(&by_name, &[JOB, &set], &["workload-ref"]);
    // A Rollout with pods of its own is like any other workload.
    let own = WEB
        .replace("apps/v1", "argoproj.io/v1alpha1")
        .replace("Deployment", "Rollout")
        .replace("piefed-web", "roll");
    check(&gate(""), &[JOB, &own], &[]);
}

#[test]
fn a_job_that_needs_what_waits_for_it() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: piefed-application}\nspec: {selector: {app: web}}\n---\n";
    changes_of(
        &[JOB, WEB, RBAC, service],
        "a_job_that_needs_what_waits_for_it",
    );
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: piefed-application}\ndata: {URL: 'http://web/'}\n---\n";
    for from in [
        "envFrom: [{configMapRef: {name: c}}]",
        "env: [{name: URL, valueFrom: {configMapKeyRef: {name: c, key: URL}}}]",
    ] {
        let job = JOB.replace("command: [flask, db, upgrade]", from);
        check(&[&job, WEB, RBAC, service, config_map], &["deadlock"]);
        check(&[&job, WEB, RBAC, config_map], &[]);
    }
    // A Service that leads elsewhere gets no warning.
    let elsewhere = service.replace("{app: web}", "{app: redis}");
    let job = JOB.replace("[flask, db, upgrade]", "[curl, web]");
    check(&[&job, WEB, RBAC, &elsewhere], &[]);
}

#[test]
fn an_order_that_puts_the_job_last() {
    changes("an_order_that_puts_the_job_last");
    let job = JOB.replace(
        FORCE,
        "argocd.argoproj.io/hook: Sync\n    argocd.argoproj.io/sync-wave: '2'",
    );
    let web = WEB.replace(
        "  name: piefed-web",
        "  name: piefed-web\n  annotations: {argocd.argoproj.io/sync-wave: '2'}",
    );
    check(&[&job, &web, RBAC], &[]);
}

#[test]
fn a_workload_that_argo_cd_applies_and_awaits_before_the_job() {
    changes("a_workload_that_argo_cd_applies_and_awaits_before_the_job");
    let job = JOB.replace(
        FORCE,
        "argocd.argoproj.io/hook: PreSync\n    argocd.argoproj.io/sync-wave: '2'",
    );
    for (wave, codes) in [(1, &["deadlock"][..]), (2, &[])] {
        let hook = format!(
            "  name: piefed-web\n  annotations: {{argocd.argoproj.io/hook: PreSync, argocd.argoproj.io/sync-wave: '{wave}'}}"
        );
        let web = WEB.replace("  name: piefed-web", &hook);
        check(&[&job, &web, RBAC], codes);
    }
}

#[test]
fn a_workload_that_no_gate_holds() {
    let beat = WEB.replace("piefed-web", "piefed-beat");
    check(&[JOB, WEB, RBAC, &beat], &["not-held"]);
    check(
        &[JOB, WEB, RBAC, &beat.replace("Deployment", "StatefulSet")],
        &["not-held"],
    );
    check(
        &[JOB, WEB, RBAC, &beat.replace("piefed/piefed", "redis")],
        &[],
    );
    check(
        &[JOB, WEB, RBAC, &beat.replace("piefed-application", "other")],
        &[],
    );
}

#[test]
fn a_variable_that_arrives_by_env_from() {
    let pod = |from: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p, namespace: other}}\nspec: {{containers: [{{name: a, envFrom: [{from}]}}]}}\n---\n"
        )
    };
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m, namespace: other}\ndata: {PIEFED_INIT_CONTAINER: '1', INIT_CONTAINER: '1'}\n---\n";
    let secret = map
        .replace("ConfigMap", "Secret")
        .replace("\ndata:", "\nstringData:");
    check(
        &[&pod("{configMapRef: {name: m}}"), map],
        &["forbidden-env-from"],
    );
    check(
        &[&pod("{prefix: PIEFED_, configMapRef: {name: m}}"), map],
        &["forbidden-env-from"],
    );
    check(
        &[&pod("{prefix: OTHER_, configMapRef: {name: m}}"), map],
        &[],
    );
    check(
        &[&pod("{secretRef: {name: m}}"), &secret],
        &["forbidden-env-from"],
    );
    check(&[&pod("{secretRef: {name: m}}"), map], &[]);
    check(&[&pod("{configMapRef: {name: absent}}"), map], &[]);
    // A missing source may bring the variable, if its prefix is the beginning of the variable's
    // name.
    let prefixed = |prefix: &str| {
        pod(&format!(
            "{{prefix: {prefix}, configMapRef: {{name: absent}}}}"
        ))
    };
    check(&[&prefixed("PIEFED_"), map], &["forbidden-env-from"]);
    check(&[&prefixed("PIEFED_X"), map], &[]);
    check(&[&prefixed("PIEFED_INIT_CONTAINER"), map], &[]);
    check(&[&prefixed("''"), map], &[]);
    // In a gate's namespace, the key itself is refused.
    let gated = |text: &str| text.replace("other", "piefed-application");
    check(
        &[&gated(&pod("{configMapRef: {name: m}}")), &gated(map)],
        &["forbidden-env-from", "forbidden-key"],
    );
}

#[test]
fn a_deployment_that_says_nothing_of_its_namespace() {
    let nowhere = |text: &str| text.replace("  namespace: piefed-application\n", "");
    check(&[JOB, &nowhere(WEB), RBAC], &["no-namespace"]);
    check(&[&nowhere(WEB).replace("piefed-web", "other")], &[]);
    // A gate with labels would hold it too, and refuse the ConfigMap.
    let config = parse(
        "gates: [{name: g, namespace: ns, job: j, selector: {matchLabels: {part-of: shop}}, serviceAccount: s}]\nforbiddenEnv: [X]\n",
        "f",
    )
    .expect("valid");
    let labelled = nowhere(WEB).replace("metadata:\n", "metadata:\n  labels: {part-of: shop}\n");
    let check =
        |text: &str, expect: &[&str]| assert_eq!(codes_with(&config, &[text]), expect, "{text}");
    check(&labelled, &["no-namespace"]);
    check(&labelled.replace("shop", "other"), &[]);
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {X: '1'}\n";
    check(map, &["no-namespace"]);
    check(&map.replace("X:", "Y:"), &[]);
}

#[test]
fn in_the_mode_warn_violations_are_warnings() {
    use migration_gate::review::codes::{Code, Level};
    use migration_gate::review::engine::review;
    let text = WEB.replace(
        "image:",
        "env: [{name: PIEFED_INIT_CONTAINER}]\n        image:",
    );
    let config = Config {
        mode: Mode::Warn,
        ..Config::default()
    };
    let loaded = super::loaded(&text);
    let report = review(&config, &loaded, None);
    assert_eq!(report.count(Level::Error), 0);
    let finding = report
        .findings
        .iter()
        .find(|f| f.code == Code::ForbiddenEnv);
    assert_eq!(finding.map(|f| f.level), Some(Level::Warning));
    assert!(report.objects[0].patched.is_some());
}

/// Two gates in one namespace, each with its own Job and its own warnings.
#[test]
fn gates_do_not_mix() {
    let config = parse(
        "gates:\n\
         - {name: web, namespace: ns, job: a, deployments: [web], serviceAccount: s}\n\
         - {name: all, namespace: ns, job: b, selector: {matchLabels: {held: 'yes'}}, serviceAccount: s}\n",
        "f",
    )
    .expect("valid");
    let text = include_str!("setup/two-gates.yaml");
    let rbac = RBAC
        .replace("piefed-application", "ns")
        .replace("piefed-init-checker", "s")
        .replace("resourceNames: [piefed-db-init], ", "")
        .replace("resourceNames: [migration-gate-piefed], ", "");
    let rbac = rbac.replace(
        "subjects: [",
        "subjects: [{kind: ServiceAccount, name: t, namespace: ns}, ",
    );
    let rbac = rbac + "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: t, namespace: ns}\n";
    let all = codes_with(&config, &[text, "---\n", &rbac]);
    assert_eq!(all, ["no-job"]);
    let narrow = rbac.replace(
        "resources: [jobs],",
        "resources: [jobs], resourceNames: [a],",
    );
    let all = codes_with(&config, &[text, "---\n", &narrow]);
    assert_eq!(all, ["account-kept", "missing-rbac", "no-job"]);
}
