//! Runs the tests with the options and the output of `cargo test`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};

use crate::assets::{self, Assets};
use crate::cluster::{Cluster, Given};
use crate::errand::{self, Verdict};
use crate::image;
use crate::sandbox::{self, Inside, Sandbox};
use crate::schedule::{Need, Schedule};

/// One test: a name and a body.
#[derive(Clone, Copy)]
pub(crate) struct Test {
    name: &'static str,
    body: Body,
}

#[derive(Clone, Copy)]
enum Body {
    Shared(fn(&Cluster) -> Result<()>),
    Exclusive(fn(&Cluster) -> Result<()>),
    Standalone(fn(&Sandbox) -> Result<()>),
    Helm(fn(&Path) -> Result<()>),
}

impl Body {
    const fn need(&self) -> Need {
        match self {
            Self::Shared(_) => Need::Part,
            Self::Exclusive(_) => Need::Whole,
            Self::Standalone(_) | Self::Helm(_) => Need::Nothing,
        }
    }

    const fn needs_image(&self) -> bool {
        !matches!(self, Self::Standalone(_))
    }
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
    let done = match Sandbox::current() {
        Ok(None) => outside(tests, benches),
        Ok(Some(sandbox)) => inside(sandbox, &[tests, benches].concat()),
        Err(error) => Err(error),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cluster: {error:#}");
        ExitCode::FAILURE
    })
}

/// The archive of migration-gate's image, for the process inside.
const IMAGE: &str = "MIGRATION_GATE_CLUSTER_IMAGE";

/// The process inside: it runs the tests that it is asked for.
fn inside(sandbox: Sandbox, tests: &[Test]) -> Result<ExitCode> {
    let image = std::env::var_os(IMAGE).context("the sandbox was entered without an image")?;
    let folder = sandbox.folder().to_owned();
    let host = Host::new(Place::Sandbox(sandbox, vec![image.into()]));
    errand::serve(&folder, |name| {
        match tests.iter().find(|test| test.name == name) {
            Some(test) => host.verdict(test.body),
            None => Verdict::Failed(format!("there is no test {name}")),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The process that was started: it selects, schedules and reports.
fn outside(tests: Vec<Test>, benches: Vec<Test>) -> Result<ExitCode> {
    let mut arguments = Arguments::from_args();
    // They print their figures by themselves: the one number that this option is about would say too little.
    let bench = std::mem::take(&mut arguments.bench);
    let tests = if bench { benches } else { tests };
    let venue = if arguments.list {
        Venue::here(Place::Nowhere("only listed".to_owned()))
    } else {
        venue(bench)?
    };
    let (nodes, limit) = match &venue {
        // Side by side they would measure each other.
        _ if bench => (1, 1),
        Venue::Here(_) => (1, processors()),
        Venue::Nodes(nodes, _) => (nodes.len(), at_a_time()),
    };
    // A thread for each, as the schedule says when it begins.
    arguments.test_threads.get_or_insert(tests.len());
    let run = Arc::new(Run {
        venue,
        schedule: Schedule::new(nodes, limit),
        took: Mutex::new(Vec::new()),
    });
    let trials = tests.into_iter().enumerate().map(|(index, test)| {
        let run = Arc::clone(&run);
        Trial::ignorable_test(test.name, move || run.completion(index, &test))
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(run) = Arc::into_inner(run) {
        run.end(&conclusion)?;
    }
    Ok(conclusion.exit_code())
}

/// How many tests run at the same time: much of what they do is to wait.
fn at_a_time() -> usize {
    processors() * 2
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// Where bodies run.
enum Venue {
    /// In this process.
    Here(Box<Host>),
    /// In a process for each node; and migration-gate's image, once it is built.
    Nodes(Vec<Inside>, OnceLock<Result<(), String>>),
}

impl Venue {
    fn here(place: Place) -> Self {
        Self::Here(Box::new(Host::new(place)))
    }
}

fn venue(bench: bool) -> Result<Venue> {
    if let Some(given) = Given::from_environment()? {
        return Ok(Venue::here(Place::Given(given)));
    }
    if let Some(obstacle) = sandbox::obstacle() {
        return Ok(Venue::here(Place::Nowhere(obstacle)));
    }
    // These may need the network, and inside there is none.
    let assets = Assets::prepare()?;
    let image = image::archive();
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
    // One for each test that may run at a time, as the last ones all need one whole. An unused one costs next to nothing:
    // it boots for the first test that needs it.
    let nodes = (0..at_a_time()).map(|_| Inside::enter(&environment));
    Ok(Venue::Nodes(nodes.collect::<Result<_>>()?, OnceLock::new()))
}

/// What the tests of one run share.
struct Run {
    venue: Venue,
    schedule: Schedule,
    took: Mutex<Vec<(Duration, &'static str)>>,
}

impl Run {
    fn completion(&self, index: usize, test: &Test) -> Result<Completion, Failed> {
        let verdict = self.verdict(index, test).unwrap_or_else(Verdict::Failed);
        // In CI, tests that can't run on this machine are a hole that nobody would see.
        let must_run = matches!(&self.venue, Venue::Here(host) if host.is_nowhere())
            && std::env::var_os("CI").is_some_and(|ci| ci == "true");
        match verdict {
            Verdict::Passed => Ok(Completion::Completed),
            Verdict::Skipped(reason) if !must_run => Ok(Completion::ignored_with(reason)),
            Verdict::Skipped(error) | Verdict::Failed(error) => Err(Failed::from(error)),
        }
    }

    fn verdict(&self, index: usize, test: &Test) -> Result<Verdict, String> {
        // Those that don't need the image needn't wait until it is built.
        if let Venue::Nodes(_, image) = &self.venue
            && test.body.needs_image()
        {
            image
                .get_or_init(|| {
                    image::migration_gate()
                        .map(drop)
                        .map_err(|error| format!("{error:#}"))
                })
                .clone()?;
        }
        let turn = self.schedule.turn(index, test.body.need());
        let begun = Instant::now();
        let verdict = match &self.venue {
            Venue::Here(host) => host.verdict(test.body),
            Venue::Nodes(nodes, _) => errand::run(nodes[turn.node].folder(), test.name)
                .map_err(|error| format!("{error:#}"))?,
        };
        self.took
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((begun.elapsed(), test.name));
        Ok(verdict)
    }

    /// Ends the nodes, and tells what is left of them after a failure.
    fn end(self, conclusion: &Conclusion) -> Result<()> {
        let Venue::Nodes(nodes, _) = self.venue else {
            return Ok(());
        };
        let mut took = self.took.into_inner().unwrap_or_default();
        took.sort();
        let longest: Vec<String> = took
            .iter()
            .rev()
            .take(10)
            .map(|(time, name)| format!("{name} {} s", time.as_secs()))
            .collect();
        eprintln!("cluster: the longest: {}", longest.join(", "));
        for node in nodes {
            if conclusion.has_failed() {
                eprintln!(
                    "cluster: the components' logs stay in {} until the next run",
                    node.folder().display()
                );
            } else {
                node.remove()?;
            }
        }
        Ok(())
    }
}

/// What runs bodies in this process.
struct Host {
    place: Place,
    cluster: OnceLock<Result<Cluster, String>>,
}

enum Place {
    Sandbox(Sandbox, Vec<PathBuf>),
    Given(Given),
    Nowhere(String),
}

impl Host {
    fn new(place: Place) -> Self {
        Self {
            place,
            cluster: OnceLock::new(),
        }
    }

    fn is_nowhere(&self) -> bool {
        matches!(self.place, Place::Nowhere(_))
    }

    fn verdict(&self, body: Body) -> Verdict {
        match self.run(body) {
            Ok(()) => Verdict::Passed,
            Err(error) => match error.downcast_ref::<Skip>() {
                Some(skip) => Verdict::Skipped(skip.to_string()),
                None => Verdict::Failed(format!("{error:#}")),
            },
        }
    }

    fn run(&self, body: Body) -> Result<()> {
        match (body, &self.place) {
            (_, Place::Nowhere(reason)) => Err(Skip(reason.clone()).into()),
            (Body::Shared(body) | Body::Exclusive(body), _) => self.with_cluster(body),
            (Body::Standalone(body), Place::Sandbox(sandbox, _)) => body(sandbox),
            (Body::Standalone(_), Place::Given(_)) => {
                Err(Skip("needs a sandbox, and KUBECONFIG is set".to_owned()).into())
            }
            (Body::Helm(body), Place::Sandbox(sandbox, _)) => body(&sandbox.assets.program("helm")),
            (Body::Helm(body), Place::Given(_)) => body(Path::new("helm")),
        }
    }

    /// Boots the cluster for the first test that needs it.
    fn with_cluster(&self, body: fn(&Cluster) -> Result<()>) -> Result<()> {
        let boot = || match &self.place {
            Place::Sandbox(sandbox, archives) => Cluster::boot(sandbox, archives),
            Place::Given(given) => Cluster::given(given),
            Place::Nowhere(_) => Err(anyhow!("there is no place for a cluster")),
        };
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
