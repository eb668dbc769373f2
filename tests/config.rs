//! Configuration errors name the file, the line and the key.

use std::time::Duration;

use migration_gate::cli::config::values::CHART_ONLY;
use migration_gate::cli::config::{load, parse};
use migration_gate_core::gates::{Config, Freshness, LogFormat, Mode, PullPolicy};

const FULL: &str = "\
gates:
- name: piefed
  namespace: piefed-application
  job: piefed-db-init
  deployments: [piefed-web, piefed-worker]
  selector: {matchLabels: {app.kubernetes.io/part-of: piefed}, matchExpressions: [{key: tier, operator: In, values: [web]}]}
  serviceAccount: piefed-init-checker
  timeout: 1h30m
  freshness: any
forbiddenEnv: [PIEFED_INIT_CONTAINER, OTHER]
mode: warn
waiter:
  image: mirror.example:5000/migration-gate:1.0
  imagePullPolicy: Always
  resources: {requests: {cpu: 0.05, memory: 16Mi}, limits: {cpu: 1, memory: 1e8}}
  logFormat: json
";

#[test]
fn every_key_is_read() {
    let config = parse(FULL, "f").expect("valid");
    assert_eq!(config.gates[0].timeout, Duration::from_mins(90));
    assert_eq!(config.gates[0].freshness, Freshness::Any);
    assert_eq!(config.mode, Mode::Warn);
    assert_eq!(config.forbidden_env.len(), 2);
    assert_eq!(config.waiter.image_pull_policy, PullPolicy::Always);
    assert_eq!(config.waiter.resources.requests["cpu"], "0.05");
    assert_eq!(config.waiter.resources.limits["cpu"], "1");
    assert_eq!(config.waiter.log_format, LogFormat::Json);
}

#[test]
fn what_is_left_out_is_as_in_the_built_in_gate() {
    let text = "gates:\n- {name: piefed, namespace: piefed-application, job: piefed-db-init, \
                serviceAccount: piefed-init-checker, deployments: [piefed-web, piefed-worker]}";
    assert_eq!(parse(text, "f").expect("valid"), Config::default());
}

/// Compares with the test's file in `tests/config/`: configurations, each followed by its errors,
/// which begin with `!` and lack the file's name. `GENERATE=1 cargo test --test config` writes the
/// errors.
fn check(test: &str) {
    let path = format!("{}/tests/config/{test}.txt", env!("CARGO_MANIFEST_DIR"));
    let expect = std::fs::read_to_string(&path).expect(&path);
    let cases = expect.split("\n\n").map(|case| {
        let given = case.lines().take_while(|line| !line.starts_with("! "));
        let given: String = given.flat_map(|line| [line, "\n"]).collect();
        let errors = parse(&given, "gates.yaml").expect_err(&given).to_string();
        errors.lines().fold(given, |told, error| {
            let error = error.strip_prefix("gates.yaml:").expect("the file's name");
            format!("{told}! {error}\n")
        })
    });
    let found = cases.collect::<Vec<_>>().join("\n");
    if std::env::var_os("GENERATE").is_some() {
        std::fs::write(&path, &found).expect("a file");
    }
    assert_eq!(found, std::fs::read_to_string(&path).expect(&path));
}

/// A text that cannot be read completely is an error, not a shorter configuration.
#[test]
fn what_is_no_configuration_at_all() {
    check("what_is_no_configuration_at_all");
}

#[test]
fn unknown_keys_and_wrong_types() {
    check("unknown_keys_and_wrong_types");
}

#[test]
fn impossible_values() {
    check("impossible_values");
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = load("no/such/gates.yaml".as_ref()).expect_err("missing");
    assert_eq!(
        error.to_string(),
        "cannot read the configuration no/such/gates.yaml"
    );
    let cause = std::error::Error::source(&error).expect("a cause");
    assert!(cause.to_string().contains("No such file"), "{cause}");
}

fn values() -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/charts/migration-gate/values.yaml"
    );
    std::fs::read_to_string(path).expect("the chart's values")
}

#[test]
fn the_values_of_the_chart_are_a_configuration() {
    assert_eq!(
        parse(&values(), "values.yaml").expect("valid"),
        Config::default()
    );
    // Missing values are as in the chart's own values, and maps are merged as Helm merges them.
    let some = "replicas: 3\nimage: {repository: mirror/gate, tag: v1, pullPolicy: Always}\nwaiter: {image: '', resources: {requests: {cpu: 200m}, limits: null}}\n";
    let config = parse(some, "values.yaml").expect("valid");
    assert_eq!(config.gates, Config::default().gates);
    assert_eq!(config.waiter.image, "mirror/gate:v1");
    assert_eq!(config.waiter.image_pull_policy, PullPolicy::Always);
    assert_eq!(config.waiter.resources.requests["cpu"], "200m");
    assert_eq!(config.waiter.resources.requests["memory"], "32Mi");
    assert!(config.waiter.resources.limits.is_empty());
    let digest =
        "image: {tag: v1, digest: 'sha256:ab'}\nwaiter: {resources: {limits: {memory: null}}}\n";
    let config = parse(digest, "values.yaml").expect("valid");
    assert_eq!(
        config.waiter.image,
        "migration-gate/migration-gate:v1@sha256:ab"
    );
    assert_eq!(config.waiter.resources.limits.len(), 1);
    let parts = "image: {registry: reg, repository: a/b, tag: v1}\nglobal: {imageRegistry: mirror.local}\nwaiter: {image: {tag: v2}}\n";
    let config = parse(parts, "f").expect("valid");
    assert_eq!(config.waiter.image, "mirror.local/a/b:v2");
    let named = parts.replace("a/b", "mirror:5000/b");
    let config = parse(&named, "f").expect("valid");
    assert_eq!(config.waiter.image, "mirror:5000/b:v2");
    let own = "replicas: 3\nimage: {tag: v1}\nwaiter: {image: 'mirror/gate:v2'}\n";
    assert_eq!(
        parse(own, "f").expect("valid").waiter.image,
        "mirror/gate:v2"
    );
}

/// The files in `examples/values`, for one platform each, and the other configurations in
/// `examples`.
#[test]
fn the_examples_of_values_are_configurations() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let values = std::fs::read_dir(format!("{examples}/values")).expect("examples");
    let mut files: Vec<_> = values.map(|entry| entry.expect("a file").path()).collect();
    files.push(format!("{examples}/piefed-gates.yaml").into());
    files.push(format!("{examples}/flux/migration-gate/release.yaml").into());
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        load(&file).unwrap_or_else(|error| panic!("{error}"));
    }
}

#[test]
fn the_values_of_a_flux_release_are_a_configuration() {
    let release = "apiVersion: source.toolkit.fluxcd.io/v1\nkind: OCIRepository\nmetadata: {name: migration-gate}\n---\napiVersion: helm.toolkit.fluxcd.io/v2\nkind: HelmRelease\nmetadata: {name: migration-gate}\nspec:\n  values:\n    replicas: 1\n    gates:\n    - {name: a, namespace: b, job: c, serviceAccount: d, deployments: [e]}\n";
    let config = parse(release, "release.yaml").expect("valid");
    assert_eq!(config.gates[0].name, "a");
    let wrong = release.replace("job: c", "jobb: c");
    let error = parse(&wrong, "release.yaml")
        .expect_err("unknown")
        .to_string();
    assert!(
        error.starts_with("release.yaml:12:31: gates[0].jobb: unknown field `jobb`"),
        "{error}"
    );
}

#[test]
fn what_is_the_chart_s_alone_is_what_its_schema_has() {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/charts/migration-gate/values.schema.json"
    );
    let text = std::fs::read_to_string(path).expect("the chart's schema");
    let schema: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let mut keys: Vec<&str> = schema["properties"]
        .as_object()
        .expect("properties")
        .keys()
        .map(String::as_str)
        .collect();
    let ours = ["gates", "forbiddenEnv", "mode", "waiter", "rbac"];
    keys.retain(|key| !ours.contains(key));
    keys.sort_unstable();
    assert_eq!(keys, CHART_ONLY);
}

#[test]
fn rights_of_the_chart() {
    let gate = "gates:\n- {name: a, namespace: b, job: c, serviceAccount: d, deployments: [e]}\n";
    let said = parse(gate, "f").expect("valid");
    assert!(said.rbac.gates && said.rbac.accounts);
    let none = format!("{gate}rbac: {{gates: false}}\n");
    let config = parse(&none, "f").expect("valid");
    assert!(!config.rbac.gates && config.rbac.accounts);
}
