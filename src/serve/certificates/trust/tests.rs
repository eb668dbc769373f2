use super::super::verify::tests::{NAME, NOW, YEARS, authority, issued, key};
use super::*;

/// A mutating and a validating configuration, and the second one with these bundles.
fn two_callers(bundle: &str) -> (CallersWriter, impl Fn(&mut CallersWriter, Option<&[&str]>)) {
    let name = ConfigurationName::Mutating("gate".to_owned());
    let other = ConfigurationName::Validating("gate".to_owned());
    let mut callers = CallersWriter::new([name.clone(), other.clone()]);
    callers.see(&name, Some(configuration(&[bundle])));
    let see = move |callers: &mut CallersWriter, bundles: Option<&[&str]>| {
        callers.see(&other, bundles.map(configuration));
    };
    (callers, see)
}

fn configuration(bundles: &[&str]) -> Configuration {
    let webhook = |bundle: &&str| CallingWebhook {
        name: "w".to_owned(),
        server_name: NAME.to_owned(),
        ca_bundle: bundle.as_bytes().to_vec(),
    };
    Configuration {
        resource_version: "1".to_owned(),
        webhooks: bundles.iter().map(webhook).collect(),
    }
}

/// A new installation has no bundle yet. It must not seem to be complete.
#[test]
fn a_configuration_that_has_lost_its_bundle_counts_as_deleted() {
    let (ca, bundle) = authority("ca", key(), YEARS);
    let identity = issued(&ca, false);
    let now = NOW.parse().unwrap();
    let (mut callers, see) = two_callers(&bundle);
    let mut check = |bundles: Option<&[&str]>, expect: &str| {
        see(&mut callers, bundles);
        let why = callers.callers().accept(&identity, now).err();
        let why = why.map(|why| why.to_string()).unwrap_or_default();
        assert!(why.contains(expect), "{why}");
        assert_eq!(why.is_empty(), expect.is_empty(), "{why}");
    };
    check(Some(&[""]), "the caBundle of webhook w is empty");
    check(Some(&[&bundle, ""]), "");
    check(Some(&["", ""]), "");
    // A foreign one still refuses the certificate.
    check(Some(&["", "garbage"]), "the caBundle of webhook w holds no");
    check(None, "");
    check(Some(&[""]), "");
}
