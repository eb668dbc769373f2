//! Texts from elsewhere: limits their length, and replaces characters that would affect a terminal.

/// The beginning of a text: whole characters, at most `bytes` bytes.
pub fn truncate(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

/// The text, or, if it is longer than `bytes` bytes, its beginning of at most `bytes` bytes and an
/// ellipsis.
pub fn shorten(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        text.to_owned()
    } else {
        format!("{}…", truncate(text, bytes))
    }
}

/// A text that is safe to print in one line of a terminal: control characters, line ends and
/// characters that change the direction of writing are replaced. Tabs stay.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => c,
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            '\u{200e}'
            | '\u{200f}'
            | '\u{061c}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{206f}' => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// The 64-bit FNV-1a hash. Names made from it must be the same in every release, which the hashes
/// of `std` do not guarantee.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
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

    #[test]
    fn a_terminal_is_left_alone() {
        assert_eq!(
            printable("a\tä\u{1b}[2J\r\u{202e}b\u{9b}\u{2028}"),
            "a\tä\u{fffd}[2J\u{fffd}\u{fffd}b\u{fffd}\u{fffd}"
        );
    }
}
