//! Runs test functions in this process, and boots the cluster for the first one that needs it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use anyhow::{Result, anyhow};

use crate::cluster::{Cluster, Given};
use crate::sandbox::Sandbox;
use crate::skip::Skip;
use crate::suite::Function;
use crate::worker::TestOutcome;
use crate::world::Real;

/// Where this process runs.
pub(crate) enum Surroundings {
    /// A sandbox, where a node can be booted.
    Sandbox(Sandbox),
    /// The machine of a user who has a cluster.
    Given(Given),
    /// Neither: no cluster can be used, for this reason.
    Unsuitable(String),
}

/// The state of the tests that run in this process. They share one cluster.
pub(crate) struct Local {
    surroundings: Surroundings,
    /// The archive of migration-gate's image.
    image: PathBuf,
    cluster: OnceLock<Result<Cluster, String>>,
}

impl Local {
    pub(crate) fn new(surroundings: Surroundings, image: PathBuf) -> Self {
        Self {
            surroundings,
            image,
            cluster: OnceLock::new(),
        }
    }

    pub(crate) fn is_unsuitable(&self) -> bool {
        matches!(self.surroundings, Surroundings::Unsuitable(_))
    }

    /// Runs a function. A panic is a failure, too; its message is on standard error.
    pub(crate) fn run(&self, function: Function) -> TestOutcome {
        let error = match catch_unwind(AssertUnwindSafe(|| self.call(function))) {
            Ok(Ok(())) => return TestOutcome::Passed,
            Ok(Err(error)) => error,
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                anyhow!("panicked: {}", text.unwrap_or("(not with a text)"))
            }
        };
        match error.downcast_ref::<Skip>() {
            Some(skip) => TestOutcome::Skipped(skip.to_string()),
            None => TestOutcome::Failed(format!("{error:#}")),
        }
    }

    fn call(&self, function: Function) -> Result<()> {
        use Surroundings as Here;
        match (function, &self.surroundings) {
            (_, Here::Unsuitable(reason)) => Err(Skip(reason.clone()).into()),
            (Function::Shared(test) | Function::Exclusive(test), _) => self.with_cluster(test),
            (Function::Standalone(test), Here::Sandbox(sandbox)) => test(sandbox),
            (Function::Row(path, row, plane), Here::Sandbox(sandbox)) => {
                let name = path
                    .rsplit(':')
                    .next()
                    .unwrap_or_default()
                    .replace('_', "-");
                // A namespace's name has 63 bytes at most.
                let namespace = name.get(..60).unwrap_or(&name).trim_end_matches('-');
                row(&Real::start(sandbox, plane(sandbox)?, namespace)?)
            }
            (Function::Standalone(_) | Function::Row(..), Here::Given(_)) => {
                Err(Skip("needs a sandbox, and KUBECONFIG is set".to_owned()).into())
            }
            (Function::Helm(test), Here::Sandbox(sandbox)) => test(&sandbox.assets.program("helm")),
            (Function::Helm(test), Here::Given(_)) => test(Path::new("helm")),
        }
    }

    fn with_cluster(&self, test: fn(&Cluster) -> Result<()>) -> Result<()> {
        let boot = || match &self.surroundings {
            Surroundings::Sandbox(sandbox) => Cluster::boot(sandbox, &self.image),
            Surroundings::Given(given) => Cluster::given(given, &self.image),
            Surroundings::Unsuitable(reason) => Err(anyhow!("{reason}")),
        };
        let cluster = self
            .cluster
            .get_or_init(|| boot().map_err(|error| format!("{error:#}")));
        let cluster = cluster
            .as_ref()
            .map_err(|error| anyhow!("there is no cluster to test on: {error}"))?;
        test(cluster).map_err(|error| {
            if error.is::<Skip>() {
                error
            } else {
                cluster.explain(error)
            }
        })
    }
}
