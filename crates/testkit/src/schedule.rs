//! Decides which test runs next, and on which node. A test claims a whole node, a share of one, or
//! no node.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// The part of a node that a test claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// The whole node: the test changes objects that every other test would see.
    Node,
    /// A share of a node: a namespace of its own.
    Share,
    /// No node, only the sandbox.
    Nothing,
}

/// The nodes, and the tests that wait for one.
pub(crate) struct Schedule {
    state: Mutex<Occupancy>,
    changed: Condvar,
}

/// A test's permission to run on a node. Dropping it lets other tests start.
pub(crate) struct NodeSlot<'s> {
    schedule: &'s Schedule,
    pub(crate) node: usize,
    claim: Claim,
}

#[derive(Default, Clone, Copy)]
struct NodeLoad {
    taken: bool,
    shares: usize,
}

struct Occupancy {
    nodes: Vec<NodeLoad>,
    running: usize,
    limit: usize,
    /// The waiting tests by their index in the list of tests, which is the order in which they
    /// start.
    waiting: BTreeMap<usize, Claim>,
}

impl Schedule {
    /// A schedule for `nodes` nodes, with at most `limit` tests at the same time.
    pub(crate) fn new(nodes: usize, limit: usize) -> Self {
        Self {
            state: Mutex::new(Occupancy {
                nodes: vec![NodeLoad::default(); nodes],
                running: 0,
                limit,
                waiting: BTreeMap::new(),
            }),
            changed: Condvar::new(),
        }
    }

    /// Waits for a slot. `index` is the test's place in the list.
    pub(crate) fn slot(&self, index: usize, claim: Claim) -> NodeSlot<'_> {
        let mut state = self.state();
        state.waiting.insert(index, claim);
        loop {
            match state.next() {
                Some((next, node)) if next == index => {
                    state.begin(index, node);
                    // Another test may be able to start, too.
                    self.changed.notify_all();
                    return NodeSlot {
                        schedule: self,
                        node,
                        claim,
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

    fn state(&self) -> MutexGuard<'_, Occupancy> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for NodeSlot<'_> {
    fn drop(&mut self) {
        let mut state = self.schedule.state();
        state.end(self.node, self.claim);
        self.schedule.changed.notify_all();
    }
}

impl Occupancy {
    /// The first test of the list that can start now, and its node.
    fn next(&self) -> Option<(usize, usize)> {
        if self.running >= self.limit {
            return None;
        }
        self.waiting
            .iter()
            .find_map(|(&index, &claim)| Some((index, self.node_for(claim)?)))
    }

    fn node_for(&self, claim: Claim) -> Option<usize> {
        let find = |suits: fn(&NodeLoad) -> bool| self.nodes.iter().position(suits);
        let free: fn(&NodeLoad) -> bool = |node| !node.taken && node.shares == 0;
        match claim {
            Claim::Node => find(free),
            // Shares go to the same node if possible, so that other nodes stay free for tests that
            // claim a whole one.
            Claim::Share => find(|node| node.shares > 0).or_else(|| find(free)),
            // Always on the same one, because these tests share statics of one process.
            Claim::Nothing => Some(0),
        }
    }

    fn begin(&mut self, index: usize, node: usize) {
        let Some(claim) = self.waiting.remove(&index) else {
            return;
        };
        self.running += 1;
        match claim {
            Claim::Node => self.nodes[node].taken = true,
            Claim::Share => self.nodes[node].shares += 1,
            Claim::Nothing => {}
        }
    }

    fn end(&mut self, node: usize, claim: Claim) {
        self.running -= 1;
        match claim {
            Claim::Node => self.nodes[node].taken = false,
            Claim::Share => self.nodes[node].shares -= 1,
            Claim::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread::{self, Scope};
    use std::time::{Duration, Instant};

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    /// Waits until `number` tests wait for a slot.
    fn await_waiting(schedule: &Schedule, number: usize) {
        let end = Instant::now() + LONG;
        while schedule.state().waiting.len() != number {
            assert!(Instant::now() < end, "never {number} that wait");
            thread::yield_now();
        }
    }

    /// A slot, if one is free at once.
    fn at_once(schedule: &Schedule, index: usize, claim: Claim) -> Option<NodeSlot<'_>> {
        let mut state = schedule.state();
        state.waiting.insert(index, claim);
        let found = state.next().filter(|(next, _)| *next == index);
        let Some((_, node)) = found else {
            state.waiting.remove(&index);
            return None;
        };
        state.begin(index, node);
        drop(state);
        Some(NodeSlot {
            schedule,
            node,
            claim,
        })
    }

    /// Waits for a slot in a thread of its own. The receiver gets the index and the slot.
    fn claim<'s>(
        scope: &'s Scope<'s, '_>,
        schedule: &'s Schedule,
        sender: &mpsc::Sender<(usize, NodeSlot<'s>)>,
        index: usize,
        claim: Claim,
    ) {
        let sender = sender.clone();
        scope.spawn(move || sender.send((index, schedule.slot(index, claim))));
    }

    #[test]
    fn shares_gather_on_one_node_and_leave_the_others_to_those_that_claim_one() {
        let schedule = Schedule::new(3, 9);
        let slot = |index, claim| at_once(&schedule, index, claim);
        let node = |slot: &Option<NodeSlot<'_>>| slot.as_ref().map(|slot| slot.node);
        let shares = [0, 1, 2].map(|index| slot(index, Claim::Share));
        assert!(shares.iter().all(|slot| node(slot) == Some(0)));
        let whole = [3, 4, 5].map(|index| slot(index, Claim::Node));
        assert_eq!(whole.each_ref().map(node), [Some(1), Some(2), None]);
        assert_eq!(node(&slot(6, Claim::Nothing)), Some(0));
        drop(shares);
        assert_eq!(node(&slot(7, Claim::Node)), Some(0));
        drop(whole);
        let state = schedule.state();
        assert!(
            state
                .nodes
                .iter()
                .all(|node| !node.taken && node.shares == 0)
        );
        assert_eq!(state.running, 0);
    }

    #[test]
    fn the_first_of_the_list_that_fits_begins_first() {
        let schedule = Schedule::new(1, 1);
        thread::scope(|scope| {
            let (sender, slots) = mpsc::channel();
            let first = schedule.slot(0, Claim::Node);
            for index in [3, 1, 2] {
                claim(scope, &schedule, &sender, index, Claim::Share);
            }
            await_waiting(&schedule, 3);
            drop(first);
            for expected in [1, 2, 3] {
                let (index, _slot) = slots.recv_timeout(LONG).expect("a slot");
                assert_eq!(index, expected);
            }
        });
    }

    #[test]
    fn a_claim_that_fits_overtakes_one_that_does_not() {
        let schedule = Schedule::new(1, 9);
        thread::scope(|scope| {
            let (sender, slots) = mpsc::channel();
            let share = schedule.slot(5, Claim::Share);
            claim(scope, &schedule, &sender, 0, Claim::Node);
            await_waiting(&schedule, 1);
            claim(scope, &schedule, &sender, 1, Claim::Share);
            let (index, overtaker) = slots.recv_timeout(LONG).expect("a slot");
            assert_eq!(index, 1);
            drop((share, overtaker));
            assert_eq!(slots.recv_timeout(LONG).expect("a slot").0, 0);
        });
    }

    #[test]
    fn a_test_that_panics_gives_its_slot_back() {
        let schedule = Schedule::new(1, 1);
        thread::scope(|scope| {
            let panics = scope.spawn(|| {
                let _slot = schedule.slot(0, Claim::Node);
                panic!("as a test does");
            });
            assert!(panics.join().is_err());
        });
        assert!(at_once(&schedule, 1, Claim::Node).is_some());
    }

    #[test]
    fn however_many_claim_at_once_no_node_is_used_twice_and_all_get_their_slot() {
        const NODES: usize = 3;
        const LIMIT: usize = 5;
        const TESTS: usize = 300;
        // For each node, the number of its shares in use. A whole node counts as `TESTS`.
        let used = [const { AtomicUsize::new(0) }; NODES];
        let (running, most, done) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        let schedule = Schedule::new(NODES, LIMIT);
        thread::scope(|scope| {
            for index in 0..TESTS {
                let (schedule, used, running, most, done) =
                    (&schedule, &used, &running, &most, &done);
                scope.spawn(move || {
                    let (claim, weight) =
                        [(Claim::Node, TESTS), (Claim::Share, 1), (Claim::Nothing, 0)][index % 3];
                    let slot = schedule.slot(index, claim);
                    most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    let before = used[slot.node].fetch_add(weight, Ordering::SeqCst);
                    match claim {
                        Claim::Node => assert_eq!(before, 0, "a node that others use"),
                        Claim::Share => assert!(before < TESTS, "a node that another has whole"),
                        Claim::Nothing => {}
                    }
                    thread::yield_now();
                    used[slot.node].fetch_sub(weight, Ordering::SeqCst);
                    running.fetch_sub(1, Ordering::SeqCst);
                    drop(slot);
                    done.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        assert_eq!(done.into_inner(), TESTS);
        let most = most.into_inner();
        assert!((2..=LIMIT).contains(&most), "{most} at a time");
    }
}
