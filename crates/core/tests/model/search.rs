//! The search: every state that can be reached, each once.

use std::collections::HashMap;
use std::rc::Rc;

use crate::parts::{Parts, Setting};
use crate::world::{Move, WorldState};

pub struct SearchResult {
    pub states: usize,
    /// The promise that is broken, and the shortest way there.
    pub broken: Option<String>,
}

pub fn search(setting: Setting) -> SearchResult {
    let mut parts = Parts::new(setting);
    let first = Rc::new(WorldState::first(&mut parts));
    let mut known: HashMap<Rc<WorldState>, usize> = [(first.clone(), 0)].into();
    let mut states: Vec<(Rc<WorldState>, usize, Option<Move>)> = vec![(first, 0, None)];
    let mut at = 0;
    while at < states.len() {
        let state = states[at].0.clone();
        if let Err(broken) = state.comes_to_rest(&mut parts) {
            return found(&states, at, None, &broken);
        }
        for action in state.actions(&parts) {
            match state.after(action, &mut parts) {
                Ok(next) => {
                    let next = Rc::new(next);
                    let index = states.len();
                    if *known.entry(next.clone()).or_insert(index) == index {
                        states.push((next, at, Some(action)));
                    }
                }
                Err(broken) => return found(&states, at, Some(action), &broken),
            }
        }
        at += 1;
    }
    SearchResult {
        states: states.len(),
        broken: None,
    }
}

fn found(
    states: &[(Rc<WorldState>, usize, Option<Move>)],
    mut at: usize,
    last: Option<Move>,
    broken: &str,
) -> SearchResult {
    let mut steps: Vec<Move> = last.into_iter().collect();
    while let Some(action) = states[at].2 {
        steps.push(action);
        at = states[at].1;
    }
    steps.reverse();
    SearchResult {
        states: states.len(),
        broken: Some(format!("{broken} after {steps:?}")),
    }
}
