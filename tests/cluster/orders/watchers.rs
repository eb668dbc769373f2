//! The recorders, and which of them have seen a completion.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The recorders that were watching at some moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Witnesses {
    epoch: u64,
    recorders: BTreeSet<u64>,
}

impl Witnesses {
    /// Adds the recorders of an earlier moment, unless the API server was restarted in between.
    pub(super) fn and(mut self, before: &Self) -> Self {
        if self.epoch == before.epoch {
            self.recorders.extend(&before.recorders);
        }
        self
    }
}

#[derive(Default)]
struct State {
    /// The number of the API server's starts. After a start, no watch reports earlier changes.
    epoch: u64,
    living: BTreeSet<u64>,
    /// The living recorders whose watches have begun.
    watching: BTreeSet<u64>,
}

/// The living recorders, by the numbers of their processes.
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

    /// Handles a restart of the API server: all watches must begin again.
    pub(super) fn server_restarts(&self) {
        let mut state = self.state();
        state.epoch += 1;
        state.watching.clear();
    }

    /// The recorders that are watching now.
    pub(super) fn now(&self) -> Witnesses {
        let state = self.state();
        Witnesses {
            epoch: state.epoch,
            recorders: state.watching.clone(),
        }
    }

    /// Whether one of these recorders is still alive, and so records what it has seen.
    pub(super) fn remember(&self, witnesses: &Witnesses) -> bool {
        let state = self.state();
        witnesses.epoch == state.epoch && !witnesses.recorders.is_disjoint(&state.living)
    }

    /// Whether a recorder is watching now, and so records what still exists.
    pub(super) fn watch(&self) -> bool {
        !self.state().watching.is_empty()
    }
}
