//! Container image references, and when two of them are of one version.

use std::fmt;

/// What tells one release of an image from another.
///
/// A tag, or the digest where there is no tag. `latest` says nothing about what is in the image,
/// and no tag means `latest`, so both are [`Version::Mutable`], unless a digest pins the image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// A tag other than `latest`.
    Tag(String),
    /// A digest, such as `sha256:…`.
    Digest(String),
    /// `latest`, or nothing at all.
    Mutable,
}

impl Version {
    /// The version of an image reference, `[registry/]repository[:tag][@digest]`.
    ///
    /// Any text has an answer: what isn't a reference is refused by Kubernetes, not here.
    pub fn of(image: &str) -> Self {
        let (name, digest) = match image.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (image, None),
        };
        // A colon before the last slash belongs to the registry's port.
        let last = name.rsplit('/').next().unwrap_or(name);
        let tag = last
            .split_once(':')
            .map(|(_, tag)| tag)
            .filter(|tag| !tag.is_empty() && *tag != "latest");
        match (tag, digest) {
            (Some(tag), _) => Self::Tag(tag.to_owned()),
            (None, Some(digest)) if !digest.is_empty() => Self::Digest(digest.to_owned()),
            (None, _) => Self::Mutable,
        }
    }

    /// Whether what the version names may change under it.
    pub fn is_mutable(&self) -> bool {
        *self == Self::Mutable
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tag(text) | Self::Digest(text) => f.write_str(text),
            Self::Mutable => f.write_str("latest"),
        }
    }
}

/// Whether two image references are of one version: the whole references are equal, or the
/// versions are. Web, worker and Job are often three images that were built under one tag.
pub fn same_version(a: &str, b: &str) -> bool {
    a == b || Version::of(a) == Version::of(b)
}

/// Whether `actual` is `wanted`, perhaps pulled through a mirror: same repository, same version.
pub fn same_through_mirror(wanted: &str, actual: &str) -> bool {
    wanted == actual || (same_repository(wanted, actual) && same_version(wanted, actual))
}

/// Whether two image references have the same last path component, whatever their versions.
/// Registry-rewriting webhooks are common, and what they leave is still the same image.
pub fn same_repository(a: &str, b: &str) -> bool {
    fn base(image: &str) -> &str {
        let name = image.split('@').next().unwrap_or(image);
        let last = name.rsplit('/').next().unwrap_or(name);
        last.split(':').next().unwrap_or(last)
    }
    base(a) == base(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_the_tag_or_else_the_digest() {
        let check =
            |image: &str, expect: Version| assert_eq!(Version::of(image), expect, "{image}");
        let tag = |t: &str| Version::Tag(t.to_owned());
        let digest = |d: &str| Version::Digest(d.to_owned());
        check("piefed", Version::Mutable);
        check("piefed:latest", Version::Mutable);
        check("piefed/web:1.2.0", tag("1.2.0"));
        check("registry:5000/piefed/web", Version::Mutable);
        check("registry:5000/piefed/web:1.2.0", tag("1.2.0"));
        check("piefed@sha256:ab", digest("sha256:ab"));
        check("piefed:1.2.0@sha256:ab", tag("1.2.0"));
        check("piefed:latest@sha256:ab", digest("sha256:ab"));
        check("", Version::Mutable);
        check(":@", Version::Mutable);
    }

    #[test]
    fn one_version_over_several_images() {
        assert!(same_version("piefed/web:1", "piefed/job:1"));
        assert!(same_version("web", "job:latest"));
        assert!(!same_version("web:1", "web:2"));
        assert!(!same_version("web:1", "web@sha256:ab"));
        assert!(!same_version("web@sha256:ab", "job@sha256:cd"));
        assert!(same_version("web@sha256:ab", "web@sha256:ab"));
    }

    #[test]
    fn a_mirror_changes_the_registry_only() {
        assert!(same_through_mirror("a/gate:1", "mirror:5000/x/a/gate:1"));
        assert!(!same_through_mirror("a/gate:1", "mirror/a/gate:2"));
        assert!(!same_through_mirror("a/gate:1", "mirror/a/busybox:1"));
    }
}
