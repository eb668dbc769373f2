//! An operator who runs `status`, and the commands that it prints.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use testkit::kubectl::Kubectl;
use testkit::namespace::Namespace;
use testkit::poll::{Look, until};
use testkit::process::{self, Finished, program};
use testkit::shell::Shell;

/// How long a problem may take to appear or to end.
pub(super) const PATIENCE: Duration = Duration::from_mins(3);

/// The administrator of a namespace, with kubectl, Helm and this program, which is also a kubectl
/// plugin.
pub(super) struct Operator {
    namespace: Namespace,
    context: String,
    folder: tempfile::TempDir,
    begun: Instant,
}

/// A problem in a report.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) code: String,
    /// Its object and namespace: `Job migrate in shop`.
    pub(super) place: String,
    pub(super) details: Vec<String>,
    /// The commands as they are printed, the likeliest first.
    pub(super) commands: Vec<String>,
}

impl Operator {
    pub(super) fn new(namespace: Namespace, gates: &Value) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        symlink(program(), folder.path().join("kubectl-migration_gate"))?;
        let operator = Self {
            context: namespace
                .kubectl
                .run("config current-context")?
                .trim()
                .to_owned(),
            namespace,
            folder,
            begun: Instant::now(),
        };
        fs::write(operator.config(), json!({"gates": gates}).to_string())?;
        Ok(operator)
    }

    pub(super) fn kubectl(&self) -> &Kubectl {
        &self.namespace.kubectl
    }

    /// A file with the gates.
    pub(super) fn config(&self) -> PathBuf {
        self.folder.path().join("gates.yaml")
    }

    pub(super) fn seconds(&self) -> f32 {
        self.begun.elapsed().as_secs_f32()
    }

    /// Runs `status` with JSON output, as the user of a kubeconfig.
    pub(super) fn status_as(&self, kubeconfig: &Path, options: &[&str]) -> Result<Finished> {
        let mut command = Command::new(program());
        command
            .args(["status", "--output=json", "--context", &self.context])
            .args(options)
            .env("KUBECONFIG", kubeconfig);
        process::run(&mut command, "", Duration::from_mins(1))
    }

    /// The report in that output. Checks that it agrees with the exit code.
    pub(super) fn report_as(&self, kubeconfig: &Path, options: &[&str]) -> Result<Value> {
        let output = self.status_as(kubeconfig, options)?;
        let report: Value = serde_json::from_str(&output.stdout)
            .with_context(|| format!("{}\n{}", output.stdout, output.stderr))?;
        let code = i32::from(report["wrong"] == true);
        ensure!(
            output.status.code() == Some(code),
            "{}: {report:#}",
            output.status
        );
        Ok(report)
    }

    /// The report when `holds` is true for it.
    pub(super) fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<Value> {
        let mut first = true;
        until(what, PATIENCE, || {
            // There is no event for it, and a report costs as much as a small roll-out.
            if !std::mem::take(&mut first) {
                thread::sleep(Duration::from_millis(500));
            }
            match self.report_as(&self.kubectl().kubeconfig, &[]) {
                Ok(report) if holds(&report) => Look::Done(report),
                Ok(report) => Look::Pending(format!("{:#}", report["troubles"])),
                Err(error) => Look::Failed(error),
            }
        })
    }

    /// Waits until there are no problems and every gate is open.
    pub(super) fn is_well(&self) -> Result<()> {
        self.until("nothing to be wrong", |report| {
            let mut gates = report["gates"].as_array().into_iter().flatten();
            troubles(report).next().is_none()
                && gates.all(|gate| gate["state"] == "open" || gate["state"] == "unused")
        })?;
        Ok(())
    }

    /// Waits until there are these problems, by code and place. Returns all problems.
    pub(super) fn finds_all(&self, wanted: &[(&str, &str)]) -> Result<Vec<Trouble>> {
        let lacking = |report: &Value| -> Vec<String> {
            let there = |code: &str, place: &str| {
                troubles(report).any(|one| one["code"] == code && self::place(one) == place)
            };
            let lacking = wanted.iter().filter(|(code, place)| !there(code, place));
            lacking
                .map(|(code, place)| format!("{code} {place}"))
                .collect()
        };
        let mut last = Vec::new();
        let report = self
            .until("all troubles", |report| lacking(report).is_empty())
            .with_context(|| {
                if let Ok(report) = self.report_as(&self.kubectl().kubeconfig, &[]) {
                    last = lacking(&report);
                }
                format!("lacking {last:#?}")
            })?;
        self.as_printed(&report)
    }

    /// Waits until there is a problem with this code.
    pub(super) fn finds(&self, code: &str) -> Result<Trouble> {
        let found = |report: &Value| troubles(report).any(|trouble| trouble["code"] == code);
        let report = self.until(code, found)?;
        let mut all = self.as_printed(&report)?.into_iter();
        all.find(|trouble| trouble.code == code)
            .context("it is gone")
    }

    /// The problems of a report, with the commands that the kubectl plugin prints as text.
    fn as_printed(&self, report: &Value) -> Result<Vec<Trouble>> {
        let status = format!("kubectl migration-gate status --context {}", self.context);
        let text = self.shell(&status)?.stdout;
        // The text does not have problems that have ended meanwhile.
        let after = self.report_as(&self.kubectl().kubeconfig, &[])?;
        let lasts = |trouble: &Value| {
            troubles(&after)
                .any(|other| other["code"] == trouble["code"] && place(other) == place(trouble))
        };
        let mut found = Vec::new();
        for trouble in troubles(report) {
            let remedies = trouble["remedies"].as_array().into_iter().flatten();
            let mut commands = Vec::new();
            for command in remedies.filter_map(|remedy| remedy["command"].as_str()) {
                let command = match command.strip_prefix("migration-gate ") {
                    Some(rest) => format!("kubectl migration-gate {rest}"),
                    None => command.to_owned(),
                };
                // These commands have the time, or the name of a pod that may have been replaced.
                let changes = ["retried=", "restarted", "delete pod"];
                let is_printed = text.contains(&format!("\n    {command}\n"));
                ensure!(
                    is_printed
                        || changes.iter().any(|part| command.contains(part))
                        || !lasts(trouble),
                    "`{command}` is not printed in\n{text}"
                );
                commands.push(command);
            }
            let details = trouble["details"].as_array().into_iter().flatten();
            found.push(Trouble {
                code: trouble["code"].as_str().unwrap_or_default().to_owned(),
                place: place(trouble),
                details: details
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
                commands,
            });
        }
        Ok(found)
    }

    /// Runs the first command that was printed for a problem. Returns its output.
    pub(super) fn fixes(&self, trouble: &Trouble) -> Result<String> {
        let command = trouble.commands.first();
        self.runs(command.with_context(|| format!("{trouble:?} has no command"))?)
    }

    /// Runs a printed command in a shell, as its reader would.
    pub(super) fn runs(&self, line: &str) -> Result<String> {
        self.shell(line)?
            .success()
            .with_context(|| format!("running `{line}`"))
    }

    fn shell(&self, line: &str) -> Result<Finished> {
        Shell::new(self.kubectl(), self.folder.path())?.run(line, Duration::from_mins(1))
    }
}

/// The problems of a report.
pub(super) fn troubles(report: &Value) -> impl Iterator<Item = &Value> {
    report["troubles"].as_array().into_iter().flatten()
}

fn place(trouble: &Value) -> String {
    let object = trouble["object"].as_str().unwrap_or_default();
    match trouble["namespace"].as_str() {
        Some(namespace) => format!("{object} in {namespace}"),
        None => object.to_owned(),
    }
}
