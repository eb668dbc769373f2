//! The GitHub action, the GitLab template and the pre-commit hooks, which make a review one line,
//! run as CI runs them. A script that hands out the program takes the place of Docker.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use migration_gate_yaml as yaml;
use serde_json::Value;
use tempfile::TempDir;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn parsed(path: &str) -> Value {
    let text = fs::read_to_string(repository().join(path)).unwrap();
    let mut documents = yaml::documents(&text);
    let document = documents.next().unwrap().unwrap();
    assert!(documents.next().is_none(), "{path}");
    document.value
}

const IMAGE: &str = concat!("migration-gate/migration-gate:", env!("CARGO_PKG_VERSION"));

/// A checked-out repository, and the machine that runs the job.
struct Runner {
    folder: TempDir,
}

impl Runner {
    /// A runner whose repository has these folders of the examples.
    fn new(examples: &[&str]) -> Self {
        let runner = Self {
            folder: TempDir::new().unwrap(),
        };
        for name in ["bin", "temp", "checkout"] {
            fs::create_dir(runner.path(name)).unwrap();
        }
        for example in examples {
            let to = runner.path("checkout").join(example);
            fs::create_dir_all(&to).unwrap();
            for entry in fs::read_dir(repository().join("examples").join(example)).unwrap() {
                let path = entry.unwrap().path();
                // The built-in gate holds Deployments alone.
                if path.is_file() && !path.ends_with("cronjobs.yaml") {
                    fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
        let docker = format!(
            "#!/bin/sh\ncase \"$1\" in\ncreate) [ \"$2\" = '{IMAGE}' ] && echo 0123 ;;\ncp) [ \"$2\" = 0123:/migration-gate ] && cp '{}' \"$3\" ;;\nrm) echo \"$2\" ;;\nesac\n",
            env!("CARGO_BIN_EXE_migration-gate")
        );
        let path = runner.path("bin/docker");
        fs::write(&path, docker).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        runner
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs a script in the checked-out repository. Returns its exit code and its output.
    fn run(&self, shell: &[&str], script: &str, env: &BTreeMap<String, String>) -> (i32, String) {
        let added = fs::read_to_string(self.path("github-path")).unwrap_or_default();
        let system = std::env::var("PATH").unwrap_or_default();
        let path = format!(
            "{}:{}:{system}",
            added.trim().replace('\n', ":"),
            self.path("bin").display()
        );
        let output = Command::new(shell[0])
            .args(&shell[1..])
            .arg(script)
            .envs(env)
            .env("PATH", path)
            .env("RUNNER_TEMP", self.path("temp"))
            .env("GITHUB_PATH", self.path("github-path"))
            .current_dir(self.path("checkout"))
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    }

    /// Runs the steps of the action with these inputs, until one fails.
    fn action(&self, inputs: &[(&str, &str)]) -> (i32, String) {
        let action = parsed("action.yml");
        assert_eq!(action["runs"]["using"], "composite");
        for (name, _) in inputs {
            assert!(action["inputs"].get(name).is_some(), "{name}");
        }
        let mut last = (0, String::new());
        for step in action["runs"]["steps"].as_array().unwrap() {
            assert_eq!(step["shell"], "bash");
            let env = step["env"].as_object().unwrap().iter();
            let env = env.map(|(name, value)| {
                let input = value.as_str().unwrap();
                let input = input.strip_prefix("${{ inputs.").unwrap();
                let input = input.strip_suffix(" }}").unwrap();
                let given = inputs.iter().find(|(name, _)| *name == input);
                let default = action["inputs"][input]["default"].as_str().unwrap();
                (
                    name.clone(),
                    given.map_or(default, |(_, value)| value).to_owned(),
                )
            });
            // As GitHub runs it.
            let bash = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c"];
            last = self.run(&bash, step["run"].as_str().unwrap(), &env.collect());
            if last.0 != 0 {
                break;
            }
        }
        last
    }
}

#[test]
fn the_action_of_github() {
    let runner = Runner::new(&["piefed", "codes"]);
    let (code, text) = runner.action(&[("paths", "piefed")]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(" injections, no violations, no warnings"),
        "{text}"
    );
    // Warnings fail the action by default.
    let job = "piefed/job-db-init.yaml\ncodes/mutable-tag.yaml\n";
    let warned = [("paths", "codes/no-job.yaml")];
    let (code, text) = runner.action(&warned);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.contains("::warning file=codes/no-job.yaml,line=4,"),
        "{text}"
    );
    let (code, _) = runner.action(&[warned[0], ("strict", "false")]);
    assert_eq!(code, 0);
    let (code, text) = runner.action(&[warned[0], ("ignore", "no-job\nmutable-tag")]);
    assert_eq!(code, 0, "{text}");
    let (code, text) = runner.action(&[("paths", job), ("strict", "false")]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("3 objects"), "{text}");
    let gates = [
        ("paths", "codes/workload-ref.yaml"),
        ("config", "codes/workload-ref.gates.yaml"),
        ("ignore", "no-job"),
    ];
    let (code, text) = runner.action(&gates);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("title=workload-ref::"), "{text}");
    // The whole repository, when nothing is named.
    fs::remove_dir_all(runner.path("checkout/codes")).unwrap();
    let (code, text) = runner.action(&[("namespace", "piefed-application")]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains(" injections, no violations, no warnings"),
        "{text}"
    );
}

/// Rendered input, by a stand-in for kubectl and Helm that prints its arguments as a comment.
#[test]
fn the_action_renders() {
    let runner = Runner::new(&[]);
    for program in ["kubectl", "helm"] {
        let path = runner.path("bin").join(program);
        fs::write(&path, "#!/bin/sh\necho \"$0 $*\" >>called\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let (code, text) = runner.action(&[
        ("kustomize", "one\ntwo"),
        ("helm", "chart"),
        ("values", "a b.yaml\nc.yaml\n"),
        ("set", "x=y"),
        ("release", "shop"),
        ("namespace", "shop"),
    ]);
    assert_eq!(code, 0, "{text}");
    let called = fs::read_to_string(runner.path("checkout/called")).unwrap();
    let called = called.replace(&format!("{}/", runner.path("bin").display()), "");
    assert_eq!(
        called,
        "kubectl kustomize -- one\nkubectl kustomize -- two\nhelm template --namespace shop --values a b.yaml --values c.yaml --set x=y -- shop chart\n"
    );
}

#[test]
fn the_template_of_gitlab() {
    let template = parsed("ci/gitlab.yml");
    let job = &template["migration-gate-review"];
    let variables: BTreeMap<String, String> = job["variables"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap().to_owned()))
        .collect();
    let lines = |part: &str| -> String {
        let lines = job[part].as_array().unwrap().iter();
        let lines: Vec<&str> = lines.map(|line| line.as_str().unwrap()).collect();
        lines.join("\n") + "\n"
    };
    for (example, expected) in [("piefed", 0), ("piefed-old", 1)] {
        let runner = Runner::new(&[example]);
        // The first two share a shell that ends with the first failure; the last has its own.
        let script = lines("before_script") + &lines("script");
        let (code, text) = runner.run(&["sh", "-e", "-c"], &script, &variables);
        assert_eq!(code, expected, "{text}");
        assert!(text.contains(" objects: "), "{text}");
        let (code, text) = runner.run(&["sh", "-e", "-c"], &lines("after_script"), &variables);
        assert_eq!(code, 0, "{text}");
        let report = job["artifacts"]["reports"]["junit"].as_str().unwrap();
        let report = fs::read_to_string(runner.path("checkout").join(report)).unwrap();
        assert!(
            report.contains("<testsuites name=\"migration-gate review\""),
            "{report}"
        );
        assert_eq!(report.contains("<failure "), expected == 1, "{report}");
    }
}

#[test]
fn the_hooks_of_pre_commit() {
    let hooks = parsed(".pre-commit-hooks.yaml");
    let [by_image, by_program] = hooks.as_array().unwrap().as_slice() else {
        panic!("{hooks}");
    };
    assert_eq!(by_image["language"], "docker_image");
    assert_eq!(by_image["entry"], format!("{IMAGE} review"));
    assert_eq!(by_program["language"], "system");
    for hook in [by_image, by_program] {
        assert_eq!(hook["pass_filenames"], false);
        // pre-commit appends the arguments to the entry; the image's entry point is the program.
        let entry = hook["entry"]
            .as_str()
            .unwrap()
            .replace(IMAGE, "migration-gate");
        let arguments = hook["args"].as_array().unwrap().iter();
        let command = arguments.fold(entry, |command, argument| {
            format!("{command} {}", argument.as_str().unwrap())
        });
        for (example, expected) in [("piefed", 0), ("piefed-old", 1)] {
            let runner = Runner::new(&[example]);
            let program = Path::new(env!("CARGO_BIN_EXE_migration-gate"));
            std::os::unix::fs::symlink(program, runner.path("bin/migration-gate")).unwrap();
            let (code, text) = runner.run(&["sh", "-c"], &command, &BTreeMap::new());
            assert_eq!(code, expected, "{text}");
        }
    }
}

/// They name the release that they come with.
#[test]
fn all_are_of_this_release() {
    for path in ["action.yml", "ci/gitlab.yml", ".pre-commit-hooks.yaml"] {
        let text = fs::read_to_string(repository().join(path)).unwrap();
        assert!(
            text.contains(IMAGE),
            "{path} names another image than {IMAGE}"
        );
        let tag = concat!("v", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(tag), "{path} names another tag than {tag}");
    }
}
