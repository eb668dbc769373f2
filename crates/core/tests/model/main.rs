//! A model of a gate: everything that appliers, the Job controller, kubelets, recorders, deletions,
//! outages and operators can do in two releases, a rollback and a re-run, one step after the other in
//! every order. What the waiter and the recorder decide they are asked themselves.
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

/// Two Jobs, and nothing besides: an upgrade, a rollback, or a re-run of the same version.
fn two_jobs(naming: Naming, tags: Tags) -> Setting {
    Setting {
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
    }
}

fn three_jobs(naming: Naming, tags: Tags) -> Setting {
    Setting {
        jobs: 3,
        ..two_jobs(naming, tags)
    }
}

/// An operator corrects the record once.
fn an_order(naming: Naming, tags: Tags) -> Setting {
    Setting {
        orders: 1,
        ..two_jobs(naming, tags)
    }
}

/// An operator corrects the record twice.
fn two_orders(naming: Naming, tags: Tags) -> Setting {
    Setting {
        jobs: 1,
        orders: 2,
        ..two_jobs(naming, tags)
    }
}

/// A Job is suspended at first, or asks for no completions.
fn an_odd_job(naming: Naming, tags: Tags) -> Setting {
    Setting {
        odd: 1,
        ..two_jobs(naming, tags)
    }
}

/// The waiter's patience ends.
fn time(naming: Naming, tags: Tags) -> Setting {
    Setting {
        ticks: 2,
        ..two_jobs(naming, tags)
    }
}

/// So it does with a Job that gets no pod.
fn time_for_one(naming: Naming, tags: Tags) -> Setting {
    Setting {
        jobs: 1,
        orders: 1,
        ..time(naming, tags)
    }
}

/// The API server is away once.
fn an_outage(naming: Naming, tags: Tags) -> Setting {
    Setting {
        outages: 1,
        ..two_jobs(naming, tags)
    }
}

/// It is away while there is one Job, and the record is corrected.
fn an_outage_of_one(naming: Naming, tags: Tags) -> Setting {
    Setting {
        jobs: 1,
        orders: 1,
        ..an_outage(naming, tags)
    }
}

/// The recorder is started anew, and the record is corrected.
fn a_crash(naming: Naming, tags: Tags) -> Setting {
    Setting {
        crashes: 1,
        ..an_order(naming, tags)
    }
}

type Focus = fn(Naming, Tags) -> Setting;

/// What could happen at the same time is looked at in turn: the product of all would take hours.
const EVERYTHING: [Focus; 7] = [
    three_jobs,
    two_orders,
    an_order,
    an_odd_job,
    time_for_one,
    an_outage_of_one,
    a_crash,
];

/// No order of events breaks a promise.
fn holds(naming: Naming, tags: Tags, focuses: &[Focus]) {
    let mut states = 0;
    for focus in focuses {
        let setting = focus(naming, tags);
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
        ..focus(naming, tags)
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
    holds(Naming::Named, Tags::Fixed, &[an_outage, time]);
    holds(Naming::Generated, Tags::Fixed, &[three_jobs, an_order]);
    holds(Naming::Generated, Tags::Moving, &[three_jobs, time]);
}

#[test]
fn versions_by_tag_of_generated_jobs() {
    holds(Naming::Generated, Tags::Fixed, &[two_jobs, an_odd_job]);
}

#[test]
fn versions_by_digest_under_one_tag() {
    holds(Naming::Named, Tags::Digest, &[three_jobs, an_order]);
}

#[test]
fn versions_beside_a_proxy() {
    holds(Naming::Named, Tags::Proxy, &[three_jobs, an_order]);
}

#[test]
fn versions_by_label() {
    holds(Naming::Generated, Tags::Label, &[two_jobs, an_order]);
}

#[test]
fn a_tag_that_moves() {
    holds(Naming::Named, Tags::Moving, &EVERYTHING);
    holds(Naming::Named, Tags::Moving, &[time, an_outage]);
}

#[test]
fn a_tag_that_moves_of_generated_jobs() {
    holds(
        Naming::Generated,
        Tags::Moving,
        &[two_jobs, two_orders, an_order],
    );
}

#[test]
fn a_moving_tag_taken_for_a_fixed_one_is_found() {
    for naming in [Naming::Named, Naming::Generated] {
        finds(
            Omission::TagsNeverMove,
            two_jobs,
            naming,
            Tags::Moving,
            EARLY,
        );
    }
}

#[test]
fn a_digest_that_is_passed_over_is_found() {
    let fault = Omission::DigestsDontCount;
    finds(fault, two_jobs, Naming::Named, Tags::Digest, EARLY);
}

#[test]
fn the_first_container_alone_is_found() {
    let fault = Omission::FirstContainer;
    finds(fault, two_jobs, Naming::Named, Tags::Proxy, EARLY);
}

#[test]
fn a_record_that_cannot_be_corrected_is_found() {
    let fault = Omission::RecordIsDeleted;
    finds(fault, an_order, Naming::Named, Tags::Fixed, EARLY);
    finds(fault, an_order, Naming::Named, Tags::Moving, EARLY);
}

#[test]
fn what_cannot_be_marked_as_done_is_found() {
    let fault = Omission::NothingDoneByHand;
    finds(fault, an_order, Naming::Named, Tags::Fixed, NEVER);
}

#[test]
fn a_gate_that_opens_before_it_has_read_the_record_is_found() {
    finds(
        Omission::RecordUnread,
        an_order,
        Naming::Named,
        Tags::Fixed,
        EARLY,
    );
}

#[test]
fn a_completion_lost_in_an_outage_is_found() {
    let fault = Omission::ListsAfterOutage;
    finds(fault, an_outage, Naming::Named, Tags::Fixed, NEVER);
}

#[test]
fn a_completion_lost_with_its_job_is_found() {
    let fault = Omission::LastStateIgnored;
    finds(fault, two_jobs, Naming::Named, Tags::Fixed, NEVER);
}

#[test]
fn a_first_attempt_that_does_not_hold_is_found() {
    for naming in [Naming::Named, Naming::Generated] {
        let fault = Omission::AttemptsDontHold;
        finds(fault, two_jobs, naming, Tags::Fixed, "a first attempt runs");
    }
}

#[test]
fn a_completion_of_nothing_is_found() {
    finds(
        Omission::EmptyCounts,
        an_odd_job,
        Naming::Named,
        Tags::Fixed,
        EARLY,
    );
}

#[test]
fn a_job_that_counts_while_it_is_replaced_is_found() {
    finds(
        Omission::DeletedCounts,
        two_jobs,
        Naming::Named,
        Tags::Moving,
        EARLY,
    );
}

#[test]
fn a_record_that_speaks_while_its_job_is_replaced_is_found() {
    finds(
        Omission::NeverSettles,
        two_jobs,
        Naming::Named,
        Tags::Moving,
        EARLY,
    );
}

#[test]
fn a_waiter_that_gives_up_again_and_again_is_found() {
    finds(
        Omission::NeverStays,
        two_jobs,
        Naming::Named,
        Tags::Fixed,
        "gave up again",
    );
}
