//! Label selectors.
//!
//! The rules of `metav1.LabelSelector` are a few lines, and `kube-core`, which has them too, would
//! bring a client's types into this crate.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A label selector, as in `metav1.LabelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be there with these values.
    #[serde(default)]
    pub match_labels: BTreeMap<String, String>,
    /// Requirements that must all hold.
    #[serde(default)]
    pub match_expressions: Vec<LabelRequirement>,
}

/// One requirement of a [`LabelSelector`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label's key.
    pub key: String,
    /// How `values` relate to the label.
    pub operator: LabelOperator,
    /// Empty for `Exists` and `DoesNotExist`, at least one otherwise.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The operators of a label selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LabelOperator {
    /// The label is there and has one of the values.
    In,
    /// The label isn't there or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label isn't there.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object with these labels is selected. `label` answers a key with its value.
    ///
    /// An empty selector is one of [`Config::problems`](super::Config::problems), so it never silently selects everything.
    pub fn matches<'a>(&self, label: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.match_labels
            .iter()
            .all(|(key, value)| label(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| {
                let value = label(&requirement.key);
                let listed = value.is_some_and(|v| requirement.values.iter().any(|w| w == v));
                match requirement.operator {
                    LabelOperator::In => listed,
                    LabelOperator::NotIn => !listed,
                    LabelOperator::Exists => value.is_some(),
                    LabelOperator::DoesNotExist => value.is_none(),
                }
            })
    }
}
