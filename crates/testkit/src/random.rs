//! Random numbers from a printed seed, so that a run that failed can be run again.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};

/// The variable with the seed. Set it to the seed that a failed run has printed.
pub const SEED: &str = "MIGRATION_GATE_TEST_SEED";

/// `SplitMix64`, which gives the same numbers for the same seed.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Uses the seed in [`SEED`], or else the time. Prints the seed with `what`.
    pub fn seeded(what: &str) -> Result<Self> {
        let seed = match std::env::var(SEED) {
            Ok(seed) => seed.parse().context(SEED)?,
            Err(_) => u64::from(SystemTime::now().duration_since(UNIX_EPOCH)?.subsec_nanos()),
        };
        eprintln!("cluster: {what} with {SEED}={seed}");
        Ok(Self(seed))
    }

    /// Random numbers for a part of the test, by the same seed and the part's number.
    #[must_use]
    pub fn part(&self, number: u64) -> Self {
        let mut random = Self(self.0 ^ number.wrapping_mul(0xd1b5_4a32_d192_ed03));
        random.number();
        random
    }

    /// Any number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `end`, which must not be 0.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u64::try_from(end).unwrap_or(u64::MAX);
        usize::try_from(self.number() % end).unwrap_or_default()
    }

    /// A number of the range, which must not be empty.
    pub fn within(&mut self, range: Range<usize>) -> usize {
        range.start + self.below(range.len())
    }

    /// `true` once in `times` calls on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of the elements. `all` must not be empty.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
