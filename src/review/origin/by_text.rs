//! Lines of a template, found by their text: literally, or by the parts around its actions
//! (`image: {{ .Values.image }}`). If several match, the lines before and after decide.

use std::collections::HashMap;

/// Minimum number of letters and digits outside of actions that identify a line.
const FEWEST: usize = 3;

/// Stands for an action of a template.
const ACTION: char = '\u{0}';

/// For each rendered line, the line of the template, both counted from 1.
pub(super) fn lines(template: &str, rendered: &str) -> Vec<Option<usize>> {
    let template = Template::read(template);
    let rendered: Vec<&str> = rendered.lines().map(str::trim).collect();
    // A template may make several documents in a loop.
    let documents = rendered.split_inclusive(|line| *line == "---");
    let lines = documents.flat_map(|document| lines_of(&template, document));
    lines.map(|line| line.map(|line| line + 1)).collect()
}

fn lines_of(template: &Template<'_>, rendered: &[&str]) -> Vec<Option<usize>> {
    let candidates: Vec<Vec<usize>> = rendered.iter().map(|l| template.candidates(l)).collect();
    let mut found: Vec<Option<usize>> = candidates.iter().map(|lines| only(lines)).collect();
    keep_order(&mut found);
    between(&mut found, &candidates);
    found
}

fn only(lines: &[usize]) -> Option<usize> {
    match lines {
        [line] => Some(*line),
        _ => None,
    }
}

/// Forgets lines that are out of order: an included template may contain the same text.
fn keep_order(found: &mut [Option<usize>]) {
    let mut last = 0;
    let known: Vec<(usize, usize)> = found
        .iter()
        .enumerate()
        .filter_map(|(at, line)| Some((at, (*line)?)))
        .collect();
    for (index, (at, line)) in known.iter().enumerate() {
        let next = known.get(index + 1).map(|(_, next)| *next);
        // Of two neighbours out of order, the one that agrees with the third is right.
        let outlier = *line < last || next.is_some_and(|next| next < *line && next >= last);
        if outlier {
            found[*at] = None;
        } else {
            last = *line;
        }
    }
}

/// Decides between several lines by the known ones before and after.
fn between(found: &mut [Option<usize>], candidates: &[Vec<usize>]) {
    let mut before = None;
    for at in 0..found.len() {
        if found[at].is_none() {
            let after = found[at..].iter().flatten().next();
            let fits = |line: &&usize| {
                before.is_none_or(|before| **line > before)
                    && after.is_none_or(|after| *line < after)
            };
            let fitting: Vec<usize> = candidates[at].iter().filter(fits).copied().collect();
            found[at] = only(&fitting);
        }
        before = found[at].or(before);
    }
}

/// The lines of a template, indexed by their text.
#[derive(Default)]
struct Template<'t> {
    literal: HashMap<&'t str, Vec<usize>>,
    /// Lines with actions, as the texts around them.
    patterns: Vec<(Vec<String>, usize)>,
}

impl<'t> Template<'t> {
    fn read(text: &'t str) -> Self {
        let mut template = Self::default();
        let without = without_actions(text);
        for (index, (line, plain)) in text.lines().zip(without.split('\n')).enumerate() {
            let plain = plain.trim();
            if plain.chars().filter(|c| c.is_alphanumeric()).count() < FEWEST {
                continue;
            }
            if plain.contains(ACTION) {
                let parts = plain.split(ACTION).map(str::to_owned);
                template.patterns.push((parts.collect(), index));
            } else {
                template.literal.entry(line.trim()).or_default().push(index);
            }
        }
        template
    }

    fn candidates(&self, line: &str) -> Vec<usize> {
        if let Some(lines) = self.literal.get(line) {
            return lines.clone();
        }
        let patterns = self.patterns.iter();
        let matching = patterns.filter(|(parts, _)| matches(parts, line));
        matching.map(|(_, index)| *index).collect()
    }
}

/// A template with [`ACTION`] in place of each action. Keeps all line breaks.
fn without_actions(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        plain.push_str(&rest[..start]);
        plain.push(ACTION);
        let action = &rest[start..];
        let end = action.find("}}").map_or(action.len(), |end| end + 2);
        plain.extend(action[..end].chars().filter(|c| *c == '\n'));
        rest = &action[end..];
    }
    plain.push_str(rest);
    plain
}

/// Whether the parts follow each other in the line: the first at its start, the last at its end.
fn matches(parts: &[String], line: &str) -> bool {
    let (Some((first, rest)), Some(last)) = (parts.split_first(), parts.last()) else {
        return false;
    };
    let Some(mut left) = line.strip_prefix(first.as_str()) else {
        return false;
    };
    for part in &rest[..rest.len().saturating_sub(1)] {
        match left.find(part.as_str()) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(last.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "\
{{- if .Values.web }}
kind: Deployment
metadata:
  name: {{ include \"shop.fullname\" . }}-web
  labels: {{- include \"shop.labels\" .
    | nindent 4 }}
spec:
  template:
    spec:
      containers:
      - name: web
        image: \"{{ .Values.image }}:{{ .Values.tag }}\"
        env:
        - name: A
          value: x
      - name: log
        image: {{ .Values.log }}
        env:
        - name: A
          value: x
{{- end }}
";

    const RENDERED: &str = "\
kind: Deployment
metadata:
  name: shop-web
  labels:
    app: shop
spec:
  template:
    spec:
      containers:
      - name: web
        image: \"shop:latest\"
        env:
        - name: A
          value: x
      - name: log
        image: fluentd
        env:
        - name: A
          value: x
";

    #[test]
    fn lines_are_found_by_their_text_and_their_neighbours() {
        let found = lines(TEMPLATE, RENDERED);
        let expected: Vec<Option<usize>> = [
            2, 3, 4, 0, 0, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20,
        ]
        .map(|line| (line > 0).then_some(line))
        .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn what_may_be_several_lines_is_none() {
        assert_eq!(lines("a: one\na: one\n", "a: one\n"), [None]);
        // The neighbouring lines decide.
        let text = "first: 1\nname: a\nsecond: 2\nname: a\n";
        assert_eq!(lines(text, text), [1, 2, 3, 4].map(Some));
        // A line that consists of actions alone matches any line, and so identifies none.
        assert_eq!(lines("{{ a }}: {{ b }}\n", "name: x\n"), [None]);
        assert_eq!(lines("", "name: x\n"), [None]);
    }

    #[test]
    fn a_line_that_is_out_of_order_is_not_believed() {
        let text = "kind: A\nname: b\nspec: c\n";
        assert_eq!(
            lines(text, "kind: A\nspec: c\nname: b\nspec: c\n").last(),
            Some(&Some(3))
        );
    }

    #[test]
    fn each_document_of_a_loop_is_found_anew() {
        let text = "{{ range .Values.list }}\n---\nkind: A\nname: {{ . }}\n{{ end }}\n";
        let rendered = "---\nkind: A\nname: x\n---\nkind: A\nname: y\n";
        let lines = lines(text, rendered);
        assert_eq!(lines, [None, Some(3), Some(4), None, Some(3), Some(4)]);
    }
}
