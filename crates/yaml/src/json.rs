//! Consecutive JSON values: `kubectl get -o json | jq -c '.items[]'` prints such texts.

use std::ops::Range;

use serde::de::IgnoredAny;

use super::MARK;

/// The JSON values at a text's start, each with the space after it. Empty if the text reads as one
/// YAML stream: if there is no such value, or a single one that only a comment or a `---` may
/// follow.
pub(super) fn values(text: &str) -> Vec<Range<usize>> {
    let begin = text.len() - text.trim_start_matches(MARK).len();
    if !text[begin..].trim_start().starts_with('{') {
        return Vec::new();
    }
    let mut stream = serde_json::Deserializer::from_str(&text[begin..]).into_iter::<IgnoredAny>();
    let mut values = Vec::new();
    let mut start = 0;
    while let Some(Ok(_)) = stream.next() {
        let end = begin + stream.byte_offset();
        let space = text[end..].len() - text[end..].trim_start().len();
        values.push(start..end + space);
        start = end + space;
    }
    let rest = &text[start..];
    let plain = rest.is_empty() || rest.starts_with('#') || rest.starts_with("---");
    if values.len() == 1 && plain {
        return Vec::new();
    }
    values
}
