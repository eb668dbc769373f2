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

const GATE: &str = "gates:\n- {name: a, namespace: b, job: c, serviceAccount: d, deployments: [e]";

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

/// Texts with the errors that they get, without the file's name.
type WrongText<'c> = (String, &'c [&'c str]);

fn check(cases: &[WrongText<'_>]) {
    let mut wrong = Vec::new();
    for (text, expect) in cases {
        let error = parse(text, "gates.yaml").expect_err(text).to_string();
        let found: Vec<&str> = error.lines().collect();
        let as_told = found.len() == expect.len()
            && found
                .iter()
                .zip(*expect)
                .all(|(found, expect)| found.starts_with(&format!("gates.yaml:{expect}")));
        if !as_told {
            wrong.push(format!("{text}\n{error}\nnot {expect:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// The gate `GATE` with more keys.
fn gate(rest: &str) -> String {
    format!("{GATE}, {rest}}}\n")
}

#[test]
fn what_is_no_configuration_at_all() {
    check(&[
        (String::new(), &["1:1: the configuration is empty"]),
        (
            "# nothing\n---\n".to_owned(),
            &["1:1: the configuration is empty"],
        ),
        ("gates: [\n".to_owned(), &["1:8: unclosed bracket"]),
        ("[]".to_owned(), &["1:1: a configuration is a mapping"]),
        (
            "gates: []\n---\ngates: []\n".to_owned(),
            &["2:1: a configuration is one YAML document"],
        ),
        // A file that can't be read whole is not taken for what could be read of it.
        (
            format!("{}---\n[\n", gate("timeout: 1m")),
            &["4:1: unclosed bracket"],
        ),
        (
            "mode: warn\nmode: enforce\n".to_owned(),
            &["2:1: the key `mode` occurs twice"],
        ),
    ]);
}

#[test]
fn unknown_keys_and_wrong_types() {
    check(&[
        (
            "gates: []\ngate: 1\n".to_owned(),
            &[
                "2:1: gate: unknown field `gate`, expected one of `gates`, `forbiddenEnv`, `mode`, `waiter`; did you mean `gates`?",
            ],
        ),
        (
            gate("deployment: [x]"),
            &["2:72: gates[0].deployment: unknown field `deployment`, expected one of"],
        ),
        ("mode: warn\n".to_owned(), &["1:1: missing field `gates`"]),
        (
            "gates:\n- name: a\n".to_owned(),
            &["2:3: gates[0]: missing field `namespace`"],
        ),
        (
            "gates: 3\n".to_owned(),
            &["1:8: gates: invalid type: integer `3`, expected a sequence"],
        ),
        (
            "gates:\n- name: 3\n".to_owned(),
            &["2:9: gates[0].name: invalid type: integer `3`, expected a string"],
        ),
        (
            "gates:\n- name: on\n".to_owned(),
            &[
                "2:9: gates[0].name: invalid type: boolean `true`, expected a string; put it in quotes",
            ],
        ),
        (
            gate("freshness: maybe"),
            &["2:83: gates[0].freshness: unknown variant `maybe`, expected `version` or `any`"],
        ),
        (
            format!("{GATE}}}\nmode: Enforce\n"),
            &[
                "3:7: mode: unknown variant `Enforce`, expected `enforce` or `warn`; did you mean `enforce`?",
            ],
        ),
        (
            format!("{GATE}}}\nwaiter:\n  resources: {{limits: {{cpu: [1]}}}}\n"),
            &["4:24: waiter.resources.limits.cpu: expected a quantity such as `100m` or `32Mi`"],
        ),
    ]);
}

#[test]
fn impossible_values() {
    check(&[
    ("gates: []\n".to_owned(), &["1:1: gates: there is none"]),
    (gate("timeout: 10"),
        &["2:81: gates[0].timeout: invalid type: integer `10`, expected a string"],
    ),
    (gate("timeout: 0s"), &["2:81: gates[0].timeout: `0s` is out of range"]),
    (gate("timeout: 25h"), &["2:81: gates[0].timeout: `25h` is out of range"]),
    (gate("timeout: -1m"), &["2:81: gates[0].timeout: `-1m` is out of range"]),
    (gate("timeout: soon"),
        &["2:81: gates[0].timeout: `soon` is not a duration"],
    ),
    ("gates:\n- name: A\n  namespace: b_c\n  job: c/d\n  serviceAccount: ''\n  deployments: [-]\n".to_owned(),
        &["6:17: "],
    ),
    ("gates:\n- name: A\n  namespace: b_c\n  job: c/d\n  serviceAccount: ''\n  deployments: [E]\n".to_owned(),
        &[
            "2:9: gates[0].name: `A` is not a DNS label",
            "3:14: gates[0].namespace: `b_c` is not",
            "4:8: gates[0].job: `c/d` is not",
            "5:19: gates[0].serviceAccount: `` is not",
            "6:3: gates[0].deployments: `E` is not",
        ],
    ),
    ("gates:\n- {name: a, namespace: b, job: c, serviceAccount: d}\n".to_owned(),
        &["2:3: gates[0]: it holds nothing"],
    ),
    (gate("selector: {}"),
        &["2:72: gates[0].selector: it is empty"],
    ),
    (gate("selector: {matchLabels: {a: b c}}"),
        &["2:100: gates[0].selector.matchLabels.a: `b c` is not a label's value"],
    ),
    (gate("selector: {matchLabels: {/a: b}}"),
        &["2:101: gates[0].selector.matchLabels[/a]: `/a` is not a label's key"],
    ),
    (gate("selector: {matchExpressions: [{key: a, operator: Is}]}"),
        &["2:121: gates[0].selector.matchExpressions[0].operator: unknown variant `Is`"],
    ),
    (gate("selector: {matchExpressions: [{key: a, operator: In}]}"),
        &[
            "2:102: gates[0].selector.matchExpressions[0].values: the operator In needs at least one value",
        ],
    ),
    (gate("selector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}"),
        &[
            "2:129: gates[0].selector.matchExpressions[0].values: the operator Exists needs no values",
        ],
    ),
    ("gates:\n- {name: a, namespace: b, job: c, serviceAccount: d, deployments: [e]}\n- {name: a, namespace: b, job: c, serviceAccount: d, deployments: [e]}\n".to_owned(),
        &[
            "3:10: gates[1].name: `a` is used twice",
            "3:54: gates[1].deployments: Deployment b/e is held by gate `a` already",
        ],
    ),
    (format!("{GATE}}}\nforbiddenEnv: [A, B=C]\n"),
        &["3:19: forbiddenEnv[1]: `B=C` cannot be"],
    ),
    (format!("{GATE}}}\nwaiter: {{image: a b}}\n"),
        &["3:17: waiter.image: `a b` is not an image reference"],
    ),
    (format!(
            "{GATE}}}\nwaiter:\n  resources:\n    requests: {{cpu: 1, memory: 16Mb}}\n    limits: {{cpu: 100m, x: -1, w: 1e3m, z: inf}}\n"
        ),
        &[
            "5:21: waiter.resources.requests.cpu: `1` is more than the limit, `100m`",
            "5:32: waiter.resources.requests.memory: `16Mb` is not a quantity",
            "6:28: waiter.resources.limits.x: `-1` is not a quantity",
            "6:35: waiter.resources.limits.w: `1e3m` is not a quantity",
            "6:44: waiter.resources.limits.z: `inf` is not a quantity",
        ],
    ),
    ]);
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
