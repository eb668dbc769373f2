//! One entry of the record: the migration, and its key and value.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::gates::VersionSource;
use crate::image::{Reference, Relation, compare, is_called, same_repository};
use crate::job::{Job, JobState};
use crate::text::fnv1a;
use crate::version::{Container, Containers, Contents, Wanted};

/// Maximum size of an entry's value, in bytes. This program writes no longer one.
pub(super) const ENTRY_LIMIT: usize = 4096;

/// One completed migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The migrated version.
    pub version: Recorded,
    /// The Job's name; empty if the entry was recorded by hand.
    pub job: String,
    /// The Job's uid.
    pub uid: String,
    /// When it completed.
    pub completed: Timestamp,
    /// Duration of the migration, in seconds.
    pub took: Option<u64>,
    /// The requirement that it meets, if the gate has several.
    pub requirement: Option<String>,
}

/// The version of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// The image of a Job's default container. Releases up to 0.1 write only this.
    Image(String),
    /// Everything of a Job or workload that can be compared.
    Contents(Contents),
    /// A version that an operator has recorded as migrated: a tag, a digest or a label's value.
    Word(String),
}

impl Recorded {
    /// The relation of a recorded version to the wanted one.
    pub fn relation(&self, wanted: &Wanted) -> Relation {
        match (self, wanted) {
            (_, Wanted::Any) => Relation::Moving,
            (Self::Contents(contents), _) => wanted.relation(contents),
            (Self::Word(word), _) if !wanted.is_called(word) => Relation::Different,
            (Self::Word(_), Wanted::Images { images, moving, .. })
                if moving.moves(&images.default) =>
            {
                Relation::Moving
            }
            (Self::Word(_), _) => Relation::Same,
            (Self::Image(_), Wanted::Metadata { .. }) => Relation::Different,
            (
                Self::Image(image),
                Wanted::Images {
                    images,
                    told,
                    moving,
                    ..
                },
            ) => {
                // The entry has only one image, so it must be clear with which of the pod's images
                // to compare it.
                let only = images
                    .all()
                    .all(|other| same_repository(other, &images.default));
                if *told || only {
                    compare(&images.default, image, moving)
                } else {
                    Relation::Different
                }
            }
        }
    }

    /// The image of this version, if it has one.
    pub fn image(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(image),
            Self::Contents(contents) => Some(&contents.containers.default()?.image),
            Self::Word(_) => None,
        }
    }

    /// Whether `word` names this version: an image, its tag or digest, or the value of a label.
    pub fn is_called(&self, word: &str) -> bool {
        let called = |image: &str| image == word || is_called(image, word);
        match self {
            Self::Image(image) => called(image),
            Self::Contents(contents) => {
                contents.containers.all.iter().any(|c| called(&c.image))
                    || contents.metadata.iter().any(|(_, _, value)| value == word)
            }
            Self::Word(own) => own == word,
        }
    }
}

/// The version as one word, for messages and keys.
impl fmt::Display for Recorded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let metadata = match self {
            Self::Contents(contents) => contents.metadata.first(),
            _ => None,
        };
        f.write_str(match (self, metadata) {
            (Self::Word(word), _) => word,
            (_, Some((_, _, value))) => value,
            _ => self
                .image()
                .map_or("", |image| Reference::of(image).version()),
        })
    }
}

impl Entry {
    /// The entry of a complete Job. `source` is the label or annotation by which its gate compares
    /// versions. `now` is used if the Job has no completion time. `None` if the Job is not
    /// complete, has no image, or would need too long a key or value.
    pub fn of(job: &Job, source: Option<&VersionSource>, now: Timestamp) -> Option<Self> {
        let JobState::Complete { at } = job.state else {
            return None;
        };
        let mut contents = job.contents.clone();
        contents.keep_only(source);
        contents.containers.default()?;
        let completed = at.unwrap_or(now);
        let took = job
            .started
            .map(|started| completed.duration_since(started).as_secs());
        let entry = Self {
            version: Recorded::Contents(contents),
            job: job.name.clone(),
            uid: job.uid.clone(),
            completed,
            took: took.and_then(|seconds| u64::try_from(seconds).ok()),
            requirement: None,
        };
        (is_key(&entry.key()) && entry.to_value().len() <= ENTRY_LIMIT).then_some(entry)
    }

    /// The entry's key in the ConfigMap.
    ///
    /// It is only the version if that identifies the entry, as in releases up to 0.1. Otherwise it
    /// also has a hash of everything else that distinguishes entries.
    pub fn key(&self) -> String {
        let word = self.version.to_string();
        let key: String = word
            .chars()
            .map(|c| if is_key_char(c) { c } else { '.' })
            .take(200)
            .collect();
        match self.what_the_word_leaves_open() {
            Some(rest) => {
                let hash = fnv1a(format!("{word}\n{rest}").as_bytes());
                format!("{key}.{hash:016x}")
            }
            None => key,
        }
    }

    fn what_the_word_leaves_open(&self) -> Option<String> {
        let Recorded::Contents(contents) = &self.version else {
            return self.requirement.clone();
        };
        let images: Vec<&str> = contents
            .containers
            .all
            .iter()
            .map(|c| c.image.as_str())
            .collect();
        let plain = match images.as_slice() {
            [image] => {
                let Reference { tag, digest, .. } = Reference::of(image);
                tag.is_none() || digest.is_none()
            }
            _ => false,
        };
        if plain && contents.metadata.is_empty() && self.requirement.is_none() {
            return None;
        }
        let requirement = self.requirement.as_deref().unwrap_or_default();
        let metadata = &contents.metadata;
        Some(format!("{requirement}\n{images:?}\n{metadata:?}"))
    }

    /// The entry's value in the ConfigMap. Its members have a fixed order, so that replicas that
    /// have seen the same Job write the same bytes.
    pub fn to_value(&self) -> String {
        let image = match self.what_the_word_leaves_open() {
            // Releases up to 0.1 may run beside this one. They remove an entry whose image is not
            // of the version in its key.
            Some(_) => format!("{ELSEWHERE}:{}", self.key()),
            None => self.version.image().unwrap_or_default().to_owned(),
        };
        let mut written = Written {
            image,
            job: self.job.clone(),
            uid: self.uid.clone(),
            completed: Some(self.completed),
            took: self.took,
            requirement: self.requirement.clone(),
            ..Written::default()
        };
        match &self.version {
            Recorded::Image(_) => {}
            Recorded::Word(word) => {
                // An image reference with this version, for releases up to 0.1.
                if written.image.is_empty() {
                    let before = if word.contains(':') { '@' } else { ':' };
                    written.image = format!("{BY_HAND}{before}{word}");
                }
                written.done = Some(word.clone());
            }
            Recorded::Contents(contents) => {
                written
                    .default_container
                    .clone_from(&contents.containers.default);
                for Container { name, image, init } in &contents.containers.all {
                    let list = if *init {
                        &mut written.init_containers
                    } else {
                        &mut written.containers
                    };
                    list.push((name.clone(), image.clone()));
                }
                for (field, key, value) in &contents.metadata {
                    let map = match *field {
                        "labels" => &mut written.labels,
                        _ => &mut written.annotations,
                    };
                    map.insert(key.clone(), value.clone());
                }
            }
        }
        // Texts and numbers can always be serialized.
        serde_json::to_string(&written).unwrap_or_default()
    }

    pub(super) fn parse(key: &str, value: &str) -> Result<Self, String> {
        if value.len() > ENTRY_LIMIT {
            return Err(format!(
                "it is {} bytes long, and an entry has {ENTRY_LIMIT} at most",
                value.len()
            ));
        }
        let written: Written = serde_json::from_str(value).map_err(|error| error.to_string())?;
        let entry = written.into_entry()?;
        if entry.key() == key {
            Ok(entry)
        } else {
            Err(match entry.version.image() {
                Some(image) => format!("its image `{image}` is of version `{}`", entry.version),
                None => format!("it is of version `{}`", entry.version),
            })
        }
    }

    /// Whether another entry is of a later completion, or has more fields of the same one. Releases
    /// up to 0.1, whose replicas run beside this one's during an upgrade, write only one image.
    pub fn says_less_than(&self, other: &Self) -> bool {
        self.age() < other.age() || self.abridges(other)
    }

    /// Whether this is the entry `other` as releases up to 0.1 write it.
    fn abridges(&self, other: &Self) -> bool {
        let is_short = matches!(
            (&self.version, &other.version),
            (Recorded::Image(_), Recorded::Contents(_))
        );
        is_short && self.age() == other.age()
    }

    /// Orders completions by time, then by uid, so that every replica has the same order.
    pub(super) fn age(&self) -> (Timestamp, &str) {
        (self.completed, &self.uid)
    }
}

/// The repository in the image of an entry that was recorded by hand.
const BY_HAND: &str = "by-hand";

/// The repository in the image of an entry whose images are in other members, which releases up to
/// 0.1 ignore.
const ELSEWHERE: &str = "see-containers";

/// The JSON of an entry. Releases up to 0.1 need the first four members, and ignore the others.
#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    image: String,
    job: String,
    uid: String,
    completed: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    took: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    requirement: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    done: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    containers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    init_containers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    default_container: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

impl Written {
    fn into_entry(self) -> Result<Entry, String> {
        let container = |init| move |(name, image)| Container { name, image, init };
        let metadata = |field| move |(key, value)| (field, key, value);
        let containers: Vec<Container> = (self.containers.into_iter().map(container(false)))
            .chain(self.init_containers.into_iter().map(container(true)))
            .collect();
        let version = match self.done {
            Some(word) => Recorded::Word(word),
            None if containers.is_empty() => Recorded::Image(self.image),
            None => Recorded::Contents(Contents {
                containers: Containers {
                    all: containers,
                    default: self.default_container,
                    annotated: false,
                },
                metadata: (self.labels.into_iter().map(metadata("labels")))
                    .chain(self.annotations.into_iter().map(metadata("annotations")))
                    .collect(),
            }),
        };
        Ok(Entry {
            version,
            job: self.job,
            uid: self.uid,
            completed: self.completed.ok_or("it does not say when it completed")?,
            took: self.took,
            requirement: self.requirement,
        })
    }
}

fn is_key_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || "-._".contains(c)
}

/// Whether a ConfigMap accepts `key`.
pub(super) fn is_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key != "."
        && !key.starts_with("..")
        && key.chars().all(is_key_char)
}
