//! The record: what a gate's Job has completed, after Kubernetes has deleted the Job.
//!
//! It is a ConfigMap with one key for each version, so that writers who add different versions
//! never touch the same field, and a merge patch of one key is all that adding takes. A value is
//! obeyed only if it says the version that its key says; anything else is reported, and removed
//! by `serve`.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::image::Version;
use super::job::{Job, JobState};

/// How many versions a record keeps. A version takes less than 1 KiB and a ConfigMap holds 1 MiB.
pub const HISTORY: usize = 250;

/// The longest value that can be an entry: what is longer isn't ours.
const ENTRY_LIMIT: usize = 2048;

/// One completed Job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The image that it ran, which is what it migrated for.
    pub image: String,
    /// The Job's name.
    pub job: String,
    /// The Job's uid.
    pub uid: String,
    /// When it completed.
    pub completed: Timestamp,
}

impl Entry {
    /// What is to be recorded of a Job: something if it is complete and has an image whose
    /// version a ConfigMap's key can spell. `now` stands in where the Job doesn't say when it
    /// completed.
    pub fn of(name: &str, job: &Job, now: Timestamp) -> Option<Self> {
        let JobState::Complete { at } = job.state else {
            return None;
        };
        let entry = Self {
            image: job.image.clone()?,
            job: name.to_owned(),
            uid: job.uid.clone(),
            completed: at.unwrap_or(now),
        };
        (is_key(&entry.key()) && entry.to_value().len() <= ENTRY_LIMIT).then_some(entry)
    }

    /// The key that this entry stands under.
    pub fn key(&self) -> String {
        key(&Version::of(&self.image))
    }

    /// The text that stands under the key.
    pub fn to_value(&self) -> String {
        // By hand, in a fixed order: replicas that saw the same Job write the same bytes.
        json!({
            "image": self.image,
            "job": self.job,
            "uid": self.uid,
            "completed": self.completed,
        })
        .to_string()
    }

    fn parse(key: &str, value: &str) -> Result<Self, String> {
        if value.len() > ENTRY_LIMIT {
            return Err(format!(
                "it is {} bytes long, and an entry has {ENTRY_LIMIT} at most",
                value.len()
            ));
        }
        let entry: Self = serde_json::from_str(value).map_err(|error| error.to_string())?;
        if entry.key() == key {
            Ok(entry)
        } else {
            Err(format!(
                "its image `{}` is of version `{}`",
                entry.image,
                Version::of(&entry.image)
            ))
        }
    }

    /// Orders completions in time; the uid decides between two of the same second, so that every
    /// replica has the same order.
    fn age(&self) -> (Timestamp, &str) {
        (self.completed, &self.uid)
    }
}

/// The key of a version: a ConfigMap's keys have no room for the colon of a digest.
fn key(version: &Version) -> String {
    version.to_string().replace(':', ".")
}

/// What a ConfigMap accepts as a key.
fn is_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key != "."
        && !key.starts_with("..")
        && key
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
}

/// The record's ConfigMap, as far as it matters, read from the API server's JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub struct Record {
    /// What a removal must name, so that it removes nothing that it hasn't seen, and where a
    /// watch goes on.
    pub resource_version: String,
    /// What was completed, by key.
    pub entries: BTreeMap<String, Entry>,
    /// The keys that can't be obeyed, with the reason.
    pub corrupt: BTreeMap<String, String>,
    /// Somebody has made it immutable, so nothing can be written.
    pub immutable: bool,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    metadata: Metadata,
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
struct Metadata {
    resource_version: String,
}

impl From<Wire> for Record {
    fn from(wire: Wire) -> Self {
        let mut record = Self {
            resource_version: wire.metadata.resource_version,
            immutable: wire.immutable.unwrap_or_default(),
            ..Self::default()
        };
        for key in wire.binary_data.into_iter().flatten().map(|(key, _)| key) {
            let cause = "it is binary data, and an entry is text".to_owned();
            record.corrupt.insert(key, cause);
        }
        for (key, value) in wire.data.into_iter().flatten() {
            match Entry::parse(&key, &value) {
                Ok(entry) => {
                    record.entries.insert(key, entry);
                }
                Err(cause) => {
                    record.corrupt.insert(key, cause);
                }
            }
        }
        record
    }
}

impl Record {
    /// The completion of that version, if there was one.
    pub fn find(&self, version: &Version) -> Option<&Entry> {
        self.entries
            .get(&key(version))
            // `sha256.ab` is the key of a digest and can be a tag.
            .filter(|entry| Version::of(&entry.image) == *version)
    }

    /// The last completion of all.
    pub fn latest(&self) -> Option<&Entry> {
        self.entries.values().max_by(|a, b| a.age().cmp(&b.age()))
    }
}

/// One request that brings the record nearer to what it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// There is no ConfigMap: create it with this data.
    Create(BTreeMap<String, String>),
    /// There is one: change it.
    Patch(RecordPatch),
}

/// A merge patch of the ConfigMap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordPatch {
    /// Set these keys, whatever the others are. It can't conflict with another
    /// writer, and if two write the same key, what they write is equally true.
    Put(BTreeMap<String, String>),
    /// Remove these keys, if the ConfigMap is still as it was seen. A key that another writer has
    /// just renewed is thus never lost.
    Remove {
        /// The keys.
        keys: Vec<String>,
        /// The `metadata.resourceVersion` that must still hold.
        resource_version: String,
    },
}

impl RecordPatch {
    /// The body of the request.
    pub fn body(&self) -> Value {
        match self {
            Self::Put(data) => json!({ "data": data }),
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
        }
    }
}

impl Write {
    /// Whether it shows in a record that was read after it, or something newer does.
    pub fn shows_in(&self, record: &Record) -> bool {
        match self {
            Self::Create(data) | Self::Patch(RecordPatch::Put(data)) => {
                data.iter().all(|(key, value)| {
                    let written = Entry::parse(key, value);
                    let shown = record.entries.get(key);
                    written.is_ok_and(|written| {
                        shown.is_some_and(|shown| shown.age() >= written.age())
                    })
                })
            }
            Self::Patch(RecordPatch::Remove { keys, .. }) => keys
                .iter()
                .all(|key| !record.entries.contains_key(key) && !record.corrupt.contains_key(key)),
        }
    }
}

/// The next write, if any is needed: first what is too much, then what is missing. Garbage may fill
/// the ConfigMap to its last byte, and then nothing can be added before it is gone.
///
/// `record` is the ConfigMap as last seen (`None` if there is none), `completed` what this writer
/// has seen complete and not yet seen in the record. Entries of `completed` that the record has,
/// or has newer, are dropped from it.
pub fn next_write(
    record: Option<&Record>,
    completed: &mut BTreeMap<String, Entry>,
    limit: usize,
) -> Option<Write> {
    if let Some(record) = record {
        completed.retain(|key, entry| {
            record
                .entries
                .get(key)
                .is_none_or(|known| known.age() < entry.age())
        });
        // What is older than all that a full record keeps would only be removed again.
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
