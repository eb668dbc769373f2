//! Patterns for names and tags, in a shell's notation: `*`, `?`, `[a-z]`, `[!a-z]`.

use std::fmt;

/// A pattern for a whole text.
///
/// Without any of `*?[`, it matches only itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Token {
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
    /// `[a-z]`, or `[!a-z]` if negated. Ranges include both ends.
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Glob {
    /// Parses a pattern. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = text.chars();
        while let Some(c) = rest.next() {
            tokens.push(match c {
                '?' => Token::One,
                '*' => Token::Any,
                '[' => {
                    let (class, after) = class(rest.as_str())
                        .map_err(|cause| format!("`{text}` is not a pattern: {cause}"))?;
                    rest = after.chars();
                    class
                }
                c => Token::Char(c),
            });
        }
        tokens.dedup_by(|a, b| *a == Token::Any && *b == Token::Any);
        Ok(Self {
            text: text.to_owned(),
            tokens,
        })
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The only text that the pattern matches, if there is only one.
    pub fn literal(&self) -> Option<&str> {
        self.tokens
            .iter()
            .all(|token| matches!(token, Token::Char(_)))
            .then_some(&self.text)
    }

    /// Whether the pattern matches every text.
    pub fn matches_all(&self) -> bool {
        self.tokens == [Token::Any]
    }

    /// Whether the pattern matches the whole of `text`. Takes time proportional to the product of
    /// both lengths at most.
    pub fn matches(&self, text: &str) -> bool {
        let chars: Vec<char> = text.chars().collect();
        let (mut token, mut at) = (0, 0);
        // Where to go on if the rest after the last `*` does not match here.
        let mut retry: Option<(usize, usize)> = None;
        loop {
            match (self.tokens.get(token), chars.get(at)) {
                (Some(Token::Any), _) => {
                    retry = Some((token + 1, at + 1));
                    token += 1;
                }
                (Some(one), Some(c)) if one.takes(*c) => {
                    token += 1;
                    at += 1;
                }
                (None, None) => return true,
                _ => match retry {
                    Some((after, next)) if next <= chars.len() => {
                        (token, at) = (after, next);
                        retry = Some((after, next + 1));
                    }
                    _ => return false,
                },
            }
        }
    }

    /// Whether some text matches both patterns.
    pub fn meets(&self, other: &Self) -> bool {
        meet(&self.tokens, &other.tokens)
    }

    /// Whether the pattern matches some text of at most `longest` of these characters.
    pub fn matches_some(&self, may_be: impl Fn(char) -> bool, longest: usize) -> bool {
        let (mut shortest, mut possible) = (0, true);
        for token in &self.tokens {
            let takes_some = |c: char| may_be(c) && token.takes(c);
            shortest += usize::from(*token != Token::Any);
            possible &= *token == Token::Any || (' '..='~').any(takes_some);
        }
        possible && shortest <= longest
    }

    /// The same pattern as a regular expression in RE2's syntax, for CEL's `matches`. It matches a
    /// whole text.
    pub fn regex(&self) -> String {
        let escaped = |c: char| match c {
            c if c.is_ascii_alphanumeric() || c == '_' => c.to_string(),
            c => format!("\\x{{{:x}}}", u32::from(c)),
        };
        let mut regex = String::from("^");
        for token in &self.tokens {
            match token {
                Token::Char(c) => regex.push_str(&escaped(*c)),
                Token::One => regex.push('.'),
                Token::Any => regex.push_str(".*"),
                Token::Class { negated, ranges } => {
                    regex.push_str(if *negated { "[^" } else { "[" });
                    for (first, last) in ranges {
                        regex.push_str(&escaped(*first));
                        regex.push('-');
                        regex.push_str(&escaped(*last));
                    }
                    regex.push(']');
                }
            }
        }
        regex.push('$');
        regex
    }
}

/// Whether some text matches both, computed from their ends to their beginnings.
fn meet(a: &[Token], b: &[Token]) -> bool {
    // For each rest of `b`: whether it meets the current rest of `a`.
    let mut after = vec![false; b.len() + 2];
    for i in (0..=a.len()).rev() {
        let mut here = vec![false; b.len() + 2];
        for j in (0..=b.len()).rev() {
            here[j] = match (a.get(i), b.get(j)) {
                (None, None) => true,
                (Some(Token::Any), _) | (_, Some(Token::Any)) => after[j] || here[j + 1],
                (Some(first), Some(second)) => {
                    after[j + 1] && (' '..='~').any(|c| first.takes(c) && second.takes(c))
                }
                _ => false,
            };
        }
        after = here;
    }
    after[0]
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Char(own) => *own == c,
            Self::One => true,
            Self::Any => false,
            Self::Class { negated, ranges } => {
                ranges
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&c))
                    != *negated
            }
        }
    }
}

/// Parses a class after its `[`. Also returns the text after its `]`.
fn class(text: &str) -> Result<(Token, &str), &'static str> {
    let (negated, text) = match text.strip_prefix(['!', '^']) {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    // A `]` in the first place stands for itself.
    let end = text
        .char_indices()
        .skip(1)
        .find(|(_, c)| *c == ']')
        .map(|(at, _)| at)
        .ok_or("a `[` has no `]`")?;
    let members: Vec<char> = text[..end].chars().collect();
    let mut ranges = Vec::new();
    let mut i = 0;
    while let Some(first) = members.get(i) {
        let last = match (members.get(i + 1), members.get(i + 2)) {
            (Some('-'), Some(last)) => {
                i += 2;
                last
            }
            _ => first,
        };
        if first > last {
            return Err("a range of it ends before it begins");
        }
        ranges.push((*first, *last));
        i += 1;
    }
    Ok((Token::Class { negated, ranges }, &text[end + 1..]))
}

impl<'de> serde::Deserialize<'de> for Glob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text: String = serde::Deserialize::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::parse(text).unwrap()
    }

    #[test]
    fn a_pattern_matches_whole_texts() {
        let check = |pattern: &str, matching: &[&str], others: &[&str]| {
            let glob = glob(pattern);
            for text in matching {
                assert!(glob.matches(text), "{pattern} {text}");
            }
            for text in others {
                assert!(!glob.matches(text), "{pattern} {text}");
            }
        };
        check("main", &["main"], &["main2", "amain", "", "Main"]);
        check(
            "shop-*",
            &["shop-", "shop-1", "shop-a-b"],
            &["shop", "a-shop-1"],
        );
        check("*-migrate", &["a-migrate", "-migrate"], &["a-migrate-1"]);
        check("a*b*c", &["abc", "axxbyyc", "abbcc"], &["ab", "acb"]);
        check("v[0-9]", &["v0", "v9"], &["v10", "v", "va"]);
        check("v[!0-9]", &["va"], &["v1"]);
        check("[]a-]", &["]", "a", "-"], &["b"]);
        check("?", &["a", "ä"], &["", "ab"]);
        check("", &[""], &["a"]);
        check("**", &["", "a"], &[]);
    }

    #[test]
    fn what_is_no_pattern_is_an_error() {
        for text in ["[", "a[b", "[]", "[z-a]", "[!]"] {
            assert!(Glob::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_without_a_choice_is_its_text() {
        assert_eq!(glob("a.b").literal(), Some("a.b"));
        assert_eq!(glob("a*").literal(), None);
        assert!(glob("**").matches_all() && !glob("*a").matches_all());
    }

    #[test]
    fn the_regular_expression_is_escaped() {
        assert_eq!(
            glob("a.b-*?[0-9][!x]").regex(),
            r"^a\x{2e}b\x{2d}.*.[0-9][^x-x]$"
        );
    }

    #[test]
    fn two_patterns_meet_where_a_text_matches_both() {
        let check = |a: &str, b: &str, expect: bool| {
            assert_eq!(glob(a).meets(&glob(b)), expect, "{a} {b}");
            assert_eq!(glob(b).meets(&glob(a)), expect, "{b} {a}");
        };
        check("web", "web", true);
        check("web", "worker", false);
        check("shop-*", "shop-web", true);
        check("shop-*", "*-web", true);
        check("shop-*", "*-web-?", true);
        check("shop-*", "web-*", false);
        check("*a", "*b", false);
        check("*", "", true);
        check("v[0-4]", "v[4-9]", true);
        check("v[0-4]", "v[5-9]", false);
    }

    #[test]
    fn a_pattern_may_match_nothing_that_can_be() {
        let letters = |c: char| c.is_ascii_alphabetic();
        for (text, expect) in [
            ("a*", true),
            ("a,*", false),
            ("[0-9]", false),
            ("abc", false),
        ] {
            assert_eq!(glob(text).matches_some(letters, 2), expect, "{text}");
        }
    }

    /// RE2's matching, for the subset that [`Glob::regex`] writes.
    fn re2(regex: &str, text: &str) -> bool {
        fn element(regex: &str) -> (Box<dyn Fn(char) -> bool>, &str) {
            fn char_of(regex: &str) -> (char, &str) {
                if let Some(rest) = regex.strip_prefix(r"\x{") {
                    let (code, rest) = rest.split_once('}').unwrap();
                    let code = u32::from_str_radix(code, 16).unwrap();
                    return (char::from_u32(code).unwrap(), rest);
                }
                let c = regex.chars().next().unwrap();
                assert!(c.is_ascii_alphanumeric() || c == '_', "{c} has a meaning");
                (c, &regex[1..])
            }
            if let Some(rest) = regex.strip_prefix('.') {
                return (Box::new(|_| true), rest);
            }
            let Some(mut rest) = regex.strip_prefix('[') else {
                let (own, rest) = char_of(regex);
                return (Box::new(move |c| c == own), rest);
            };
            let negated = rest.starts_with('^');
            rest = rest.trim_start_matches('^');
            let mut ranges = Vec::new();
            while !rest.starts_with(']') {
                let (first, after) = char_of(rest);
                let (last, after) = char_of(after.strip_prefix('-').unwrap());
                ranges.push(first..=last);
                rest = after;
            }
            let takes = move |c| ranges.iter().any(|range| range.contains(&c)) != negated;
            (Box::new(takes), &rest[1..])
        }
        fn matches(regex: &str, text: &str) -> bool {
            if regex == "$" {
                return text.is_empty();
            }
            let (takes, rest) = element(regex);
            let one = |text: &str| {
                text.chars()
                    .next()
                    .filter(|c| takes(*c))
                    .map(char::len_utf8)
            };
            match rest.strip_prefix('*') {
                Some(after) => {
                    matches(after, text)
                        || one(text).is_some_and(|len| matches(regex, &text[len..]))
                }
                None => one(text).is_some_and(|len| matches(rest, &text[len..])),
            }
        }
        matches(regex.strip_prefix('^').unwrap(), text)
    }

    proptest! {
        #[test]
        fn the_regular_expression_matches_the_same(
            pattern in r"[abä.*?\[\]!^-]{0,8}", text in r"[abä.*^\]-]{0,6}",
        ) {
            if let Ok(glob) = Glob::parse(&pattern) {
                prop_assert_eq!(glob.matches(&text), re2(&glob.regex(), &text), "{}", glob.regex());
            }
        }

        #[test]
        fn what_two_patterns_match_they_meet_in(
            a in "[ab*?]{0,6}", b in "[ab*?]{0,6}", text in "[ab]{0,5}",
        ) {
            let (a, b) = (glob(&a), glob(&b));
            if a.matches(&text) && b.matches(&text) {
                prop_assert!(a.meets(&b));
            }
        }

        #[test]
        fn stars_are_as_by_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            fn naive(pattern: &[u8], text: &[u8]) -> bool {
                match pattern.split_first() {
                    None => text.is_empty(),
                    Some((b'*', rest)) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
                    Some((c, rest)) => text
                        .split_first()
                        .is_some_and(|(first, text)| (*c == b'?' || c == first) && naive(rest, text)),
                }
            }
            prop_assert_eq!(glob(&pattern).matches(&text), naive(pattern.as_bytes(), text.as_bytes()));
        }

        #[test]
        fn any_text_has_an_answer(pattern in ".{0,20}", text in ".{0,20}") {
            if let Ok(glob) = Glob::parse(&pattern) {
                let _ = (glob.matches(&text), glob.regex());
            }
        }
    }
}
