//! A model of a gate: everything that appliers, the Job controller, kubelets, recorders, deletions,
//! outages and operators can do in two releases, a rollback and a re-run, one step after the other
//! in every order. What the waiter and the recorder decide they are asked themselves.
//!
//! Safety: no pod of a version starts before that version has been migrated, and none while a first
//! attempt of its very version runs. Under a tag that moves, that is promised to pods that start
//! after their Job was applied, or while an applier replaces it.
//!
//! Liveness: from every state in which a version's completion has been seen, a pod of it that waits
//! starts once the world comes to rest.
//!
//! Each [`Omission`] takes one of the rules out, and must be found.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_macros,
    reason = "a test fails by panicking, and tells how much it has seen"
)]

mod parts;
mod search;
mod world;

use parts::{Naming, Omission, Setting, Tags};
use search::search;

type Focus = fn(&mut Setting);

/// Two Jobs, and nothing besides: an upgrade, a rollback, or a re-run of the same version.
const TWO_JOBS: Focus = |s| s.jobs = 2;
const THREE_JOBS: Focus = |s| s.jobs = 3;
/// An operator corrects the record once.
const AN_ORDER: Focus = |s| s.orders = 1;
/// An operator corrects the record twice.
const TWO_ORDERS: Focus = |s| (s.jobs, s.orders) = (1, 2);
/// A Job is suspended at first, or asks for no completions.
const AN_ODD_JOB: Focus = |s| s.odd = 1;
/// The waiter's patience ends.
const TIME: Focus = |s| s.ticks = 2;
/// So it does with a Job that gets no pod.
const TIME_FOR_ONE: Focus = |s| (s.jobs, s.orders, s.ticks) = (1, 1, 2);
/// The API server is away once.
const AN_OUTAGE: Focus = |s| s.outages = 1;
/// It is away while there is one Job, and the record is corrected.
const AN_OUTAGE_OF_ONE: Focus = |s| (s.jobs, s.orders, s.outages) = (1, 1, 1);
/// The recorder is restarted, and the record is corrected.
const A_CRASH: Focus = |s| (s.orders, s.crashes) = (1, 1);

fn setting(focus: Focus, naming: Naming, tags: Tags) -> Setting {
    let mut setting = Setting {
        naming,
        tags,
        fault: None,
        jobs: 2,
        odd: 0,
        ticks: 0,
        pods: 1,
        orders: 0,
        outages: 0,
        crashes: 0,
    };
    focus(&mut setting);
    setting
}

/// What could happen at the same time is looked at in turn: the product of all would take hours.
const EVERYTHING: [Focus; 7] = [
    THREE_JOBS,
    TWO_ORDERS,
    AN_ORDER,
    AN_ODD_JOB,
    TIME_FOR_ONE,
    AN_OUTAGE_OF_ONE,
    A_CRASH,
];

/// No order of events breaks a promise.
fn holds(naming: Naming, tags: Tags, focuses: &[Focus]) {
    let mut states = 0;
    for focus in focuses {
        let setting = setting(*focus, naming, tags);
        let result = search(setting);
        println!("{setting:?}: {} states", result.states);
        if let Some(broken) = result.broken {
            panic!("{setting:?}: {broken}");
        }
        states += result.states;
    }
    println!("{naming:?}, {tags:?}: {states} states in all");
    assert!(states > 10_000, "the model can do something");
}

/// Without one of the rules, some order of events does.
fn finds(fault: Omission, focus: Focus, naming: Naming, tags: Tags, promise: &str) {
    let setting = Setting {
        fault: Some(fault),
        ..setting(focus, naming, tags)
    };
    let result = search(setting);
    let broken = result
        .broken
        .unwrap_or_else(|| panic!("{setting:?}: not found"));
    println!("{fault:?}: {} states until {broken}", result.states);
    assert!(broken.contains(promise), "{setting:?}: {broken}");
}

const EARLY: &str = "has not been migrated";
const NEVER: &str = "waits for ever";

#[test]
fn versions_by_tag() {
    holds(Naming::Named, Tags::Fixed, &EVERYTHING);
}

#[test]
#[ignore = "it takes minutes"]
fn versions_by_tag_at_length() {
    holds(Naming::Named, Tags::Fixed, &[AN_OUTAGE, TIME]);
    holds(Naming::Generated, Tags::Fixed, &[THREE_JOBS, AN_ORDER]);
    holds(Naming::Generated, Tags::Moving, &[THREE_JOBS, TIME]);
}

#[test]
fn versions_by_tag_of_generated_jobs() {
    holds(Naming::Generated, Tags::Fixed, &[TWO_JOBS, AN_ODD_JOB]);
}

#[test]
fn versions_by_digest_under_one_tag() {
    holds(Naming::Named, Tags::Digest, &[THREE_JOBS, AN_ORDER]);
}

#[test]
fn versions_beside_a_proxy() {
    holds(Naming::Named, Tags::Proxy, &[THREE_JOBS, AN_ORDER]);
}

#[test]
fn versions_by_label() {
    holds(Naming::Generated, Tags::Label, &[TWO_JOBS, AN_ORDER]);
}

#[test]
fn a_tag_that_moves() {
    holds(Naming::Named, Tags::Moving, &EVERYTHING);
    holds(Naming::Named, Tags::Moving, &[TIME, AN_OUTAGE]);
}

#[test]
fn a_tag_that_moves_of_generated_jobs() {
    holds(
        Naming::Generated,
        Tags::Moving,
        &[TWO_JOBS, TWO_ORDERS, AN_ORDER],
    );
}

/// Tests, each of a rule that is taken out: the promise that is then broken, and where that shows.
macro_rules! found {
    ($($test:ident: $fault:ident, $focus:ident, $promise:expr, $(($naming:ident, $tags:ident)),+;)+) => {$(
        #[test]
        fn $test() {
            $(finds(Omission::$fault, $focus, Naming::$naming, Tags::$tags, $promise);)+
        }
    )+};
}

found! {
    a_moving_tag_taken_for_a_fixed_one_is_found:
        TagsNeverMove, TWO_JOBS, EARLY, (Named, Moving), (Generated, Moving);
    a_digest_that_is_passed_over_is_found:
        DigestsDontCount, TWO_JOBS, EARLY, (Named, Digest);
    the_first_container_alone_is_found:
        FirstContainer, TWO_JOBS, EARLY, (Named, Proxy);
    a_record_that_cannot_be_corrected_is_found:
        RecordIsDeleted, AN_ORDER, EARLY, (Named, Fixed), (Named, Moving);
    what_cannot_be_marked_as_done_is_found:
        NothingDoneByHand, AN_ORDER, NEVER, (Named, Fixed);
    a_gate_that_opens_before_it_has_read_the_record_is_found:
        RecordUnread, AN_ORDER, EARLY, (Named, Fixed);
    a_completion_lost_in_an_outage_is_found:
        ListsAfterOutage, AN_OUTAGE, NEVER, (Named, Fixed);
    a_completion_lost_with_its_job_is_found:
        LastStateIgnored, TWO_JOBS, NEVER, (Named, Fixed);
    a_first_attempt_that_does_not_hold_is_found:
        AttemptsDontHold, TWO_JOBS, "a first attempt runs", (Named, Fixed), (Generated, Fixed);
    a_completion_of_nothing_is_found:
        EmptyCounts, AN_ODD_JOB, EARLY, (Named, Fixed);
    a_job_that_counts_while_it_is_replaced_is_found:
        DeletedCounts, TWO_JOBS, EARLY, (Named, Moving);
    a_record_that_speaks_while_its_job_is_replaced_is_found:
        NeverSettles, TWO_JOBS, EARLY, (Named, Moving);
    a_waiter_that_gives_up_again_and_again_is_found:
        NeverStays, TWO_JOBS, "gave up again", (Named, Fixed);
}
