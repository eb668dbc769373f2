//! Figures for people: `make bench`. Nothing is asserted about a time, since machines are shared
//! and noisy; what compares are figures of one run.
//!
//! A benchmark is a module with a function that measures contenders in turns and keeps a part of
//! the results ([`figures`]), from which [`page`] writes `docs/performance.md`. To add one, list
//! its module's `tests()` here, and a section in `page`.

mod admission;
mod crowd;
mod figures;
mod launch;
mod page;
mod plot;
mod policies;
mod review;
mod server;
mod waiter;

use std::time::Duration;

use testkit::suite::Test;

/// All of them.
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

/// Times, as they were measured.
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
