use proptest::prelude::*;

use jiff::Timestamp;

use super::entry::{ENTRY_LIMIT, is_key};
use super::*;
use crate::gates::Gate;
use crate::job::Job;

/// The entry of a Job with one container that completed at `second`.
fn entry(image: &str, second: i64) -> Entry {
    let time = Timestamp::from_second(second).expect("a time");
    let job = job(
        &format!("u{second}"),
        &format!("migrate={image}"),
        &complete(time),
    );
    Entry::of(&job, None, time).expect("an entry")
}

/// A Job `db-init` with containers `name=image`.
fn job(uid: &str, containers: &str, status: &Value) -> Job {
    serde_json::from_value(json!({
        "metadata": {"name": "db-init", "uid": uid},
        "spec": {"template": template(containers)}, "status": status,
    }))
    .expect("a Job")
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

/// The version that a gate wants, by the label `v`.
fn labelled(value: &str) -> Wanted {
    let gate = gate(&json!({"version": {"label": "v"}}));
    Wanted::of(&gate, &json!({"metadata": {"labels": {"v": value}}})).expect("a version")
}

fn relation(record: &Record, wanted: &Wanted) -> Option<Relation> {
    find(record, wanted).map(|(_, relation)| relation)
}

fn read(object: &Value) -> Record {
    serde_json::from_value(object.clone()).expect("a record")
}

/// Checks that a record has no corrupt entries.
fn sound(record: Record) -> Record {
    assert_eq!(record.corrupt, BTreeMap::new());
    record
}

fn record(version: &str, data: &Value) -> Record {
    read(&json!({"metadata": {"resourceVersion": version}, "data": data}))
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

fn remove(keys: &[&str]) -> Write {
    Write::Patch(RecordPatch::Remove {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        resource_version: "7".into(),
    })
}

/// Applies a write as the API server does.
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
    let job = |status: Value| job("u", "c=a/init:2", &status);
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
    // A Job with `completions: 0` has completed nothing.
    let mut empty = job(json!({}));
    empty.state = crate::job::JobState::Empty;
    assert_eq!(Entry::of(&empty, None, now), None);
    // A Job without an image does not count either.
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
    check("2", timeless, "does not say when it completed");
    check("2", &good.replace("1970", "x"), "year");
    let long = format!("{good}{}", " ".repeat(ENTRY_LIMIT));
    check("2", &long, "bytes long");
    let record = record("7", &json!({"2": good}));
    assert_eq!(record.corrupt, BTreeMap::new());
    let found = (&entry("init:2", 1), Relation::Same);
    assert_eq!(find(&record, &wanted("web=web:2")), Some(found));
    assert_eq!(find(&record, &wanted("web=web:3")), None);
}

#[test]
fn a_record_without_data_is_empty() {
    for object in [json!({}), json!({"data": null}), json!({"data": {}})] {
        assert_eq!(read(&object), Record::default());
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
    let write = next_write(None, &mut both, 9);
    assert_eq!(write, Some(Write::Create(data(&[&one, &two]))));
    let write = next_write(Some(&of(std::slice::from_ref(&one))), &mut both, 9);
    let put = RecordPatch::Put(data(&[&two]));
    assert_eq!(write, Some(Write::Patch(put)));
    let left = completed(std::slice::from_ref(&two));
    assert_eq!(both, left, "what is known is dropped");
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
    // Corrupt keys may leave no room for a completion, so they are removed first.
    let known = read(&json!({
        "metadata": {"resourceVersion": "7"},
        "data": {"1": "x", "2": "y", "4": entry("a:4", 1).to_value()},
        "binaryData": {"3": "eA=="},
    }));
    let mut one = completed(&[entry("a:1", 1)]);
    let Some(Write::Patch(write)) = next_write(Some(&known), &mut one, 9) else {
        panic!("no patch");
    };
    let keys = json!({"1": null, "2": null, "3": null});
    let body = json!({"metadata": {"resourceVersion": "7"}, "data": keys, "binaryData": keys});
    assert_eq!(write.body(), body);
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
    let remove = |key| remove(&[key]);
    let known = record("7", &json!({"1": entry("a:1", 1).to_value(), "2": "x"}));
    assert!(remove("3").shows_in(&known));
    assert!(!remove("1").shows_in(&known) && !remove("2").shows_in(&known));
}

#[test]
fn an_immutable_record_says_so() {
    assert!(read(&json!({"immutable": true})).immutable);
    assert!(!read(&json!({"immutable": null})).immutable);
}

#[test]
fn the_oldest_go_when_there_are_too_many() {
    let known = of(&[entry("a:1", 3), entry("a:2", 1), entry("a:3", 2)]);
    let mut none = BTreeMap::new();
    let write = next_write(Some(&known), &mut none, 1);
    assert_eq!(write, Some(remove(&["2", "3"])));
    // A completion that is older than all entries of a full record is not added.
    let mut ancient = completed(&[entry("a:4", 0)]);
    assert_eq!(next_write(Some(&known), &mut ancient, 3), None);
    assert_eq!(ancient, BTreeMap::new());
}

/// An entry as releases up to 0.1 read it: its image, if they use it.
fn as_of_0_1(key: &str, value: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Old {
        image: String,
        #[allow(dead_code, reason = "it must be there")]
        job: String,
        #[allow(dead_code, reason = "it must be there")]
        uid: String,
        #[allow(dead_code, reason = "it must be there")]
        completed: Timestamp,
    }
    let old: Old = serde_json::from_str(value).ok()?;
    let version = crate::image::Reference::of(&old.image).version();
    (value.len() <= 2048 && version.replace(':', ".") == key).then_some(old.image)
}

/// Replicas and waiters of the last release read the entries of this one.
#[test]
fn what_is_written_is_read_by_the_last_release() {
    for image in "a/init:2 a/init a/init@sha256:ab r:5000/a/init:1.2_x".split(' ') {
        let entry = entry(image, 1);
        let read = as_of_0_1(&entry.key(), &entry.to_value());
        assert_eq!(read.as_deref(), Some(image));
    }
    // The last release ignores entries that it cannot express, and does not remove them.
    let several = of_containers("proxy=proxy:8 migrate=shop:2", &json!({}));
    let pinned = entry("shop:main@sha256:ab", 1);
    let mut second = entry("shop:2", 1);
    second.requirement = Some("migrate".into());
    let mut labelled = entry("shop:2", 1);
    let Recorded::Contents(contents) = &mut labelled.version else {
        panic!("{labelled:?}");
    };
    contents.metadata = vec![("labels", "v".into(), "7".into())];
    for entry in [several, pinned, second, labelled] {
        let image = as_of_0_1(&entry.key(), &entry.to_value()).expect("an entry");
        assert!(image.starts_with("see-containers:"), "{image}");
        let known = of(std::slice::from_ref(&entry));
        assert_eq!(known.entries.get(&entry.key()), Some(&entry));
    }
    let done = done("2");
    let image = as_of_0_1(&done.key(), &done.to_value());
    assert_eq!(image.as_deref(), Some("by-hand:2"));
    let uids = ["u".to_owned()].into();
    let write = forget(None, &BTreeSet::new(), &uids, &uids);
    let Ok(Some(Write::Create(data))) = write else {
        panic!("{write:?}");
    };
    for (key, value) in &data {
        assert!(as_of_0_1(key, value).is_some(), "{key} {value}");
    }
}

/// The entry of a Job with these containers that completed in 1970.
fn of_containers(containers: &str, metadata: &Value) -> Entry {
    let mut object = json!({"metadata": {"name": "db-init", "uid": "u"}});
    object["spec"]["template"] = template(containers);
    object["status"] = complete(Timestamp::UNIX_EPOCH);
    json_patch::merge(&mut object["metadata"], metadata);
    let job: Job = serde_json::from_value(object).expect("a Job");
    let source = crate::gates::VersionSource::Label("v".into());
    Entry::of(&job, Some(&source), Timestamp::UNIX_EPOCH).expect("an entry")
}

/// A version that was recorded by hand.
fn done(word: &str) -> Entry {
    Entry {
        version: Recorded::Word(word.into()),
        job: String::new(),
        uid: String::new(),
        completed: Timestamp::UNIX_EPOCH,
        took: None,
        requirement: None,
    }
}

/// A record of the last release.
fn legacy(image: &str) -> Record {
    let key = crate::image::Reference::of(image).version();
    let value = format!(
        r#"{{"image":"{image}","job":"db-init","uid":"u","completed":"2026-01-02T03:04:05Z"}}"#
    );
    sound(record("7", &json!({ key.replace(':', "."): value })))
}

#[test]
fn an_entry_of_the_last_release_opens_where_one_image_alone_can_count() {
    let check = |image: &str, wanted: &Wanted, expect: Option<Relation>| {
        let found = relation(&legacy(image), wanted);
        assert_eq!(found, expect, "{image} {wanted:?}");
    };
    let (same, moving) = (Some(Relation::Same), Some(Relation::Moving));
    check("a/init:2", &wanted("web=web:2"), same);
    check("a/init:1", &wanted("web=web:2"), None);
    check("a/init:main", &wanted("web=web:main"), moving);
    check("a/init", &wanted("web=web"), moving);
    check("a/init@sha256:ab", &wanted("web=web@sha256:ab"), same);
    check("web:2@sha256:ab", &wanted("web=web:2@sha256:cd"), None);
    check("web:2@sha256:ab", &wanted("web=web:2"), same);
    check("shop:2", &wanted("web=shop:2 assets=shop:2"), same);
    // The entry's image may be a proxy's.
    check("proxy:8", &wanted("proxy=proxy:8 web=shop:2"), None);
    check("shop:2", &wanted("web=shop:2 proxy=proxy:8"), None);
    let named = gate(&json!({"container": "web"}));
    let template_of = template("proxy=proxy:8 web=shop:2");
    let named = Wanted::of(&named, &template_of).expect("a version");
    check("shop:2", &named, same);
    check("proxy:8", &named, None);
    let mut annotated = template_of;
    annotated["metadata"] = json!({"annotations": {crate::podspec::DEFAULT_CONTAINER: "web"}});
    let annotated = Wanted::of(&gate(&json!({})), &annotated).expect("a version");
    check("shop:2", &annotated, same);
    check("proxy:8", &annotated, None);
    check("a/init:1", &Wanted::Any, moving);
    // The entry has no labels.
    check("a/init:2", &labelled("2"), None);
}

#[test]
fn an_entry_says_everything_that_was_compared() {
    let opens = |entry: &Entry, pod: &str| {
        let record = sound(of(std::slice::from_ref(entry)));
        relation(&record, &wanted(pod)) == Some(Relation::Same)
    };
    let entry = of_containers("proxy=proxy:8 migrate=shop:2", &json!({}));
    assert!(opens(&entry, "proxy=proxy:8 web=shop:2"));
    assert!(opens(&entry, "web=shop:2"));
    assert!(!opens(&entry, "proxy=proxy:8 web=shop:3"));
    assert!(!opens(&entry, "proxy=proxy:7 web=shop:2"));
    // Another version has another key.
    let other = of_containers("proxy=proxy:8 migrate=shop:3", &json!({}));
    assert_ne!(entry.key(), other.key());
    let pinned = of_containers("migrate=shop:main@sha256:ab", &json!({}));
    assert!(opens(&pinned, "web=shop:main@sha256:ab"));
    assert!(!opens(&pinned, "web=shop:main@sha256:cd"));
    // A label's value, if the gate uses it.
    let entry = of_containers("migrate=tool:1", &json!({"labels": {"v": "7", "w": "x"}}));
    let record = of(std::slice::from_ref(&entry));
    assert_eq!(relation(&record, &labelled("7")), Some(Relation::Same));
    assert_eq!(relation(&record, &labelled("8")), None);
    let written: Value = serde_json::from_str(&entry.to_value()).expect("JSON");
    assert_eq!(written["labels"], json!({"v": "7"}), "no other label");
}

#[test]
fn what_was_done_by_hand_opens_for_every_job_of_the_gate() {
    let record = sound(of(&[done("2"), done("sha256:ab"), done("main")]));
    assert_eq!(record.entries.len(), 3);
    let check = |wanted: &Wanted, expect: Option<Relation>| {
        for (requirement, several) in [("db-init", false), ("another", true)] {
            let requirement = Requirement::parse(requirement).expect("a name");
            let found = record.find(wanted, &requirement, several);
            assert_eq!(found.map(|(_, r)| r), expect, "{wanted:?}");
        }
    };
    let same = Some(Relation::Same);
    check(&wanted("web=web:2"), same);
    check(&wanted("web=web:2 worker=worker:2"), same);
    check(&wanted("web=web:2@sha256:cd"), same);
    check(&wanted("web=web@sha256:ab"), same);
    check(&wanted("web=web:3"), None);
    check(&wanted("web=web:main"), Some(Relation::Moving));
    // `main` with another digest is another version.
    check(&wanted("web=web:main@sha256:cd"), None);
    let pinned = wanted("web=web:main@sha256:cd");
    assert_eq!(pinned.word(), Some("sha256:cd"));
    assert_eq!(wanted("web=web:2@sha256:cd").word(), Some("2"));
    check(&Wanted::Any, Some(Relation::Moving));
    // The word may be a proxy's tag.
    for pod in ["proxy=proxy:2 web=shop:3", "web=shop:3 proxy=proxy:2"] {
        check(&wanted(pod), None);
        assert_eq!(wanted(pod).word(), None);
    }
    assert_eq!(wanted("web=web:2 worker=worker:2").word(), Some("2"));
    check(&labelled("2"), same);
}

#[test]
fn an_entry_is_of_the_requirement_that_it_says() {
    let mut entry = entry("shop:2", 1);
    let check = |entry: &Entry, requirement: &str, several: bool, expect: bool| {
        let record = of(std::slice::from_ref(entry));
        let requirement = Requirement::parse(requirement).expect("a requirement");
        let found = record.find(&wanted("web=shop:2"), &requirement, several);
        assert_eq!(found.is_some(), expect, "{requirement} {several}");
    };
    // If the gate has one requirement, the entry is of that one, even if its name has changed.
    check(&entry, "renamed", false, true);
    // If it has several, the entry's Job name decides.
    check(&entry, "db-init", true, true);
    check(&entry, "db-*", true, true);
    check(&entry, "x|db-init", true, true);
    check(&entry, "renamed", true, false);
    check(&entry, "label:a=b", true, false);
    entry.requirement = Some("label:a=b".into());
    check(&entry, "label:a=b", true, true);
    check(&entry, "db-init", true, false);
}

#[test]
fn of_two_that_speak_the_surer_one_does_then_the_later_one() {
    let record = of(&[entry("shop:main", 9), entry("shop:main@sha256:ab", 1)]);
    let pinned = wanted("web=shop:main@sha256:ab");
    let (found, relation) = find(&record, &pinned).expect("an entry");
    assert_eq!((found.completed.as_second(), relation), (1, Relation::Same));
    let record = of(&[entry("shop@sha256:ab", 2), entry("shop:1@sha256:ab", 3)]);
    let (found, _) = find(&record, &wanted("web=shop@sha256:ab")).expect("an entry");
    assert_eq!(found.completed.as_second(), 3);
}

#[test]
fn what_is_forgotten_is_removed_and_stays_so() {
    type Set = BTreeSet<String>;
    let known = of(&[entry("a:1", 1), entry("a:2", 2)]);
    let keys = |keys: &[&str]| -> Set { keys.iter().map(|k| (*k).into()).collect() };
    let forget = |record: Option<&Record>, keys: &Set, uids: &Set| {
        forget(record, keys, uids, uids).expect("room")
    };
    assert_eq!(forget(Some(&known), &keys(&[]), &keys(&[])), None);
    assert_eq!(forget(None, &keys(&[]), &keys(&[])), None);
    let write = forget(Some(&known), &keys(&["2"]), &keys(&["other"])).expect("a write");
    assert!(!write.shows_in(&known));
    let Write::Patch(RecordPatch::Forget {
        resource_version, ..
    }) = &write
    else {
        panic!("{write:?}");
    };
    assert_eq!(resource_version, "7", "only if nothing has changed");
    let mut object = json!({"metadata": {"resourceVersion": "7"}, "data": {
        "1": entry("a:1", 1).to_value(), "2": entry("a:2", 2).to_value(),
    }});
    apply(&mut object, &write);
    let after = sound(read(&object));
    assert!(write.shows_in(&after));
    assert_eq!(after.entries.keys().collect::<Vec<_>>(), ["1"]);
    assert!(after.has_forgotten("u2") && after.has_forgotten("other"));
    // Its complete Job still exists, and is not recorded again.
    let mut again = completed(&[entry("a:2", 2)]);
    assert_eq!(next_write(Some(&after), &mut again, 9), None);
    assert_eq!(again, BTreeMap::new());
    // A replica that has not seen the removal yet may record it again. That entry does not count,
    // and is removed.
    let mut late = object.clone();
    let data = [("2".to_owned(), entry("a:2", 2).to_value())].into();
    apply(&mut late, &Write::Patch(RecordPatch::Put(data)));
    let late = read(&late);
    assert_eq!(find(&late, &wanted("web=a:2")), None);
    let write = next_write(Some(&late), &mut BTreeMap::new(), 9);
    assert!(matches!(write, Some(Write::Patch(RecordPatch::Remove { keys, .. })) if keys == ["2"]));
    // A later Job is recorded.
    let mut later = completed(&[entry("a:2", 3)]);
    let write = next_write(Some(&after), &mut later, 9).expect("a write");
    apply(&mut object, &write);
    let record = read(&object);
    assert!(find(&record, &wanted("web=a:2")).is_some());
    assert!(record.has_forgotten("u2"), "and the first stays forgotten");

    // Without a record, the existing Jobs are forgotten all the same.
    let write = forget(None, &keys(&[]), &keys(&["u"])).expect("a write");
    let mut object = Value::Null;
    apply(&mut object, &write);
    let record = read(&object);
    assert!(record.has_forgotten("u") && record.corrupt.is_empty());
    assert!(write.shows_in(&record) && !write.shows_in(&Record::default()));
}

/// The record's data after `record forget` of all entries and these Jobs.
fn all_forgotten(known: &Record, uids: &[&str], there: &[&str]) -> Record {
    let set = |uids: &[&str]| uids.iter().map(|uid| (*uid).to_owned()).collect();
    let keys = known.entries.keys().cloned().collect();
    let write = forget(Some(known), &keys, &set(uids), &set(there));
    let mut object = json!({"metadata": {"resourceVersion": "7"}, "data": {}});
    apply(&mut object, &write.expect("room").expect("a write"));
    sound(read(&object))
}

/// Only its uid keeps a Job that exists from being recorded again, and from opening a waiter.
#[test]
fn a_job_that_exists_stays_forgotten_however_many_are_forgotten() {
    let entries: Vec<_> = (0..100).map(|i| entry(&format!("a:{i:03}"), i)).collect();
    let mut known = of(&entries);
    known.forgotten = vec!["first".into(), "gone".into()];
    // The Job of `first` was forgotten before.
    let after = all_forgotten(&known, &["u0"], &["u0", "first"]);
    assert!(after.has_forgotten("u0") && after.has_forgotten("first"));
    // The number of those whose Jobs are gone is limited.
    assert_eq!(after.forgotten.len(), 64);
    assert!(!after.has_forgotten("gone"));
    let many: Vec<String> = (0..90).map(|i| format!("{i:036}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let after = all_forgotten(&known, &many, &many);
    assert_eq!(after.forgotten, many);
}

#[test]
fn more_jobs_that_exist_than_the_record_can_hold_are_not_forgotten() {
    let many: BTreeSet<String> = (0..110).map(|i| format!("{i:036}")).collect();
    let none = BTreeSet::new();
    assert_eq!(forget(None, &none, &many, &many), Err(TooManyForgotten));
}

#[test]
fn what_is_forgotten_in_no_known_way_is_reported() {
    for value in ["", "[]", "x", r#"{"forgotten":[]}"#] {
        let record = record("7", &json!({"-forgotten": value}));
        assert_eq!(record.forgotten, Vec::<String>::new());
        assert!(record.corrupt.contains_key("-forgotten"), "{value}");
    }
}

#[test]
fn a_person_calls_a_version_by_its_image_tag_digest_or_label() {
    let check = |entry: &Entry, words: &[&str], others: &[&str]| {
        for word in words {
            assert!(entry.version.is_called(word), "{word}");
        }
        for word in others {
            assert!(!entry.version.is_called(word), "{word}");
        }
    };
    let pinned = entry("a/shop:2@sha256:ab", 1);
    let names = ["2", "sha256:ab", "a/shop:2@sha256:ab"];
    check(&pinned, &names, &["shop", "a", "", "1"]);
    let labelled = of_containers("m=shop:2", &json!({"labels": {"v": "7"}}));
    check(&labelled, &["2", "7"], &["v"]);
    check(&done("2"), &["2"], &["by-hand:2"]);
}

#[test]
fn the_record_is_kept_out_of_backups() {
    let put = RecordPatch::Put(BTreeMap::new()).body();
    let label = "velero.io/exclude-from-backup";
    assert_eq!(put["metadata"]["labels"][label], "true");
    assert_eq!(labels()[label], "true");
}

proptest! {
    /// Every written entry can be read.
    #[test]
    fn an_entry_is_read_as_it_was_written(
        images in proptest::collection::vec("[a-z]{1,3}(:[a-z0-9_][a-z0-9._-]{0,4})?(@sha256:[a-f0-9]{2})?", 1..4),
        label in proptest::option::of("[a-z0-9]{0,4}"),
        requirement in proptest::option::of("[a-z*|]{1,4}"),
    ) {
        let containers: Vec<String> =
            images.iter().enumerate().map(|(i, image)| format!("c{i}={image}")).collect();
        let labels = label.map_or(json!({}), |value| json!({"labels": {"v": value}}));
        let mut entry = of_containers(&containers.join(" "), &labels);
        entry.requirement = requirement;
        let (key, value) = (entry.key(), entry.to_value());
        prop_assert!(is_key(&key), "{}", key);
        let record = record("7", &json!({ &key: &value }));
        prop_assert_eq!(record.entries.get(&key), Some(&entry));
        prop_assert!(as_of_0_1(&key, &value).is_some(), "{} {}", key, value);
    }

    /// Any number of writers decide by any earlier state of the record. When they are done, the
    /// record has all of the newest completions.
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
            (!object.is_null()).then(|| read(object))
        };
        let mut writers = [completed(&all), completed(&all)];
        let mut stale = view(&object);
        for (index, refresh) in order {
            let writer = &mut writers[index.index(2)];
            if refresh {
                stale = view(&object);
            }
            match next_write(stale.as_ref(), writer, limit) {
                // The API server refuses these writes if the writer's state is old.
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
