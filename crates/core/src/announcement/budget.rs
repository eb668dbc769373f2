//! The rate limit of a gate's Events.

use std::time::Duration;

/// Maximum number of Events in a burst.
pub(super) const BURST: u32 = 25;

/// The time after which one more Event is allowed: five a minute.
pub(super) const PACE: Duration = Duration::from_secs(12);

/// A budget that refills with time.
#[derive(Debug)]
pub(super) struct Budget {
    left: u32,
    /// When an Event was last added to the budget, since the observer's start.
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
    /// Takes one Event from the budget. The error is the time at which there will be one, since the
    /// observer's start.
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
