//! The same objects as `kubectl` reads, text by text.
//!
//! `tests/review/kubectl.json` holds its answers. `KUBECTL=path cargo test --test review as_kubectl`
//! asks a `kubectl` anew and writes them; those that are there are of version 1.36.3.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use migration_gate::review::manifest::contents;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::loaded;

const ANSWERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/review/kubectl.json");

/// What `kubectl` makes of a text: the objects that it read before it gave up, if it did.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
struct KubectlAnswer {
    objects: Vec<Value>,
    refused: bool,
}

/// How review may differ from `kubectl`. `docs/review.md` says so.
#[derive(Debug, Clone, Copy, PartialEq)]
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

/// Every text, with what is expected of it.
fn cases() -> BTreeMap<String, Expect> {
    let mut cases = BTreeMap::new();
    let mut add = |text: String, expect: Expect| {
        cases.insert(text, expect);
    };
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n";
    for scalar in SCALARS {
        add(format!("{pod}spec:\n  k: {scalar}\n"), Same);
        add(format!("{pod}spec:\n  - {scalar}\n  - x\n"), Same);
    }
    for (text, expect) in WHOLE {
        add(text.replace("POD\n", pod), expect);
    }
    // What separates documents of YAML, of JSON, and of both.
    for separator in [
        "---\n",
        "--- # c\n",
        "---   \n",
        "\n---\n",
        "---\n---\n",
        "# c\n---\n# d\n",
        "---\t\n",
    ] {
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
    for start in [
        "",
        "\u{feff}",
        "# c\n",
        "---\n",
        "\n\n",
        "  \n",
        "\u{feff}---\n",
        "\u{feff}# c\n---\n",
    ] {
        add(format!("{start}{}", yaml("a")), Same);
        add(
            format!("{start}{}---\n{}", yaml("a"), yaml("b")).replace('\n', "\r\n"),
            Same,
        );
        let two = format!("{start}{}\n{}", compact("a"), compact("b"));
        add(
            two,
            if start.contains(['#', '-']) {
                Strict
            } else {
                Same
            },
        );
    }
    for end in [
        "", "\n\n", "# end", "---\n", "...\n", "\n...", "  \n", "---", "--- ",
    ] {
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

const SCALARS: [&str; 58] = [
    "y",
    "yes",
    "on",
    "Off",
    "NULL",
    "~",
    "''",
    "0755",
    "0o17",
    "08",
    "1_000",
    "1e3",
    "1E-2",
    ".5",
    "5.",
    "0x1F",
    "0b11",
    "1:30",
    "12:30:45",
    "2001-01-01",
    "2001-01-01T01:02:03Z",
    "+1",
    "-0",
    "\"a\"",
    "'it''s'",
    "!!str 5",
    "!!int \"5\"",
    "!!float 5",
    "!!bool yes",
    "!!null x",
    "\"\\u00e9\\x41\\t\"",
    "a # c",
    "a#c",
    "1.0",
    "1.10",
    "|\n    a\n    b",
    "|-\n    a\n\n",
    ">-\n    a\n    b\n\n    c",
    "|2\n      a",
    "@x",
    "`x",
    "%x",
    "-",
    "{a: b}",
    "[a, b]",
    "[a, [b], {c: d}]",
    "*nope",
    "&a x",
    "&a [*a]",
    "=",
    "a: b",
    "\"a\n    b\"",
    "é😀",
    "12345678901234567890",
    "\u{a0}x",
    "\"a\u{2028}b\"",
    "? a",
    "[a\n   , b]",
];

const WHOLE: [(&str, Expect); 42] = [
    ("", Same),
    ("# c\n", Same),
    ("null\n---\nPOD\n", Same),
    ("hello\n---\nPOD\n", Same),
    (
        "apiVersion: v1\nkind: Pod\nmetadata: &m {name: a}\nspec: *m\n",
        Same,
    ),
    ("x: &x {a: 1, b: 2}\nPOD\nspec:\n  <<: *x\n  b: 3\n", Same),
    (
        "x: &x {a: 1}\nw: &w {a: 2, c: 3}\nPOD\nspec:\n  <<: [*x, *w]\n",
        Same,
    ),
    ("POD\nspec: {<<: {a: 1}}\n", Same),
    (
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n- {apiVersion: v1, kind: Pod, metadata: {name: b}}\n",
        Same,
    ),
    ("apiVersion: v1\nkind: List\nitems: []\n", Same),
    (
        "apiVersion: v1\nkind: PodList\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}}\n",
        Same,
    ),
    ("apiVersion:\tv1\nkind:\tPod\nmetadata: {name:\ta}\n", Same),
    ("apiVersion: v1\nkind: Pod\nmetadata:\n\tname: a\n", Same),
    ("POD\nspec: {1: a, true: b, 1.5: c}\n", Same),
    ("POD\nspec: {null: a}\n", Same),
    (
        "{apiVersion: v1,\nkind: Pod,\n metadata: {name: a},\n}\n",
        Same,
    ),
    (
        "\"apiVersion\": v1\n'kind': Pod\nmetadata: {\"name\":\"a\"}\n",
        Same,
    ),
    (
        "? apiVersion\n: v1\n? kind\n: Pod\nmetadata: {name: a}\n",
        Same,
    ),
    (
        "POD\nspec:\n  l:\n  # x\n  - a # y\n\n  # z\n  -   b\n  -\n",
        Same,
    ),
    ("POD\nspec:\n  l:\n  - a: 1\n    b: 2\n  -   c: 3\n", Same),
    ("POD\nspec:\n  l:\n  - - a\n    - b\n  - - c\n", Same),
    (
        "POD\nspec: [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]]]]]]]]]]]\n",
        Same,
    ),
    (
        "POD\nspec:\n  script: |\n    ---\n    # no comment\n    a: b\n",
        Same,
    ),
    ("POD\nspec:\n  script: >\n\n    a\n     b\n", Same),
    ("POD\ndata: {k: !!binary aGk=}\n", Same),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},\"spec\":{\"k\":\"\\u00e9\\/\\ud83d\\ude00\\n\"}}",
        Same,
    ),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"},}",
        Same,
    ),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}\nPOD\n",
        Same,
    ),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}\n,\n",
        Same,
    ),
    ("POD\nspec: [\n", Same),
    ("POD\nspec: {a: 1, a: 2}\n", Strict),
    ("POD\nkind: Pod\n", Strict),
    ("POD\nspec: {k: \"\\/\"}\n", Lenient),
    (
        "POD\nspec: {k: !!binary \"aGk\", l: !!binary '\u{e9}'}\n",
        Same,
    ),
    ("%YAML 1.1\n---\nPOD\n", Lenient),
    ("\t\nPOD\n", Lenient),
    ("POD\n\t", Lenient),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}\n---\nPOD\n",
        Lenient,
    ),
    (
        "{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"a\"}}{\"apiVersion\":\"v1\",\"kind\":\"Pod\",\"metadata\":{\"name\":\"b\"}}\n# c\n",
        Lenient,
    ),
    ("---\n\u{feff}POD\n", Lenient),
    ("# c\n\u{feff}POD\n", Lenient),
    ("---\n# c\n\n\u{feff}# d\nPOD\n", Lenient),
];

/// What review makes of it.
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
