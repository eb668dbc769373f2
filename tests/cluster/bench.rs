//! Benchmarks: `make bench`. They assert nothing about times, because machines are shared and
//! noisy. Only figures of the same run can be compared.
//!
//! A benchmark is a module with a function that measures contenders in turns and stores a part of
//! the results ([`figures`]). [`page`] writes `docs/performance.md` from the results. To add a
//! benchmark, list its module's `tests()` here, and add a section to `page`.

mod admission;
mod crowd;
mod figures;
mod gatekeeper;
mod kyverno;
mod launch;
mod page;
mod plot;
mod policies;
mod review;
mod server;
mod waiter;

use std::time::Duration;

use testkit::suite::Test;

/// All benchmarks.
pub(crate) fn benches() -> Vec<Test> {
    [
        server::tests(),
        review::tests(),
        waiter::tests(),
        crowd::tests(),
        launch::tests(),
        admission::tests(),
    ]
    .concat()
}

/// Measured times.
#[derive(Default)]
struct Sample(Vec<Duration>);

impl Sample {
    fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    fn median(&mut self) -> Duration {
        self.0.sort_unstable();
        self.0.get(self.0.len() / 2).copied().unwrap_or_default()
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
