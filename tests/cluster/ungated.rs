//! The stories and the tests beside other tools, run without a gate. Each must fail, or it would
//! prove nothing about the gate. `make ungated` runs them.

use testkit::ungated::UngatedTest;

use crate::{peers, stories, waiter};

/// Tests that need not fail, with the reason.
const EXEMPT: &[(&str, &str)] = &[
    (
        "stories::ungated::without_a_gate_new_pods_meet_the_old_schema",
        "it installs no gate",
    ),
    (
        "peers::argo_cd::without_a_gate_pods_start_unmigrated",
        "it installs no gate",
    ),
];

/// All tests that must fail without a gate.
pub(crate) fn tests() -> Vec<UngatedTest> {
    let tests = [stories::tests(), waiter::applied::tests(), peers::tests()];
    let exempt = |name: &str| EXEMPT.iter().find(|(exempt, _)| *exempt == name);
    let tests = tests.concat().into_iter().map(|test| UngatedTest {
        test,
        exempt: exempt(test.name).map(|(_, reason)| *reason),
    });
    tests.collect()
}
