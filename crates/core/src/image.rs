//! Container image references, and whether two of them are of the same version.
//!
//! Crates that parse references for registry clients, such as `oci-client`, reject invalid
//! references and add a default registry. The rules compare references as their author wrote them,
//! valid or not, and a repository through any mirror.

use super::glob::Glob;

/// The parts of an image reference: `[registry/]repository[:tag][@digest]`.
///
/// Any text has parts: Kubernetes rejects invalid references, not this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference<'a> {
    /// The repository's last path component. A registry-rewriting webhook keeps it.
    pub repository: &'a str,
    /// The tag. Without tag and digest, a registry uses `latest`.
    pub tag: Option<&'a str>,
    /// The digest, such as `sha256:…`.
    pub digest: Option<&'a str>,
}

impl<'a> Reference<'a> {
    /// The parts of an image reference.
    pub fn of(image: &'a str) -> Self {
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(digest).filter(|digest| !digest.is_empty())),
            None => (image, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = name.rsplit('/').next().unwrap_or(name);
        let (repository, tag) = match last.split_once(':') {
            Some((repository, tag)) => (repository, Some(tag).filter(|tag| !tag.is_empty())),
            None => (last, None),
        };
        Self {
            repository,
            tag: tag.or(digest.is_none().then_some(LATEST)),
            digest,
        }
    }

    /// The version as one word: the tag, else the digest, else `latest`.
    pub fn version(&self) -> &'a str {
        self.tag.or(self.digest).unwrap_or(LATEST)
    }
}

/// The tag of a reference without one.
const LATEST: &str = "latest";

/// The tags that move between versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum MovingTags {
    /// `latest`, and every tag without a digit: `main`, `stable`, `edge`.
    #[default]
    WithoutDigit,
    /// Tags that match one of these patterns.
    Listed(Vec<Glob>),
}

impl MovingTags {
    /// Whether a tag moves.
    pub fn contains(&self, tag: &str) -> bool {
        match self {
            Self::WithoutDigit => !tag.bytes().any(|byte| byte.is_ascii_digit()),
            Self::Listed(globs) => globs.iter().any(|glob| glob.matches(tag)),
        }
    }

    /// Whether a reference may name another image later: its tag moves, and it has no digest.
    pub fn moves(&self, image: &str) -> bool {
        let reference = Reference::of(image);
        reference.digest.is_none() && reference.tag.is_some_and(|tag| self.contains(tag))
    }
}

/// The relation of two image references.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Relation {
    /// They are of the same version.
    Same,
    /// They have the same tag, and it moves: they may or may not be of the same version.
    Moving,
    /// They are of different versions, or nothing shows that they are of the same.
    Different,
}

/// Compares two image references.
///
/// Equal digests are equal content in any repository. Different digests of the same repository are
/// different versions. Otherwise the tags decide, if they do not move.
pub fn compare(a: &str, b: &str, moving: &MovingTags) -> Relation {
    let (a, b) = (Reference::of(a), Reference::of(b));
    if let (Some(first), Some(second)) = (a.digest, b.digest) {
        if first == second {
            return Relation::Same;
        }
        if a.repository == b.repository {
            return Relation::Different;
        }
    }
    match (a.tag, b.tag) {
        (Some(first), Some(second)) if first == second => {
            if moving.contains(first) {
                Relation::Moving
            } else {
                Relation::Same
            }
        }
        _ => Relation::Different,
    }
}

/// Whether `actual` is `wanted`, perhaps through a mirror, or pinned by a digest that only one of
/// them has.
pub fn same_through_mirror(wanted: &str, actual: &str) -> bool {
    wanted == actual
        || (same_repository(wanted, actual)
            && compare(wanted, actual, &MovingTags::Listed(Vec::new())) == Relation::Same)
}

/// Whether `word` is the tag or the digest of an image.
pub fn is_called(image: &str, word: &str) -> bool {
    let Reference { tag, digest, .. } = Reference::of(image);
    [tag, digest].contains(&Some(word))
}

/// Whether two image references have the same last path component. Their versions do not matter.
pub fn same_repository(a: &str, b: &str) -> bool {
    Reference::of(a).repository == Reference::of(b).repository
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Relation::{Different, Moving, Same};
    use super::*;

    #[test]
    fn a_reference_has_parts() {
        let check = |image: &str, repository: &str, tag: Option<&str>, digest: Option<&str>| {
            let expect = Reference {
                repository,
                tag,
                digest,
            };
            assert_eq!(Reference::of(image), expect, "{image}");
        };
        let latest = Some("latest");
        check("piefed", "piefed", latest, None);
        check("piefed:latest", "piefed", latest, None);
        check("piefed/web:1.2.0", "web", Some("1.2.0"), None);
        check("registry:5000/piefed/web", "web", latest, None);
        check("registry:5000/piefed/web:1.2.0", "web", Some("1.2.0"), None);
        check("piefed@sha256:ab", "piefed", None, Some("sha256:ab"));
        check("piefed:1@sha256:ab", "piefed", Some("1"), Some("sha256:ab"));
        check("piefed:@", "piefed", latest, None);
        check("", "", latest, None);
        check(":@", "", latest, None);
    }

    #[test]
    fn a_tag_without_a_digit_moves() {
        let moving = MovingTags::default();
        for tag in "latest main prod Latest stable latest-alpine".split(' ') {
            assert!(moving.contains(tag), "{tag}");
        }
        for tag in ["1", "1.2", "v4", "build-7", "2026-11-26", "a1b2c3d"] {
            assert!(!moving.contains(tag), "{tag}");
        }
        assert!(moving.moves("web:main") && moving.moves("web"));
        assert!(!moving.moves("web:main@sha256:ab") && !moving.moves("web@sha256:ab"));
    }

    #[test]
    fn listed_tags_replace_the_rule() {
        let glob = Glob::parse("v[0-9]").unwrap();
        let moving = MovingTags::Listed(vec![glob]);
        assert!(moving.contains("v4") && !moving.contains("v40") && !moving.contains("main"));
    }

    #[test]
    fn digests_decide_within_a_repository_and_tags_otherwise() {
        let check = |a: &str, b: &str, expect: Relation| {
            let moving = MovingTags::default();
            assert_eq!(compare(a, b, &moving), expect, "{a} {b}");
            assert_eq!(compare(b, a, &moving), expect, "{b} {a}");
        };
        check("piefed/web:1", "piefed/job:1", Same);
        check("web:1", "web:2", Different);
        check("web", "job:latest", Moving);
        check("web:main", "web:main", Moving);
        check("web:main", "web:stable", Different);
        check("web:main", "web:1", Different);
        check("web:1", "web@sha256:ab", Different);
        check("web", "web@sha256:ab", Different);
        check("web:1@sha256:ab", "web:1", Same);
        check("web:main@sha256:ab", "web:main", Moving);
        check("web:main@sha256:ab", "web:main@sha256:cd", Different);
        check("web:1@sha256:ab", "web:1@sha256:cd", Different);
        check("web:1@sha256:ab", "web@sha256:ab", Same);
        check("web:1@sha256:ab", "web:2@sha256:ab", Same);
        check("mirror/web:main@sha256:ab", "web:main@sha256:ab", Same);
        check("web:1@sha256:ab", "job:1@sha256:cd", Same);
        check("web:main@sha256:ab", "job:main@sha256:cd", Moving);
        check("web@sha256:ab", "job@sha256:cd", Different);
    }

    proptest! {
        #[test]
        fn comparing_is_symmetric(
            a in "(r/)?[ab](:(1|main))?(@d[12])?", b in "(r/)?[ab](:(1|main))?(@d[12])?",
            listed in any::<bool>(),
        ) {
            let moving = if listed {
                MovingTags::Listed(vec![Glob::parse("1").unwrap()])
            } else {
                MovingTags::default()
            };
            prop_assert_eq!(compare(&a, &b, &moving), compare(&b, &a, &moving));
            // An image is of the same version as itself, unless its tag moves.
            let own = if moving.moves(&a) { Moving } else { Same };
            prop_assert_eq!(compare(&a, &a, &moving), own);
        }

        #[test]
        fn any_text_has_parts(a in any::<String>(), b in any::<String>()) {
            compare(&a, &b, &MovingTags::default());
            same_through_mirror(&a, &b);
        }
    }

    #[test]
    fn a_mirror_changes_the_registry_only() {
        assert!(same_through_mirror("a/gate:1", "mirror:5000/x/a/gate:1"));
        assert!(same_through_mirror("a/gate:1", "a/gate:1@sha256:ab"));
        assert!(same_through_mirror("a/gate:main", "mirror/a/gate:main"));
        assert!(!same_through_mirror("a/gate:1", "mirror/a/gate:2"));
        assert!(!same_through_mirror("a/gate:1", "mirror/a/busybox:1"));
    }
}
