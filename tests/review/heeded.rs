//! Every code of the table is shown by its example, and ends when its remedy is followed.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use checks::manifests::in_every_form;
use migration_gate::cli::config::parse;
use migration_gate::review::codes::Code;
use migration_gate::review::engine::review;
use migration_gate::review::output::Format;
use migration_gate_core::decision::Rule;
use migration_gate_core::gates::Config;
use migration_gate_core::request::Request;
use migration_gate_core::validate::validate;
use serde_json::json;

use super::lints::codes_with;

/// A code, and the edits of the configuration or the manifests that follow its remedy.
type Remedy = (&'static str, &'static [(&'static str, &'static str)]);

const BUILT_IN: &str = "\
gates:
- name: piefed
  namespace: piefed-application
  job: piefed-db-init
  deployments: [piefed-web, piefed-worker]
  serviceAccount: piefed-init-checker
";

const WITH_WAITER: &str = "      initContainers:\n      - name: wait-for-job\n        image: groundnuty/k8s-wait-for:v2.0\n        args: [job, piefed-db-init]\n";
const BY_HAND: &str = "      initContainers:\n      - name: wait-for-migrations\n        image: bitnami/kubectl:1.33\n        command: [\"kubectl\", \"wait\", \"--for=condition=complete\", \"job/piefed-db-init\"]\n";
const STALE: &str = "      initContainers:\n      - name: wait-for-migrations\n        image: migration-gate/migration-gate:0.1.0\n        args: [wait, --gate=piefed, --job=piefed-db-init, \"--image=piefed/piefed:1.1.0\"]\n        volumeMounts:\n        - name: migration-gate-token\n          mountPath: /var/run/secrets/kubernetes.io/serviceaccount\n";
const IMAGE: &str = "      - name: web\n        image: piefed/piefed:1.2.0\n";
const COMMAND: &str = "      - name: web\n        image: piefed/piefed:1.2.0\n        command: [\"flask\", \"run\"]\n";
const TEMPLATE: &str = "      labels: {app: piefed-web}\n";
const CHOSEN: &str = "      labels: {app: piefed-web}\n      annotations: {kubectl.kubernetes.io/default-container: web}\n";

const REMEDIES: [Remedy; 30] = [
    (
        "forbidden-env",
        &[(
            "    env:\n    - name: PIEFED_INIT_CONTAINER\n      value: \"1\"\n",
            "",
        )],
    ),
    (
        "forbidden-key",
        &[("  PIEFED_INIT_CONTAINER: \"1\"\n", "  A: b\n")],
    ),
    (
        "reserved-name",
        &[("name: migration-gate-token", "name: token")],
    ),
    (
        "account-kept",
        &[(
            "  serviceAccount: ",
            "  extraAccounts: [shop]\n  serviceAccount: ",
        )],
    ),
    ("another-waiter", &[(WITH_WAITER, "")]),
    (
        "deadlock",
        &[("post-install,post-upgrade", "pre-install,pre-upgrade")],
    ),
    (
        "forbidden-env-from",
        &[("prefix: PIEFED_", "prefix: SHOP_")],
    ),
    ("freshness-any", &[("  freshness: any\n", "")]),
    ("hand-written-waiter", &[(BY_HAND, "")]),
    (
        "hook-phase",
        &[("hook: pre-upgrade", "hook: pre-install,pre-upgrade")],
    ),
    ("job-deleted-at-once", &[("Finished: 0", "Finished: 86400")]),
    (
        "job-not-replaceable",
        &[(
            "spec:\n  template",
            "  annotations: {kustomize.toolkit.fluxcd.io/force: enabled}\nspec:\n  template",
        )],
    ),
    ("job-suspended", &[("  suspend: true\n", "")]),
    ("migrates-itself", &[(IMAGE, COMMAND)]),
    (
        "missing-rbac",
        &[(
            "  serviceAccount: ",
            "  extraAccounts: [shop]\n  serviceAccount: ",
        )],
    ),
    ("mutable-tag", &[(":latest", ":1.2.0")]),
    (
        "no-account",
        &[(
            "apiVersion: apps/v1\n",
            "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: shop, namespace: piefed-application}\n---\napiVersion: apps/v1\n",
        )],
    ),
    (
        "no-job",
        &[(
            "apiVersion: apps/v1\n",
            "apiVersion: batch/v1\nkind: Job\nmetadata: {name: piefed-db-init, namespace: piefed-application, annotations: {helm.sh/hook: 'pre-install,pre-upgrade'}}\nspec: {template: {spec: {containers: [{name: a, image: 'piefed/piefed:1.2.0', command: [migrate]}]}}}\n---\napiVersion: apps/v1\n",
        )],
    ),
    (
        "no-namespace",
        &[(
            "  name: piefed-web\n",
            "  name: piefed-web\n  namespace: piefed-application\n",
        )],
    ),
    ("not-held", &[("piefed-worker]", "piefed-beat]")]),
    ("progress-deadline", &[("Seconds: 300", "Seconds: 600")]),
    (
        "recreate",
        &[("type: Recreate", "rollingUpdate: {maxUnavailable: 0}")],
    ),
    ("stale-waiter", &[(STALE, "")]),
    (
        "token-visible",
        &[("      automountServiceAccountToken: true\n", "")],
    ),
    (
        "two-gates",
        &[(
            "job: shop-setup, serviceAccount: shop-waits, selector: {matchLabels: {tier: front}}",
            "job: shop-setup, serviceAccount: shop-waits, selector: {matchLabels: {tier: back}}",
        )],
    ),
    ("version-mismatch", &[("1.3.0", "1.2.0")]),
    ("which-container", &[(TEMPLATE, CHOSEN)]),
    ("windows", &[("      os: {name: windows}\n", "")]),
    (
        "workload-ref",
        &[(
            "kind: Rollout, name: shop-web",
            "kind: Deployment, name: shop-web",
        )],
    ),
    // Not by an example: the injection puts the waiter in.
    ("waiter-missing", &[]),
];

fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples")
        .join(name);
    fs::read_to_string(&path).unwrap_or_default()
}

/// The configuration and the manifests of a code's example.
fn inputs(code: &str) -> (String, String) {
    let mut manifests = example(&format!("codes/{code}.yaml"));
    assert!(!manifests.is_empty(), "no example of {code}");
    let config = example(&format!("codes/{code}.gates.yaml"));
    if !config.is_empty() {
        return (config, manifests);
    }
    // As in the documentation, the Job is beside what waits for it.
    if code != "no-job" && !manifests.contains("kind: Job") {
        manifests = format!("{}---\n{manifests}", example("piefed/job-db-init.yaml"));
    }
    (BUILT_IN.to_owned(), manifests)
}

fn codes(config: &str, manifests: &str) -> BTreeSet<String> {
    let config = parse(config, "gates.yaml").expect("valid");
    codes_with(&config, &[manifests]).into_iter().collect()
}

#[test]
fn each_code_is_shown_and_ends() {
    let listed: BTreeSet<&str> = REMEDIES.iter().map(|(code, _)| *code).collect();
    let all: BTreeSet<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    assert_eq!(listed, all, "a remedy for each code");
    for (code, edits) in REMEDIES
        .iter()
        .filter(|(code, _)| *code != "waiter-missing")
    {
        let (mut config, mut manifests) = inputs(code);
        let shown = codes(&config, &manifests);
        assert!(shown.contains(*code), "{code} is not shown: {shown:?}");
        for (from, to) in *edits {
            let of_config = config.contains(from);
            assert!(of_config != manifests.contains(from), "{code}: {from}");
            let text = if of_config {
                &mut config
            } else {
                &mut manifests
            };
            *text = text.replace(from, to);
        }
        let left = codes(&config, &manifests);
        assert!(
            !left.contains(*code),
            "{code} doesn't end: {left:?}\n{manifests}"
        );
        // The remedy causes no new findings.
        let new: Vec<_> = left.difference(&shown).collect();
        assert!(new.is_empty(), "{code}: {new:?}\n{manifests}");
    }
}

/// Every format of the report names the code.
#[test]
fn each_code_is_named_in_every_form() {
    for (code, _) in REMEDIES
        .iter()
        .filter(|(code, _)| *code != "waiter-missing")
    {
        let (config, manifests) = inputs(code);
        let config = parse(&config, "gates.yaml").expect("valid");
        let loaded = super::loaded(&manifests);
        let report = review(&config, &loaded, None);
        for (form, printed) in in_every_form(&report) {
            let text = printed.concat();
            let named = match form {
                Format::Sarif => format!("\"ruleId\": \"{code}\""),
                Format::Json => format!("\"code\": \"{code}\""),
                Format::Github => format!("title={code}::"),
                Format::Junit => (*code).to_owned(),
                _ => format!("[{code}]"),
            };
            assert!(text.contains(&named), "{form:?}: no {named} in {text}");
            let help = format!("/docs/review.md#{code}\"");
            assert!(form != Format::Sarif || text.contains(&help), "{code}");
        }
    }
}

/// Review applies the injection before it asks the validation, as the API server does. So only an
/// object that another webhook has changed lacks its waiter.
#[test]
fn a_waiter_that_is_missing_is_refused() {
    let config = Config::default();
    let (_, manifests) = inputs("no-job");
    let mut documents = migration_gate_yaml::documents(&manifests);
    let object = documents.next().expect("a document").expect("valid").value;
    let request = Request::create(&object, "default").expect("an object");
    let rules = |request: &Request<'_>| -> Vec<Rule> {
        let violations = validate(&config, request).violations;
        violations
            .into_iter()
            .map(|violation| violation.rule)
            .collect()
    };
    assert_eq!(rules(&request), [Rule::WaiterMissing]);
    let mut patched = object.clone();
    let patch = migration_gate_core::mutate::mutate(&config, &request).patch;
    json_patch::patch(&mut patched, &patch).expect("a patch that applies");
    assert_eq!(
        rules(&Request {
            object: &patched,
            ..request
        }),
        []
    );
    patched["spec"]["template"]["spec"]["initContainers"] = json!([]);
    assert_eq!(
        rules(&Request {
            object: &patched,
            ..request
        }),
        [Rule::WaiterMissing]
    );
}
