use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn read(text: &str) -> Result<Vec<Value>, SyntaxError> {
    documents(text).map(|d| d.map(|d| d.value)).collect()
}

fn one(text: &str) -> Value {
    match read(text).map(|mut d| (d.len(), d.pop())) {
        Ok((1, Some(value))) => value,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[track_caller]
fn refused(text: &str, says: &str) {
    let error = read(text).unwrap_err();
    assert!(error.message.contains(says), "{error}");
}

/// Checks the value of a scalar in a list.
#[track_caller]
fn scalar(text: &str, expect: &Value) {
    assert_eq!(&one(&format!("- {text}"))[0], expect, "{text}");
}

/// The expected values are those of `sigs.k8s.io/yaml` v1.6.0.
#[test]
fn a_plain_scalar_means_what_kubernetes_takes_it_for() {
    for text in "y Y yes Yes YES true True TRUE on On ON".split(' ') {
        scalar(text, &json!(true));
    }
    scalar("!!bool yes", &json!(true));
    for text in "n N no No NO false False FALSE off Off OFF".split(' ') {
        scalar(text, &json!(false));
    }
    for text in ["", "~", "null", "Null", "NULL"] {
        scalar(text, &Value::Null);
    }
    let numbers = "0755=493 0o755=493 0O17=15 007=7 08=8 018=18 00=0 -0=0 0x1F=31 -0x10=-16 \
                   0b101=5 -0b101=-5 1_000=1000 0_7=7 -_1=-1 +1=1 \
                   9223372036854775807=9223372036854775807 \
                   -9223372036854775808=-9223372036854775808 \
                   18446744073709551615=18446744073709551615 \
                   18446744073709551616=1.8446744073709552e19 \
                   1e3=1000 1e-3=0.001 1.=1 .5=0.5 -.5=-0.5 .5_0=0.5 1_0.5=10.5";
    for number in numbers.split(' ') {
        let (text, expect) = number.split_once('=').unwrap();
        scalar(text, &expect.parse().unwrap());
    }
    scalar("!!float 1", &json!(1));
}

#[test]
fn what_nearly_is_something_else_is_text() {
    let texts = "yEs tRUE nULL _1 0b2 0x 0o 0o8 0xg . .e1 1e 1e400 1e1e1 1:30 190:20:30 2001-01-01 \
                 2001-01-01T00:00:00Z 12:30:45 1.2.3 --1 100m 5% inf nan 0x1p-2 =";
    for text in texts.split(' ') {
        scalar(text, &json!(text));
    }
    for (text, expect) in [
        ("'1'", "1"),
        ("\"yes\"", "yes"),
        ("!!str 1", "1"),
        ("!!str null", "null"),
        ("!foo bar", "bar"),
        ("\"\\u0041\\/\"", "A/"),
        ("\"\\ud83d\\ude00\"", "😀"),
        ("'it''s'", "it's"),
    ] {
        scalar(text, &json!(expect));
    }
}

#[test]
fn what_json_cannot_say_is_an_error() {
    for text in [".inf", "-.inf", ".nan", "!!int x", "!!bool x", "!!null x"] {
        assert!(read(&format!("a: {text}")).is_err(), "{text}");
    }
}

#[test]
fn keys_become_strings() {
    assert_eq!(
        one("on: 1\n8080: 2\n1.5: 3\n'no': 4\n0x10: 5"),
        json!({"true": 1, "8080": 2, "1.5": 3, "no": 4, "16": 5})
    );
    for text in ["null: a", "~: a", "? [a]\n: b", "a: {{ .Values.x }}"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn merge_keys_do_what_they_do_in_kubernetes() {
    for (text, expect) in [
        (
            "a: &x {p: 1, q: 2}\nb:\n  <<: *x\n  q: 3",
            r#"{"p": 1, "q": 3}"#,
        ),
        (
            "a: &x {p: 1, q: 2}\nb:\n  q: 3\n  <<: *x",
            r#"{"p": 1, "q": 2}"#,
        ),
        (
            "a: &x {p: 1}\nc: &y {p: 2, r: 1}\nb:\n  <<: [*x, *y]",
            r#"{"p": 1, "r": 1}"#,
        ),
        ("b: {\"<<\": 1}", r#"{"<<": 1}"#),
    ] {
        assert_eq!(one(text)["b"], expect.parse::<Value>().unwrap(), "{text}");
    }
    assert!(read("<<: 1").is_err());
    assert!(read("<<: [1]").is_err());
}

#[test]
fn documents_are_told_apart_as_kubectl_does() {
    let check = |text: &str, expect: &[Value]| assert_eq!(read(text).unwrap(), expect, "{text:?}");
    check("", &[]);
    check("# nothing\n", &[]);
    check("---\n", &[Value::Null]);
    check("a\n---\nb", &[json!("a"), json!("b")]);
    check(
        "---\na\n--- # c\nb\n---\n",
        &[json!("a"), json!("b"), Value::Null],
    );
    check("a\r\n---\r\nb\r\n", &[json!("a"), json!("b")]);
    check("a\n...\nb\n", &[json!("a"), json!("b")]);
    check("a: |\n  ---\n  b\n", &[json!({"a": "---\nb\n"})]);
    check("a\n---b", &[json!("a ---b")]);
    check("\u{feff}a: 1", &[json!({"a": 1})]);
    check(
        "a: 1\n---\n# c\n\n\u{feff}a: 2\nb: 3\n---\n\u{feff}a: 4\n",
        &[json!({"a": 1}), json!({"a": 2, "b": 3}), json!({"a": 4})],
    );
    check("# c\n%YAML 1.2\n---\na: 1\n", &[json!({"a": 1})]);
    check("# c\u{85}\t\r\n\u{feff}a: 1\n", &[json!({"a": 1})]);
}

#[test]
fn a_mark_behind_a_comment_lets_no_control_character_through() {
    for text in ["# c\u{1}\na: 1\n", "# c\u{1}\n\u{feff}a: 1\n"] {
        assert!(read(text).is_err(), "{text:?}");
    }
}

#[test]
fn a_broken_document_leaves_the_others() {
    let text = "a: 1\n---\nb: [\n---\nc: 3\n";
    let found: Vec<_> = documents(text).collect();
    assert_eq!(found.len(), 3);
    assert!(found[0].is_ok() && found[2].is_ok());
    let error = found[1].as_ref().unwrap_err();
    assert!(text[..error.offset].starts_with("a: 1\n---\n"), "{error:?}");
    assert_eq!(found[2].as_ref().unwrap().value, json!({"c": 3}));
}

#[test]
fn a_key_that_occurs_twice_is_an_error_at_its_second_place() {
    for (text, second) in [
        ("a: 1\nb: 2\na: 3", "a: 3"),
        ("{a: 1, b: 2, a: 3}", "a: 3"),
        ("a: 1\nb: 2\n'a': 3", "'a'"),
    ] {
        let error = read(text).unwrap_err();
        assert!(error.message.contains("`a` occurs twice"), "{error}");
        assert_eq!(error.offset, text.find(second).unwrap());
    }
}

#[test]
fn every_value_knows_its_place() {
    let text = "# c\nspec:\n  list:\n  - name: x   # t\n    text: |\n      foo\n  - {name: y, 'on': [1, 22]}\n  none:\n";
    let document = documents(text).next().unwrap().unwrap();
    let check = |path: &[Step], expect: &str, key: Option<&str>| {
        let found = document.find(path);
        assert_eq!(found.steps, path.len());
        assert_eq!(&text[found.node.span.range()], expect);
        assert_eq!(found.key.map(|key| &text[key.range()]), key);
    };
    let key = |key: &str| Step::Key(key.to_owned());
    let list = |rest: &[Step]| [&[key("spec"), key("list")], rest].concat();
    check(&list(&[Step::Index(0), key("name")]), "x", Some("name"));
    check(&list(&[Step::Index(1)]), "{name: y, 'on': [1, 22]}", None);
    check(
        &list(&[Step::Index(1), key("on"), Step::Index(1)]),
        "22",
        None,
    );
    check(&list(&[Step::Index(1), key("on")]), "[1, 22]", Some("'on'"));
    check(&[key("spec"), key("none")], "", Some("none"));
    let found = document.find(&list(&[Step::Index(7), key("name")]));
    assert_eq!(found.steps, 2);
    let lines = Lines::new(text);
    let position = |offset| {
        let Position { line, column } = lines.position(offset);
        (line, column)
    };
    assert_eq!(position(text.find("22").unwrap()), (7, 25));
    assert_eq!(position(usize::MAX), (9, 1));
    assert_eq!(&text[lines.range(2, 3)], "spec:\n  list:\n");
}

#[test]
fn an_alias_stands_where_it_is_written() {
    let text = "a: &x {k: v}\nb: *x\n";
    let document = documents(text).next().unwrap().unwrap();
    let found = document.find(&[Step::Key("b".to_owned())]);
    assert_eq!(&text[found.node.span.range()], "*x");
    assert_eq!(found.node.style, Style::Alias);
    assert_eq!(found.value, &json!({"k": "v"}));
    refused("a: &x [*x]", "contains it");
    assert!(read("b: *x").is_err());
}

#[test]
fn depth_is_bounded() {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(read(&nested(MAX_DEPTH)).is_ok());
    refused(&nested(MAX_DEPTH + 1), "deeper");
    assert!(read(&nested(100_000)).is_err());
    let block = (0..=MAX_DEPTH).fold(String::new(), |text, i| text + &" ".repeat(i) + "a:\n");
    assert!(read(&block).is_err());
    // Each alias is shallow in the text and deep in the value.
    let mut chain = "a0: &a0 []\n".to_owned();
    for i in 1..=MAX_DEPTH {
        let _ = writeln!(chain, "a{i}: &a{i} [*a{}]", i - 1);
    }
    refused(&chain, "deeper");
}

#[test]
fn a_document_with_rubbish_behind_it_is_not_taken_for_a_whole_one() {
    let mut found = documents("{a: 1}, rubbish: }\n---\nb: 1\n");
    assert!(found.next().unwrap().is_err());
    assert_eq!(found.next().unwrap().unwrap().value, json!({"b": 1}));
    assert!(found.next().is_none());
}

#[test]
fn many_merged_keys_are_no_hang() {
    const KEYS: usize = 50_000;
    let base: String = (0..KEYS).fold(String::new(), |mut text, i| {
        let _ = write!(text, "k{i}: 0, ");
        text
    });
    let own: String = (0..KEYS).rev().fold(String::new(), |mut text, i| {
        let _ = writeln!(text, "  k{i}: 1");
        text
    });
    let text = format!("a: &a {{{base}}}\nb:\n  <<: *a\n{own}");
    let value = read(&text).expect("valid").remove(0);
    assert_eq!(value["b"].as_object().map(serde_json::Map::len), Some(KEYS));
    assert_eq!(value["b"]["k49999"], 1);
}

#[test]
fn aliases_cannot_blow_up() {
    let mut laughs = "a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for i in 1..12 {
        let alias = format!("*a{}", i - 1);
        let _ = writeln!(laughs, "a{i}: &a{i} [{}]", [alias.as_str(); 9].join(", "));
    }
    refused(&laughs, "expand to more than");
    let long = format!("a: &x {}\nb: [{}]", "x".repeat(1 << 20), "*x,".repeat(100));
    refused(&long, "expand to more than");
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC*") {
        let _ = read(&text);
    }

    #[test]
    fn no_yaml_like_text_makes_it_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "a", "b:", " ", "\n", "  ", "- ", "[", "]", "{", "}", ",", ": ", "1", "'", "\"", "&x ", "*x", "|\n", ">-\n",
            "# c\n", "<<: ", "\t", "!!str ", "---\n", "? ", "é", "\u{feff}", "\r", "...\n", "%YAML 1.2\n", "\\",
        ]), 0..40)
    ) {
        let text = tokens.concat();
        for document in documents(&text).flatten() {
            // Every span can be sliced, and every child has a value.
            check_spans(&text, &document.value, &document.node);
        }
    }

    /// JSON is YAML.
    #[test]
    fn json_means_what_it_says(value in json_values()) {
        for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
            prop_assert_eq!(one(&text), value.clone());
        }
    }
}

/// The expected documents are those of `kubectl` 1.36, except that it silently drops a second JSON
/// value in a YAML document.
#[test]
fn json_values_that_follow_each_other_are_documents() {
    let check = |text: &str, expect: &[Value]| {
        let read = read(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(read, expect, "{text:?}");
    };
    let (one, two) = (json!({"a": 1}), json!({"b": ["{"]}));
    let both = [one.clone(), two.clone()];
    for text in [
        "{\"a\": 1}{\"b\": [\"{\"]}",
        "{\"a\": 1}\n{\"b\": [\"{\"]}\n",
        " \n{\"a\": 1} {\n\"b\": [\"{\"]\n}\n",
        "\u{feff}{\"a\": 1}\n{\"b\": [\"{\"]}\n# end\n",
        "{\"a\": 1}\n---\nb: ['{']\n",
        "{\"a\": 1}\n# c\n---\n{\"b\": [\"{\"],}\n",
        "{\"a\": 1}\nb: ['{']\n",
    ] {
        check(text, &both);
    }
    check("{a: 1}\n---\n{b: ['{']}\n", &both);
    check(
        "{\"a\": 1}\n{\"a\": 1}\n---\nb: ['{']\n",
        &[one.clone(), one, two],
    );
    // A broken value ends the JSON, and the rest is not YAML.
    let broken: Vec<_> = documents("{\"a\": 1}{\"b\": [}{\"a\": 1}").collect();
    assert!(broken[0].is_ok() && broken[1].is_err() && broken.len() == 2);
    assert!(read("---\n{\"a\": 1}\n{\"a\": 2}").is_err());
}

fn check_spans(text: &str, value: &Value, node: &Node) {
    assert!(text.get(node.span.range()).is_some());
    let children: Vec<&Value> = match value {
        Value::Array(elements) => elements.iter().collect(),
        Value::Object(members) => members.values().collect(),
        _ => Vec::new(),
    };
    assert_eq!(children.len(), node.children.len());
    for (value, child) in children.into_iter().zip(&node.children) {
        check_spans(text, value, &child.node);
    }
}

/// JSON without fractions: Go writes 1.0 as 1, and so does this reader.
fn json_values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 5, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map("[a-z<]{1,6}", inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
