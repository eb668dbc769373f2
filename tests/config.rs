//! Configuration errors name the file, the line and the key.

use std::time::Duration;

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

/// Compares with the file of that test in `tests/config/`: texts, and behind each the errors that it
/// gets, by `!` and without the file's name. `GENERATE=1 cargo test --test config` writes the errors.
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

/// One that can't be read whole is not taken for what could be read of it.
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
