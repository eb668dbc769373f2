//! Tests on a real cluster: `cargo test --test cluster [FILTER]`; and figures, with `-- --bench`.
//!
//! They boot a node in namespaces of their own (see `sandbox.rs`), or use the cluster of `KUBECONFIG`, where
//! `IMAGE_LOAD` says how an image archive gets there (`IMAGE_LOAD='kind load image-archive'`).

mod admission;
mod assets;
mod bench;
mod chart;
mod client;
mod cluster;
mod control_plane;
mod dns;
mod errand;
mod first_deployment;
mod flux;
mod harness;
mod image;
mod kubectl;
mod machine;
mod namespace;
mod node;
mod pki;
mod poll;
mod prefilter;
mod process;
mod release;
mod sandbox;
mod schedule;
mod serve;
mod smoke;
mod stories;
mod waiter;

fn main() -> std::process::ExitCode {
    // The schedule begins them in this order: those that take longest come first, so that they don't end alone, and those
    // that mostly wait come after those that keep a processor busy.
    let tests = stories::tests()
        .chain(serve::TESTS)
        .chain(first_deployment::TESTS)
        .chain(waiter::tests())
        .chain(prefilter::TESTS)
        .chain(chart::tests())
        .chain(admission::TESTS)
        .chain(smoke::TESTS)
        .chain(machine::TESTS);
    harness::run(tests.collect(), bench::benches().collect())
}
