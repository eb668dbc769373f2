//! The rate limit of a gate's Events.

use std::time::Duration;

/// The burst.
pub(super) const BURST: u32 = 25;

/// After that, one for each of these: five a minute.
pub(super) const PACE: Duration = Duration::from_secs(12);

/// A budget that refills with time.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    /// When one was last added, since the start of everything.
    refilled: Duration,
}

impl Default for Budget {
    fn default() -> Self {
        Self {
            left: BURST,
            refilled: Duration::ZERO,
        }
    }
}

impl Budget {
    /// Takes one, or says when there will be one.
    pub(super) fn take(&mut self, now: Duration) -> Result<(), Duration> {
        while self.left < BURST && self.refilled + PACE <= now {
            self.left += 1;
            self.refilled += PACE;
        }
        if self.left == BURST {
            self.refilled = now;
        }
        let Some(left) = self.left.checked_sub(1) else {
            return Err(self.refilled + PACE);
        };
        self.left = left;
        Ok(())
    }
}
