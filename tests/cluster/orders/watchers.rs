//! Which recorders there are, and which of them have seen a completion.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The recorders that watched at some moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Witnesses {
    epoch: u64,
    recorders: BTreeSet<u64>,
}

impl Witnesses {
    /// With those of the moment before, unless the API server was restarted between the two.
    pub(super) fn and(mut self, before: &Self) -> Self {
        if self.epoch == before.epoch {
            self.recorders.extend(&before.recorders);
        }
        self
    }
}

#[derive(Default)]
struct State {
    /// Counts the API server's starts. What a watch had not sent before one, no watch sends.
    epoch: u64,
    living: BTreeSet<u64>,
    /// Those of them whose watches have begun.
    watching: BTreeSet<u64>,
}

/// The recorders that live, each start of one by its number.
#[derive(Default)]
pub(super) struct Watchers(Mutex<State>);

impl Watchers {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn starts(&self, recorder: u64) {
        self.state().living.insert(recorder);
    }

    pub(super) fn watches(&self, recorder: u64) {
        let mut state = self.state();
        if state.living.contains(&recorder) {
            state.watching.insert(recorder);
        }
    }

    pub(super) fn dies(&self, recorder: u64) {
        let mut state = self.state();
        state.living.remove(&recorder);
        state.watching.remove(&recorder);
    }

    /// The API server is restarted, so all have to begin again.
    pub(super) fn server_restarts(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.watching.clear();
    }

    /// Those that watch now.
    pub(super) fn now(&self) -> Witnesses {
        let state = self.state();
        Witnesses {
            epoch: state.epoch,
            recorders: state.watching.clone(),
        }
    }

    /// Whether one of these is sure to record what it has seen.
    pub(super) fn remember(&self, witnesses: &Witnesses) -> bool {
        let state = self.state();
        witnesses.epoch == state.epoch && !witnesses.recorders.is_disjoint(&state.living)
    }

    /// Whether one watches now, and so is sure to record what is still there.
    pub(super) fn watch(&self) -> bool {
        !self.state().watching.is_empty()
    }
}
