//! The Jobs that a gate waits for.

use std::fmt;

use serde::Deserialize;

use super::LabelSelector;
use crate::glob::Glob;

/// Alternative Jobs, one of which must have completed: an entry of a gate's `jobs`.
///
/// If several Jobs match, the newest one of the wanted version counts.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WrittenJobs")]
pub struct Requirement {
    /// The alternatives, at least one.
    pub any_of: Vec<JobSource>,
}

/// How Jobs are found.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Alternative")]
pub enum JobSource {
    /// By name, exact or with `*` for a part that changes with each release.
    Name(Glob),
    /// By labels of the Job.
    Labels(LabelSelector),
}

impl JobSource {
    /// The name, if it is exact, so that permission for one Job is enough.
    pub fn exact_name(&self) -> Option<&str> {
        match self {
            Self::Name(name) => name.literal(),
            Self::Labels(_) => None,
        }
    }

    /// Whether a Job with this name and these labels matches.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Name(pattern) => pattern.matches(name),
            Self::Labels(selector) => selector.matches(label),
        }
    }

    /// Parses the notation of [`Display`](fmt::Display).
    pub fn parse(text: &str) -> Result<Self, String> {
        match text.strip_prefix(LABELS) {
            Some(selector) => LabelSelector::parse(selector).map(Self::Labels),
            None => Glob::parse(text).map(Self::Name),
        }
    }
}

/// The prefix of a selector. No name has a colon.
const LABELS: &str = "label:";

impl fmt::Display for JobSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Labels(selector) => write!(f, "{LABELS}{selector}"),
        }
    }
}

/// The separator of alternatives. No name and no label contains it.
const OR: char = '|';

impl Requirement {
    /// One Job, by its exact name or a pattern.
    pub fn named(name: Glob) -> Self {
        Self {
            any_of: vec![JobSource::Name(name)],
        }
    }

    /// The name, if only one Job can match.
    pub fn exact_name(&self) -> Option<&str> {
        match self.any_of.as_slice() {
            [source] => source.exact_name(),
            _ => None,
        }
    }

    /// Whether a Job with this name and these labels matches.
    pub fn matches<'a>(&self, name: &str, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.any_of
            .iter()
            .any(|source| source.matches(name, &label))
    }

    /// Parses the notation of [`Display`](fmt::Display), which the waiter's argument uses.
    pub fn parse(text: &str) -> Result<Self, String> {
        let any_of = text
            .split(OR)
            .map(JobSource::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { any_of })
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, source) in self.any_of.iter().enumerate() {
            if i > 0 {
                write!(f, "{OR}")?;
            }
            source.fmt(f)?;
        }
        Ok(())
    }
}

/// An entry of `jobs` in the configuration, with exactly one of these keys.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenJobs {
    #[serde(default)]
    name: Option<Glob>,
    #[serde(default)]
    selector: Option<LabelSelector>,
    #[serde(default)]
    any_of: Option<Vec<JobSource>>,
}

impl TryFrom<WrittenJobs> for Requirement {
    type Error = &'static str;

    fn try_from(entry: WrittenJobs) -> Result<Self, Self::Error> {
        let any_of = match (entry.name, entry.selector, entry.any_of) {
            (Some(name), None, None) => vec![JobSource::Name(name)],
            (None, Some(selector), None) => vec![JobSource::Labels(selector)],
            (None, None, Some(any_of)) if !any_of.is_empty() => any_of,
            (None, None, Some(_)) => return Err("`anyOf` is empty; list at least one Job"),
            (None, None, None) => return Err("set one of `name`, `selector` and `anyOf`"),
            _ => return Err("set only one of `name`, `selector` and `anyOf`"),
        };
        Ok(Self { any_of })
    }
}

/// An entry of `anyOf` in the configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Alternative {
    #[serde(default)]
    name: Option<Glob>,
    #[serde(default)]
    selector: Option<LabelSelector>,
}

impl TryFrom<Alternative> for JobSource {
    type Error = &'static str;

    fn try_from(entry: Alternative) -> Result<Self, Self::Error> {
        match (entry.name, entry.selector) {
            (Some(name), None) => Ok(Self::Name(name)),
            (None, Some(selector)) => Ok(Self::Labels(selector)),
            (None, None) => Err("set one of `name` and `selector`"),
            (Some(_), Some(_)) => Err("set only one of `name` and `selector`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(entry: serde_json::Value) -> Result<Requirement, String> {
        serde_json::from_value(entry).map_err(|error| error.to_string())
    }

    #[test]
    fn an_entry_is_written_and_read_again_as_an_argument() {
        let check = |entry: serde_json::Value, expect: &str| {
            let requirement = read(entry).unwrap();
            assert_eq!(requirement.to_string(), expect);
            assert_eq!(
                Requirement::parse(expect).as_ref(),
                Ok(&requirement),
                "{expect}"
            );
        };
        check(json!({"name": "shop-migrate"}), "shop-migrate");
        check(json!({"name": "shop-*"}), "shop-*");
        check(
            json!({"selector": {"matchLabels": {"a/b": "c", "d": ""}}}),
            "label:a/b=c,d=",
        );
        check(
            json!({"anyOf": [{"name": "x"}, {"selector": {"matchExpressions": [
                {"key": "e", "operator": "In", "values": ["f", "g"]},
                {"key": "h", "operator": "NotIn", "values": ["i"]},
                {"key": "j", "operator": "Exists"},
                {"key": "k", "operator": "DoesNotExist"},
            ]}}]}),
            "x|label:e in (f,g),h notin (i),j,!k",
        );
    }

    #[test]
    fn an_entry_has_one_key() {
        for (entry, expect) in [
            (json!({}), "set one of"),
            (json!({"name": "a", "selector": {}}), "set only one of"),
            (json!({"anyOf": []}), "empty"),
            (
                json!({"anyOf": [{"name": "a", "selector": {}}]}),
                "set only one of",
            ),
            (json!({"nam": "a"}), "unknown field"),
        ] {
            let error = read(entry.clone()).unwrap_err();
            assert!(error.contains(expect), "{entry}: {error}");
        }
    }
}
