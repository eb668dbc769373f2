//! Values as YAML, in the style that `kubectl` prints.

use serde_json::Value;

/// A value as block YAML, two spaces a level, with a line feed at the end.
///
/// Text that YAML 1.1 or 1.2 would read as anything else is quoted. `None` if the value nests too
/// deep for the serialiser, whose limit is above [`MAX_DEPTH`](migration_gate_yaml::MAX_DEPTH).
pub fn yaml(value: &Value) -> Option<String> {
    let options = serde_saphyr::ser_options! {
        indent_step: 2,
        compact_list_indent: true,
        // Never fold: a long argument stays on its line, as a diff wants it.
        folded_wrap_chars: usize::MAX,
    };
    let mut text = serde_saphyr::to_string_with_options(value, options).ok()?;
    if !text.ends_with('\n') {
        text.push('\n');
    }
    Some(text)
}
