//! The record: the completions of a gate's Jobs, which outlive the Jobs.
//!
//! It is a ConfigMap with one key for each version. So writers that add different versions never
//! change the same field, and a merge patch of one key adds a version. A value is used only if its
//! version is that of its key. Other values are reported, and `serve` removes them.

mod entry;

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::entry::ENTRY_LIMIT;
pub use self::entry::{Entry, Recorded};
use super::gates::Requirement;
use super::image::Relation;
use super::version::Wanted;

/// Maximum number of versions in a record. A version takes about 300 bytes, and a ConfigMap holds 1
/// MiB.
pub const HISTORY: usize = 250;

/// The key with the forgotten completions. No version starts with `-`.
pub const FORGOTTEN: &str = "-forgotten";

/// The value of that key. Releases up to 0.1 remove keys that are not entries, and may run beside
/// this one. So the value is an entry, of a version that no pod has.
#[derive(Serialize, Deserialize)]
struct Tombstones {
    image: String,
    job: String,
    uid: String,
    completed: Timestamp,
    forgotten: Vec<String>,
}

impl Tombstones {
    fn to_value(forgotten: &[String]) -> String {
        let written = Self {
            image: format!("none:{FORGOTTEN}"),
            job: String::new(),
            uid: String::new(),
            completed: Timestamp::UNIX_EPOCH,
            forgotten: forgotten.to_vec(),
        };
        // Texts and times can always be serialized.
        serde_json::to_string(&written).unwrap_or_default()
    }

    fn parse(value: &str) -> Result<Vec<String>, String> {
        let written: Self = serde_json::from_str(value).map_err(|error| error.to_string())?;
        Ok(written.forgotten)
    }
}

/// The key and value for the uids of Jobs whose completion no longer counts. `None` without any.
pub fn tombstones(forgotten: &[String]) -> Option<(String, String)> {
    let value = || Tombstones::to_value(forgotten);
    (!forgotten.is_empty()).then(|| (FORGOTTEN.to_owned(), value()))
}

/// Maximum number of forgotten completions, unless more of their Jobs exist: they matter so long.
const MOST_FORGOTTEN: usize = 64;

/// Labels of the ConfigMap. One of them excludes it from backups: a restored record would be wrong
/// for another database.
const LABELS: [(&str, &str); 2] = [
    ("app.kubernetes.io/managed-by", "migration-gate"),
    ("velero.io/exclude-from-backup", "true"),
];

/// The content of the record's ConfigMap, read from the API server's JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RecordWire")]
pub struct Record {
    /// Its `metadata.uid`.
    pub uid: String,
    /// Its `metadata.resourceVersion`. A removal names it, so that it removes only what was seen. A
    /// watch resumes from it.
    pub resource_version: String,
    /// The completed versions, by key.
    pub entries: BTreeMap<String, Entry>,
    /// The uids of Jobs whose completion no longer counts. The first is dropped first.
    pub forgotten: Vec<String>,
    /// The keys whose values cannot be used, each with its reason.
    pub corrupt: BTreeMap<String, String>,
    /// Whether it is immutable, so that it cannot be written.
    pub immutable: bool,
}

#[derive(Deserialize)]
struct RecordWire {
    #[serde(default)]
    metadata: RecordMeta,
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "binaryData")]
    #[allow(
        clippy::zero_sized_map_values,
        reason = "it is read from a map, and the values are skipped"
    )]
    binary_data: Option<BTreeMap<String, IgnoredAny>>,
    #[serde(default)]
    immutable: Option<bool>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RecordMeta {
    uid: String,
    resource_version: String,
}

impl From<RecordWire> for Record {
    fn from(wire: RecordWire) -> Self {
        let mut record = Self {
            uid: wire.metadata.uid,
            resource_version: wire.metadata.resource_version,
            immutable: wire.immutable.unwrap_or_default(),
            ..Self::default()
        };
        for key in wire.binary_data.into_iter().flatten().map(|(key, _)| key) {
            let cause = "it is binary data, and an entry is text".to_owned();
            record.corrupt.insert(key, cause);
        }
        for (key, value) in wire.data.into_iter().flatten() {
            if key == FORGOTTEN {
                match Tombstones::parse(&value) {
                    Ok(forgotten) => record.forgotten = forgotten,
                    Err(cause) => {
                        record.corrupt.insert(key, cause);
                    }
                }
                continue;
            }
            match Entry::parse(&key, &value) {
                Ok(entry) => {
                    record.entries.insert(key, entry);
                }
                Err(cause) => {
                    record.corrupt.insert(key, cause);
                }
            }
        }
        record.drop_forgotten();
        record
    }
}

impl Record {
    /// The entry that best matches the wanted version for one of a gate's requirements. Of two
    /// equal matches, the later completion. `of_several` says whether the gate has several
    /// requirements.
    pub fn find(
        &self,
        wanted: &Wanted,
        requirement: &Requirement,
        of_several: bool,
    ) -> Option<(&Entry, Relation)> {
        self.entries
            .values()
            .filter(|entry| match &entry.requirement {
                Some(of) => *of == requirement.to_string(),
                // An entry that was recorded by hand counts for all requirements.
                None => {
                    !of_several || entry.job.is_empty() || requirement.matches(&entry.job, |_| None)
                }
            })
            .map(|entry| (entry, entry.version.relation(wanted)))
            .filter(|(_, relation)| *relation != Relation::Different)
            .min_by(|(a, first), (b, second)| first.cmp(second).then(b.age().cmp(&a.age())))
    }

    /// Moves forgotten entries to the corrupt ones: a writer that had not seen the removal yet may
    /// have added them again.
    fn drop_forgotten(&mut self) {
        for uid in &self.forgotten {
            let forgotten = self.entries.extract_if(.., |_, entry| entry.uid == *uid);
            let cause = || "its completion was forgotten".to_owned();
            self.corrupt
                .extend(forgotten.map(|(key, _)| (key, cause())));
        }
    }

    /// Whether the completion of the Job with this uid was forgotten.
    pub fn has_forgotten(&self, uid: &str) -> bool {
        self.forgotten.iter().any(|forgotten| forgotten == uid)
    }
}

/// The write that removes the entries `keys` and forgets the completions of the Jobs `uids`.
///
/// The record keeps the Jobs' uids, so that no replica records an existing complete Job again, and
/// no waiter opens because of it. `there` are the uids of all complete Jobs that exist, which are
/// never dropped. `Ok(None)` if there is nothing to remove or forget.
pub fn forget(
    record: Option<&Record>,
    keys: &BTreeSet<String>,
    uids: &BTreeSet<String>,
    there: &BTreeSet<String>,
) -> Result<Option<Write>, TooManyForgotten> {
    let known = |key| record?.entries.get(key);
    let mut forgotten = record
        .map(|record| record.forgotten.clone())
        .unwrap_or_default();
    let before = forgotten.len();
    let of_entries = keys.iter().filter_map(known).map(|entry| &entry.uid);
    for uid in of_entries.chain(uids) {
        if !uid.is_empty() && !forgotten.contains(uid) {
            forgotten.push(uid.clone());
        }
    }
    if keys.is_empty() && forgotten.len() == before {
        return Ok(None);
    }
    // Those that exist come last.
    forgotten.sort_by_key(|uid| there.contains(uid));
    let gone = forgotten.partition_point(|uid| !there.contains(uid));
    let surplus = forgotten.len().saturating_sub(MOST_FORGOTTEN);
    forgotten.drain(..surplus.min(gone));
    let forgotten = Tombstones::to_value(&forgotten);
    if forgotten.len() > ENTRY_LIMIT {
        return Err(TooManyForgotten);
    }
    Ok(Some(match record {
        Some(record) => Write::Patch(RecordPatch::Forget {
            keys: keys.iter().cloned().collect(),
            forgotten,
            resource_version: record.resource_version.clone(),
        }),
        None => Write::Create([(FORGOTTEN.to_owned(), forgotten)].into()),
    }))
}

/// More Jobs exist whose completions are forgotten than the record can hold: releases up to 0.1
/// remove a longer value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyForgotten;

/// One write of the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// The ConfigMap does not exist: create it with this data.
    Create(BTreeMap<String, String>),
    /// It exists: change it.
    Patch(RecordPatch),
}

/// A merge patch of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordPatch {
    /// Set these keys, and leave the others. It cannot conflict with another writer: if two write
    /// the same key, both values are true.
    Put(BTreeMap<String, String>),
    /// Remove these keys, if the ConfigMap has not changed since it was seen. So a key that another
    /// writer has just written is never lost.
    Remove {
        /// The keys.
        keys: Vec<String>,
        /// The `metadata.resourceVersion` that must still hold.
        resource_version: String,
    },
    /// Remove these keys, and store the Jobs whose completions are forgotten, if the ConfigMap has
    /// not changed since it was seen.
    Forget {
        /// The keys.
        keys: Vec<String>,
        /// The value with the Jobs' uids.
        forgotten: String,
        /// The `metadata.resourceVersion` that must still hold.
        resource_version: String,
    },
}

impl RecordPatch {
    /// The body of the request.
    pub fn body(&self) -> Value {
        match self {
            Self::Put(data) => json!({"metadata": {"labels": labels()}, "data": data}),
            Self::Remove {
                keys,
                resource_version,
            } => {
                let keys: Map<_, _> = keys.iter().map(|k| (k.clone(), Value::Null)).collect();
                json!({
                    "metadata": {"resourceVersion": resource_version},
                    "data": keys,
                    "binaryData": keys,
                })
            }
            Self::Forget {
                keys,
                forgotten,
                resource_version,
            } => {
                let mut data: Map<_, _> = keys.iter().map(|k| (k.clone(), Value::Null)).collect();
                data.insert(FORGOTTEN.to_owned(), forgotten.as_str().into());
                json!({
                    "metadata": {"resourceVersion": resource_version, "labels": labels()},
                    "data": data,
                })
            }
        }
    }
}

impl Write {
    /// Whether a record that was read after this write has its values, or newer ones.
    pub fn shows_in(&self, record: &Record) -> bool {
        match self {
            Self::Create(data) | Self::Patch(RecordPatch::Put(data)) => {
                data.iter().all(|(key, value)| {
                    if key == FORGOTTEN {
                        return forgets(value, record);
                    }
                    let written = Entry::parse(key, value);
                    let shown = record.entries.get(key);
                    written.is_ok_and(|written| {
                        shown.is_some_and(|shown| !shown.says_less_than(&written))
                    })
                })
            }
            Self::Patch(RecordPatch::Remove { keys, .. }) => keys
                .iter()
                .all(|key| !record.entries.contains_key(key) && !record.corrupt.contains_key(key)),
            Self::Patch(RecordPatch::Forget {
                keys, forgotten, ..
            }) => {
                keys.iter().all(|key| !record.entries.contains_key(key))
                    && forgets(forgotten, record)
            }
        }
    }
}

/// Whether a record has forgotten all uids in `value`.
fn forgets(value: &str, record: &Record) -> bool {
    Tombstones::parse(value).is_ok_and(|uids| uids.iter().all(|uid| record.has_forgotten(uid)))
}

/// The labels of the record's ConfigMap.
pub fn labels() -> Map<String, Value> {
    LABELS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).into()))
        .collect()
}

/// The next write, if one is needed. It removes before it adds: corrupt keys may fill the
/// ConfigMap, and then nothing can be added until they are gone.
///
/// `record` is the ConfigMap as last seen, `None` if it does not exist. `completed` are the
/// completions that this writer has not yet seen in the record. Those that the record has, in this
/// or a newer form, are removed from `completed`, but not those of which a replica of an earlier
/// release has written fewer fields. `limit` is the maximum number of entries.
pub fn next_write(
    record: Option<&Record>,
    completed: &mut BTreeMap<String, Entry>,
    limit: usize,
) -> Option<Write> {
    if let Some(record) = record {
        completed.retain(|key, entry| {
            let known = record.entries.get(key);
            !record.has_forgotten(&entry.uid)
                && known.is_none_or(|known| known.says_less_than(entry))
        });
        // A full record would lose a completion again that is older than all of its entries.
        if record.entries.len() >= limit {
            let oldest = record.entries.values().map(Entry::age).min();
            completed.retain(|key, entry| {
                record.entries.contains_key(key) || oldest.is_none_or(|oldest| entry.age() > oldest)
            });
        }
    }
    let missing: BTreeMap<_, _> = completed
        .iter()
        .map(|(key, entry)| (key.clone(), entry.to_value()))
        .collect();
    let Some(record) = record else {
        return (!missing.is_empty()).then_some(Write::Create(missing));
    };
    let mut keys: Vec<_> = record.corrupt.keys().cloned().collect();
    let mut by_age: Vec<_> = record.entries.iter().collect();
    by_age.sort_by(|(_, a), (_, b)| a.age().cmp(&b.age()));
    let surplus = by_age.len().saturating_sub(limit);
    keys.extend(by_age.iter().take(surplus).map(|(key, _)| (*key).clone()));
    if !keys.is_empty() {
        return Some(Write::Patch(RecordPatch::Remove {
            keys,
            resource_version: record.resource_version.clone(),
        }));
    }
    (!missing.is_empty()).then_some(Write::Patch(RecordPatch::Put(missing)))
}

#[cfg(test)]
mod tests;
