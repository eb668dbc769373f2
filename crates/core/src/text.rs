//! Texts that must not get too long.

/// The beginning of a text: whole characters, at most `bytes` bytes of them.
pub fn truncate(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// A text as it is, or, if it is longer than `bytes` bytes, its beginning with an ellipsis.
pub fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        text.to_owned()
    } else {
        format!("{}…", truncate(text, bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_stay_whole() {
        assert_eq!(truncate("aä", 2), "a");
        assert_eq!(truncate("aä", 3), "aä");
        assert_eq!(truncate("aä", 9), "aä");
        assert_eq!(shorten("aä", 3), "aä");
        assert_eq!(shorten("aä", 2), "a…");
    }
}
