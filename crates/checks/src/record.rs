//! Properties of any ConfigMap in the record's place.

use std::collections::BTreeMap;

use migration_gate_core::record::{HISTORY, Record, RecordPatch, Write, next_write};
use serde_json::{Map, Value, json};

/// Checks the record's data if the text is a JSON object of strings, else an entry with this text,
/// under several keys.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    let data = match serde_json::from_str(&text) {
        Ok(Value::Object(data)) if data.values().all(Value::is_string) => data,
        _ => ["1.2.0", "latest", "-forgotten", "sha256.ab"]
            .iter()
            .map(|key| ((*key).to_owned(), Value::from(text.clone())))
            .collect(),
    };
    let mut map = json!({"metadata": {"resourceVersion": "7"}, "data": data});
    let first = read(&map);
    for key in data.keys().filter(|key| *key != "-forgotten") {
        let (good, bad) = (
            first.entries.contains_key(key),
            first.corrupt.contains_key(key),
        );
        assert!(good != bad, "{key}: {first:?}");
    }
    for (key, entry) in &first.entries {
        // An entry reads as it was written, under the key that it was written to.
        let written = json!({"data": {key: entry.to_value()}});
        assert_eq!(read(&written).entries.get(key), Some(entry), "{written}");
    }
    // A writer removes corrupt entries, keeps as many good ones as there is room for, and then
    // writes nothing more.
    let mut rests = false;
    for _ in 0..3 {
        let record = read(&map);
        match next_write(Some(&record), &mut BTreeMap::new(), HISTORY) {
            None => rests = true,
            Some(Write::Patch(patch @ RecordPatch::Remove { .. })) => {
                json_patch::merge(&mut map, &patch.body());
                assert!(Write::Patch(patch).shows_in(&read(&map)));
            }
            Some(other) => panic!("nothing is missing: {other:?}"),
        }
    }
    assert!(rests, "{map}");
    let last = read(&map);
    assert!(last.corrupt.is_empty(), "{last:?}");
    if first.entries.len() <= HISTORY {
        assert_eq!(last.entries, first.entries);
    }
}

/// The record as the API server would send it, without null values.
fn read(map: &Value) -> Record {
    let mut map = map.clone();
    for field in ["data", "binaryData"] {
        if let Some(Value::Object(members)) = map.get_mut(field) {
            let kept: Map<_, _> = std::mem::take(members)
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect();
            *members = kept;
        }
    }
    serde_json::from_value(map).expect("any ConfigMap can be read")
}
