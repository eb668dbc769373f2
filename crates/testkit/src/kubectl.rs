//! kubectl and Helm, with failures that show what was going on.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::assets::NO_COLLECTION;
use crate::process::{self, Finished, indent};

/// Longer than any single command should take on a busy machine; `wait` adds its own time to it.
const DEADLINE: Duration = Duration::from_mins(3);

/// How much longer what is awaited may take than it does on an idle machine: tests run side by side
/// on few processors.
pub const PATIENCE: u64 = 3;

/// kubectl and Helm as one user, and perhaps in one namespace.
#[derive(Clone)]
pub struct Kubectl {
    /// The path of kubectl.
    pub program: PathBuf,
    /// The path of Helm.
    pub helm: PathBuf,
    /// The user's kubeconfig.
    pub kubeconfig: PathBuf,
    /// The namespace of every command.
    pub namespace: Option<String>,
    /// Discovery is cached by the server's address, which is the same for every cluster that these
    /// tests boot.
    pub cache: PathBuf,
}

impl Kubectl {
    /// The same user in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: Some(namespace.to_owned()),
            ..self.clone()
        }
    }

    /// The same programs as another user.
    #[must_use]
    pub fn with_kubeconfig(&self, kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            ..self.clone()
        }
    }

    /// Runs kubectl; gives what it printed. The arguments are one line, split at white space:
    /// [`Self::output`] takes those that hold some.
    pub fn run(&self, line: &str) -> Result<String> {
        self.output(&words(line), "", DEADLINE)?.success()
    }

    /// Runs kubectl, which must fail; gives its standard error.
    pub fn refused(&self, line: &str) -> Result<String> {
        self.output(&words(line), "", DEADLINE)?.failure()
    }

    /// Runs kubectl with `input`, whatever comes of it.
    pub fn output(&self, args: &[&str], input: &str, deadline: Duration) -> Result<Finished> {
        process::run(self.command(&self.program).args(args), input, deadline)
    }

    /// Applies manifests that are written in the test.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.output(&["apply", "-f", "-"], manifests, DEADLINE)?
            .success()
    }

    /// Applies manifests that the API server must refuse; gives what kubectl says then.
    pub fn apply_refused(&self, manifests: &str) -> Result<String> {
        self.output(&["apply", "-f", "-"], manifests, DEADLINE)?
            .failure()
    }

    /// An object, or a list of them, as JSON.
    pub fn get(&self, line: &str) -> Result<Value> {
        let text = self.run(&format!("get --output=json {line}"))?;
        serde_json::from_str(&text).context("reading kubectl's JSON")
    }

    /// Watches `what` until `condition` holds, in the words of `kubectl wait`: `condition=Ready`,
    /// `delete`, `jsonpath={.status.phase}=Succeeded`. An object that doesn't exist yet is awaited
    /// too. On an idle machine the condition should hold within `seconds`.
    pub fn wait(&self, what: &str, condition: &str, seconds: u64) -> Result<()> {
        let seconds = seconds * PATIENCE;
        let timeout = format!("--timeout={seconds}s");
        let deadline = DEADLINE + Duration::from_secs(seconds);
        let wait = |condition: &str| {
            self.output(
                &["wait", what, &format!("--for={condition}"), &timeout],
                "",
                deadline,
            )?
            .success()
        };
        // What a test waits for mostly exists by then, and each kubectl costs as much as many
        // requests.
        let awaited = wait(condition).or_else(|error| {
            if !matches!(condition, "create" | "delete") && error.to_string().contains("NotFound") {
                wait("create").and_then(|_| wait(condition))
            } else {
                Err(error)
            }
        });
        awaited
            .map(drop)
            .map_err(|error| anyhow!("{error:#}{}", self.overview(what)))
    }

    /// A container's logs.
    pub fn logs(&self, pod: &str, container: &str) -> Result<String> {
        self.run(&format!("logs {pod} --container={container}"))
    }

    /// Runs a command in a pod (`pod/a`, `job/b`), in its first container.
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.output(&[&["exec", pod, "--"], command].concat(), "", DEADLINE)?
            .success()
    }

    /// Runs Helm; gives what it printed.
    pub fn helm(&self, line: &str) -> Result<String> {
        process::run(self.command(&self.helm).args(words(line)), "", DEADLINE * 3)?.success()
    }

    /// What a person would look at when a wait has failed.
    fn overview(&self, what: &str) -> String {
        let looks = [
            &format!("get {what} --output=wide"),
            "get pods,jobs,deployments,replicasets --output=wide",
            "events",
        ];
        let show = |look| {
            let said = self
                .output(&words(look), "", DEADLINE)
                .map(|output| output.stdout + &output.stderr);
            format!(
                "  kubectl {look}:\n{}",
                indent(&said.unwrap_or_else(|error| error.to_string()))
            )
        };
        looks.map(show).concat()
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        self.set_environment(&mut command);
        if let Some(namespace) = &self.namespace {
            command.args(["--namespace", namespace]);
        }
        command
    }

    /// Lets kubectl and Helm, where a command runs them, use this cluster, and nothing of the
    /// user's own set-up, which may not decide a test.
    pub fn set_environment(&self, command: &mut Command) {
        command
            .envs(NO_COLLECTION)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("KUBECACHEDIR", &self.cache)
            .env("KUBERC", "off")
            .env("HELM_CACHE_HOME", self.cache.join("helm"))
            .env("HELM_CONFIG_HOME", self.cache.join("helm"))
            .env("HELM_DATA_HOME", self.cache.join("helm"));
    }
}

fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}
