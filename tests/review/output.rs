//! The output on a terminal, in a pipe and on GitHub.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use migration_gate::review::review_text;
use migration_gate_core::gates::Config;
use serde_json::{Value, json};

fn started(arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_migration-gate"))
        .args(["review", "-"])
        .args(arguments)
        .env_remove("NO_COLOR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a run")
}

fn ended(mut child: Child, input: &str) -> Output {
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
}

fn run(arguments: &[&str], input: &str) -> Output {
    ended(started(arguments), input)
}

/// A Pod that is refused, with this name.
fn refused(name: &str) -> String {
    let spec = json!({"containers": [{"name": "a", "env": [{"name": "PIEFED_INIT_CONTAINER"}]}]});
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}).to_string()
}

#[test]
fn colours_only_where_they_are_wanted() {
    let coloured = |arguments: &[&str]| {
        let output = run(arguments, &refused("a"));
        assert_eq!(output.status.code(), Some(1));
        output.stdout.contains(&0x1b)
    };
    assert!(coloured(&["--color", "always"]));
    assert!(!coloured(&["--color", "never"]));
    assert!(!coloured(&[]), "this is no terminal");
}

#[test]
fn findings_leave_standard_output_to_diffs_and_manifests() {
    for form in ["diff", "yaml"] {
        let output = run(&["--output", form], &refused("a"));
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(!out.contains("forbidden-env"), "{out}");
        assert!(err.contains("error[forbidden-env]"), "{err}");
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let manifests =
        std::fs::read_to_string("examples/piefed/deployment-web.yaml").expect("example");
    let mut child = started(&[]);
    drop(child.stdout.take());
    let output = ended(child, &format!("{manifests}---\n").repeat(100));
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn a_manifest_cannot_speak_to_the_terminal_or_to_github() {
    let name = "a\n::stop-commands::x\r\u{1b}[31m\u{202e}%0A,:";
    // A text with a raw C1 control character is not YAML, but its line is shown.
    let text = format!("{}\n---\n{}", refused(name), refused("\u{9b}31m"));
    let shown = review_text(&Config::default(), &text);
    assert!(
        !shown.contains(['\u{1b}', '\u{9b}', '\r', '\u{202e}']),
        "{shown:?}"
    );
    assert!(!shown.lines().any(|line| line.starts_with("::")), "{shown}");
    let output = run(&["--output", "github"], &refused(name));
    let out = String::from_utf8_lossy(&output.stdout);
    let commands: Vec<&str> = out.lines().filter(|line| line.starts_with("::")).collect();
    assert_eq!(commands.len(), 1, "{out}");
    assert!(commands[0].contains("a%0A::stop-commands::x%0D"), "{out}");
    assert!(commands[0].contains("%250A"), "{out}");
}

#[test]
fn of_a_long_line_the_part_that_matters_is_shown() {
    let object = refused(&"x".repeat(5000));
    let shown = review_text(&Config::default(), &object);
    let excerpt: Vec<&str> = shown
        .lines()
        .filter(|line| line.starts_with("1 |"))
        .collect();
    assert_eq!(excerpt.len(), 1, "{shown}");
    assert!(
        excerpt[0].contains("PIEFED_INIT_CONTAINER") && excerpt[0].len() < 200,
        "{shown}"
    );
    let column = object.find("\"PIEFED").expect("it is there") + 1;
    assert!(shown.contains(&format!("<stdin>:1:{column}")), "{shown}");
}

/// The JSON has what the other forms have, to the column.
#[test]
fn places_in_json_are_in_lines_and_characters() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: [{name: 'é😀', env: [{name: PIEFED_INIT_CONTAINER}]}]}\n";
    let output = run(&["--output", "json"], text);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let found = &report["findings"][0];
    assert_eq!(found["file"], "<stdin>");
    assert_eq!((&found["line"], &found["column"]), (&json!(4), &json!(47)));
    assert_eq!(
        (&found["endLine"], &found["endColumn"]),
        (&json!(4), &json!(68))
    );
    assert_eq!(report["schema"], "migration-gate.review/v1");
}

/// Each rule leads to its section in the documentation.
#[test]
fn rules_in_sarif_lead_to_their_help() {
    let output = run(&["--output", "sarif"], "");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rules = &report["runs"][0]["tool"]["driver"]["rules"];
    let docs = std::fs::read_to_string("docs/review.md").expect("docs");
    for rule in rules.as_array().expect("rules") {
        let uri = rule["helpUri"].as_str().expect("a URI");
        let (page, anchor) = uri.split_once('#').expect("an anchor");
        assert!(
            page.starts_with("https://") && page.ends_with("/docs/review.md"),
            "{uri}"
        );
        assert!(docs.contains(&format!("\n### {anchor}\n")), "{uri}");
        assert_eq!(rule["id"], anchor);
    }
}

#[test]
fn what_is_ignored_is_counted_and_no_longer_strict() {
    let text = std::fs::read_to_string("examples/piefed/job-db-init.yaml").expect("example")
        + "---\n"
        + &std::fs::read_to_string("examples/piefed/deployment-web.yaml").expect("example");
    let text = text.replace("  backoffLimit", "  suspend: true\n  backoffLimit");
    let warned = run(&["--strict"], &text);
    assert_eq!(warned.status.code(), Some(1));
    let output = run(
        &["--strict", "--ignore", "job-suspended,missing-rbac"],
        &text,
    );
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{out}");
    assert!(out.contains("no warnings, "), "{out}");
    let output = run(&["--ignore", "job-suspended", "--output", "json"], &text);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["summary"]["ignored"], 1);
    // A misspelt code is an error, with the right one.
    let output = run(&["--ignore", "job-suspende"], "");
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    assert!(err.contains("'job-suspended'"), "{err}");
}

/// The README's set-up: account, Role and RoleBinding come with the chart.
#[test]
fn the_recommended_setup_passes_strictly() {
    let files = [
        "configmap",
        "deployment-web",
        "deployment-worker",
        "job-db-init",
        "namespace",
    ];
    let files = files.map(|name| {
        std::fs::read_to_string(format!("examples/piefed/{name}.yaml")).expect("example")
    });
    let strictly = |text: &str| {
        let output = run(&["--strict"], text);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), out)
    };
    let text = files.join("---\n");
    let (code, out) = strictly(&text);
    assert_eq!(code, Some(0), "{out}");
    let (code, out) = strictly(&text.replace("force: enabled", "force: disabled"));
    assert_eq!(code, Some(1), "{out}");
}
