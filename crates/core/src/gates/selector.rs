//! Label selectors.
//!
//! The rules of `metav1.LabelSelector` are a few lines. `kube-core` has them, too, but would add
//! the types of a client to this crate.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;

/// A label selector, as in `metav1.LabelSelector`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that an object must have, with these values.
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
    /// The relation of `values` to the label.
    pub operator: LabelOperator,
    /// Empty for `Exists` and `DoesNotExist`, at least one otherwise.
    #[serde(default)]
    pub values: Vec<String>,
}

/// The operators of a label selector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum LabelOperator {
    /// The label exists and has one of the values.
    In,
    /// The label does not exist, or has none of the values.
    NotIn,
    /// The label exists.
    Exists,
    /// The label does not exist.
    DoesNotExist,
}

impl LabelSelector {
    /// Whether an object is selected. `label` returns the value of its label with a key.
    ///
    /// An empty selector is one of [`Config::problems`](super::Config::problems), so it never
    /// silently selects everything.
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

impl LabelSelector {
    /// Parses the notation of [`Display`](fmt::Display), which is that of `kubectl -l`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selector = Self::default();
        for term in terms(text) {
            selector.term(term).ok_or_else(|| {
                format!("`{text}` is not a label selector, such as `app=shop,tier in (web,worker)`")
            })?;
        }
        Ok(selector)
    }

    fn term(&mut self, term: &str) -> Option<()> {
        let values = |list: &str| -> Option<Vec<String>> {
            let list = list.strip_prefix('(')?.strip_suffix(')')?;
            Some(
                list.split(',')
                    .map(|value| value.trim().to_owned())
                    .collect(),
            )
        };
        let (key, operator, values) = if let Some(key) = term.strip_prefix('!') {
            (key, LabelOperator::DoesNotExist, Vec::new())
        } else if let Some((key, list)) = term.split_once(" in ") {
            (key, LabelOperator::In, values(list)?)
        } else if let Some((key, list)) = term.split_once(" notin ") {
            (key, LabelOperator::NotIn, values(list)?)
        } else if let Some((key, value)) = term.split_once('=') {
            self.match_labels.insert(key.to_owned(), value.to_owned());
            return (!key.is_empty()).then_some(());
        } else {
            (term, LabelOperator::Exists, Vec::new())
        };
        self.match_expressions.push(LabelRequirement {
            key: key.to_owned(),
            operator,
            values,
        });
        (!key.is_empty() && !key.contains(char::is_whitespace)).then_some(())
    }
}

/// The terms of a selector. A comma within parentheses belongs to its term.
fn terms(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0;
    text.split(move |c| {
        depth += match c {
            '(' => 1,
            ')' => -1,
            _ => 0,
        };
        c == ',' && depth == 0
    })
}

/// The notation of `kubectl -l` and of the API server's `labelSelector`.
impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let labels = self
            .match_labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        let expressions = self.match_expressions.iter().map(|requirement| {
            let LabelRequirement {
                key,
                operator,
                values,
            } = requirement;
            let values = values.join(",");
            match operator {
                LabelOperator::In => format!("{key} in ({values})"),
                LabelOperator::NotIn => format!("{key} notin ({values})"),
                LabelOperator::Exists => key.clone(),
                LabelOperator::DoesNotExist => format!("!{key}"),
            }
        });
        let terms: Vec<String> = labels.chain(expressions).collect();
        f.write_str(&terms.join(","))
    }
}
