//! Tests on a real cluster: `cargo test --test cluster [FILTER]`; figures, with `-- --bench`; the
//! long forms of tests, with `-- --soak`; tests beside other tools, with `-- --peers`; and tests
//! that must fail without a gate, with `-- --ungated`.
//!
//! `crates/testkit` explains what they run on.

mod admission;
mod bench;
mod chart;
mod cure;
mod first_deployment;
mod flux;
mod machine;
mod monitoring;
mod oldest;
mod orders;
mod pages;
mod peers;
mod prefilter;
mod registry;
mod rendered;
mod same_verdict;
mod serve;
mod session;
mod smoke;
mod soak;
mod status;
mod stories;
mod svg;
mod ungated;
mod waiter;

use testkit::harness::Suite;

fn main() -> std::process::ExitCode {
    // The order in which the tests start. The longest come first, so that they do not run alone at
    // the end. Tests that mostly wait come after those that keep a processor busy.
    let tests = [
        stories::tests(),
        orders::tests(),
        serve::tests(),
        status::tests(),
        first_deployment::tests(),
        waiter::tests(),
        prefilter::tests(),
        oldest::tests(),
        testkit::rows::tests_on_the_oldest(),
        same_verdict::tests(),
        rendered::tests(),
        chart::tests(),
        admission::tests(),
        smoke::tests(),
        machine::tests(),
        pages::tests(),
    ];
    testkit::harness::run(Suite {
        tests: tests.concat(),
        benches: bench::benches(),
        soaks: soak::soaks(),
        peers: peers::tests(),
        ungated: ungated::tests(),
        scratch: env!("CARGO_TARGET_TMPDIR"),
    })
}
