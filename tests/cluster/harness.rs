//! Runs the tests with the options and the output of `cargo test`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Arguments, Completion, Failed, Trial};

use crate::assets::{self, Assets};
use crate::cluster::{Cluster, Given};
use crate::image;
use crate::sandbox::{self, Sandbox};

/// One test: a name and a body.
pub(crate) struct Test {
    name: &'static str,
    body: Body,
}

enum Body {
    Shared(fn(&Cluster) -> Result<()>),
    Exclusive(fn(&Cluster) -> Result<()>),
    Standalone(fn(&Sandbox) -> Result<()>),
    Helm(fn(&Path) -> Result<()>),
}

impl Test {
    pub(crate) const fn name(&self) -> &'static str {
        self.name
    }

    /// A test that keeps to its own namespace, so others may run at the same time.
    pub(crate) const fn shared(name: &'static str, body: fn(&Cluster) -> Result<()>) -> Self {
        Self {
            name,
            body: Body::Shared(body),
        }
    }

    /// A test that has the cluster to itself, because it changes what all see (webhooks, a namespace of a fixed name).
    pub(crate) const fn exclusive(name: &'static str, body: fn(&Cluster) -> Result<()>) -> Self {
        Self {
            name,
            body: Body::Exclusive(body),
        }
    }

    /// A test that starts what it needs by itself.
    pub(crate) const fn standalone(name: &'static str, body: fn(&Sandbox) -> Result<()>) -> Self {
        Self {
            name,
            body: Body::Standalone(body),
        }
    }

    /// A benchmark, which starts what it needs by itself.
    pub(crate) const fn bench(name: &'static str, body: fn(&Sandbox) -> Result<()>) -> Self {
        Self::standalone(name, body)
    }

    /// A test that needs Helm, whose path it gets, and no cluster.
    pub(crate) const fn helm(name: &'static str, body: fn(&Path) -> Result<()>) -> Self {
        Self {
            name,
            body: Body::Helm(body),
        }
    }
}

/// The error of a test that doesn't apply here: it is reported as ignored, with this reason.
#[derive(Debug)]
pub(crate) struct Skip(pub(crate) String);

impl fmt::Display for Skip {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// Runs the tests that the command line selects, or the benchmarks.
pub(crate) fn run(tests: Vec<Test>, benches: Vec<Test>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    // They print their figures by themselves: the one number that this option is about would say too little.
    let bench = std::mem::take(&mut arguments.bench);
    let tests = if bench { benches } else { tests };
    if bench {
        // Side by side they would measure each other.
        arguments.test_threads = Some(1);
    }
    if arguments.list {
        return conclude(&arguments, tests, Place::Nowhere("only listed".to_owned()));
    }
    match place(bench) {
        Ok(Where::Here(place)) => conclude(&arguments, tests, place),
        Ok(Where::Child(code)) => code,
        Err(error) => {
            eprintln!("cluster: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Where the tests run.
enum Place {
    Sandbox(Sandbox, Vec<PathBuf>),
    Given(Given),
    Nowhere(String),
}

enum Where {
    /// In this process.
    Here(Place),
    /// In a child, which has ended.
    Child(ExitCode),
}

/// The archive of migration-gate's image, for the process inside.
const IMAGE: &str = "MIGRATION_GATE_CLUSTER_IMAGE";

fn place(bench: bool) -> Result<Where> {
    if let Some(sandbox) = Sandbox::current()? {
        let image = std::env::var_os(IMAGE).context("the sandbox was entered without an image")?;
        return Ok(Where::Here(Place::Sandbox(sandbox, vec![image.into()])));
    }
    if let Some(given) = Given::from_environment()? {
        return Ok(Where::Here(Place::Given(given)));
    }
    if let Some(obstacle) = sandbox::obstacle() {
        return Ok(Where::Here(Place::Nowhere(obstacle)));
    }
    // These may need the network, and inside there is none.
    let assets = Assets::prepare()?;
    let image = image::migration_gate()?;
    let applications = image::applications()?;
    let definitions = assets::definitions()?;
    let (name, bin) = assets.announce();
    let mut environment = vec![
        (name, bin.as_os_str()),
        (IMAGE, image.as_os_str()),
        (image::APPLICATIONS, applications.as_os_str()),
        (assets::DEFINITIONS, definitions.as_os_str()),
    ];
    let binary = bench.then(image::release).transpose()?;
    if let Some(binary) = &binary {
        environment.push((image::RELEASED_BINARY, binary.as_os_str()));
    }
    sandbox::run_inside(&environment).map(Where::Child)
}

/// What the tests of one run share.
struct Run {
    place: Place,
    cluster: OnceLock<Result<Cluster, String>>,
    /// Held for writing by a test that wants the cluster to itself.
    turn: RwLock<()>,
}

fn conclude(arguments: &Arguments, tests: Vec<Test>, place: Place) -> ExitCode {
    let run = Arc::new(Run {
        place,
        cluster: OnceLock::new(),
        turn: RwLock::new(()),
    });
    let trials = tests
        .into_iter()
        .map(|test| {
            let run = Arc::clone(&run);
            Trial::ignorable_test(test.name, move || run.verdict(&test.body))
        })
        .collect();
    libtest_mimic::run(arguments, trials).exit_code()
}

impl Run {
    fn verdict(&self, body: &Body) -> Result<Completion, Failed> {
        // In CI, tests that can't run on this machine are a hole that nobody would see.
        let must_run = matches!(self.place, Place::Nowhere(_))
            && std::env::var_os("CI").is_some_and(|ci| ci == "true");
        match self.run(body) {
            Ok(()) => Ok(Completion::Completed),
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) if !must_run => Ok(Completion::ignored_with(skip.to_string())),
                _ => Err(Failed::from(format!("{error:#}"))),
            },
        }
    }

    fn run(&self, body: &Body) -> Result<()> {
        match body {
            Body::Shared(body) => {
                let _turn = self.turn.read().unwrap_or_else(PoisonError::into_inner);
                self.with_cluster(*body)
            }
            Body::Exclusive(body) => {
                let _turn = self.turn.write().unwrap_or_else(PoisonError::into_inner);
                self.with_cluster(*body)
            }
            Body::Standalone(body) => match &self.place {
                Place::Sandbox(sandbox, _) => body(sandbox),
                Place::Given(_) => {
                    Err(Skip("needs a sandbox, and KUBECONFIG is set".to_owned()).into())
                }
                Place::Nowhere(reason) => Err(Skip(reason.clone()).into()),
            },
            Body::Helm(body) => match &self.place {
                Place::Sandbox(sandbox, _) => body(&sandbox.assets.program("helm")),
                Place::Given(_) => body(Path::new("helm")),
                Place::Nowhere(reason) => Err(Skip(reason.clone()).into()),
            },
        }
    }

    /// Boots the cluster for the first test that needs it.
    fn with_cluster(&self, body: fn(&Cluster) -> Result<()>) -> Result<()> {
        let boot = || match &self.place {
            Place::Sandbox(sandbox, archives) => Cluster::boot(sandbox, archives),
            Place::Given(given) => Cluster::given(given),
            Place::Nowhere(_) => Err(anyhow!("there is no place for a cluster")),
        };
        if let Place::Nowhere(reason) = &self.place {
            return Err(Skip(reason.clone()).into());
        }
        let cluster = self
            .cluster
            .get_or_init(|| boot().map_err(|error| format!("{error:#}")));
        let cluster = cluster
            .as_ref()
            .map_err(|error| anyhow!("there is no cluster to test on: {error}"))?;
        body(cluster).map_err(|error| {
            if error.is::<Skip>() {
                error
            } else {
                cluster.explain(error)
            }
        })
    }
}
