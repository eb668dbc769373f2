//! Secrets that are recognized by the words before them, or by their form.

use std::ops::Range;

use super::{after_scheme, is_secret, value_length};

/// Words before a secret: `Authorization: Bearer x`.
const SCHEMES: [&str; 2] = ["bearer", "basic"];

/// The prefixes of tokens of widely used services.
const TOKENS: [&str; 15] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat-",
    "xoxb-",
    "xoxp-",
    "xoxa-",
    "sk-",
    "AKIA",
    "ASIA",
    "hf_",
    "eyJ",
];

/// Minimum length of a token. A shorter word with such a prefix is none.
const SHORTEST_TOKEN: usize = 16;

/// `https://TOKEN@host`: the user of a web server is most likely a token.
pub(super) fn user_without_password(run: &str) -> Option<Range<usize>> {
    let (scheme, _) = run.match_indices("://").next()?;
    if !run[..scheme].to_ascii_lowercase().ends_with("http")
        && !run[..scheme].to_ascii_lowercase().ends_with("https")
    {
        return None;
    }
    let start = scheme + 3;
    let authority = &run[start..];
    let authority = &authority[..authority.find(['/', '?', '#']).unwrap_or(authority.len())];
    let at = authority.rfind('@')?;
    // With a colon before the `@`, only the text after the colon is a password.
    (at > 0 && !authority[..at].contains(':')).then_some(start..start + at)
}

/// `user:PASSWORD@tcp(host)`, `//user:PASSWORD@host`, but not the digest of `image:tag@sha256:…`.
pub(super) fn user_without_scheme(run: &str) -> Option<Range<usize>> {
    if after_scheme(run).is_some() {
        return None;
    }
    let at = run.rfind('@')?;
    let from = run[..at].find(':')? + 1;
    let digest = run[at + 1..].starts_with("sha256:");
    (from < at && !digest).then_some(from..at)
}

/// `postgres%3A%2F%2Fuser%3APASSWORD%40host`.
pub(super) fn encoded_user(run: &str) -> Option<Range<usize>> {
    let upper = run.to_ascii_uppercase();
    let authority = upper.find("%3A%2F%2F")? + "%3A%2F%2F".len();
    let from = authority + upper[authority..].find("%3A")? + "%3A".len();
    let to = upper.rfind("%40")?;
    (from < to).then_some(from..to)
}

/// The words after `Bearer`, `--password` or SQL's `PASSWORD`.
pub(super) fn after_words(line: &str, cut: bool) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    let mut before = "";
    for word in line.split_inclusive(char::is_whitespace) {
        let start = from;
        from += word.len();
        let word = word.trim_end();
        let plain = before
            .trim_matches(['"', '\'', ':', ','])
            .to_ascii_lowercase();
        let option = before.starts_with("--") && !before.contains('=') && is_secret(before);
        // In prose, another word follows `password`; in SQL, a quoted text.
        let sql = plain.ends_with("password") && word.starts_with('\'');
        if !word.is_empty() && (SCHEMES.contains(&plain.as_str()) || option || sql) {
            found.push(start..start + value_length(&line[start..], cut));
        }
        before = word;
    }
    found
}

/// Tokens with a known prefix.
pub(super) fn tokens(line: &str) -> Vec<Range<usize>> {
    let is_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '+');
    let mut found = Vec::new();
    let mut from = 0;
    for word in line.split_inclusive(|c| !is_token(c)) {
        let start = from;
        from += word.len();
        let word = word.trim_end_matches(|c| !is_token(c));
        if word.len() >= SHORTEST_TOKEN && TOKENS.iter().any(|begin| word.starts_with(begin)) {
            found.push(start..start + word.len());
        }
    }
    found
}

/// Hides the bodies of PEM blocks (RFC 7468), which have several lines.
#[derive(Debug, Default)]
pub struct Blocks {
    within: bool,
}

/// The length of a base64 line that counts as one of a block whose beginning was not seen. Blocks
/// have lines of 64 or 76 characters.
const BODY: std::ops::RangeInclusive<usize> = 60..=80;

impl Blocks {
    /// Whether the line is part of a block's body.
    pub fn hides(&mut self, line: &str) -> bool {
        let line = line.trim();
        if line.contains("-----BEGIN ") {
            // A block in a single line also ends in it.
            self.within = !line.contains("-----END ");
            return !self.within || !line.ends_with("-----");
        }
        if line.contains("-----END ") {
            self.within = false;
            return false;
        }
        let is_base64 = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=');
        let body = !line.is_empty() && line.chars().all(is_base64);
        // A line that is neither base64 nor a header ends a block, even without its end line.
        self.within &= body || line.is_empty() || line.contains(": ");
        self.within || (body && BODY.contains(&line.len()))
    }
}
