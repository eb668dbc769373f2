//! A shell for the commands that a page or a program shows.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use crate::kubectl::Kubectl;
use crate::process::{self, Finished, program};

/// Bash with kubectl, Helm and this program on the `PATH`, for one cluster.
pub struct Shell {
    kubectl: Kubectl,
    path: OsString,
    folder: PathBuf,
    home: Option<PathBuf>,
    environment: Vec<(&'static str, PathBuf)>,
}

impl Shell {
    /// A shell with `first` at the front of its `PATH` and as its working directory.
    pub fn new(kubectl: &Kubectl, first: &Path) -> Result<Self> {
        let parent = |path: &Path| path.parent().map(PathBuf::from).unwrap_or_default();
        let programs = [&kubectl.program, &kubectl.helm, &program()].map(|path| parent(path));
        let own = std::env::var_os("PATH").unwrap_or_default();
        Ok(Self {
            kubectl: kubectl.clone(),
            path: std::env::join_paths(
                std::iter::once(first.to_owned())
                    .chain(programs)
                    .chain(std::env::split_paths(&own)),
            )?,
            folder: first.to_owned(),
            home: None,
            environment: Vec::new(),
        })
    }

    /// The same in another folder.
    #[must_use]
    pub fn in_folder(mut self, folder: &Path) -> Self {
        folder.clone_into(&mut self.folder);
        self
    }

    /// The same with another home directory.
    #[must_use]
    pub fn at_home(mut self, home: &Path) -> Self {
        self.home = Some(home.to_owned());
        self
    }

    /// The same with an environment variable with a path.
    #[must_use]
    pub fn with(mut self, variable: &'static str, path: &Path) -> Self {
        self.environment.push((variable, path.to_owned()));
        self
    }

    /// Runs a line to its end.
    pub fn run(&self, line: &str, deadline: Duration) -> Result<Finished> {
        let mut shell = Command::new("bash");
        shell
            .args(["-euo", "pipefail", "-c", line])
            .env("PATH", &self.path)
            .current_dir(&self.folder);
        if let Some(home) = &self.home {
            shell.env("HOME", home);
        }
        self.kubectl.set_environment(&mut shell);
        shell.envs(self.environment.iter().map(|(name, path)| (name, path)));
        process::run(&mut shell, "", deadline)
    }
}
