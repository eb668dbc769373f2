//! The stories and the tests beside other tools with the gate taken away: each of them has to
//! fail, or it would pass whether the gate holds or not. `make soak` runs them: `-- --ungated`.

use testkit::ungated::UngatedTest;

use crate::{peers, stories, waiter};

/// Those that needn't fail, with the reason.
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

/// All of them.
pub(crate) fn tests() -> Vec<UngatedTest> {
    let tests = [stories::tests(), waiter::applied::tests(), peers::tests()];
    let exempt = |name: &str| EXEMPT.iter().find(|(exempt, _)| *exempt == name);
    let tests = tests.concat().into_iter().map(|test| UngatedTest {
        test,
        exempt: exempt(test.name).map(|(_, reason)| *reason),
    });
    tests.collect()
}
