//! Figures for people: `make bench`. Nothing is asserted about a time, since machines are shared
//! and noisy; what compares are figures of one run.

mod admission;
mod waiter;

use std::time::Duration;

use testkit::suite::Test;

/// All of them.
pub(crate) fn benches() -> Vec<Test> {
    [waiter::tests(), admission::tests()].concat()
}

/// Times, as they were measured.
#[derive(Default)]
struct Sample(Vec<Duration>);

impl Sample {
    fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that this share of all times doesn't exceed.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index into some thousand times"
    )]
    fn quantile(&self, share: f64) -> Duration {
        let mut times = self.0.clone();
        times.sort();
        let index = (times.len() as f64 * share).ceil() as usize;
        times
            .get(index.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    fn median(&self) -> Duration {
        self.quantile(0.5)
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
