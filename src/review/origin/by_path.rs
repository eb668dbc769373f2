//! Fields of a manifest, found by their paths; elements of lists by their names, if they have any.

use std::ops::Range;

use migration_gate_core::field::Step;
use migration_gate_core::podspec::name;
use migration_gate_yaml::{Document, Found, Lines, documents};
use serde_json::Value;

/// For each rendered line, the line of the file, both counted from 1. `part` is where the object is
/// in the file.
pub(super) fn lines(text: &str, part: &Range<usize>, rendered: &str) -> Vec<Option<usize>> {
    let mut found = vec![None; rendered.lines().count()];
    let first = |text: &str| documents(text).flatten().next();
    let (Some(ours), Some(theirs)) = (first(rendered), first(&text[part.clone()])) else {
        return found;
    };
    let mut walk = Walk {
        rendered: (Lines::new(rendered), &ours),
        file: (Lines::new(text), &theirs),
        start: part.start,
        found: &mut found,
    };
    walk.fields(&mut Vec::new(), &mut Vec::new());
    found
}

/// Both documents, with their lines.
struct Walk<'w> {
    rendered: (Lines<'w>, &'w Document),
    file: (Lines<'w>, &'w Document),
    /// Where the file's document starts.
    start: usize,
    found: &'w mut Vec<Option<usize>>,
}

impl Walk<'_> {
    /// Notes the lines of a field, and of the fields below it. The arguments are its paths in the
    /// two documents.
    fn fields(&mut self, ours: &mut Vec<Step>, theirs: &mut Vec<Step>) {
        let (from, to) = (self.rendered.1.find(ours), self.file.1.find(theirs));
        if to.steps < theirs.len() {
            return;
        }
        self.note(&from, &to);
        let pairs: Vec<(Step, Step)> = match (from.value, to.value) {
            (Value::Object(members), Value::Object(_)) => {
                let keys = members.keys().map(|key| Step::Key(key.clone()));
                keys.map(|key| (key.clone(), key)).collect()
            }
            (Value::Array(elements), Value::Array(others)) => elements
                .iter()
                .enumerate()
                .filter_map(|(at, element)| {
                    let same = |other: &Value| name(other) == name(element);
                    let there = match name(element) {
                        Some(_) => others.iter().position(same)?,
                        None => at,
                    };
                    Some((Step::Index(at), Step::Index(there)))
                })
                .collect(),
            _ => return,
        };
        for (our, their) in pairs {
            ours.push(our);
            theirs.push(their);
            self.fields(ours, theirs);
            ours.pop();
            theirs.pop();
        }
    }

    /// Notes the lines of the keys, and of the values unless they are collections.
    fn note(&mut self, from: &Found<'_>, to: &Found<'_>) {
        let deeper = |value: &Value| value.is_object() || value.is_array();
        let values =
            (!deeper(from.value) && !deeper(to.value)).then_some((from.node.span, to.node.span));
        let pairs = [from.key.zip(to.key), values];
        for (from, to) in pairs.into_iter().flatten() {
            let line = self.rendered.0.position(from.start()).line;
            let there = self.file.0.position(self.start + to.start()).line;
            if let Some(found) = self.found.get_mut(line - 1) {
                found.get_or_insert(there);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_wherever_it_stands() {
        let file = "---\nkind: A\n---\nkind: B\nspec:\n  list:\n  - {name: web, image: a}\n  - name: log\n    image: b\n";
        let rendered =
            "kind: B\nspec:\n  list:\n  - image: new\n    name: log\n  - name: new\n  more: c\n";
        let start = file.rfind("---").unwrap();
        assert_eq!(
            lines(file, &(start..file.len()), rendered),
            [Some(4), Some(5), Some(6), Some(9), Some(8), None, None]
        );
        assert_eq!(lines("a: [", &(0..4), "a: b\n"), [None]);
    }
}
