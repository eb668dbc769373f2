//! Properties of any text that is read as a pattern, a Job's place in a gate, or a label selector.

use migration_gate_core::gates::{LabelSelector, Requirement};
use migration_gate_core::glob::Glob;

/// Maximum length of a pattern or text, in characters. Longer ones show nothing new, and the slow
/// matcher takes long for them.
const LONGEST: usize = 48;

/// Checks the lines of a text: the first two as patterns, the others as what they may match.
///
/// # Panics
///
/// If a property does not hold.
pub fn check(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().take(8).collect();
    for line in &lines {
        if let Ok(jobs) = Requirement::parse(line) {
            let again = Requirement::parse(&jobs.to_string());
            assert_eq!(again.as_ref(), Ok(&jobs), "{line:?}");
        }
        if let Ok(selector) = LabelSelector::parse(line) {
            let again = LabelSelector::parse(&selector.to_string());
            assert_eq!(again.as_ref(), Ok(&selector), "{line:?}");
        }
    }
    let short = |line: &&&str| line.chars().count() <= LONGEST;
    let patterns: Vec<Glob> = lines
        .iter()
        .take(2)
        .filter(short)
        .filter_map(|line| Glob::parse(line).ok())
        .collect();
    for pattern in &patterns {
        check_pattern(pattern, &lines);
    }
    if let [first, second] = patterns.as_slice() {
        assert_eq!(first.meets(second), second.meets(first));
        let plain = |line: &&&str| line.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        for line in lines.iter().filter(plain) {
            let both = first.matches(line) && second.matches(line);
            assert!(
                !both || first.meets(second),
                "{first} and {second}: {line:?}"
            );
        }
    }
}

fn check_pattern(pattern: &Glob, lines: &[&str]) {
    let written: Vec<char> = pattern.as_str().chars().collect();
    if let Some(literal) = pattern.literal() {
        assert!(pattern.matches(literal), "{pattern:?}");
        assert_eq!(literal, pattern.as_str());
    }
    assert!(pattern.regex().starts_with('^') && pattern.regex().ends_with('$'));
    for line in lines {
        let text: Vec<char> = line.chars().take(LONGEST).collect();
        let line: String = text.iter().collect();
        let slow = matches(&written, &text);
        assert_eq!(pattern.matches(&line), slow, "{pattern:?} {line:?}");
        assert!(!pattern.matches_all() || slow);
    }
}

/// The slow matcher, which reads a pattern character by character.
fn matches(pattern: &[char], text: &[char]) -> bool {
    // For each beginning of the text, whether the pattern so far matches it.
    let mut so_far = vec![false; text.len() + 1];
    so_far[0] = true;
    let mut rest = pattern;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        let mut next = vec![false; text.len() + 1];
        if *first == '*' {
            let mut any = false;
            for (at, reached) in so_far.iter().enumerate() {
                any |= reached;
                next[at] = any;
            }
        } else {
            let class = (*first == '[').then(|| {
                let (class, after) = class(rest);
                rest = after;
                class
            });
            for (at, c) in text.iter().enumerate() {
                let taken = match (&class, first) {
                    (Some((negated, members)), _) => has(members, *c) != *negated,
                    (None, '?') => true,
                    (None, first) => first == c,
                };
                next[at + 1] = so_far[at] && taken;
            }
        }
        so_far = next;
    }
    so_far[text.len()]
}

/// A class from behind its `[`: whether it is negated, its members as they are written, and what
/// follows.
fn class(text: &[char]) -> ((bool, &[char]), &[char]) {
    let negated = matches!(text.first(), Some('!' | '^'));
    let text = &text[usize::from(negated)..];
    let end = 1 + text[1..].iter().position(|c| *c == ']').unwrap();
    ((negated, &text[..end]), &text[end + 1..])
}

fn has(members: &[char], c: char) -> bool {
    match members {
        [first, '-', last, rest @ ..] => (*first..=*last).contains(&c) || has(rest, c),
        [one, rest @ ..] => *one == c || has(rest, c),
        [] => false,
    }
}
