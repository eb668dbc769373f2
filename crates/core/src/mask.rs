//! Masks secrets in quoted texts.
//!
//! Every text that may be a password is masked: a log that shows too little is a nuisance, one that
//! shows too much is a leak. Crates for redaction know the secret, or the field that holds it. Here
//! the text is the log of any program.

mod shapes;

use std::ops::Range;

pub use self::shapes::Blocks;

/// The replacement of a password, and of a hidden line.
pub const HIDDEN: &str = "***";

/// The value of a name that contains one of these is a secret. Upper and lower case are the same.
const SECRETS: [&str; 18] = [
    "password",
    "passwd",
    "passphrase",
    "pwd",
    "secret",
    "token",
    "credential",
    "signature",
    "apikey",
    "api_key",
    "api-key",
    "access_key",
    "private_key",
    "privatekey",
    AUTHORIZATION,
    "_pass",
    "dbpass",
    "authkey",
];

/// The field with a value of two words. The second one is the secret.
const AUTHORIZATION: &str = "authorization";

/// Masks the passwords in a line: in `scheme://user:PASSWORD@host` and similar forms, after names
/// such as `password` (`?password=x`, `password: x`, `"password": "x"`, `--password x`, `PASSWORD
/// 'x'`), after `Bearer` and `Basic`, and tokens that have a known form.
///
/// In each run of text without white space, everything from the first colon after `://` to the last
/// `@` is masked. So a password may contain characters that should have been percent-encoded. In a
/// list of URLs, or with an `@` in a path, more than the password is masked. Slashes may be escaped
/// as in JSON (`:\/\/`). A parameter's value ends at `&` or white space, or at its closing quote if
/// it begins with a quote.
///
/// `cut` says that the end of the line is missing, so the last URL may have lost its `@`.
pub fn passwords(line: &str, cut: bool) -> String {
    let mut hidden: Vec<Range<usize>> = runs(line)
        .flat_map(|run| {
            let last = cut && run.end == line.len();
            let text = &line[run.clone()];
            let found = [
                user_password(text, last),
                shapes::user_without_password(text),
                shapes::user_without_scheme(text),
                shapes::encoded_user(text),
            ];
            let shift = run.start;
            found
                .into_iter()
                .flatten()
                .map(move |f| shift + f.start..shift + f.end)
        })
        .chain(parameters(line, cut))
        .chain(shapes::after_words(line, cut))
        .chain(shapes::tokens(line))
        .collect();
    hidden.sort_by_key(|range| range.start);
    let mut masked = String::with_capacity(line.len());
    let mut shown = 0;
    for Range { start, end } in hidden {
        // Two ranges that overlap get one mask.
        if start >= shown {
            masked.push_str(&line[shown..start]);
            masked.push_str(HIDDEN);
        }
        shown = shown.max(end);
    }
    masked.push_str(&line[shown..]);
    masked
}

/// The runs of text without white space.
fn runs(line: &str) -> impl Iterator<Item = Range<usize>> {
    let ends_run = |c: char| c.is_whitespace() || c.is_control();
    let mut from = 0;
    line.split_inclusive(ends_run).map(move |run| {
        let start = from;
        from += run.len();
        start..start + run.trim_end_matches(ends_run).len()
    })
}

/// The range of the password in a run with a URL.
fn user_password(run: &str, cut: bool) -> Option<Range<usize>> {
    let authority = after_scheme(run)?;
    let from = authority + run[authority..].find(':')? + 1;
    let to = match run.rfind('@') {
        // There may be another `@` beyond the cut.
        _ if cut => run.len(),
        Some(at) if at >= from => at,
        // `user@host:port`, or no user at all.
        _ => return None,
    };
    Some(from..to)
}

/// Where the first `://` ends. Its slashes may be escaped any number of times.
fn after_scheme(run: &str) -> Option<usize> {
    run.match_indices(':').find_map(|(colon, _)| {
        let rest = &run[colon + 1..];
        let rest = slash(slash(rest)?)?;
        Some(run.len() - rest.len())
    })
}

/// The text after a slash.
fn slash(text: &str) -> Option<&str> {
    text.trim_start_matches('\\').strip_prefix('/')
}

/// The ranges of the values of secret parameters: after `=`, or after `:` as in YAML and JSON.
fn parameters(line: &str, cut: bool) -> impl Iterator<Item = Range<usize>> {
    line.match_indices(['=', ':'])
        .filter_map(move |(at, sign)| {
            let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | '%');
            // `SECRET_KEY = 'x'`, `"password": "x"`, `\"password\": \"x\"`.
            let before = line[..at].trim_end_matches([' ', '"', '\'', '\\']);
            let name = before.rsplit(|c| !is_name(c)).next()?;
            if !is_secret(name) {
                return None;
            }
            let rest = &line[at + 1..];
            let blanks = match sign {
                // After `?password=` without a value, the next word is not its value.
                "=" if before.len() == at => 0,
                _ => rest.len() - rest.trim_start_matches(' ').len(),
            };
            let start = at + 1 + blanks;
            let mut end = start + value_length(&line[start..], cut);
            let is_quoted = line[start..].starts_with(['"', '\'', '\\']);
            if !is_quoted && name.to_ascii_lowercase().ends_with(AUTHORIZATION) {
                // `Authorization: Token x`.
                let second = end + (line[end..].len() - line[end..].trim_start_matches(' ').len());
                end = second + value_length(&line[second..], cut);
            }
            (end > start).then_some(start..end)
        })
}

/// Whether a name's value is a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETS.iter().any(|part| name.contains(part))
}

fn value_length(text: &str, cut: bool) -> usize {
    // Inside a quoted text, quotes are escaped.
    let escapes = text.len() - text.trim_start_matches('\\').len();
    if escapes > 0 && text[escapes..].starts_with('"') {
        let quote = &text[..=escapes];
        let closed = text[quote.len()..].find(quote);
        return match closed {
            Some(at) => 2 * quote.len() + at,
            None if cut => text.len(),
            None => unquoted_length(text),
        };
    }
    let quoted = match text.chars().next() {
        Some(quote @ ('"' | '\'')) => match quoted_length(text, quote) {
            Some(length) => length,
            // The closing quote may be beyond the cut.
            None if cut => text.len(),
            None => 0,
        },
        _ => 0,
    };
    quoted + unquoted_length(&text[quoted..])
}

fn unquoted_length(text: &str) -> usize {
    let ends_value = |c: char| c == '&' || c.is_whitespace() || c.is_control();
    text.find(ends_value).unwrap_or(text.len())
}

/// The length up to and including the closing quote. A quote that is never closed is part of the
/// value.
fn quoted_length(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (index, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(index + c.len_utf8());
        }
        escaped = c == '\\' && !escaped;
    }
    None
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
        check("a://u:p@h1 b://v:q@h2", "a://u:***@h1 b://v:***@h2");
        // Slashes escaped as in JSON, and twice.
        check(r"a:\/\/u:pw@h\/x", r"a:\/\/u:***@h\/x");
        check(r"a:\\/\\/u:pw@h", r"a:\\/\\/u:***@h");
        // A user without a password for a web server is most likely a token.
        check("https://user@host:443/x", "https://***@host:443/x");
        // No password.
        check("postgres://user@host:5432/x", "postgres://user@host:5432/x");
        check("http://web:8080/x", "http://web:8080/x");
        check(
            "https://piefed.example/u/a@b",
            "https://piefed.example/u/a@b",
        );
        check("at 10:30 mail a@b", "at 10:30 mail a@b");
        check("://", "://");
        check("x://:@", "x://:***@");
    }

    #[test]
    fn what_should_have_been_encoded_and_was_not_is_masked_too() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, false), expect, "{line}");
        check("postgres://u:se@cr@et@db/x", "postgres://u:***@db/x");
        check("postgres://u:se/cr#et@db/x", "postgres://u:***@db/x");
        check("postgres://u:p@ss/word@db/x", "postgres://u:***@db/x");
        check("postgres://u:123/abc@db", "postgres://u:***@db");
        check("postgres://u:a://b@db", "postgres://u:***@db");
        check("amqp://ten/user:pw@h", "amqp://ten/user:***@h");
        check("amqp://ten?us#er:pw@h", "amqp://ten?us#er:***@h");
        check("postgres://u:p\"w<o>r`d'@db", "postgres://u:***@db");
        check("postgres://u:pässwörd@db", "postgres://u:***@db");
        check("postgres://u:@db", "postgres://u:***@db");
        // More than the password, because its end is unknown.
        check("http://web:8080/@alice", "http://web:***@alice");
        check("a://u:p@h1,b://v:q@h2", "a://u:***@h2");
    }

    #[test]
    fn passwords_in_parameters_are_masked() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, false), expect, "{line}");
        check(
            "jdbc:postgresql://db/x?user=u&password=p@ss&ssl=true",
            "jdbc:postgresql://db/x?user=u&password=***&ssl=true",
        );
        check(
            "jdbc:sqlserver://db;user=u;password=pw;encrypt=true",
            "jdbc:sqlserver://db;user=u;password=***",
        );
        check("?sslpassword=a&x=y", "?sslpassword=***&x=y");
        check("/hook?Access_Token=a", "/hook?Access_Token=***");
        check("?client_secret=a=b", "?client_secret=***");
        check(
            "host=db password='a \\' b' dbname=x",
            "host=db password=*** dbname=x",
        );
        check("password='never closed", "password=*** closed");
        check("PGPASSWORD=pw psql", "PGPASSWORD=*** psql");
        check("a://u:p@h?token=t", "a://u:***@h?token=***");
        // If both forms overlap, in either order, both are masked completely.
        check("a://u:Xpassword=Y@h", "a://u:***");
        check("a://db:5432/?password=X@Y", "a://db:***");
        // No secret.
        check("?user=u&sslmode=require", "?user=u&sslmode=require");
        check("password=", "password=");
    }

    #[test]
    fn passwords_are_masked_in_the_forms_of_other_languages() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, false), expect, "{line}");
        check("password: x", "password: ***");
        check("POSTGRES_PASSWORD: x y", "POSTGRES_PASSWORD: *** y");
        check(
            r#"{"password": "a b", "user": "u"}"#,
            r#"{"password": *** "user": "u"}"#,
        );
        check("'password': 'x'", "'password': ***");
        check("SECRET_KEY = 'x'", "SECRET_KEY = ***");
        check("DB_PASS=x", "DB_PASS=***");
        check("Authorization: Bearer abc.def", "Authorization: ***");
        check("authorization: Token abc x", "authorization: *** x");
        check("got basic dTpw", "got basic ***");
        check("psql --password x -U u", "psql --password *** -U u");
        check("ALTER ROLE a PASSWORD 'x'", "ALTER ROLE a PASSWORD ***");
        check("u:pw@tcp(db:3306)/x", "u:***@tcp(db:3306)/x");
        check("//u:pw@h/x", "//u:***@h/x");
        check(
            "postgres%3A%2F%2Fu%3Apw%40h",
            "postgres%3A%2F%2Fu%3A***%40h",
        );
        check(
            "clone https://ghtoken@git.example/x",
            "clone https://***@git.example/x",
        );
        check("key ghp_0123456789abcdefghij", "key ***");
        check("jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1In0.x", "jwt ***");
        // Ordinary lines stay as they are.
        for line in [
            "INFO  [alembic.runtime.migration] Running upgrade a1 -> b2, add users",
            "pulled registry:5000/shop/web:1.2@sha256:0123456789abcdef0123",
            "2026-01-01 10:30:00 the password was wrong",
            "psycopg.OperationalError: connection to server at \"db\" (10.0.0.7), port 5432 failed",
            "mail to a@example.org at 10:30",
        ] {
            check(line, line);
        }
    }

    #[test]
    fn bodies_of_pem_blocks_are_hidden() {
        let body = "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz";
        let hidden = |lines: &[&str]| {
            let mut blocks = Blocks::default();
            lines
                .iter()
                .map(|line| blocks.hides(line))
                .collect::<Vec<_>>()
        };
        let begin = "-----BEGIN SECRET-----";
        let end = "-----END SECRET-----";
        assert_eq!(
            hidden(&["a", begin, body, "abc=", end, "b"]),
            [false, false, true, true, false, false]
        );
        // The beginning or the end of the block is missing.
        assert_eq!(hidden(&[body, "b c"]), [true, false]);
        assert_eq!(
            hidden(&[begin, body, "the next line"]),
            [false, true, false]
        );
        assert_eq!(hidden(&[&format!("{begin}{body}{end}")]), [true]);
    }

    #[test]
    fn a_url_that_was_cut_short_shows_nothing_of_its_password() {
        let check = |line: &str, expect: &str| assert_eq!(passwords(line, true), expect, "{line}");
        check("postgres://u:secr", "postgres://u:***");
        check("postgres://u:se/cr", "postgres://u:***");
        check("postgres://u:123", "postgres://u:***");
        check("postgres://u:sec@ret", "postgres://u:***");
        check("postgres://us", "postgres://us");
        check("postgres://u:secr and more", "postgres://u:secr and more");
        check("http://web:8080/pa", "http://web:***");
        check("?password=sec", "?password=***");
        check("password='se cr", "password=***");
    }

    /// Each form has `@@` in place of the secret.
    const FORMS: [&str; 32] = [
        "postgres://u:@@@db/x",
        "redis://:@@@redis:6379/0",
        r"a:\/\/u:@@@h\/x",
        "https://@@@git.example/x",
        "//u:@@@h/x",
        "u:@@@tcp(db:3306)/x",
        "postgres%3A%2F%2Fu%3A@@%40h",
        "jdbc:postgresql://db/x?user=u&password=@@",
        r#"{"password": "@@"}"#,
        r#"{"user":"u","db_password":"a @@ b"}"#,
        r#""{\"password\": \"a @@ b\"}""#,
        "{'password': '@@'}",
        "password: @@",
        "POSTGRES_PASSWORD: @@",
        "POSTGRES_PASSWORD=@@",
        "SECRET_KEY = '@@'",
        "password = @@",
        "DB_PASS=@@",
        "DBPASS=@@",
        "AWS_SECRET_ACCESS_KEY=@@",
        "api_key: @@",
        "Authorization: Bearer @@",
        "Authorization: Basic @@",
        "Authorization: Token @@",
        r#""authorization": "Bearer @@""#,
        "got bearer @@",
        "psql --password @@",
        "psql --password=@@",
        "ALTER ROLE a PASSWORD '@@'",
        "with eyJSHAPE@@.SHAPE.SHAPE",
        "with ghp_SHAPE@@",
        "with glpat-SHAPE@@",
    ];

    /// A word of a line without secrets.
    const ORDINARY: &str = "[a-zA-Z]{1,8}[,.]?|[0-9]{1,9}|[0-9]{1,2}:[0-9]{2}:[0-9]{2}|v[0-9]\\.[0-9]{1,2}|/[a-z]{1,6}/[a-z]{1,6}\\.py|[a-z]{1,6}@[a-z]{1,6}\\.org|https?://[a-z]{1,8}:[0-9]{2,4}/[a-z]{0,6}|10\\.[0-9]{1,2}\\.0\\.1:[0-9]{2,4}|[a-z]{1,6}/[a-z]{1,6}:[0-9]\\.[0-9]@sha256:[0-9a-f]{20}|[a-z]{1,5}=[a-z0-9]{1,6}|\\[[a-z.]{1,12}\\]|->";

    proptest! {
        #[test]
        fn neither_end_of_a_password_ever_shows(
            before in ".{0,20}",
            scheme in "[a-z][a-z+]{0,8}",
            slashes in prop_oneof![Just("://"), Just(r":\/\/")],
            user in r#"[a-z0-9_.%/?#"<>]{0,8}"#,
            secret in r"\PC{0,12}",
            after in "[a-z.]{1,8}(:[0-9]{1,4})?(/.{0,20})?",
        ) {
            let secret = secret.replace(char::is_whitespace, "");
            let line = format!("{before} {scheme}{slashes}{user}:FIRST{secret}LAST@{after}");
            let masked = passwords(&line, false);
            prop_assert!(!masked.contains("FIRST") && !masked.contains("LAST"), "{line}: {masked}");
        }

        #[test]
        fn neither_end_of_a_parameter_ever_shows(
            before in ".{0,20}",
            url in "([a-z]{1,8}://)?[a-z0-9:@/]{0,12}",
            name in "[?&; ][a-z_]{0,4}(password|Token|SECRET|pwd)",
            secret in r"\PC{0,12}",
            after in "(&.{0,20})?",
        ) {
            let secret = secret.replace(|c: char| c.is_whitespace() || c == '&', "");
            let line = format!("{before}{url}{name}=FIRST{secret}LAST{after}");
            let masked = passwords(&line, false);
            prop_assert!(!masked.contains("FIRST") && !masked.contains("LAST"), "{line}: {masked}");
        }

        /// Each listed form, with any text around it.
        #[test]
        fn no_secret_of_a_listed_form_ever_shows(
            before in "[a-zA-Z0-9 ,.;()-]{0,20}",
            form in prop::sample::select(&FORMS[..]),
            secret in r"[A-Za-z0-9+/_.!#$%^*~-]{0,16}",
            after in "( [a-zA-Z0-9 ,.]{0,20})?",
        ) {
            // If a token has a known form, the secret must have its characters.
            let secret = if form.contains("SHAPE") {
                secret.replace(|c: char| !c.is_ascii_alphanumeric(), "x")
            } else {
                secret
            };
            // A user ends where a path begins.
            let secret = if form.starts_with("https://@@") {
                secret.replace(['/', '#', '?'], "")
            } else {
                secret
            };
            let secret = format!("FIRST{secret}LAST");
            let line = form.replace("SHAPE", "0123456789").replace("@@", &secret);
            let line = format!("{before} {line}{after}");
            let masked = passwords(&line, false);
            prop_assert!(!masked.contains("FIRST") && !masked.contains("LAST"), "{line}: {masked}");
            // The words after it are not a secret.
            prop_assert!(masked.ends_with(after.as_str()), "{line}: {masked}");
        }

        /// Words, numbers, versions, paths, addresses and times are never masked.
        #[test]
        fn ordinary_lines_stay_as_they_are(
            words in prop::collection::vec(ORDINARY, 0..12),
        ) {
            let line = words.join(" ");
            let words = SECRETS.iter().chain(&["bearer", "basic"]);
            let named = words.clone().any(|word| line.to_ascii_lowercase().contains(word));
            prop_assume!(!named);
            prop_assert_eq!(passwords(&line, false), line);
        }

        #[test]
        fn any_text_is_taken(line in any::<String>(), cut in any::<bool>()) {
            passwords(&line, cut);
        }
    }
}
