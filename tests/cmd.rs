//! Whole runs of the command line, as people see them. `TRYCMD=overwrite cargo test --test cmd`
//! updates the expected output.

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

const WAIT: &str = "wait --gate=g --namespace=n --job=j --image=web:1 --timeout=1s";
const SERVE: &str = "serve --listen=127.0.0.1:0 --health-listen=127.0.0.1:0 --secret=n/s \
                     --server-name=a.n.svc --mutating-webhook-configuration=w";
const REVIEW: &str = "review --live";
const EJECT: &str = "eject";
const CHECK: &str = "check --timeout=1s";
const VERSION: &str = "version";
const RECORD: &str = "record list";
const STATUS: &str = "status";

/// A kubeconfig whose server is a port of this machine that no one listens on.
fn kubeconfig(port: u16, user: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Config\ncurrent-context: c{port}\n\
         clusters: [{{name: c{port}, cluster: {{server: 'http://127.0.0.1:{port}'}}}}]\n\
         users: [{{name: u{port}, user: {{{user}}}}}]\n\
         contexts: [{{name: c{port}, context: {{cluster: c{port}, user: u{port}}}}}]\n"
    )
}

fn words(subcommand: &str) -> Vec<&str> {
    subcommand.split_whitespace().collect()
}

fn migration_gate(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
    command
        .args(arguments)
        .env_clear()
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

/// All that a run prints.
fn printed(command: &mut Command) -> String {
    let output = command.output().expect("the program");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// A provoked error: the configuration if it has one, the kubeconfig, and the text of the error's
/// last cause.
struct Provoked<'a> {
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
    let no_key = file("no-key", &kubeconfig(1, "client-certificate: /nonexistent"));
    let closed = file("closed", &kubeconfig(1, ""));

    let configured = [SERVE, REVIEW, EJECT, CHECK, RECORD, STATUS];
    let connected = [SERVE, REVIEW, EJECT, CHECK, RECORD, WAIT, VERSION, STATUS];
    let config = |config, cause| Provoked {
        config: Some(config),
        kubeconfig: None,
        cause,
    };
    let cluster = |kubeconfig, cause| Provoked {
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

fn check(subcommands: &[&str], trouble: &Provoked<'_>) {
    for subcommand in subcommands {
        let mut command = migration_gate(&words(subcommand));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
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
            // `serve` keeps running without a cluster.
            if *subcommand == SERVE && line.contains(trouble.cause) {
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
                let new = told.insert(cause);
                assert!(new, "{subcommand:?}: {cause} twice in {line}");
            }
            assert!(!line.contains(": error: "), "{subcommand:?}: {line}");
        }
    }
}

#[test]
fn a_server_that_does_not_answer_takes_one_line_with_its_address() {
    let folder = tempfile::tempdir().expect("a folder");
    let closed = folder.path().join("closed");
    std::fs::write(&closed, kubeconfig(1, "")).expect("a file");
    for subcommand in [REVIEW, EJECT, CHECK, STATUS] {
        let text = printed(migration_gate(&words(subcommand)).env("KUBECONFIG", &closed));
        assert_eq!(text.lines().count(), 1, "{text}");
        let told = text.contains("cannot connect to http://127.0.0.1:1: ");
        assert!(told, "{text}");
    }
}

#[test]
fn the_cluster_is_chosen_as_kubectl_does_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: String| -> String {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let (one, two) = (file("1", kubeconfig(1, "")), file("2", kubeconfig(2, "")));
    let missing = folder.path().join("missing").display().to_string();
    let check = |variable: &str, options: &[&str], expect: &str| {
        let arguments = [&["version"], options].concat();
        let text = printed(migration_gate(&arguments).env("KUBECONFIG", variable));
        assert!(text.contains(expect), "{variable} {options:?}: {text}");
    };
    let several = format!("{missing}:{one}::{two}:{one}");
    check(&several, &[], "http://127.0.0.1:1: ");
    check(&several, &["--context=c2"], "http://127.0.0.1:2: ");
    check(&several, &["--context=c3"], "it has no context c3; ");
    check(&one, &["--kubeconfig", &two], "http://127.0.0.1:2: ");
    check(&missing, &[], "missing: No such file");
    check(&one, &["--kubeconfig", &missing], "missing: No such file");

    let plugin = "exec: {apiVersion: client.authentication.k8s.io/v1, command: no-such-plugin, \
                  interactiveMode: Never, installHint: \"get it\\nfrom there\"}";
    let plugged = file("plugin", kubeconfig(1, plugin));
    check(&plugged, &[], "cannot run `no-such-plugin`");
    check(&plugged, &[], "get it from there");
}

/// Each subcommand that the help lists, and the one that it hides.
fn subcommands() -> Vec<String> {
    let help = printed(&mut migration_gate(&["--help"]));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    listed
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  ")?.split(' ').next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .chain(["man".to_owned()])
        .collect()
}

/// The help of each subcommand, by this option.
fn helps(option: &str) -> Vec<String> {
    let subcommands = subcommands();
    assert!(subcommands.contains(&"serve".into()), "{subcommands:?}");
    let nested = ["list", "done", "forget"].map(|name| vec!["record", name]);
    let all = subcommands.iter().map(|name| vec![name.as_str()]);
    let help = |subcommand: Vec<&str>| {
        let help = printed(migration_gate(&subcommand).arg(option));
        assert!(help.contains("Usage: migration-gate"), "{help}");
        help
    };
    all.chain(nested).map(help).collect()
}

#[test]
fn help_fits_80_columns() {
    for help in ["-h", "--help"].into_iter().flat_map(helps) {
        for line in help.lines() {
            assert!(line.chars().count() <= 80, "{line:?} in {help}");
        }
    }
}

#[test]
fn an_option_has_one_wording_in_every_command() {
    const WORDINGS: [(&str, &str); 7] = [
        ("--config <FILE>", "Configuration file [default: the "),
        ("--context <NAME>", "Kubeconfig context [default: "),
        ("--gate <NAME>", "Name of "),
        ("--kubeconfig <FILE>", "Kubeconfig file [default: "),
        ("--namespace <NAME>", "Namespace of the "),
        ("--output <FORMAT>", "Output format"),
        ("--timeout <DURATION>", "How long to wait for "),
    ];
    for help in helps("--help") {
        let mut lines = help.lines();
        while let Some(line) = lines.next() {
            let Some((_, option)) = line.split_once("--") else {
                continue;
            };
            let name = option.split(' ').next().unwrap_or_default();
            let mut wordings = WORDINGS.iter();
            let known = wordings.find(|(known, _)| known[2..].split(' ').next() == Some(name));
            let Some((known, wording)) = known.filter(|_| line.trim_start().starts_with('-'))
            else {
                continue;
            };
            let (option, text) = match option.split_once("  ") {
                Some((option, text)) => (option, text),
                None => (option, lines.next().unwrap_or_default()),
            };
            assert_eq!(option, &known[2..], "{help}");
            assert!(text.trim_start().starts_with(wording), "{text:?} in {help}");
        }
    }
}

#[test]
fn shells_and_man_know_every_subcommand() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man");
    let subcommands = subcommands();
    let path = pages.to_str().expect("a path");
    assert_eq!(printed(&mut migration_gate(&["man", path])), "");
    let scripts = ["bash", "zsh", "fish", "powershell"]
        .map(|shell| printed(&mut migration_gate(&["completions", shell])));
    for subcommand in subcommands
        .iter()
        .filter(|name| *name != "help" && *name != "man")
    {
        let page = pages.join(format!("migration-gate-{subcommand}.1"));
        let page = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(page.contains(".SH SYNOPSIS"), "{subcommand}: {page}");
        for script in &scripts {
            let known = script.contains(subcommand.as_str());
            assert!(known, "{subcommand}: {script}");
        }
    }
}

#[test]
fn as_a_plugin_of_kubectl_it_has_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let plugin = folder.path().join("kubectl-migration_gate");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_migration-gate"), &plugin).expect("a link");
    let help = printed(Command::new(&plugin).args(["eject", "--help"]));
    let usage = "Usage: kubectl migration-gate eject";
    assert!(help.contains(usage), "{help}");
}

/// The command lines of this program in a page: those after a prompt, and those between backticks.
fn documented(page: &str) -> Vec<Vec<String>> {
    let prompts = page.lines().filter_map(|line| line.strip_prefix("$ "));
    // A name alone is a mention.
    let is_command = |line: &&str| line.split_whitespace().count() > 2;
    let quoted = page.split('`').skip(1).step_by(2).flat_map(|text| {
        // A block starts with its language, and has a command a line.
        let is_block = text.starts_with('\n') || text.find('\n') < text.find(' ');
        let (block, inline) = if is_block { (text, "") } else { ("", text) };
        block.lines().chain(std::iter::once(inline))
    });
    let commands = prompts.chain(quoted.filter(is_command));
    let lines = commands.flat_map(|line| line.split('|'));
    lines
        .filter_map(|line| line.trim().strip_prefix("migration-gate "))
        .map(|line| line.split(['>', '#']).next().unwrap_or_default())
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .collect()
}

#[test]
fn the_documentation_has_no_command_that_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let closed = folder.path().join("closed");
    std::fs::write(&closed, kubeconfig(1, "")).expect("a file");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<PathBuf> = std::fs::read_dir(root.join("docs"))
        .expect("docs")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .collect();
    pages.extend(
        [
            "README.md",
            "SECURITY.md",
            "charts/migration-gate/README.md",
        ]
        .map(|p| root.join(p)),
    );
    let mut tried = 0;
    for path in pages {
        let page = std::fs::read_to_string(&path).expect("a page");
        for arguments in documented(&page) {
            // These do not end, retry for long, or write to a folder of the reader's.
            let first = arguments.first().map(String::as_str);
            if matches!(first, None | Some("serve" | "wait" | "check" | "man")) {
                continue;
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let mut command = migration_gate(&arguments);
            let command = command
                .current_dir(folder.path())
                .env("KUBECONFIG", &closed);
            let text = printed(command);
            assert!(
                !text.contains("Usage: "),
                "{}: {arguments:?}: {text}",
                path.display()
            );
            tried += 1;
        }
        // Without `--prefix` or with the name of a workload, kubectl shows one pod of several.
        for line in page
            .lines()
            .filter(|line| line.starts_with("$ kubectl") && line.contains(" logs "))
        {
            assert!(
                line.contains("--prefix") && !line.contains("deployment/"),
                "{}: {line}",
                path.display()
            );
        }
    }
    assert!(tried > 20, "{tried}");
}
