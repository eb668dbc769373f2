//! Versions: how the pods of a workload and a Job are found to run the same code.

use std::fmt;

use serde_json::Value;

use super::gates::{Freshness, Gate, VersionSource};
use super::image::{self, MovingTags, Reference, Relation, same_repository};
use super::names::WAITER_CONTAINER;
use super::podspec::{DEFAULT_CONTAINER, default_container, list, name};

/// The version for which a pod's Jobs must have completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Some Job has completed (`freshness: any`).
    Any,
    /// The Job has this value of a label or annotation.
    Metadata {
        /// The label or annotation.
        source: VersionSource,
        /// Its value in the pod template.
        value: String,
    },
    /// The Job's images are of the versions of the pod's.
    Images {
        /// The pod's images.
        images: Images,
        /// The container whose image is the only one of `images`, if the gate names it.
        container: Option<String>,
        /// Whether the author has said which container is the application's. An entry of the record
        /// with only one image or word is then compared with that container's image.
        told: bool,
        /// The tags that do not identify a version.
        moving: MovingTags,
    },
}

/// Why a pod template has no version that can be compared with a Job's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoVersion {
    /// The gate uses a label or annotation that the template lacks.
    #[error("the pod template has no {0}")]
    NoMetadata(VersionSource),
    /// The gate uses a container that the template lacks.
    #[error("the pod template has no container `{0}` with an image")]
    NoContainer(String),
    /// No container has an image.
    #[error("no container of the pod template has an image")]
    NoImage,
}

impl Wanted {
    /// The version that pods of this template need, by the gate's settings.
    pub fn of(gate: &Gate, template: &Value) -> Result<Self, NoVersion> {
        if gate.freshness == Freshness::Any {
            return Ok(Self::Any);
        }
        if let Some(source) = &gate.version {
            return match source.value(template).filter(|value| !value.is_empty()) {
                Some(value) => Ok(Self::Metadata {
                    source: source.clone(),
                    value: value.to_owned(),
                }),
                None => Err(NoVersion::NoMetadata(source.clone())),
            };
        }
        let containers = Containers::of(template);
        let images = match &gate.container {
            Some(name) => match containers.image_of(name) {
                Some(image) => Images::one(image),
                None => return Err(NoVersion::NoContainer(name.clone())),
            },
            None => containers.images().ok_or(NoVersion::NoImage)?,
        };
        Ok(Self::Images {
            images,
            container: gate.container.clone(),
            told: gate.container.is_some() || containers.annotated,
            moving: gate.moving_tags(),
        })
    }

    /// The relation of a Job, or of its entry in the record, to the wanted version.
    pub fn relation(&self, contents: &Contents) -> Relation {
        self.compared(contents).0
    }

    /// The relation, and the values that decided it.
    pub fn compared<'c>(&'c self, contents: &'c Contents) -> (Relation, Compared<'c>) {
        match self {
            Self::Any => {
                let found = contents.containers.default().map(|c| c.image.as_str());
                let wanted = None;
                (Relation::Moving, Compared::Images { wanted, found })
            }
            Self::Metadata { source, value } => {
                let found = contents.value(source);
                let relation = match found {
                    Some(found) if found == value => Relation::Same,
                    _ => Relation::Different,
                };
                (relation, Compared::Metadata { source, found })
            }
            Self::Images {
                images,
                container,
                moving,
                ..
            } => match container {
                Some(name) => {
                    let theirs = contents.containers.named_or_only(name);
                    pair(Some(&images.default), theirs, moving)
                }
                None => compare_all(images, &contents.containers, moving),
            },
        }
    }

    /// Whether it does not identify a version, so that an existing Job alone decides.
    pub fn moves(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Metadata { .. } => false,
            Self::Images { images, moving, .. } => images.all().all(|image| moving.moves(image)),
        }
    }

    /// The version as one word for `record done`, if one word identifies it.
    pub fn word(&self) -> Option<&str> {
        let word = match self {
            Self::Any => return None,
            Self::Metadata { value, .. } => value,
            Self::Images { images, moving, .. } => {
                let Reference { tag, digest, .. } = Reference::of(&images.default);
                tag.filter(|tag| !moving.contains(tag)).or(digest)?
            }
        };
        self.is_called(word).then_some(word)
    }

    /// Whether a word identifies this version: a label's value, or the tag or digest of the
    /// application's image. If several images may be the application's, all of them must have it:
    /// otherwise the version of a proxy could count as the application's. A tag that moves does not
    /// count if a digest pins it.
    pub fn is_called(&self, word: &str) -> bool {
        match self {
            Self::Any => false,
            Self::Metadata { value, .. } => value == word,
            Self::Images {
                images,
                told,
                moving,
                ..
            } => {
                let called = |image: &str| {
                    let Reference { tag, digest, .. } = Reference::of(image);
                    digest == Some(word)
                        || (tag == Some(word) && (digest.is_none() || !moving.contains(word)))
                };
                match told {
                    true => called(&images.default),
                    false => images.main().all(called),
                }
            }
        }
    }

    /// The version in words.
    pub fn version(&self) -> String {
        match self {
            Self::Any => "any version".to_owned(),
            Self::Metadata { source, value } => format!("version {value} ({source})"),
            Self::Images { images, .. } => match images.all().collect::<Vec<_>>().as_slice() {
                [image] => format!("version {}", Reference::of(image).version()),
                images => format!("the versions of {}", images.join(", ")),
            },
        }
    }
}

/// The values by which two versions were compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compared<'c> {
    /// A label or annotation of the Job.
    Metadata {
        /// The label or annotation.
        source: &'c VersionSource,
        /// The Job's value.
        found: Option<&'c str>,
    },
    /// Two images. Of several pairs, the one that decides against the Job.
    Images {
        /// The pod's image; `None` if every Job counts.
        wanted: Option<&'c str>,
        /// The Job's image.
        found: Option<&'c str>,
    },
}

impl Compared<'_> {
    /// Whether they are images of two repositories.
    pub fn is_of_two_repositories(&self) -> bool {
        match self {
            Self::Images {
                wanted: Some(wanted),
                found: Some(found),
            } => !same_repository(wanted, found),
            _ => false,
        }
    }

    /// The pod's and the Job's value, as they are printed.
    pub fn sides(&self) -> (String, String) {
        let quoted = |text: Option<&str>| {
            text.map_or_else(|| "nothing".to_owned(), |text| format!("`{text}`"))
        };
        match self {
            Self::Metadata { source, found } => (format!("another {source}"), quoted(*found)),
            Self::Images { wanted, found } => (quoted(*wanted), quoted(*found)),
        }
    }
}

/// The Job's version in words.
impl fmt::Display for Compared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Metadata {
                source,
                found: Some(value),
            } => write!(f, "version {value} ({source})"),
            Self::Metadata {
                source,
                found: None,
            } => write!(f, "no version (it has no {source})"),
            Self::Images {
                found: Some(image), ..
            } => write!(
                f,
                "version {} (image {image})",
                Reference::of(image).version()
            ),
            Self::Images { found: None, .. } => f.write_str("an unknown version"),
        }
    }
}

fn pair<'c>(
    wanted: Option<&'c str>,
    found: Option<&'c str>,
    moving: &MovingTags,
) -> (Relation, Compared<'c>) {
    let relation = match (wanted, found) {
        (Some(wanted), Some(found)) => image::compare(wanted, found, moving),
        _ => Relation::Different,
    };
    (relation, Compared::Images { wanted, found })
}

/// Every repository that both sides have must be of the same version. If they have none in common,
/// the images of the two default containers are compared.
///
/// If both sides share only a proxy or a helper, it does not identify the version of an application
/// that is built as two images. So the other main containers must be of the same version, too.
fn compare_all<'c>(
    wanted: &'c Images,
    theirs: &'c Containers,
    moving: &MovingTags,
) -> (Relation, Compared<'c>) {
    let pairs = |wanted: &'c str| {
        theirs
            .all
            .iter()
            .filter(move |found| same_repository(wanted, &found.image))
            .map(move |found| pair(Some(wanted), Some(found.image.as_str()), moving))
    };
    let common = wanted
        .all()
        .flat_map(pairs)
        .max_by_key(|(relation, _)| *relation);
    let Some(common) = common else {
        let default = theirs.default().map(|found| found.image.as_str());
        return pair(Some(&wanted.default), default, moving);
    };
    let ours_alone = wanted
        .main()
        .filter(|wanted| pairs(wanted).next().is_none());
    let theirs_alone = || {
        theirs.all.iter().filter(|found| {
            !found.init
                && !wanted
                    .all()
                    .any(|wanted| same_repository(wanted, &found.image))
        })
    };
    ours_alone
        .flat_map(|wanted| {
            theirs_alone().map(move |found| pair(Some(wanted), Some(found.image.as_str()), moving))
        })
        .min_by_key(|(relation, _)| *relation)
        .filter(|(relation, _)| *relation > common.0)
        .unwrap_or(common)
}

/// The parts of a Job, or of another object with a pod template, that are compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Contents {
    /// Its containers.
    pub containers: Containers,
    /// Labels and annotations: the field of `metadata`, the key and the value.
    pub metadata: Vec<(&'static str, String, String)>,
}

/// Maximum length of a label's or annotation's value that is kept, in bytes. Appliers store whole
/// manifests in annotations, and no version is that long.
const LONGEST_VALUE: usize = 512;

impl Contents {
    /// The contents of an object with a pod template. Its own metadata has precedence over its
    /// template's.
    pub fn of(metadata: &Value, template: &Value) -> Self {
        let mut contents = Self {
            containers: Containers::of(template),
            metadata: Vec::new(),
        };
        let of_template = template.get("metadata").unwrap_or(&Value::Null);
        for metadata in [metadata, of_template] {
            for field in ["labels", "annotations"] {
                let members = metadata.get(field).and_then(Value::as_object);
                for (key, value) in members.into_iter().flatten() {
                    if let Some(value) = value.as_str().filter(|v| v.len() <= LONGEST_VALUE) {
                        contents
                            .metadata
                            .push((field, key.clone(), value.to_owned()));
                    }
                }
            }
        }
        contents
    }

    /// Drops all metadata except the label or annotation `source`.
    pub fn keep_only(&mut self, source: Option<&VersionSource>) {
        let kept = source.and_then(|source| {
            Some((
                source.field(),
                source.key().to_owned(),
                self.value(source)?.to_owned(),
            ))
        });
        self.metadata = kept.into_iter().collect();
    }

    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.find("labels", key)
    }

    /// The value of a label or annotation.
    pub fn value(&self, source: &VersionSource) -> Option<&str> {
        self.find(source.field(), source.key())
    }

    fn find(&self, field: &str, key: &str) -> Option<&str> {
        let mut metadata = self.metadata.iter();
        let found = metadata.find(|(of, known, _)| *of == field && known == key)?;
        Some(&found.2)
    }
}

/// The images of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Images {
    /// The default container's image.
    pub default: String,
    /// The images of the other containers, each once.
    pub others: Vec<String>,
    /// The images that only init containers have, including native sidecars.
    pub init: Vec<String>,
}

impl Images {
    /// The images of a pod with only one.
    pub fn one(image: &str) -> Self {
        Self {
            default: image.to_owned(),
            others: Vec::new(),
            init: Vec::new(),
        }
    }

    /// The images of the main containers, the default container's first.
    pub fn main(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.default)
            .chain(&self.others)
            .map(String::as_str)
    }

    /// All images, the default container's first.
    pub fn all(&self) -> impl Iterator<Item = &str> {
        self.main().chain(self.init.iter().map(String::as_str))
    }
}

/// A container with its image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Its image.
    pub image: String,
    /// Whether it is an init container or a native sidecar.
    pub init: bool,
}

/// The containers of a pod template that have images, except the waiter.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Containers {
    /// In the order of the template, init containers last.
    pub all: Vec<Container>,
    /// The name of the default container.
    pub default: Option<String>,
    /// Whether the annotation `kubectl.kubernetes.io/default-container` names it.
    pub annotated: bool,
}

impl Containers {
    /// The containers of a pod template.
    pub fn of(template: &Value) -> Self {
        let spec = template.get("spec").unwrap_or(&Value::Null);
        let default = default_container(template).and_then(name);
        let annotation = || {
            let annotations = template.get("metadata")?.get("annotations")?;
            annotations.get(DEFAULT_CONTAINER)?.as_str()
        };
        let all = [("containers", false), ("initContainers", true)]
            .into_iter()
            .flat_map(|(field, init)| list(spec, field).iter().map(move |c| (c, init)))
            .filter_map(|(container, init)| {
                let image = container.get("image")?.as_str()?;
                let name = name(container).unwrap_or_default();
                (!image.is_empty() && name != WAITER_CONTAINER).then(|| Container {
                    name: name.to_owned(),
                    image: image.to_owned(),
                    init,
                })
            })
            .collect();
        Self {
            all,
            default: default.map(str::to_owned),
            annotated: default.is_some() && annotation() == default,
        }
    }

    fn image_of(&self, wanted: &str) -> Option<&str> {
        let found = self.all.iter().find(|container| container.name == wanted)?;
        Some(&found.image)
    }

    /// The image of the container named `wanted`, or of the only container.
    fn named_or_only(&self, wanted: &str) -> Option<&str> {
        self.image_of(wanted).or(match self.all.as_slice() {
            [only] => Some(only.image.as_str()),
            _ => None,
        })
    }

    /// The default container, else the first.
    pub fn default(&self) -> Option<&Container> {
        let named = self
            .all
            .iter()
            .find(|c| Some(&c.name) == self.default.as_ref());
        named.or(self.all.first())
    }

    /// The containers' images; `None` if there are none.
    pub fn images(&self) -> Option<Images> {
        let mut images = Images::one(&self.default()?.image);
        for Container { image, init, .. } in &self.all {
            if !images.all().any(|known| known == image) {
                let list = if *init {
                    &mut images.init
                } else {
                    &mut images.others
                };
                list.push(image.clone());
            }
        }
        Some(images)
    }

    /// Whether the main containers have images of several versions, and the author has not said
    /// which one is the application's.
    pub fn are_ambiguous(&self) -> bool {
        let mut main = self.all.iter().filter(|container| !container.init);
        let version = |container: &Container| Reference::of(&container.image).version().to_owned();
        let first = main.next().map(version);
        !self.annotated && main.any(|other| Some(version(other)) != first)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Relation::{Different, Same};
    use super::*;

    /// Containers as `name=image`, init containers after a `|`.
    fn template(containers: &str) -> Value {
        let (main, init) = containers.split_once('|').unwrap_or((containers, ""));
        let list = |text: &str| -> Value {
            text.split_whitespace()
                .map(|container| {
                    let (name, image) = container.split_once('=').unwrap();
                    json!({"name": name, "image": image})
                })
                .collect()
        };
        json!({"spec": {"containers": list(main), "initContainers": list(init)}})
    }

    fn gate(settings: &Value) -> Gate {
        let mut gate = json!({"name": "g", "namespace": "n", "job": "j", "serviceAccount": "s"});
        gate.as_object_mut()
            .unwrap()
            .extend(settings.as_object().unwrap().clone());
        serde_json::from_value(gate).unwrap()
    }

    /// Compares by rows `pod / job: relation`, which may have comments, for a gate with these
    /// settings.
    fn check(settings: &Value, rows: &str) {
        let rows = rows.trim().lines().map(str::trim);
        for row in rows.filter(|row| !row.starts_with('#')) {
            let (images, expect) = row.rsplit_once(": ").unwrap();
            let (pod, job) = images.split_once('/').unwrap();
            let wanted = Wanted::of(&gate(settings), &template(pod)).unwrap();
            let contents = Contents::of(&Value::Null, &template(job));
            assert_eq!(format!("{:?}", wanted.relation(&contents)), expect, "{row}");
        }
    }

    #[test]
    fn images_are_compared_by_the_repositories_in_common() {
        let rows = "
            web=shop:2 / migrate=shop:2: Same
            web=shop:2 / migrate=shop:1: Different
            web=web:2 / migrate=job:2: Same
            web=web:2 / migrate=job:1: Different
            # A proxy in front, on one side or on both.
            web=shop:2 / proxy=proxy:8 migrate=shop:2: Same
            nginx=nginx:1 web=shop:2 / migrate=shop:2: Same
            proxy=proxy:8 web=shop:2 / proxy=proxy:8 migrate=shop:1: Different
            proxy=proxy:8 web=shop:2 / proxy=proxy:7 migrate=shop:2: Different
            # A proxy or a helper in common doesn't speak for two applications.
            proxy=proxy:8 web=web:2 / proxy=proxy:8 migrate=job:1: Different
            proxy=proxy:8 web=web:2 / proxy=proxy:8 migrate=job:2: Same
            web=web:2 | wait=busybox:1 / migrate=job:1 | wait=busybox:1: Different
            web=web:2 | wait=busybox:1 / migrate=job:2 | wait=busybox:1: Same
            web=shop:2 | wait=busybox:1 / migrate=shop:2 | wait=pg:15: Same
            # Of two that differ, one is enough.
            web=shop:2 | assets=shop:1 / migrate=shop:2: Different
            web=shop:main / migrate=shop:main: Moving
            proxy=proxy:8 web=shop:main / proxy=proxy:8 migrate=shop:main: Moving
            proxy=proxy:8 web=shop:main / proxy=proxy:7 migrate=shop:main: Different
            web=shop:2 / : Different
        ";
        check(&json!({}), rows);
    }

    #[test]
    fn the_waiter_is_no_part_of_the_version() {
        let pod = template("web=shop:2 | wait-for-migrations=migration-gate:9");
        let wanted = Wanted::of(&gate(&json!({})), &pod).unwrap();
        let contents = Contents::of(&Value::Null, &template("m=shop:2 g=migration-gate:8"));
        assert_eq!(wanted.relation(&contents), Same);
    }

    #[test]
    fn a_named_container_counts_alone() {
        let rows = "
            proxy=proxy:8 app=shop:2 / proxy=proxy:7 app=shop:2: Same
            proxy=proxy:8 app=shop:2 / proxy=proxy:8 app=shop:1: Different
            app=shop:2 / migrate=shop:2: Same
            app=shop:2 / migrate=shop:2 proxy=shop:2: Different
        ";
        check(&json!({"container": "app"}), rows);
        let missing = Wanted::of(&gate(&json!({"container": "app"})), &template("web=shop:2"));
        assert_eq!(missing, Err(NoVersion::NoContainer("app".into())));
    }

    #[test]
    fn a_label_or_annotation_says_the_version() {
        let labelled = |kind: &str, value: &str| json!({kind: {"v": value}});
        for kind in ["label", "annotation"] {
            let gate = gate(&json!({"version": {kind: "v"}}));
            let field = format!("{kind}s");
            let mut pod = template("web=a:1");
            assert!(Wanted::of(&gate, &pod).is_err());
            pod["metadata"] = labelled(&field, "2");
            let wanted = Wanted::of(&gate, &pod).unwrap();
            let check = |metadata: &Value, template: &Value, expect: Relation| {
                let contents = Contents::of(metadata, template);
                assert_eq!(wanted.relation(&contents), expect, "{metadata} {template}");
            };
            let mut job = template("m=b:9");
            check(&labelled(&field, "2"), &job, Same);
            check(&labelled(&field, "1"), &job, Different);
            check(&Value::Null, &job, Different);
            job["metadata"] = labelled(&field, "2");
            check(&Value::Null, &job, Same);
            // The Job's own metadata has precedence.
            check(&labelled(&field, "1"), &job, Different);
        }
    }

    #[test]
    fn several_versions_are_ambiguous_until_the_author_says_which() {
        let check = |pod: &Value, expect: bool| {
            assert_eq!(Containers::of(pod).are_ambiguous(), expect, "{pod}");
        };
        check(&template("web=shop:2"), false);
        check(&template("web=shop:2 worker=jobs:2"), false);
        check(&template("web=shop:2 | wait=busybox:1"), false);
        let mut pod = template("proxy=proxy:8 web=shop:2");
        check(&pod, true);
        pod["metadata"] = json!({"annotations": {DEFAULT_CONTAINER: "web"}});
        check(&pod, false);
        pod["metadata"] = json!({"annotations": {DEFAULT_CONTAINER: "gone"}});
        check(&pod, true);
    }
}
