//! Review reads the same objects as `kubectl`, text by text.
//!
//! `tests/review/kubectl.json` holds its answers, which are those of version 1.36.3.
//! `KUBECTL=path cargo test --test review as_kubectl` asks a `kubectl` again and writes them.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use migration_gate::review::manifest::contents;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::loaded;

const ANSWERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/review/kubectl.json");

/// `kubectl`'s answer for a text: the objects that it has read, and whether it refused the rest.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct KubectlAnswer {
    objects: Vec<Value>,
    refused: bool,
}

/// How review may differ from `kubectl`. `docs/review.md` lists the differences.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
enum Expect {
    /// The same objects, or both refuse the text.
    Same,
    /// Review reads what `kubectl` refuses.
    Lenient,
    /// Review refuses what `kubectl` takes, or takes a part of in silence.
    Strict,
}
use Expect::{Lenient, Same, Strict};

fn yaml(name: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {name}\n  namespace: x\ndata:\n  k: \"v\"\n"
    )
}

fn compact(name: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"v"}}}}"#
    )
}

/// The parts of the texts. In a whole text, `POD` stands for the beginning of a Pod.
#[derive(Deserialize)]
struct Texts {
    scalars: Vec<String>,
    separators: Vec<String>,
    starts: Vec<String>,
    ends: Vec<String>,
    whole: Vec<(String, Expect)>,
}

/// Every text, with what is expected of it.
fn cases() -> BTreeMap<String, Expect> {
    let texts = include_str!("kubectl-texts.json");
    let texts: Texts = serde_json::from_str(texts).expect("texts");
    let mut cases = BTreeMap::new();
    let mut add = |text: String, expect: Expect| {
        cases.insert(text, expect);
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    for scalar in &texts.scalars {
        add(format!("{pod}spec:\n  k: {scalar}\n"), Same);
        add(format!("{pod}spec:\n  - {scalar}\n  - x\n"), Same);
    }
    for (text, expect) in &texts.whole {
        add(text.replace("POD\n", pod), *expect);
    }
    // Deep, and wide.
    for depth in [10, 60] {
        let (open, close) = ("{a: ".repeat(depth), "}".repeat(depth));
        add(format!("{pod}spec: {open}yes{close}\n"), Same);
        let lists = format!("{}on{}", "[".repeat(depth), "]".repeat(depth));
        add(format!("{pod}spec: {lists}\n"), Same);
        let block: Vec<String> = (1..=depth).map(|level| " ".repeat(level) + "a:").collect();
        add(format!("{pod}spec:\n{} 1\n", block.join("\n")), Same);
    }
    let wide: Vec<String> = (0..50).map(|key| format!("  k{key}: 0{key}")).collect();
    add(format!("{pod}spec:\n{}\n", wide.join("\n")), Same);
    add(
        (0..12)
            .map(|name| yaml(&format!("n{name}")) + "---\n")
            .collect(),
        Same,
    );
    // The separators of YAML documents, of JSON values, and of both.
    for separator in &texts.separators {
        for (first, second) in [
            (yaml("a"), yaml("b")),
            (yaml("a"), compact("b")),
            (compact("a") + "\n", yaml("b")),
            (compact("a") + "\n", compact("b")),
        ] {
            let text = first + separator + &second;
            add(text.replace('\n', "\r\n"), Same);
            add(text, Same);
        }
    }
    for start in &texts.starts {
        add(format!("{start}{}", yaml("a")), Same);
        add(
            format!("{start}{}---\n{}", yaml("a"), yaml("b")).replace('\n', "\r\n"),
            Same,
        );
        let strict = start.contains(['#', '-']);
        let two = format!("{start}{}\n{}", compact("a"), compact("b"));
        add(two, if strict { Strict } else { Same });
    }
    for end in &texts.ends {
        add(yaml("a") + end, Same);
    }
    for between in ["", "\n", " ", "\n\n", " null ", "\r\n", "\t"] {
        add(compact("a") + between + &compact("b"), Same);
        add(
            compact("a") + between + &compact("b") + between + &compact("c"),
            Same,
        );
    }
    cases
}

/// Review's answer for a text.
fn ours(text: &str) -> KubectlAnswer {
    let loaded = loaded(text);
    let contents = contents(&loaded, None);
    let broken = loaded[0].documents.iter().any(Result::is_err);
    KubectlAnswer {
        objects: contents
            .manifests
            .iter()
            .map(|m| plain(m.request.object.clone()))
            .collect(),
        refused: broken || !contents.problems.is_empty(),
    }
}

fn kubectls(program: &str, text: &str) -> KubectlAnswer {
    let mut child = Command::new(program)
        .args(["label", "--local", "-f", "-", "recorded=yes", "-o", "json"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    let mut stdin = child.stdin.take().expect("a pipe");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    let printed = serde_json::Deserializer::from_slice(&output.stdout).into_iter::<Value>();
    let mut objects = Vec::new();
    for mut printed in printed.map(|one| one.expect("JSON")) {
        match printed.get_mut("items").map(Value::take) {
            Some(Value::Array(items)) => objects.extend(items),
            _ => objects.push(printed),
        }
    }
    for object in &mut objects {
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("labels");
    }
    KubectlAnswer {
        objects: objects.into_iter().map(plain).collect(),
        refused: !output.status.success(),
    }
}

/// A value as both write it: members in order, numbers as they are in JSON.
fn plain(value: Value) -> Value {
    match value {
        Value::Array(elements) => elements.into_iter().map(plain).collect(),
        Value::Object(members) => {
            let sorted: BTreeMap<String, Value> = members
                .into_iter()
                .map(|(key, value)| (key, plain(value)))
                .collect();
            sorted.into_iter().collect()
        }
        Value::Number(number) => number.as_f64().map_or(Value::Null, Value::from),
        value => value,
    }
}

#[test]
fn manifests_are_read_as_kubectl_reads_them() {
    let cases = cases();
    if let Ok(program) = std::env::var("KUBECTL") {
        let answers = cases.keys().map(|text| {
            let answer = kubectls(&program, text);
            format!("{}: {}", json!(text), json!(answer))
        });
        // One a line, so that a difference can be read.
        let lines = answers.collect::<Vec<_>>().join(",\n");
        std::fs::write(ANSWERS, format!("{{\n{lines}\n}}\n")).expect("the answers");
    }
    let answers = std::fs::read_to_string(ANSWERS).expect("the answers");
    let answers: BTreeMap<String, KubectlAnswer> = serde_json::from_str(&answers).expect("JSON");
    assert!(
        cases.keys().eq(answers.keys()),
        "{ANSWERS} is of other texts; see the head of this file"
    );
    let mut wrong = Vec::new();
    for (text, expect) in &cases {
        let (theirs, ours) = (&answers[text], ours(text));
        let right = match expect {
            Same if theirs.refused => ours.refused,
            Same => ours == *theirs,
            Lenient => !ours.refused && *theirs != ours,
            Strict => ours.refused && !theirs.refused,
        };
        if !right {
            wrong.push(format!("{text:?}\n  {expect:?}\n  {theirs:?}\n  {ours:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        cases.len(),
        wrong.join("\n")
    );
    assert!(cases.len() > 200, "{}", cases.len());
}
