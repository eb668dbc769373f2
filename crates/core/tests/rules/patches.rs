//! The applier that this program's patches meet in review and in tests.

use serde_json::Value;

/// The cases of the json-patch-tests suite (Apache-2.0) whose operations are `add` and `replace`,
/// the only ones that this program sends.
const SUITE: &str = include_str!("json-patch-tests.json");

#[test]
fn the_applier_follows_rfc_6902() {
    let cases: Vec<Value> = serde_json::from_str(SUITE).unwrap();
    assert!(cases.len() > 50, "the suite is there");
    for case in cases {
        let mut doc = case["doc"].clone();
        let result = serde_json::from_value::<json_patch::Patch>(case["patch"].clone())
            .map_err(|error| error.to_string())
            .and_then(|patch| {
                json_patch::patch(&mut doc, &patch).map_err(|error| error.to_string())
            });
        match (case.get("expected"), result) {
            (Some(expected), Ok(())) => assert_eq!(&doc, expected, "{case}"),
            (Some(_), Err(error)) => panic!("{error}: {case}"),
            (None, Err(_)) => {}
            (None, Ok(())) => assert!(case.get("error").is_none(), "applied: {case}"),
        }
    }
}
