//! What migration-gate's tests run on.
//!
//! # The cluster tests
//!
//! `cargo test --test cluster [FILTER]` runs tests on a real control plane and a real node. They do
//! not touch the machine's own network, and leave nothing on the machine.
//!
//! 1. The test program starts **outside**, like any program. [`harness`] reads the command line and
//!    finds out where tests can run: on the cluster of `KUBECONFIG`, in a sandbox on this machine,
//!    or nowhere. [`assets`] and [`image`] build or find the programs and images.
//! 2. It starts itself again as several [`worker`]s, each in a [`sandbox`]: network, mount and PID
//!    namespaces of its own, which the kernel removes when the program ends.
//! 3. [`schedule`] decides which test runs next, and in which worker. The worker runs the test's
//!    function and sends its result back.
//! 4. Inside, [`local`] boots a [`cluster`] for the first test that needs one: a [`control_plane`]
//!    (etcd, API server, controllers) and a [`node`] (containerd, kubelet). A worker whose tests
//!    need no cluster boots none.
//!
//! A test is a function of one of four kinds. [`tests!`] lists a module's tests:
//!
//! | kind | is given | runs beside |
//! |---|---|---|
//! | `shared` | a [`Cluster`](cluster::Cluster), of which it uses a namespace of its own | other shared tests |
//! | `exclusive` | a `Cluster` that nothing else uses | nothing on that node |
//! | `standalone` | a [`Sandbox`](sandbox::Sandbox), in which it starts what it needs | everything |
//! | `helm` | the path of Helm | everything |
//!
//! To add a test, write the function in a module of `tests/cluster/`, add its name to the module's
//! `tests!`, and run `cargo test --test cluster -- NAME`. A test fails by an error or a panic. If
//! it does not apply, it returns [`Skip`](skip::Skip). It never sleeps for a fixed time: [`client`]
//! watches objects, [`kubectl`] waits as a user would, and [`poll`] waits for conditions without
//! events.
//!
//! Benchmarks (`-- --bench`) and soaks (`-- --soak`, the long forms of tests) are functions of the
//! same kinds, in lists of their own. They run one after another, with the release build of the
//! binary. The tests beside other tools (`-- --peers`) have a list of their own, too, and run like
//! other tests. With `-- --ungated`, tests run without a gate and must fail ([`ungated`]).
//!
//! When a test fails, the components' logs stay in the folder that the last lines name.
//!
//! # Words
//!
//! - A **sandbox** is a set of namespaces of the kernel. A **worker** is the test program inside
//!   one.
//! - A **run** is one sandbox's folder, lock and cgroups on the machine.
//! - A **claim** is the part of a node that a test needs. A **slot** is the permission to use it.
//! - A **plane** is an API server without controllers, of the node's release or of the oldest that
//!   the chart admits. A **scene** is a gate's Job and record in a namespace of a plane
//!   ([`scene`]).

#![allow(
    clippy::missing_panics_doc,
    reason = "a test fails by panicking, and so does what it calls"
)]

pub mod assets;
pub mod client;
pub mod cluster;
pub mod control_plane;
pub mod dns;
pub mod fake;
pub mod gate;
pub mod harness;
pub mod image;
pub mod kubectl;
mod local;
pub mod namespace;
pub mod node;
pub mod pki;
pub mod poll;
pub mod process;
pub mod proxy;
pub mod random;
pub mod release;
pub mod rows;
pub mod sandbox;
pub mod scene;
mod schedule;
pub mod shell;
pub mod skip;
pub mod suite;
pub mod ungated;
pub mod waiter;
mod worker;
pub mod world;
