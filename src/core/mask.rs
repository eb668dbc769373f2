//! Hides passwords in URLs before a log goes anywhere else.

/// What stands in a password's place.
const MASK: &str = "***";

/// The line with every `scheme://user:PASSWORD@` masked.
///
/// Passwords that should have been percent-encoded and weren't (`/`, `#`, `@`) are found as well:
/// everything up to the last `@` of the URL is taken for the password, unless what follows the
/// colon is a port. White space, quotes and angle brackets end a URL.
///
/// `cut` says that the line goes on beyond the text, so a URL at its end may have lost its `@`.
pub fn passwords(line: &str, cut: bool) -> String {
    let mut masked = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(colon) = rest.find("://") {
        let (before, after) = rest.split_at(colon + 3);
        masked.push_str(before);
        let end = after
            .find(|c: char| {
                c.is_whitespace() || c.is_control() || matches!(c, '"' | '\'' | '`' | '<' | '>')
            })
            .unwrap_or(after.len());
        // The next URL begins with its scheme, which is never a password's last part.
        let end = after[..end].find("://").unwrap_or(end);
        let (url, next) = after.split_at(end);
        match password(url, cut && next.is_empty()) {
            Some((from, to)) => {
                masked.push_str(&url[..from]);
                masked.push_str(MASK);
                masked.push_str(&url[to..]);
            }
            None => masked.push_str(url),
        }
        rest = next;
    }
    masked.push_str(rest);
    masked
}

/// Where the password is in what follows `://`.
fn password(url: &str, cut: bool) -> Option<(usize, usize)> {
    let authority = &url[..url.find(['/', '?', '#']).unwrap_or(url.len())];
    let colon = authority.find(':')?;
    let from = colon + 1;
    if let Some(at) = authority.rfind('@') {
        // `user@host:port` has no password.
        return (at > colon).then_some((from, at));
    }
    let is_port = authority[from..].parse::<u16>().is_ok();
    match url.rfind('@') {
        Some(at) if !is_port => Some((from, at)),
        None if cut && (!is_port || authority.len() == url.len()) => Some((from, url.len())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn passwords_are_masked_wherever_a_url_is() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, false), expect, "{line}");
        check("postgres://u:secret@db/x", "postgres://u:***@db/x");
        check(
            "postgresql+psycopg2://u:secret@db:5432/x?a=b",
            "postgresql+psycopg2://u:***@db:5432/x?a=b",
        );
        check("redis://:secret@redis:6379/0", "redis://:***@redis:6379/0");
        check(
            r#"could not connect to "amqp://u:p%40@mq", retrying"#,
            r#"could not connect to "amqp://u:***@mq", retrying"#,
        );
        check(
            "a://u:p@h1,b://v:q@h2 c://w:r@h3",
            "a://u:***@h1,b://v:***@h2 c://w:***@h3",
        );
        // Not encoded, as people do.
        check("postgres://u:se@cr@et@db/x", "postgres://u:***@db/x");
        check("postgres://u:se/cr#et@db/x", "postgres://u:***@db/x");
        check("postgres://u:pässwörd@db", "postgres://u:***@db");
        check("postgres://u:@db", "postgres://u:***@db");
        // No password.
        check("https://user@host:443/x", "https://user@host:443/x");
        check("http://web:8080/@alice", "http://web:8080/@alice");
        check(
            "https://piefed.example/u/a@b",
            "https://piefed.example/u/a@b",
        );
        check("at 10:30 mail a@b", "at 10:30 mail a@b");
        check("://", "://");
        check("x://:@", "x://:***@");
        check("://://a:b@c", "://://a:***@c");
    }

    #[test]
    fn a_url_that_was_cut_short_shows_nothing_of_its_password() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, true), expect, "{line}");
        check("postgres://u:secr", "postgres://u:***");
        check("postgres://u:se/cr", "postgres://u:***");
        check("postgres://u:123", "postgres://u:***");
        check("postgres://u:secret@d", "postgres://u:***@d");
        check("postgres://us", "postgres://us");
        check("postgres://u:secr and more", "postgres://u:secr and more");
        check("http://web:8080/pa", "http://web:8080/pa");
    }

    proptest! {
        #[test]
        fn a_password_without_white_space_or_quotes_never_shows(
            before in ".{0,20}",
            scheme in "[a-z][a-z+]{0,8}",
            user in "[a-z0-9_.%]{0,8}",
            secret in "SECRET[a-zA-Z0-9/#?@:%!$&*+,;=._~-]{0,12}",
            after in "[a-z.]{1,8}(:[0-9]{1,4})?(/.{0,20})?",
        ) {
            prop_assume!(!secret.contains("://"));
            let line = format!("{before} {scheme}://{user}:{secret}@{after}");
            prop_assert!(!passwords(&line, false).contains("SECRET"), "{line}");
        }

        #[test]
        fn any_text_is_taken(line in any::<String>(), cut in any::<bool>()) {
            passwords(&line, cut);
        }
    }
}
