//! A test of the cluster suite: a name, and a function of one of four kinds.

use std::path::Path;

use anyhow::Result;

use crate::cluster::Cluster;
use crate::sandbox::Sandbox;
use crate::scene::Plane;
use crate::schedule::Claim;
use crate::world::Row;

/// A test. [`tests!`](crate::tests) creates them.
#[derive(Clone, Copy)]
pub struct Test {
    /// `module::function`, by which the command line selects it.
    pub name: &'static str,
    pub(crate) function: Function,
}

/// A test's function. Its kind decides its argument, and what runs beside it.
#[derive(Clone, Copy)]
pub(crate) enum Function {
    Shared(fn(&Cluster) -> Result<()>),
    Exclusive(fn(&Cluster) -> Result<()>),
    Standalone(fn(&Sandbox) -> Result<()>),
    Helm(fn(&Path) -> Result<()>),
    Row(&'static str, Row, PlaneOf),
}

/// Returns one of a sandbox's API servers. The first call starts it.
pub(crate) type PlaneOf = fn(&Sandbox) -> Result<&'static Plane>;

impl Function {
    pub(crate) const fn claim(&self) -> Claim {
        match self {
            Self::Shared(_) => Claim::Share,
            Self::Exclusive(_) => Claim::Node,
            Self::Standalone(_) | Self::Helm(_) | Self::Row(..) => Claim::Nothing,
        }
    }

    pub(crate) const fn needs_image(&self) -> bool {
        matches!(self, Self::Shared(_) | Self::Exclusive(_))
    }
}

impl Test {
    /// A test that uses only its own namespace, so that others may use the cluster at the same
    /// time.
    pub fn shared(path: &'static str, function: fn(&Cluster) -> Result<()>) -> Self {
        Self::new(path, Function::Shared(function))
    }

    /// A test that has the cluster to itself, because it changes objects that all tests see:
    /// webhooks, or a namespace with a fixed name.
    pub fn exclusive(path: &'static str, function: fn(&Cluster) -> Result<()>) -> Self {
        Self::new(path, Function::Exclusive(function))
    }

    /// A test, or a benchmark, that starts everything it needs inside the sandbox.
    pub fn standalone(path: &'static str, function: fn(&Sandbox) -> Result<()>) -> Self {
        Self::new(path, Function::Standalone(function))
    }

    /// A test that needs no cluster. Its argument is the path of Helm.
    pub fn helm(path: &'static str, function: fn(&Path) -> Result<()>) -> Self {
        Self::new(path, Function::Helm(function))
    }

    /// A [row](crate::rows), in a namespace of an API server.
    pub(crate) fn row(path: &'static str, row: Row, plane: PlaneOf) -> Self {
        Self::new(path, Function::Row(path, row, plane))
    }

    /// Whether it needs the previous release, which takes minutes to build.
    pub(crate) fn needs_previous(&self) -> bool {
        self.name.contains("::previous::")
    }

    /// The peer that it runs beside, by its module in `peers`.
    pub(crate) fn peer(&self) -> Option<String> {
        let (peer, _) = self.name.strip_prefix("peers::")?.split_once("::")?;
        Some(peer.replace('_', "-"))
    }

    /// Removes the crate from the path, because it is the same for all tests of a program.
    fn new(path: &'static str, function: Function) -> Self {
        let name = path.split_once("::").map_or(path, |(_, name)| name);
        Self { name, function }
    }
}

/// Defines `tests()`, which lists a module's tests in the order in which they start. A function
/// that is not listed is dead code, so the compiler reports it.
///
/// ```ignore
/// testkit::tests! {
///     shared: a_pod_starts, a_job_completes;
///     exclusive: the_webhook_is_replaced;
/// }
/// ```
#[macro_export]
macro_rules! tests {
    ($($kind:ident: $($function:ident),+ $(,)?;)+) => {
        /// This module's tests, in the order in which they begin.
        pub(crate) fn tests() -> Vec<$crate::suite::Test> {
            $crate::listed!($($kind: $($function),+;)+)
        }
    };
}

/// Defines `soaks()`, the list of a module's long forms of tests, as [`tests!`](crate::tests)
/// defines `tests()`.
#[macro_export]
macro_rules! soaks {
    ($($kind:ident: $($function:ident),+ $(,)?;)+) => {
        /// The long forms of this module's tests, in the order in which they run.
        pub(crate) fn soaks() -> Vec<$crate::suite::Test> {
            $crate::listed!($($kind: $($function),+;)+)
        }
    };
}

/// The list of a module's functions.
#[doc(hidden)]
#[macro_export]
macro_rules! listed {
    ($($kind:ident: $($function:ident),+;)+) => {
        vec![$($($crate::suite::Test::$kind(
            concat!(module_path!(), "::", stringify!($function)),
            $function,
        )),+),+]
    };
}
