//! One entry of the record: what was migrated, and how it is written.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::gates::VersionSource;
use crate::image::{Reference, Relation, compare, is_called, same_repository};
use crate::job::{Job, JobState};
use crate::text::fnv1a;
use crate::version::{Container, Containers, Contents, Wanted};

/// The longest value that can be an entry: what is longer isn't ours.
pub(super) const ENTRY_LIMIT: usize = 4096;

/// One completed migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The migrated version.
    pub version: Recorded,
    /// The Job's name; empty of what was done by hand.
    pub job: String,
    /// The Job's uid.
    pub uid: String,
    /// When it completed.
    pub completed: Timestamp,
    /// Duration of the migration, in seconds.
    pub took: Option<u64>,
    /// Which of the gate's requirements it meets, where there are several.
    pub requirement: Option<String>,
}

/// The version of a migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// A Job's default container had this image. Releases up to 0.1 wrote no more.
    Image(String),
    /// Everything of a Job, or of a workload, that can be compared.
    Contents(Contents),
    /// A version that an operator has recorded as migrated: a tag, a digest, a label's value.
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
                // It names one image, so it must be clear which of the pod's images it is about.
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

    /// The image that stands for it.
    pub fn image(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(image),
            Self::Contents(contents) => Some(&contents.containers.default()?.image),
            Self::Word(_) => None,
        }
    }

    /// Whether a version given on the command line is this one: an image, its tag or digest, or the
    /// value of a label.
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

/// The version in a word, for people and for keys.
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
    /// What is to be recorded of a Job: something if it is complete and says what it ran. `source`
    /// is the label or annotation that tells versions in its gate; `now` stands in where the Job
    /// doesn't say when it completed.
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

    /// The key that this entry stands under.
    ///
    /// It is the version alone where that tells everything, as it was in releases up to 0.1. Where
    /// it doesn't, what else tells entries apart is added as a hash.
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

    /// The text that stands under the key: in a fixed order, so that replicas that saw the same Job
    /// write the same bytes.
    pub fn to_value(&self) -> String {
        let image = match self.what_the_word_leaves_open() {
            // Releases up to 0.1 remove an entry whose image isn't of the version that its key
            // says, and they may run beside this one.
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
                // A reference with that version, for readers that know no words.
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
        // Texts and numbers can always be written.
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

    /// Whether another entry is of a later completion, or says more of the same one: releases up to
    /// 0.1 write one image, and their replicas run beside this one's during an upgrade.
    pub fn says_less_than(&self, other: &Self) -> bool {
        self.age() < other.age() || self.abridges(other)
    }

    /// Whether this is another entry as releases up to 0.1 write it.
    fn abridges(&self, other: &Self) -> bool {
        let is_short = matches!(
            (&self.version, &other.version),
            (Recorded::Image(_), Recorded::Contents(_))
        );
        is_short && self.age() == other.age()
    }

    /// Orders completions in time; the uid decides between two of the same second, so that every
    /// replica has the same order.
    pub(super) fn age(&self) -> (Timestamp, &str) {
        (self.completed, &self.uid)
    }
}

/// The repository of what was done by hand.
const BY_HAND: &str = "by-hand";

/// The repository where the images stand in members that releases up to 0.1 pass over.
const ELSEWHERE: &str = "see-containers";

/// An entry as it is written. Readers of releases up to 0.1 want the first four members, and pass
/// over the rest.
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

/// The characters that a ConfigMap accepts in a key.
pub(super) fn is_key(key: &str) -> bool {
    (1..=253).contains(&key.len())
        && key != "."
        && !key.starts_with("..")
        && key.chars().all(is_key_char)
}
