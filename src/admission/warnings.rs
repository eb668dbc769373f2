//! Warnings within Kubernetes' limits.
//!
//! The API server turns each warning into a `Warning` header, and silently drops a warning that has
//! a control character. Once the warnings have more than 4096 characters in total, it cuts each to
//! 256 characters and ignores those after the limit.

use migration_gate_core::text::truncate;

/// Maximum size of one warning, in bytes. It never has more characters than bytes.
const LONGEST: usize = 256;

/// Maximum total size of the warnings in one response, in bytes.
const MOST: usize = 4096;

/// Room for the line that counts the omitted warnings, in bytes.
const REST: usize = 48;

/// The warnings as they are sent, each within the limits. A long one continues in the next. If
/// there is no room for all, the last one counts those that are missing.
///
/// `unlisted` is the number of warnings that exist besides `warnings`.
pub(super) fn within_limits(warnings: &[String], unlisted: usize) -> Vec<String> {
    let mut out = Vec::new();
    let mut room = MOST - REST;
    let mut missing = unlisted;
    for (i, warning) in warnings.iter().enumerate() {
        let pieces = pieces(&warning.replace(char::is_control, " "));
        let size: usize = pieces.iter().map(String::len).sum();
        if size > room {
            missing += warnings.len() - i;
            break;
        }
        room -= size;
        out.extend(pieces);
    }
    if missing > 0 {
        out.push(format!("…and {missing} more that there is no room for"));
    }
    out
}

/// A text in pieces of at most [`LONGEST`] bytes, broken at spaces if possible.
fn pieces(text: &str) -> Vec<String> {
    const MARK: char = '…';
    let mut rest = text.trim();
    let mut pieces = Vec::new();
    let mut lead = "";
    while lead.len() + rest.len() > LONGEST {
        let most = truncate(rest, LONGEST - lead.len() - MARK.len_utf8());
        let space = most.rfind(' ').filter(|at| *at > 0);
        let cut = space.unwrap_or(most.len());
        pieces.push(format!("{lead}{}{MARK}", rest[..cut].trim_end()));
        rest = rest[cut..].trim_start();
        lead = "…";
    }
    pieces.push(format!("{lead}{rest}"));
    pieces
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_warning_goes_as_it_is() {
        let warnings = vec!["remove the field".to_owned(), "x".repeat(LONGEST)];
        assert_eq!(within_limits(&warnings, 0), warnings);
    }

    #[test]
    fn a_long_warning_is_continued_at_a_space() {
        let warning = "word ".repeat(80);
        let out = within_limits(std::slice::from_ref(&warning), 0);
        assert_eq!(out.len(), 2);
        assert!(out[0].ends_with("word…"), "{}", out[0]);
        assert!(out[1].starts_with("…word"), "{}", out[1]);
        let joined = out.join(" ").replace("… …", " ");
        assert_eq!(joined, warning.trim());
    }

    #[test]
    fn what_has_no_room_is_counted() {
        let warnings = vec!["x".repeat(200); 100];
        let out = within_limits(&warnings, 0);
        assert_eq!(
            out.last().unwrap(),
            "…and 80 more that there is no room for"
        );
        assert_eq!(out.len(), 21);
        let out = within_limits(&warnings, 900);
        assert!(out.last().unwrap().contains("980 more"), "{out:?}");
        let out = within_limits(&warnings[..1], 2);
        assert!(out.last().unwrap().contains("and 2 more"), "{out:?}");
    }

    #[test]
    fn control_characters_would_cost_the_whole_warning() {
        assert_eq!(within_limits(&["a\nb\u{7f}c".to_owned()], 0), ["a b c"]);
    }

    proptest! {
        #[test]
        fn the_limits_hold_for_any_text(
            warnings in prop::collection::vec(
                prop::collection::vec(prop::sample::select(vec!["word", " ", "é", "🔒", "\n"]), 0..400),
                0..12,
            )
        ) {
            let warnings: Vec<String> = warnings.iter().map(|words| words.concat()).collect();
            let out = within_limits(&warnings, 0);
            prop_assert!(out.iter().all(|warning| warning.len() <= LONGEST));
            prop_assert!(out.iter().map(String::len).sum::<usize>() <= MOST);
        }
    }
}
