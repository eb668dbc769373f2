//! Which test runs where, and when: several nodes, and tests that need one whole, a part of one, or none.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// What a test needs of a node.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// All of it: the test changes what all others there would see.
    Whole,
    /// A namespace of its own.
    Part,
    /// Nothing but the namespaces of the kernel around it.
    Nothing,
}

/// The nodes, and who waits for one.
pub(crate) struct Schedule {
    state: Mutex<State>,
    changed: Condvar,
}

/// A test's right to run on a node, for as long as this lives.
pub(crate) struct Turn<'s> {
    schedule: &'s Schedule,
    pub(crate) node: usize,
    need: Need,
}

#[derive(Default, Clone, Copy)]
struct Node {
    whole: bool,
    parts: usize,
}

struct State {
    nodes: Vec<Node>,
    running: usize,
    limit: usize,
    /// By their place in the list of tests, so that the list says what begins first.
    waiting: BTreeMap<usize, Need>,
}

impl Schedule {
    /// For this many nodes, and at most `limit` tests at the same time.
    pub(crate) fn new(nodes: usize, limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                nodes: vec![Node::default(); nodes],
                running: 0,
                limit,
                waiting: BTreeMap::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits until it is this test's turn; `index` is its place in the list.
    pub(crate) fn turn(&self, index: usize, need: Need) -> Turn<'_> {
        let mut state = self.state();
        state.waiting.insert(index, need);
        loop {
            match state.next() {
                Some((next, node)) if next == index => {
                    state.begin(index, node);
                    // Another may begin as well.
                    self.changed.notify_all();
                    return Turn {
                        schedule: self,
                        node,
                        need,
                    };
                }
                _ => {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.schedule.state();
        state.end(self.node, self.need);
        self.schedule.changed.notify_all();
    }
}

impl State {
    /// The first test of the list that could begin now, and where.
    fn next(&self) -> Option<(usize, usize)> {
        if self.running >= self.limit {
            return None;
        }
        self.waiting
            .iter()
            .find_map(|(&index, &need)| Some((index, self.node_for(need)?)))
    }

    fn node_for(&self, need: Need) -> Option<usize> {
        let find = |suits: fn(&Node) -> bool| self.nodes.iter().position(suits);
        let free: fn(&Node) -> bool = |node| !node.whole && node.parts == 0;
        match need {
            Need::Whole => find(free),
            // Together, they leave other nodes to those that need one whole.
            Need::Part => find(|node| node.parts > 0).or_else(|| find(free)),
            // Together likewise: they share what one process holds.
            Need::Nothing => Some(0),
        }
    }

    fn begin(&mut self, index: usize, node: usize) {
        let Some(need) = self.waiting.remove(&index) else {
            return;
        };
        self.running += 1;
        match need {
            Need::Whole => self.nodes[node].whole = true,
            Need::Part => self.nodes[node].parts += 1,
            Need::Nothing => {}
        }
    }

    fn end(&mut self, node: usize, need: Need) {
        self.running -= 1;
        match need {
            Need::Whole => self.nodes[node].whole = false,
            Need::Part => self.nodes[node].parts -= 1,
            Need::Nothing => {}
        }
    }
}
