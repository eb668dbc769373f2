//! Tests of the rotator's actions, from what it has seen.

use super::*;
use crate::serve::certificates::trust::{CallersWriter, CallingWebhook};

const LIFETIME: Duration = Duration::from_hours(3);
const PROPAGATION: Duration = Duration::from_secs(2);
const NAME: &str = "gate.gate.svc";

fn at(seconds: u64) -> Timestamp {
    let start: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
    start.checked_add(Duration::from_secs(seconds)).unwrap()
}

fn material(made: Timestamp, keep: &[CertificateDer<'static>]) -> Material {
    Material::issue(&[NAME.to_owned()], LIFETIME, made, keep.to_vec()).unwrap()
}

fn name(mutating: bool) -> ConfigurationName {
    if mutating {
        ConfigurationName::Mutating("gate".to_owned())
    } else {
        ConfigurationName::Validating("gate".to_owned())
    }
}

fn configuration(bundle: &[u8]) -> Configuration {
    Configuration {
        resource_version: "1".to_owned(),
        webhooks: vec![CallingWebhook {
            name: "w".to_owned(),
            server_name: NAME.to_owned(),
            ca_bundle: bundle.to_vec(),
        }],
    }
}

/// Both configurations, with one bundle each.
fn callers(bundles: [&[u8]; 2]) -> Callers {
    let mut callers = CallersWriter::new([name(true), name(false)]);
    for (mutating, bundle) in [true, false].into_iter().zip(bundles) {
        callers.see(&name(mutating), Some(configuration(bundle)));
    }
    callers.callers()
}

fn state() -> State {
    State::new(vec![NAME.to_owned()], LIFETIME, PROPAGATION)
}

/// A state that has seen `material` in the Secret.
fn seen(material: &Material) -> State {
    let mut state = state();
    state.see_secret(Some(("7".to_owned(), Ok(material.clone()))));
    state
}

/// The actions in short, in their order.
fn actions(step: &Agenda) -> Vec<String> {
    let short = |action: &Action| match action {
        Action::Issue { keep, base, .. } => {
            format!(
                "issue over {}, keeping {}",
                base.as_deref().unwrap_or("nothing"),
                keep.len()
            )
        }
        Action::Prune { material, .. } => format!("prune to {}", material.bundle.len()),
        Action::Announce { name, .. } => format!("announce to {name}"),
    };
    let serve = step.serve.iter().map(|_| "serve".to_owned());
    serve.chain(step.actions.iter().map(short)).collect()
}

#[track_caller]
fn does(state: &mut State, callers: &Callers, now: u64, expect: &[&str]) {
    assert_eq!(actions(&state.step(callers, at(now))), expect);
}

#[test]
fn what_is_trusted_is_served_whatever_else_there_is_to_do() {
    let old = material(at(0), &[]);
    let bundle = old.bundle_pem();
    // These bundles have another CA, too, so both configurations must be written.
    let extra = [bundle.clone(), material(at(1), &[]).bundle_pem()].concat();
    let (mutating, validating) = (
        "announce to MutatingWebhookConfiguration gate",
        "announce to ValidatingWebhookConfiguration gate",
    );
    let renewal = LIFETIME.as_secs() * 2 / 3;
    let check = |now: u64, bundles: [&[u8]; 2], expect: &[&str]| {
        let step = seen(&old).step(&callers(bundles), at(now));
        assert_eq!(actions(&step), expect, "after {now} s");
    };
    check(60, [&bundle, &bundle], &["serve"]);
    check(60, [&extra, &extra], &["serve", mutating, validating]);
    check(60, [&bundle, &extra], &["serve", validating]);
    check(60, [&bundle, b""], &[validating]);
    check(60, [b"", b""], &[mutating, validating]);
    let issue = "issue over 7, keeping 1";
    check(renewal, [&bundle, &bundle], &["serve", issue]);
    check(renewal, [&extra, &bundle], &["serve", issue, mutating]);
}

/// A configuration that was never seen may be created in a moment. It would not trust a certificate
/// that is already served.
#[test]
fn a_configuration_that_is_deleted_is_asked_no_more() {
    let served = material(at(0), &[]);
    let bundle = served.bundle_pem();
    let mut callers = CallersWriter::new([name(true), name(false)]);
    callers.see(&name(true), None);
    callers.see(&name(false), Some(configuration(&bundle)));
    does(&mut seen(&served), &callers.callers(), 60, &[]);
    callers.see(&name(true), Some(configuration(&bundle)));
    callers.see(&name(true), None);
    does(&mut seen(&served), &callers.callers(), 60, &["serve"]);
    // It is created again, without a bundle.
    let announce = "announce to MutatingWebhookConfiguration gate";
    callers.see(&name(true), Some(configuration(b"")));
    let expect = ["serve", announce];
    does(&mut seen(&served), &callers.callers(), 60, &expect);
    callers.see(&name(true), Some(configuration(b"garbage")));
    does(&mut seen(&served), &callers.callers(), 60, &[announce]);
}

#[test]
fn a_configuration_that_is_missing_is_awaited_no_more_after_a_while() {
    let served = material(at(0), &[]);
    let bundle = served.bundle_pem();
    let mut callers = CallersWriter::new([name(true), name(false)]);
    callers.see(&name(true), None);
    callers.see(&name(false), Some(configuration(&bundle)));
    callers.stop_waiting();
    does(&mut seen(&served), &callers.callers(), 60, &["serve"]);

    // It was not read before.
    let mut callers = CallersWriter::new([name(true)]);
    callers.stop_waiting();
    does(&mut seen(&served), &callers.callers(), 60, &[]);
    callers.see(&name(true), None);
    does(&mut seen(&served), &callers.callers(), 60, &["serve"]);
}

#[test]
fn what_is_not_served_yet_is_said_again() {
    let material = material(at(0), &[]);
    let bundle = material.bundle_pem();
    let callers = callers([&bundle, &bundle]);
    let mut state = seen(&material);
    for _ in 0..2 {
        does(&mut state, &callers, 60, &["serve"]);
    }
    state.see_served(Arc::new(material.identity().unwrap()));
    does(&mut state, &callers, 60, &[]);
}

#[test]
fn what_is_new_is_served_once_every_api_server_knows_it() {
    let material = material(at(0), &[]);
    let bundle = material.bundle_pem();
    let mut state = seen(&material);
    let trusted = callers([&bundle, &bundle]);
    let step = state.step(&trusted, at(0));
    assert_eq!((actions(&step), step.wake), (vec![], Some(at(2))));
    // One configuration stops trusting it: the delay starts again.
    state.step(&callers([&bundle, b""]), at(1));
    does(&mut state, &trusted, 2, &[]);
    does(&mut state, &trusted, 4, &["serve"]);
}

/// The age of a certificate does not depend on the lifetime in this replica's settings.
#[test]
fn what_others_have_long_been_serving_is_served_at_once() {
    let material = material(at(0), &[]);
    let bundle = material.bundle_pem();
    for lifetime in [LIFETIME, LIFETIME / 2, LIFETIME * 2] {
        for (now, expect) in [(5, false), (10, true)] {
            let mut state = State::new(vec![NAME.to_owned()], lifetime, PROPAGATION);
            state.see_secret(Some(("7".to_owned(), Ok(material.clone()))));
            let step = state.step(&callers([&bundle, &bundle]), at(now));
            let served = actions(&step).contains(&"serve".to_owned());
            assert_eq!(served, expect, "of {lifetime:?}, after {now} s");
        }
    }
}

#[test]
fn a_lost_secret_costs_nobody_the_trust_in_what_is_served() {
    let served = material(at(0), &[]);
    let expired = Material::issue(&[NAME.to_owned()], Duration::from_secs(9), at(0), vec![]);
    let bundle = [served.bundle_pem(), expired.unwrap().bundle_pem()].concat();
    let spoilt = || Some(("7".to_owned(), Err(MaterialError::Missing("tls.key"))));

    // A replica that has just started knows the CA only from the configurations.
    let mut state = state();
    state.see_secret(None);
    let both = callers([&bundle, &served.bundle_pem()]);
    does(&mut state, &both, 60, &["issue over nothing, keeping 1"]);
    state.see_secret(spoilt());
    does(&mut state, &both, 60, &["issue over 7, keeping 1"]);

    // Until it has seen all of them, it does nothing.
    let mut unseen = CallersWriter::new([name(true), name(false)]);
    does(&mut state, &unseen.callers(), 60, &[]);
    unseen.see(&name(true), Some(configuration(&bundle)));
    does(&mut state, &unseen.callers(), 60, &[]);
    unseen.see(&name(false), None);
    let spoilt = "issue over 7, keeping 1";
    does(&mut state, &unseen.callers(), 60, &[spoilt]);

    // A replica that has read the Secret before knows the CA from that.
    let mut state = seen(&served);
    state.see_secret(None);
    let callers = callers([b"", b"garbage"]);
    does(&mut state, &callers, 60, &["issue over nothing, keeping 1"]);
}

#[test]
fn an_expired_ca_is_dropped() {
    let old = Material::issue(&[NAME.to_owned()], Duration::from_secs(90), at(0), vec![]).unwrap();
    let new = material(at(60), &old.bundle);
    let bundle = new.bundle_pem();
    let step = seen(&new).step(&callers([&bundle, &bundle]), at(80));
    assert_eq!(actions(&step), ["serve"]);
    assert_eq!(step.wake, Some(at(90)));
    let step = seen(&new).step(&callers([&bundle, &bundle]), at(90));
    assert_eq!(actions(&step), ["serve", "prune to 1"]);
}
