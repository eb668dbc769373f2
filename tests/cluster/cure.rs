//! Tests of printed remedies: the command is cut out of the output, and a shell runs it unchanged,
//! as a reader would.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::waiter::application::{GatedApplication, JOB, program};
use testkit::cluster::Cluster;
use testkit::poll::{Look, until};
use testkit::process::Finished;
use testkit::shell::Shell;

const PATIENCE: Duration = Duration::from_mins(3);

/// The beginnings of commands.
const PROGRAMS: [&str; 5] = ["kubectl ", "argocd ", "flux ", "helm ", "now="];

/// A reader with a shell and a held application.
pub(crate) struct Reader<'a> {
    cluster: &'a Cluster,
    application: &'a GatedApplication,
    shell: Shell,
}

impl<'a> Reader<'a> {
    /// A reader whose shell has `folder` at the front of its `PATH` and as its working directory.
    pub(crate) fn new(
        cluster: &'a Cluster,
        application: &'a GatedApplication,
        folder: &Path,
    ) -> Result<Self> {
        Ok(Self {
            cluster,
            application,
            shell: Shell::new(application.kubectl(), folder)?,
        })
    }

    /// Runs a line, which may succeed or fail.
    pub(crate) fn tries(&self, line: &str) -> Result<Finished> {
        self.shell.run(line, Duration::from_mins(5))
    }

    /// Runs a printed command, which must succeed.
    pub(crate) fn runs(&self, command: &str) -> Result<()> {
        eprintln!("cure: {command}");
        self.tries(command)?.success().map(drop)
    }

    /// The command in the last line of the waiter in this image's pod.
    pub(crate) fn last_words(&self, image: &str) -> Result<String> {
        command(&self.application.last_words(self.cluster, image)?)
    }

    /// Makes the running Job fail. Returns the command that the pod's waiter and the Job's Event
    /// name, which must be the same.
    pub(crate) fn after_a_failure(&self, pod: &str) -> Result<String> {
        self.application.fails()?;
        let pod = self.application.kubectl().get(&format!("pod {pod}"))?;
        let said = command(&self.application.says(&pod, "fix the cause")?)?;
        let noted = command(&self.event()?)?;
        ensure!(
            said == noted,
            "the waiter says `{said}`, the Event `{noted}`"
        );
        Ok(said)
    }

    /// The note of the Event about the Job's failure.
    fn event(&self) -> Result<String> {
        let look = || -> Result<Option<String>> {
            let events = self.application.kubectl().get("events.events.k8s.io")?;
            let mut events = events["items"].as_array().into_iter().flatten();
            let failed = events.find(|event| {
                event["reason"] == "MigrationFailed" && event["regarding"]["name"] == JOB
            });
            Ok(failed.and_then(|event| event["note"].as_str().map(str::to_owned)))
        };
        until("an Event on the failed Job", PATIENCE, || match look() {
            Err(error) => Look::Failed(error),
            Ok(Some(note)) => Look::Done(note),
            Ok(None) => Look::Pending("none".to_owned()),
        })
    }

    /// The first command that `status` prints for a problem.
    pub(crate) fn status(&self, trouble: &str) -> Result<String> {
        let kubectl = self.application.kubectl();
        let gate = kubectl.namespace.as_deref().context("a namespace")?;
        let said = program(self.cluster, &["status", "-n", gate, gate], 1)?;
        let block = said.split("\n\n").find(|block| {
            let title = format!("[{trouble}]: Job {JOB} ");
            block.lines().any(|line| line.contains(&title))
        });
        let command = block.and_then(|block| {
            let mut lines = block.lines();
            lines.find_map(|line| is_command(line.strip_prefix("    ")?))
        });
        Ok(command
            .with_context(|| format!("no command for {trouble} in\n{said}"))?
            .to_owned())
    }
}

/// The command in a line of the waiter, or in an Event's note: it is at the end of a sentence.
fn command(text: &str) -> Result<String> {
    let mut sentences = text.match_indices(": ");
    let found = sentences.find_map(|(at, colon)| is_command(&text[at + colon.len()..]));
    let found = found.with_context(|| format!("no command in\n{text}"))?;
    let ends = [". ", "\n"].into_iter().filter_map(|end| found.find(end));
    Ok(found[..ends.min().unwrap_or(found.len())].to_owned())
}

fn is_command(text: &str) -> Option<&str> {
    let is_one = PROGRAMS.iter().any(|program| text.starts_with(program));
    is_one.then_some(text)
}

/// Writes a script to a folder, as a program that a shell finds there.
pub(crate) fn script(folder: &Path, name: &str, text: &str) -> Result<()> {
    let program = folder.join(name);
    fs::write(&program, format!("#!/bin/sh\n{text}\n"))?;
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    Ok(())
}
