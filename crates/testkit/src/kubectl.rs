//! kubectl and Helm. Their failures show the state of the cluster.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use serde_json::Value;

use crate::assets::NO_COLLECTION;
use crate::process::{self, Finished, indent};

/// Time limit for a command on a busy machine. `wait` adds its own time to it.
const DEADLINE: Duration = Duration::from_mins(3);

/// The factor by which a wait may take longer than on an idle machine: tests run side by side on
/// few processors.
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
    /// The folder of the discovery cache. kubectl's default would be wrong: its key is the server's
    /// address, which is the same for every cluster that these tests boot.
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

    /// Runs kubectl, and returns its standard output. The arguments are one line that is split at
    /// white space. For arguments with white space, use [`Self::output`].
    pub fn run(&self, line: &str) -> Result<String> {
        self.output(&words(line), "", DEADLINE)?.success()
    }

    /// Runs kubectl, which must fail. Returns its standard error.
    pub fn refused(&self, line: &str) -> Result<String> {
        self.output(&words(line), "", DEADLINE)?.failure()
    }

    /// Runs kubectl with `input`. It may succeed or fail.
    pub fn output(&self, args: &[&str], input: &str, deadline: Duration) -> Result<Finished> {
        process::run(self.command(&self.program).args(args), input, deadline)
    }

    /// Applies manifests.
    pub fn apply(&self, manifests: &str) -> Result<String> {
        self.output(&["apply", "-f", "-"], manifests, DEADLINE)?
            .success()
    }

    /// Applies the custom resource definitions in a file or folder, and waits until they are
    /// established.
    pub fn define(&self, definitions: &Path) -> Result<()> {
        let definitions = definitions.display();
        // They are too large for the annotation of a client-side apply.
        self.run(&format!("apply --server-side -f {definitions}"))?;
        let wait = "wait --for=condition=Established --timeout=170s";
        self.run(&format!("{wait} -f {definitions}")).map(drop)
    }

    /// Applies manifests that the API server must refuse. Returns kubectl's standard error.
    pub fn apply_refused(&self, manifests: &str) -> Result<String> {
        self.output(&["apply", "-f", "-"], manifests, DEADLINE)?
            .failure()
    }

    /// `kubectl get` of an object or a list, as JSON.
    pub fn get(&self, line: &str) -> Result<Value> {
        let text = self.run(&format!("get --output=json {line}"))?;
        serde_json::from_str(&text).context("reading kubectl's JSON")
    }

    /// Watches `what` until `condition` holds, in the notation of `kubectl wait`:
    /// `condition=Ready`, `delete`, `jsonpath={.status.phase}=Succeeded`. Also waits for an object
    /// that does not exist yet. On an idle machine, the condition must hold within `seconds`.
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
        // The object mostly exists already, and one kubectl costs as much as many requests.
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

    /// Runs a command in the first container of a pod (`pod/a`, `job/b`).
    pub fn exec(&self, pod: &str, command: &[&str]) -> Result<String> {
        self.output(&[&["exec", pod, "--"], command].concat(), "", DEADLINE)?
            .success()
    }

    /// Runs Helm, and returns its standard output.
    pub fn helm(&self, line: &str) -> Result<String> {
        process::run(self.command(&self.helm).args(words(line)), "", DEADLINE * 3)?.success()
    }

    /// What an operator would look at when a wait has failed.
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

    /// Makes kubectl and Helm, if a command runs them, use this cluster and ignore the user's own
    /// configuration.
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
