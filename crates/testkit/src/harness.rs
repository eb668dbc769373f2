//! Selects, schedules and reports tests, with the options and the output of `cargo test`.
//!
//! libtest-mimic has the options and the output. cargo-nextest also has slots and groups for tests,
//! but developers would have to install it first. So `schedule` has its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;
use libtest_mimic::{Arguments, Completion, Conclusion, Failed, Trial};

use crate::assets::{self, Assets};
use crate::cluster::Given;
use crate::image;
use crate::local::{Local, Surroundings};
use crate::process::{PROGRAM, program};
use crate::sandbox::{self, Sandbox};
use crate::schedule::Schedule;
use crate::suite::Test;
use crate::ungated::{self, UngatedTest};
use crate::worker::{self, TestOutcome, Worker};

/// A test program's tests and benchmarks.
pub struct Suite {
    /// The tests, in the order in which they start.
    pub tests: Vec<Test>,
    /// The benchmarks. They run with `--bench`, one after another.
    pub benches: Vec<Test>,
    /// The long forms of tests. They run with `--soak`, one after another.
    pub soaks: Vec<Test>,
    /// The tests beside other tools. They run with `--peers`.
    pub peers: Vec<Test>,
    /// The tests that must fail without a gate. With `--ungated`, they run without one.
    pub ungated: Vec<UngatedTest>,
    /// The test target's `CARGO_TARGET_TMPDIR`, for the image's archive.
    pub scratch: &'static str,
}

/// Runs the tests, benchmarks or soaks that the command line selects. In a sandbox, runs those that
/// the process outside requests.
pub fn run(suite: Suite) -> ExitCode {
    let done = match Sandbox::current() {
        Ok(None) => outside(suite),
        Ok(Some(sandbox)) => {
            let all = [suite.tests, suite.benches, suite.soaks, suite.peers];
            inside(sandbox, &all.concat())
        }
        Err(error) => Err(error),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cluster: {error:#}");
        ExitCode::FAILURE
    })
}

fn inside(sandbox: Sandbox, tests: &[Test]) -> Result<ExitCode> {
    let image = image::archive()?;
    let folder = sandbox.folder().to_owned();
    let local = Local::new(Surroundings::Sandbox(sandbox), image);
    worker::serve(&folder, |name| {
        match tests.iter().find(|test| test.name == name) {
            Some(test) => local.run(test.function),
            None => TestOutcome::Failed(format!("there is no test {name}")),
        }
    })?;
    Ok(ExitCode::SUCCESS)
}

fn outside(suite: Suite) -> Result<ExitCode> {
    // libtest does not know these options.
    let mut rest: Vec<String> = std::env::args().collect();
    let mut given = |option: &str| {
        let before = rest.len();
        rest.retain(|argument| argument != option);
        rest.len() < before
    };
    let (soak, peers, ungated) = (given("--soak"), given("--peers"), given("--ungated"));
    let mut arguments = Arguments::from_iter(rest);
    // Benchmarks print their own figures, because libtest's format has only one number.
    let bench = std::mem::take(&mut arguments.bench);
    let expected = ungated.then(|| ungated::Expected::of(&suite.ungated));
    let tests = match (bench, soak, peers, ungated) {
        (true, ..) => suite.benches,
        (_, true, ..) => suite.soaks,
        (_, _, true, _) => suite.peers,
        (.., true) => suite.ungated.into_iter().map(|it| it.test).collect(),
        _ => suite.tests,
    };
    let alone = bench || soak;
    let image = Path::new(suite.scratch).join("migration-gate.tar");
    let backend = if arguments.list {
        let nowhere = Surroundings::Unsuitable("only listed".to_owned());
        Backend::InProcess(Box::new(Local::new(nowhere, image)))
    } else {
        let chosen = tests.iter().filter(|test| {
            let filter = arguments.filter.as_deref();
            filter.is_none_or(|filter| test.name.contains(filter))
        });
        let mut peers: Vec<String> = chosen.clone().filter_map(Test::peer).collect();
        peers.dedup();
        let needed = Needed {
            released: alone,
            previous: chosen.clone().any(Test::needs_previous),
            peers,
            ungated,
        };
        Backend::find(image, &needed)?
    };
    let (nodes, limit) = match &backend {
        // Benchmarks side by side would measure each other, and a single soak uses the whole
        // machine.
        _ if alone => (1, 1),
        Backend::InProcess(_) => (1, processors()),
        Backend::Workers(workers, _) => (workers.len(), at_a_time()),
    };
    // Each test has a thread, in which it waits for its slot.
    arguments.test_threads.get_or_insert(tests.len());
    let run = Arc::new(TestRun {
        backend,
        schedule: Schedule::new(nodes, limit),
        expected,
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

/// Number of tests that run at the same time: twice the number of processors, because tests mostly
/// wait.
fn at_a_time() -> usize {
    processors() * 2
}

fn processors() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

/// migration-gate's image, which is built for the first test that needs it.
struct Image {
    archive: PathBuf,
    built: OnceLock<Result<(), String>>,
}

impl Image {
    fn build(&self) -> Result<(), String> {
        let build = || image::migration_gate(&self.archive).map_err(|error| format!("{error:#}"));
        self.built.get_or_init(build).clone()
    }
}

/// What the selected tests need. Most of it takes minutes to build.
struct Needed {
    /// The release build of the binary.
    released: bool,
    /// The previous release.
    previous: bool,
    /// The other tools.
    peers: Vec<String>,
    /// A release whose webhooks match no namespace.
    ungated: bool,
}

/// The processes that run the tests' functions.
enum Backend {
    /// This one.
    InProcess(Box<Local>),
    /// One worker for each node.
    Workers(Vec<Worker>, Image),
}

impl Backend {
    fn find(archive: PathBuf, needed: &Needed) -> Result<Self> {
        let in_process = |surroundings, archive| {
            Ok(Self::InProcess(Box::new(Local::new(surroundings, archive))))
        };
        if let Some(given) = Given::from_environment()? {
            return in_process(Surroundings::Given(given), archive);
        }
        if let Some(obstacle) = sandbox::obstacle() {
            return in_process(Surroundings::Unsuitable(obstacle), archive);
        }
        // Building these may need the network, which a sandbox does not have.
        let assets = Assets::prepare()?;
        let applications = image::applications()?;
        let definitions = assets::definitions()?;
        let previous = needed.previous.then(image::build_previous).transpose()?;
        let peers = &needed.peers;
        let peers = (!peers.is_empty()).then(|| assets::peers(peers));
        let peers = peers.transpose()?;
        let program = program();
        let (name, bin) = assets.announce();
        let mut environment = vec![
            (PROGRAM, program.as_os_str()),
            (name, bin.as_os_str()),
            (image::ARCHIVE, archive.as_os_str()),
            (image::APPLICATIONS, applications.as_os_str()),
            (assets::DEFINITIONS, definitions.as_os_str()),
        ];
        if let Some(previous) = &previous {
            environment.push((image::PREVIOUS, previous.as_os_str()));
        }
        if let Some(peers) = &peers {
            environment.push((assets::PEERS, peers.as_os_str()));
        }
        if needed.ungated {
            environment.push((ungated::UNGATED, OsStr::new("true")));
        }
        let binary = needed.released.then(image::release).transpose()?;
        if let Some(binary) = &binary {
            environment.push((image::RELEASED_BINARY, binary.as_os_str()));
        }
        // One worker for each test that may run at the same time, because the last tests each need
        // a whole node. An unused worker costs almost nothing: it boots its node for the first test
        // that needs one.
        let workers = (0..at_a_time()).map(|_| Worker::start(&environment));
        let workers = workers.collect::<Result<_>>()?;
        let built = OnceLock::new();
        Ok(Self::Workers(workers, Image { archive, built }))
    }
}

/// The state that all tests of a run share.
struct TestRun {
    backend: Backend,
    schedule: Schedule,
    expected: Option<ungated::Expected>,
    took: Mutex<Vec<(Duration, &'static str)>>,
}

impl TestRun {
    fn completion(&self, index: usize, test: &Test) -> Result<Completion, Failed> {
        let run = || self.outcome(index, test);
        let outcome = match &self.expected {
            Some(expected) => expected.check(test.name, run),
            None => run(),
        };
        let outcome = outcome.unwrap_or_else(TestOutcome::Failed);
        // In CI, a test that cannot run on this machine is a failure: no one would notice that it
        // is skipped.
        let must_run = matches!(&self.backend, Backend::InProcess(local) if local.is_unsuitable())
            && std::env::var_os("CI").is_some_and(|ci| ci == "true");
        match outcome {
            TestOutcome::Passed => Ok(Completion::Completed),
            TestOutcome::Skipped(reason) if !must_run => Ok(Completion::ignored_with(reason)),
            TestOutcome::Skipped(error) | TestOutcome::Failed(error) => {
                // All failures are printed at the end. With soaks, that may be an hour later.
                eprintln!("cluster: {} has failed: {error}", test.name);
                Err(Failed::from(error))
            }
        }
    }

    fn outcome(&self, index: usize, test: &Test) -> Result<TestOutcome, String> {
        // Wait for the image before waiting for a slot, so that tests that do not need it can run.
        if let Backend::Workers(_, image) = &self.backend
            && test.function.needs_image()
        {
            image.build()?;
        }
        let slot = self.schedule.slot(index, test.function.claim());
        let begun = Instant::now();
        let outcome = match &self.backend {
            Backend::InProcess(local) => local.run(test.function),
            Backend::Workers(workers, _) => workers[slot.node]
                .run(test.name)
                .map_err(|error| format!("{error:#}"))?,
        };
        self.took
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((begun.elapsed(), test.name));
        Ok(outcome)
    }

    /// Ends the workers. After a failure, prints where their logs are.
    fn end(self, conclusion: &Conclusion) -> Result<()> {
        let Backend::Workers(workers, _) = self.backend else {
            return Ok(());
        };
        let mut took = self.took.into_inner().unwrap_or_default();
        took.sort();
        let longest: Vec<String> = took
            .iter()
            .rev()
            .take(20)
            .map(|(time, name)| format!("{name} {} s", time.as_secs()))
            .collect();
        let together: Duration = took.iter().map(|(time, _)| *time).sum();
        eprintln!(
            "cluster: the tests took {} s together; the longest: {}",
            together.as_secs(),
            longest.join(", ")
        );
        for worker in workers {
            if conclusion.has_failed() {
                eprintln!(
                    "cluster: the components' logs stay in {} until the next run",
                    worker.folder().display()
                );
            } else {
                worker.remove()?;
            }
        }
        Ok(())
    }
}
