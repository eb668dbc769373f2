//! Whole runs of the command line, as people see them. `TRYCMD=overwrite cargo test --test cmd` takes over what changed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

#[test]
fn what_the_command_line_prints() {
    trycmd::TestCases::new()
        .case("tests/cmd/*.trycmd")
        .case("docs/review.md");
}

const WAIT: &[&str] = &[
    "wait",
    "--gate=g",
    "--namespace=n",
    "--job=j",
    "--image=web:1",
    "--timeout=1s",
];
const SERVE: &[&str] = &[
    "serve",
    "--listen=127.0.0.1:0",
    "--health-listen=127.0.0.1:0",
    "--secret=n/s",
    "--server-name=a.n.svc",
    "--mutating-webhook-configuration=w",
];
const REVIEW: &[&str] = &["review", "--live"];
const EJECT: &[&str] = &["eject"];
const CHECK: &[&str] = &["check", "--timeout=1s"];

/// A kind of error, brought about: the configuration if it has one, the kubeconfig, and the words
/// of its last cause.
struct Trouble<'a> {
    config: Option<&'a Path>,
    kubeconfig: Option<&'a Path>,
    cause: &'a str,
}

#[test]
fn no_cause_is_printed_twice() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| -> PathBuf {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    };
    let missing = folder.path().join("missing.yaml");
    let bad_config = file("config.yaml", "gates: 1");
    let garbage = file("garbage", "}");
    let kubeconfig = |user: &str| {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\n\
             clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:1'}}}}]\n\
             users: [{{name: u, user: {{{user}}}}}]\n\
             contexts: [{{name: c, context: {{cluster: c, user: u}}}}]\n"
        )
    };
    let no_key = file("no-key", &kubeconfig("client-certificate: /nonexistent"));
    let closed = file("closed", &kubeconfig(""));

    let configured = [SERVE, REVIEW, EJECT, CHECK];
    let connected = [SERVE, REVIEW, EJECT, CHECK, WAIT];
    let config = |config, cause| Trouble {
        config: Some(config),
        kubeconfig: None,
        cause,
    };
    let cluster = |kubeconfig, cause| Trouble {
        config: None,
        kubeconfig,
        cause,
    };
    check(&configured, &config(&missing, "No such file"));
    check(&configured, &config(&bad_config, "gates: invalid type"));
    check(&connected, &cluster(None, "No such file"));
    check(&connected, &cluster(Some(&missing), "No such file"));
    check(&connected, &cluster(Some(&garbage), "kubeconfig"));
    check(&connected, &cluster(Some(&no_key), "No such file"));
    check(&connected, &cluster(Some(&closed), "Connection refused"));
}

fn check(subcommands: &[&[&str]], trouble: &Trouble<'_>) {
    for subcommand in subcommands {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
        command
            .args(*subcommand)
            .env_clear()
            .env("HOME", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(config) = trouble.config {
            command.arg("--config").arg(config);
        }
        if let Some(kubeconfig) = trouble.kubeconfig {
            command.env("KUBECONFIG", kubeconfig);
        }
        let mut process = command.spawn().expect("the program");
        let errors = BufReader::new(process.stderr.take().expect("standard error"));
        let mut printed = String::new();
        for line in errors.lines().map_while(Result::ok) {
            printed += &line;
            printed.push('\n');
            // A server goes on without a cluster.
            if subcommand[0] == "serve" && line.contains(trouble.cause) {
                process.kill().expect("the end of the server");
            }
        }
        let ended = process.wait_with_output().expect("its end");
        printed += &String::from_utf8_lossy(&ended.stdout);
        assert!(!ended.status.success(), "{subcommand:?}: {printed}");
        assert!(printed.contains(trouble.cause), "{subcommand:?}: {printed}");
        for line in printed.lines() {
            let mut told = BTreeSet::new();
            for cause in line.split(": ").flat_map(|part| part.split("; ")) {
                assert!(
                    told.insert(cause),
                    "{subcommand:?}: {cause} twice in {line}"
                );
            }
            assert!(!line.contains(": error: "), "{subcommand:?}: {line}");
        }
    }
}
