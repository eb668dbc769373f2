use proptest::prelude::*;

use jiff::Timestamp;

use super::entry::{ENTRY_LIMIT, is_key};
use super::*;
use crate::gates::Gate;
use crate::job::Job;

/// What a Job with one container completed at that second.
fn entry(image: &str, second: i64) -> Entry {
    let time = Timestamp::from_second(second).expect("a time");
    let job: Job = serde_json::from_value(json!({
        "metadata": {"name": "db-init", "uid": format!("u{second}")},
        "spec": {"template": {"spec": {"containers": [{"name": "migrate", "image": image}]}}},
        "status": complete(time),
    }))
    .expect("a Job");
    Entry::of(&job, None, time).expect("an entry")
}

fn complete(time: Timestamp) -> Value {
    json!({"conditions": [{"type": "Complete", "status": "True"}], "completionTime": time})
}

fn gate(settings: &Value) -> Gate {
    let mut gate = json!({"name": "g", "namespace": "n", "job": "db-init", "serviceAccount": "s"});
    json_patch::merge(&mut gate, settings);
    serde_json::from_value(gate).expect("a gate")
}

/// A pod template with containers `name=image`.
fn template(containers: &str) -> Value {
    let containers: Value = containers
        .split_whitespace()
        .map(|container| {
            let (name, image) = container.split_once('=').expect("name=image");
            json!({"name": name, "image": image})
        })
        .collect();
    json!({"spec": {"containers": containers}})
}

fn wanted(containers: &str) -> Wanted {
    Wanted::of(&gate(&json!({})), &template(containers)).expect("a version")
}

fn requirement() -> Requirement {
    Requirement::parse("db-init").expect("a name")
}

fn find<'r>(record: &'r Record, wanted: &Wanted) -> Option<(&'r Entry, Relation)> {
    record.find(wanted, &requirement(), false)
}

fn record(version: &str, data: &Value) -> Record {
    serde_json::from_value(json!({"metadata": {"resourceVersion": version}, "data": data}))
        .expect("a record")
}

fn of(entries: &[Entry]) -> Record {
    let data: Map<_, _> = entries
        .iter()
        .map(|entry| (entry.key(), entry.to_value().into()))
        .collect();
    record("7", &data.into())
}

fn completed(entries: &[Entry]) -> BTreeMap<String, Entry> {
    entries.iter().map(|e| (e.key(), e.clone())).collect()
}

/// What the API server does with a write.
fn apply(data: &mut Value, write: &Write) {
    match write {
        Write::Create(entries) => {
            assert!(data.is_null());
            *data = json!({ "data": entries });
        }
        Write::Patch(patch) => json_patch::merge(data, &patch.body()),
    }
}

#[test]
fn an_entry_is_what_a_complete_job_says() {
    let job = |status: Value| -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "db-init", "uid": "u"},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "a/init:2"}]}}},
            "status": status,
        }))
        .expect("a Job")
    };
    let now = Timestamp::UNIX_EPOCH;
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}],
                          "startTime": "2026-01-02T03:03:00Z",
                          "completionTime": "2026-01-02T03:04:05Z"});
    let entry = Entry::of(&job(complete), None, now).expect("an entry");
    assert_eq!(entry.key(), "2");
    assert_eq!(
        entry.to_value(),
        r#"{"image":"a/init:2","job":"db-init","uid":"u","completed":"2026-01-02T03:04:05Z","took":65,"containers":[["c","a/init:2"]],"defaultContainer":"c"}"#
    );
    let without_time = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let entry = Entry::of(&job(without_time), None, now).expect("an entry");
    assert_eq!((entry.completed, entry.took), (now, None));
    for kind in ["Failed", "SuccessCriteriaMet"] {
        let status = json!({"conditions": [{"type": kind, "status": "True"}]});
        assert_eq!(Entry::of(&job(status), None, now), None);
    }
    // What asked for no completions completed nothing.
    let mut empty = job(json!({}));
    empty.state = crate::job::JobState::Empty;
    assert_eq!(Entry::of(&empty, None, now), None);
    // Nor does a Job count that doesn't say what it ran.
    let mut nameless = job(json!({"conditions": [{"type": "Complete", "status": "True"}]}));
    nameless.contents = crate::version::Contents::default();
    assert_eq!(Entry::of(&nameless, None, now), None);
}

#[test]
fn a_key_is_the_version_as_a_config_map_can_spell_it() {
    let check = |image: &str, expect: &str| assert_eq!(entry(image, 0).key(), expect);
    check("a/init:1.2.0_x-y", "1.2.0_x-y");
    check("a/init@sha256:ab", "sha256.ab");
    check("a/init:latest", "latest");
    check("a/init", "latest");
    assert!(is_key("1.2.0_x-y") && is_key(&"a".repeat(253)));
    assert!(!is_key("") && !is_key(".") && !is_key("..a") && !is_key("a/b") && !is_key("ä"));
    assert!(!is_key(&"a".repeat(254)));
}

#[test]
fn only_an_entry_that_agrees_with_its_key_is_obeyed() {
    let good = entry("init:2", 1).to_value();
    let check = |key: &str, value: &str, cause: &str| {
        let record = record("7", &json!({ key: value }));
        assert!(record.entries.is_empty(), "{key} {value}");
        assert!(record.corrupt[key].contains(cause), "{:?}", record.corrupt);
    };
    check("3", &good, "its image `init:2` is of version `2`");
    check("latest", &good, "of version `2`");
    check("2", "", "EOF");
    check("2", "true", "invalid type");
    check("2", r#"{"image":"init:2"}"#, "missing field");
    let timeless = r#"{"image":"init:2","job":"j","uid":"u"}"#;
    check("2", timeless, "doesn't say when it completed");
    check("2", &good.replace("1970", "x"), "year");
    let long = format!("{good}{}", " ".repeat(ENTRY_LIMIT));
    check("2", &long, "bytes long");
    let record = record("7", &json!({"2": good}));
    assert_eq!(record.corrupt, BTreeMap::new());
    assert_eq!(
        find(&record, &wanted("web=web:2")),
        Some((&entry("init:2", 1), Relation::Same))
    );
    assert_eq!(find(&record, &wanted("web=web:3")), None);
}

#[test]
fn a_record_without_data_is_empty() {
    for object in [json!({}), json!({"data": null}), json!({"data": {}})] {
        let record: Record = serde_json::from_value(object).expect("a record");
        assert_eq!(record, Record::default());
    }
}

#[test]
fn what_is_missing_is_written_and_nothing_else() {
    let (one, two) = (entry("a:1", 1), entry("a:2", 2));
    let data = |entries: &[&Entry]| -> BTreeMap<_, _> {
        entries.iter().map(|e| (e.key(), e.to_value())).collect()
    };
    let mut none = BTreeMap::new();
    assert_eq!(next_write(None, &mut none, 9), None);
    let mut both = completed(&[one.clone(), two.clone()]);
    assert_eq!(
        next_write(None, &mut both, 9),
        Some(Write::Create(data(&[&one, &two])))
    );
    let known = of(std::slice::from_ref(&one));
    assert_eq!(
        next_write(Some(&known), &mut both, 9),
        Some(Write::Patch(RecordPatch::Put(data(&[&two]))))
    );
    assert_eq!(
        both,
        completed(std::slice::from_ref(&two)),
        "what is known is dropped"
    );
    assert_eq!(next_write(Some(&of(&[one, two])), &mut both, 9), None);
}

#[test]
fn a_newer_completion_of_the_version_takes_the_older_ones_place() {
    let known = of(&[entry("a:1", 5)]);
    let mut older = completed(&[entry("a:1", 4)]);
    assert_eq!(next_write(Some(&known), &mut older, 9), None);
    let mut newer = completed(&[entry("a:1", 6)]);
    assert!(matches!(
        next_write(Some(&known), &mut newer, 9),
        Some(Write::Patch(RecordPatch::Put(_)))
    ));
}

#[test]
fn corrupt_entries_are_removed_before_anything_is_added() {
    // They may leave no room for it.
    let known: Record = serde_json::from_value(json!({
        "metadata": {"resourceVersion": "7"},
        "data": {"1": "x", "2": "y", "4": entry("a:4", 1).to_value()},
        "binaryData": {"3": "eA=="},
    }))
    .expect("a record");
    let mut one = completed(&[entry("a:1", 1)]);
    let Some(Write::Patch(write)) = next_write(Some(&known), &mut one, 9) else {
        panic!("no patch");
    };
    let keys = json!({"1": null, "2": null, "3": null});
    assert_eq!(
        write.body(),
        json!({"metadata": {"resourceVersion": "7"}, "data": keys, "binaryData": keys})
    );
    let known = of(&[entry("a:4", 1)]);
    let Some(Write::Patch(RecordPatch::Put(data))) = next_write(Some(&known), &mut one, 9) else {
        panic!("not replaced");
    };
    assert_eq!(data.keys().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn a_write_shows_or_does_not() {
    let put = |entries: &[Entry]| {
        let data = entries.iter().map(|e| (e.key(), e.to_value())).collect();
        Write::Patch(RecordPatch::Put(data))
    };
    let known = of(&[entry("a:1", 5)]);
    assert!(put(&[entry("a:1", 5)]).shows_in(&known));
    assert!(put(&[entry("a:1", 4)]).shows_in(&known), "something newer");
    assert!(!put(&[entry("a:1", 6)]).shows_in(&known));
    assert!(!put(&[entry("a:1", 5), entry("a:2", 5)]).shows_in(&known));
    let remove = |key: &str| {
        Write::Patch(RecordPatch::Remove {
            keys: vec![key.to_owned()],
            resource_version: "7".into(),
        })
    };
    let known = record("7", &json!({"1": entry("a:1", 1).to_value(), "2": "x"}));
    assert!(remove("3").shows_in(&known));
    assert!(!remove("1").shows_in(&known) && !remove("2").shows_in(&known));
}

#[test]
fn an_immutable_record_says_so() {
    let immutable = |object: Value| -> bool {
        let record: Record = serde_json::from_value(object).expect("a record");
        record.immutable
    };
    assert!(immutable(json!({"immutable": true})));
    assert!(!immutable(json!({"immutable": null})));
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let known = of(&[entry("a:1", 3), entry("a:2", 1), entry("a:3", 2)]);
    let mut none = BTreeMap::new();
    assert_eq!(
        next_write(Some(&known), &mut none, 1),
        Some(Write::Patch(RecordPatch::Remove {
            keys: vec!["2".into(), "3".into()],
            resource_version: "7".into(),
        }))
    );
    // A full record is not made to forget and relearn what is older than all of it.
    let mut ancient = completed(&[entry("a:4", 0)]);
    assert_eq!(next_write(Some(&known), &mut ancient, 3), None);
    assert_eq!(ancient, BTreeMap::new());
}

proptest! {
    /// Any number of writers, whatever each of them saw of the record when it decided: once they
    /// are done, every one of the newest completions is there.
    #[test]
    fn writers_converge_and_lose_nothing(
        seconds in proptest::collection::btree_set(0_i64..1000, 1..20),
        order in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..60),
        limit in 1_usize..12,
        garbage in any::<bool>(),
    ) {
        let all: Vec<_> = seconds.iter().map(|s| entry(&format!("a:{s}"), *s)).collect();
        let mut object = if garbage { json!({"data": {"999999": "?"}}) } else { Value::Null };
        let view = |object: &Value| -> Option<Record> {
            (!object.is_null()).then(|| serde_json::from_value(object.clone()).expect("a record"))
        };
        let mut writers = [completed(&all), completed(&all)];
        let mut stale = view(&object);
        for (index, refresh) in order {
            let writer = &mut writers[index.index(2)];
            if refresh {
                stale = view(&object);
            }
            match next_write(stale.as_ref(), writer, limit) {
                // The API server refuses these when the writer is behind.
                Some(Write::Create(_)) if !object.is_null() => {}
                Some(Write::Patch(RecordPatch::Remove { .. })) if stale != view(&object) => {}
                Some(write) => apply(&mut object, &write),
                None => {}
            }
        }
        for writer in &mut writers {
            let mut steps = 0;
            while let Some(write) = next_write(view(&object).as_ref(), writer, limit) {
                apply(&mut object, &write);
                steps += 1;
                prop_assert!(steps < 10, "it never ends");
            }
        }
        let record = view(&object).expect("a record");
        prop_assert!(record.corrupt.is_empty());
        prop_assert_eq!(record.entries.len(), all.len().min(limit));
        for newest in all.iter().rev().take(limit) {
            prop_assert_eq!(record.entries.get(&newest.key()), Some(newest));
        }
    }
}
