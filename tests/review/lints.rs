//! Each warning, next to the nearest manifests that don't get it.

use migration_gate::cli::config::parse;
use migration_gate_core::gates::{Config, Freshness, Mode};

use super::found;

pub(super) const JOB: &str = "\
apiVersion: batch/v1
kind: Job
metadata:
  name: piefed-db-init
  namespace: piefed-application
  annotations:
    kustomize.toolkit.fluxcd.io/force: enabled
spec:
  template:
    spec:
      containers:
      - name: db-init
        image: piefed/piefed:1.2.0
        command: [flask, db, upgrade]
---
";

pub(super) const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: piefed-web
  namespace: piefed-application
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        command: [flask, run]
        image: piefed/piefed:1.2.0
---
";

pub(super) const RBAC: &str = "\
apiVersion: v1
kind: ServiceAccount
metadata: {name: piefed-init-checker, namespace: piefed-application}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: r, namespace: piefed-application}
rules:
- {apiGroups: [batch], resources: [jobs], resourceNames: [piefed-db-init], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [configmaps], resourceNames: [migration-gate-piefed], verbs: [get, list, watch]}
- {apiGroups: [''], resources: [pods], verbs: [list]}
- {apiGroups: [''], resources: [pods/log], verbs: [get]}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: b, namespace: piefed-application}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: r}
subjects: [{kind: ServiceAccount, name: piefed-init-checker, namespace: piefed-application}]
---
";

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

/// One change to a manifest of the setup that gets no warning, and what it then gets.
pub(super) fn changed(part: &str, from: &str, to: &str, expect: &[&str]) {
    let parts = [JOB, WEB, RBAC].map(|one| {
        if one == part {
            assert!(one.contains(from), "{from}");
            one.replace(from, to)
        } else {
            one.to_owned()
        }
    });
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    check(&parts, expect);
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
    // Only its own, and no refusal.
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

#[test]
fn no_job() {
    check(&[WEB, RBAC], &["no-job"]);
    changed(JOB, "name: piefed-db-init", "name: other", &["no-job"]);
    changed(
        JOB,
        "  namespace: piefed-application",
        "  namespace: other",
        &["no-job"],
    );
}

#[test]
fn versions() {
    changed(WEB, ":1.2.0", ":1.3.0", &["version-mismatch"]);
    changed(
        WEB,
        "piefed/piefed:1.2.0",
        "mirror:5000/piefed/web:1.2.0",
        &[],
    );
    changed(WEB, ":1.2.0", "@sha256:ab", &["version-mismatch"]);
    changed(WEB, ":1.2.0", "", &["mutable-tag", "version-mismatch"]);
    changed(
        WEB,
        ":1.2.0",
        ":latest",
        &["mutable-tag", "version-mismatch"],
    );
    changed(WEB, ":1.2.0", ":latest@sha256:ab", &["version-mismatch"]);
    let mut config = Config::default();
    config.gates[0].freshness = Freshness::Any;
    let other = WEB.replace(":1.2.0", "");
    assert_eq!(codes_with(&config, &[JOB, &other, RBAC]), ["freshness-any"]);
    assert!(codes_with(&config, &[JOB]).is_empty());
    // The container that the waiter compares is the default one, wherever it stands.
    changed(
        WEB,
        "    metadata: {labels: {app: web}}\n    spec:\n      containers:\n",
        "    metadata: {annotations: {kubectl.kubernetes.io/default-container: web}}\n    spec:\n      containers:\n      - {name: proxy, image: proxy}\n",
        &[],
    );
}

#[test]
fn a_job_that_an_applier_cannot_replace() {
    let force = "kustomize.toolkit.fluxcd.io/force: enabled";
    let with = |annotation: &str, expect: &[&str]| changed(JOB, force, annotation, expect);
    with("a: b", &["job-not-replaceable"]);
    with(
        "kustomize.toolkit.fluxcd.io/force: disabled",
        &["job-not-replaceable"],
    );
    with("kustomize.toolkit.fluxcd.io/force: Enabled", &[]);
    with(
        "argocd.argoproj.io/sync-options: Replace=true",
        &["job-not-replaceable"],
    );
    with(
        "argocd.argoproj.io/sync-options: Force=true,Replace=true",
        &[],
    );
    with("argocd.argoproj.io/hook: Sync", &[]);
    with("helm.sh/hook: pre-install,pre-upgrade", &[]);
    // Flux replaces it where its Kustomization says so.
    let flux = "apiVersion: kustomize.toolkit.fluxcd.io/v1\nkind: Kustomization\nmetadata: {name: apps, namespace: flux-system}\nspec: {path: ./apps, force: true}\n---\n";
    let job = JOB.replace(force, "a: b");
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
    changed(
        JOB,
        "spec:\n  template",
        "spec:\n  suspend: true\n  template",
        &["job-suspended"],
    );
    changed(
        JOB,
        "spec:\n  template",
        "spec:\n  suspend: false\n  template",
        &[],
    );
}

#[test]
fn rights_that_are_missing() {
    let web = WEB.replace(
        "    spec:\n      containers",
        "    spec:\n      serviceAccountName: own\n      containers",
    );
    let rbac = RBAC.replace("piefed-init-checker", "own");
    let changed = |from: &str, to: &str, expect: &[&str]| {
        assert!(rbac.contains(from), "{from}");
        check(&[JOB, &web, &rbac.replace(from, to)], expect);
    };
    // With an account of its own that has every right, what the warning asks for is done.
    check(&[JOB, &web, &rbac], &[]);
    check(&[JOB, &web], &["account-kept", "missing-rbac"]);
    let missing = &["account-kept", "missing-rbac"];
    changed(
        "[get, list, watch]}\n- {apiGroups: ['']",
        "[get, list]}\n- {apiGroups: ['']",
        missing,
    );
    changed(
        "resourceNames: [migration-gate-piefed]",
        "resourceNames: [other]",
        missing,
    );
    changed("resources: [pods/log]", "resources: [pods]", missing);
    changed(
        "resources: [pods], verbs: [list]",
        "resources: [pods], resourceNames: [a], verbs: [list]",
        missing,
    );
    changed("apiGroups: [batch]", "apiGroups: [apps]", missing);
    changed(
        "resourceNames: [piefed-db-init], verbs: [get, list, watch]",
        "verbs: ['*']",
        &[],
    );
    let subject = "name: own, namespace: piefed-application}]";
    changed(subject, "name: own}]", &[]);
    changed(subject, "name: own, namespace: other}]", missing);
    changed(
        "{kind: ServiceAccount, name: own, namespace: piefed-application}]",
        "{kind: Group, name: 'system:serviceaccounts:piefed-application'}]",
        &[],
    );
    // A role that isn't there may grant everything, or nothing.
    changed(
        "kind: Role, name: r}",
        "kind: ClusterRole, name: view}",
        &["account-kept"],
    );
    changed(
        "kind: ServiceAccount\nmetadata: {name: own",
        "kind: ServiceAccount\nmetadata: {name: other",
        &["no-account"],
    );
}

/// The chart gives the rights to the gate's own account.
#[test]
fn the_account_of_the_gate_needs_no_rights_of_its_own() {
    check(&[JOB, WEB], &[]);
    changed(RBAC, "resources: [pods/log]", "resources: [pods]", &[]);
    changed(
        RBAC,
        "kind: ServiceAccount\nmetadata: {name: piefed-init-checker",
        "kind: ServiceAccount\nmetadata: {name: other",
        &["no-account"],
    );
}

#[test]
fn a_job_that_needs_what_waits_for_it() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: piefed-application}\nspec: {selector: {app: web}}\n---\n";
    let with_service = |command: &str, expect: &[&str]| {
        let job = JOB.replace("[flask, db, upgrade]", command);
        check(&[&job, WEB, RBAC, service], expect);
    };
    with_service("[flask, db, upgrade]", &[]);
    with_service(
        "[sh, -c, 'until nc -z web 5000; do sleep 1; done']",
        &["deadlock"],
    );
    with_service("[curl, 'http://web:5000/health']", &["deadlock"]);
    with_service(
        "[curl, web.piefed-application.svc.cluster.local]",
        &["deadlock"],
    );
    with_service("[curl, web.other.svc]", &[]);
    with_service("[curl, website]", &[]);
    with_service("[/usr/share/web/run]", &[]);
    with_service(
        "[a]\n        env: [{name: HOST, value: web}]",
        &["deadlock"],
    );
    with_service("[a]\n        args: [--host=web]", &["deadlock"]);
    with_service(
        "[kubectl, rollout, status, deployment/piefed-web]",
        &["deadlock"],
    );
    with_service("[kubectl, rollout, status, deployment/other]", &[]);
    let config_map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c, namespace: piefed-application}\ndata: {URL: 'http://web/'}\n---\n";
    for from in [
        "envFrom: [{configMapRef: {name: c}}]",
        "env: [{name: URL, valueFrom: {configMapKeyRef: {name: c, key: URL}}}]",
    ] {
        let job = JOB.replace("command: [flask, db, upgrade]", from);
        check(&[&job, WEB, RBAC, service, config_map], &["deadlock"]);
        check(&[&job, WEB, RBAC, config_map], &[]);
    }
    // A Service that leads elsewhere is nobody's concern.
    let elsewhere = service.replace("{app: web}", "{app: redis}");
    let job = JOB.replace("[flask, db, upgrade]", "[curl, web]");
    check(&[&job, WEB, RBAC, &elsewhere], &[]);
}

#[test]
fn an_order_that_puts_the_job_last() {
    let force = "kustomize.toolkit.fluxcd.io/force: enabled";
    let with = |annotation: &str, expect: &[&str]| changed(JOB, force, annotation, expect);
    with("helm.sh/hook: post-install, post-upgrade", &["deadlock"]);
    with("argocd.argoproj.io/hook: PostSync", &["deadlock"]);
    with("argocd.argoproj.io/hook: PreSync", &[]);
    with(
        "argocd.argoproj.io/hook: Sync\n    argocd.argoproj.io/sync-wave: '1'",
        &["deadlock"],
    );
    with(
        "argocd.argoproj.io/hook: Sync\n    argocd.argoproj.io/sync-wave: '-1'",
        &[],
    );
    let job = JOB.replace(
        force,
        "argocd.argoproj.io/hook: Sync\n    argocd.argoproj.io/sync-wave: '2'",
    );
    let web = WEB.replace(
        "  name: piefed-web",
        "  name: piefed-web\n  annotations: {argocd.argoproj.io/sync-wave: '2'}",
    );
    check(&[&job, &web, RBAC], &[]);
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
    // One that isn't there may bring it, where the prefix is the beginning of its name.
    let prefixed = |prefix: &str| {
        pod(&format!(
            "{{prefix: {prefix}, configMapRef: {{name: absent}}}}"
        ))
    };
    check(&[&prefixed("PIEFED_"), map], &["forbidden-env-from"]);
    check(&[&prefixed("PIEFED_X"), map], &[]);
    check(&[&prefixed("PIEFED_INIT_CONTAINER"), map], &[]);
    check(&[&prefixed("''"), map], &[]);
    // In a gate's namespace the key itself is refused.
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
    // A gate that goes by labels would hold it too, and refuse the ConfigMap.
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
    let text = "\
apiVersion: batch/v1
kind: Job
metadata: {name: a, namespace: ns, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}
spec: {template: {spec: {containers: [{name: j, image: 'i:1'}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: ns}
spec: {template: {spec: {serviceAccountName: s, containers: [{name: w, image: 'i:1', command: [w]}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: other, namespace: ns, labels: {held: 'yes'}}
spec: {template: {spec: {serviceAccountName: t, containers: [{name: w, image: 'x:1'}]}}}
";
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
