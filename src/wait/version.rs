//! The arguments for the version that the Jobs must have completed for.

use migration_gate_core::gates::{Freshness, VersionSource};
use migration_gate_core::glob::Glob;
use migration_gate_core::image::MovingTags;
use migration_gate_core::version::{Images, Wanted};

/// The version that a pod needs.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub(super) struct WantedArgs {
    /// Image of a container in the pod; repeatable
    ///
    /// The Job must have completed for its version. The first one is the default container's.
    #[arg(long = "image", value_name = "IMAGE")]
    images: Vec<String>,

    /// Image of an init container in the pod; repeatable
    #[arg(long = "init-image", value_name = "IMAGE")]
    init_images: Vec<String>,

    /// Container whose image alone counts, in the Job and in the pod
    #[arg(long, value_name = "NAME")]
    container: Option<String>,

    /// The first image is known to be the application's
    #[arg(long, hide = true)]
    default_image_counts: bool,

    /// Label or annotation with the version: label:KEY=VALUE or annotation:KEY=VALUE
    #[arg(long = "version", value_name = "VERSION", conflicts_with = "images")]
    metadata: Option<String>,

    /// Image tags that move between versions; * ? and [0-9] are wildcards [default: tags without a
    /// digit]
    #[arg(long, value_name = "TAGS", value_delimiter = ',', value_parser = Glob::parse)]
    moving_tags: Option<Vec<Glob>>,
}

impl WantedArgs {
    /// The wanted version.
    pub(super) fn wanted(&self, freshness: Freshness) -> Result<Wanted, String> {
        if freshness == Freshness::Any {
            return Ok(Wanted::Any);
        }
        if let Some(text) = &self.metadata {
            return metadata(text);
        }
        let mut images = self.images.iter();
        let default = images.next().filter(|image| !image.is_empty()).ok_or(
            "--image: it is missing, so no Job's version can be compared with it; give the \
             image that waits, or --freshness=any to take every completed Job",
        )?;
        Ok(Wanted::Images {
            images: Images {
                default: default.clone(),
                others: images.cloned().collect(),
                init: self.init_images.clone(),
            },
            container: self.container.clone(),
            told: self.container.is_some() || self.default_image_counts,
            moving: match &self.moving_tags {
                Some(globs) => MovingTags::Listed(globs.clone()),
                None => MovingTags::default(),
            },
        })
    }
}

fn metadata(text: &str) -> Result<Wanted, String> {
    let source: fn(String) -> VersionSource;
    let rest = if let Some(rest) = text.strip_prefix("label:") {
        source = VersionSource::Label;
        rest
    } else if let Some(rest) = text.strip_prefix("annotation:") {
        source = VersionSource::Annotation;
        rest
    } else {
        return Err(format!(
            "--version: `{text}` is not of the form `label:KEY=VALUE`"
        ));
    };
    match rest.split_once('=') {
        Some((key, value)) if !key.is_empty() && !value.is_empty() => Ok(Wanted::Metadata {
            source: source(key.to_owned()),
            value: value.to_owned(),
        }),
        _ => Err(format!(
            "--version: the pod template has no {}, so no Job's version can be compared with it; \
             set it in the pod template and in the Job",
            source(rest.trim_end_matches('=').to_owned())
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_by_metadata_needs_a_value() {
        let label = Wanted::Metadata {
            source: VersionSource::Label("a/b".into()),
            value: "2=3".into(),
        };
        assert_eq!(metadata("label:a/b=2=3"), Ok(label));
        assert!(matches!(
            metadata("annotation:c=d"),
            Ok(Wanted::Metadata {
                source: VersionSource::Annotation(_),
                ..
            })
        ));
        let missing = metadata("label:a/b=").expect_err("no value");
        assert!(
            missing.contains("the pod template has no label a/b,"),
            "{missing}"
        );
        assert!(metadata("a=b").is_err());
    }
}
