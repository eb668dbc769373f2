//! Diffs edit the author's own text, and their result is what the API server would store.

use migration_gate::review::engine::review;
use migration_gate::review::{render, rewrite};
use migration_gate_core::gates::Config;
use migration_gate_yaml::documents;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{DEPLOYMENT, loaded};
use checks::manifests::{self, Shown};

/// Checks the properties that the fuzz target checks.
fn check(text: &str) -> Shown {
    manifests::check(text.as_bytes())
}

#[test]
fn block_yaml_is_edited_whatever_its_style() {
    let check = |text: &str| assert_eq!(check(text), Shown::Edited, "{text}");
    check(DEPLOYMENT);
    check(&DEPLOYMENT.replace('\n', "\r\n"));
    check(DEPLOYMENT.trim_end());
    check(&format!(
        "# A comment.\n---\n{DEPLOYMENT}---\n# nothing\n---\n{DEPLOYMENT}"
    ));
    check(&format!("\u{feff}{DEPLOYMENT}"));
    let item = "      - name: web\n        image";
    check(&DEPLOYMENT.replace(item, "        - name: web\n          image"));
    check(&DEPLOYMENT.replace(item, "      -  name: web\n         image"));
    for behind in [
        "...\n",
        "\n\n  # the end\n",
        "        args:\n        - |\n          text\n\n          more\n",
        "      initContainers:\n      - name: other\n        image: o\n",
        "      initContainers:\n      # first\n      -   image: o\n          name: other\n",
        "      initContainers: []\n",
        "      initContainers:\n      volumes: ~\n",
        "      initContainers:\n      - name: wait-for-migrations\n        command: [sh]\n",
        "      volumes:\n      - name: data\n        emptyDir: {}\n",
        "      serviceAccountName: default # to be replaced\n",
        "      serviceAccount: ''\n",
        "      automountServiceAccountToken:\n  replicas: 2\n",
    ] {
        check(&format!("{DEPLOYMENT}{behind}"));
    }
}

#[test]
fn what_has_no_lines_of_its_own_is_rendered() {
    let check = |text: &str| assert_eq!(check(text), Shown::Rendered, "{text}");
    let document = documents(DEPLOYMENT).next().expect("one");
    let object = document.expect("valid").value;
    check(&object.to_string());
    check(&serde_json::to_string_pretty(&object).expect("JSON"));
    check(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: piefed-web, namespace: piefed-application}\nspec: {template: {spec: {containers: [{name: a, image: b}]}}}\n",
    );
    let flow = "      initContainers: [{name: a, image: b}]\n";
    check(&format!("{DEPLOYMENT}{flow}"));
    // Line breaks after `|+` belong to the text, so no line can be added there.
    let kept = "        args:\n        - |+\n          text\n\n";
    check(&format!("{DEPLOYMENT}{kept}"));
    let alias = DEPLOYMENT
        .replace("  template:", "  other: &t")
        .replace("DEPLOYMENT", "");
    check(&format!("{alias}  template: *t\n"));
}

#[test]
fn items_of_a_list_are_edited_in_place() {
    let items = DEPLOYMENT.replace('\n', "\n  ");
    let list = format!(
        "apiVersion: v1\nkind: List\nitems:\n- {0}\n- {0}\n",
        items.trim_end()
    );
    assert_eq!(check(&list), Shown::Edited);
}

#[test]
fn init_containers_go_before_the_containers_and_their_comment() {
    let loaded = loaded(DEPLOYMENT);
    let report = review(&Config::default(), &loaded, None);
    let new = rewrite::rewrite(&report, 0).text.expect("edited");
    let at = |text: &str| new.find(text).expect("it is there");
    assert!(at("initContainers:") < at("# The application."), "{new}");
    assert!(at("# The application.") < at("      containers:"), "{new}");
    assert!(at("# pinned") < at("      volumes:"), "{new}");
}

#[test]
fn what_is_refused_is_not_shown_as_stored() {
    let text = format!("{DEPLOYMENT}        env: [{{name: PIEFED_INIT_CONTAINER}}]\n");
    assert_eq!(check(&text), Shown::Nothing);
}

#[test]
fn what_was_injected_is_not_injected_again() {
    let loaded_once = loaded(DEPLOYMENT);
    let report = review(&Config::default(), &loaded_once, None);
    let once = rewrite::yaml(&report, 0);
    assert_eq!(check(&once), Shown::Nothing);
}

#[test]
fn many_objects_in_one_source() {
    let text = format!("---\n{DEPLOYMENT}").repeat(200);
    assert_eq!(check(&text), Shown::Edited);
    let items = format!("- {}\n", DEPLOYMENT.replace('\n', "\n  ").trim_end()).repeat(200);
    assert_eq!(
        check(&format!("apiVersion: v1\nkind: List\nitems:\n{items}")),
        Shown::Edited
    );
}

proptest! {
    /// A printed value reads as the same value, whatever text it holds.
    #[test]
    fn a_rendering_says_what_it_renders(value in values()) {
        let text = render::yaml(&value).expect("shallow");
        let read: Vec<Value> = documents(&text).map(|d| d.expect("readable").value).collect();
        prop_assert_eq!(read, vec![value], "{}", text);
    }

    /// For any other content of a held Deployment, in any notation.
    #[test]
    fn what_is_shown_is_what_is_stored(
        extra in prop::collection::btree_map("[a-z]{1,3}|on|y", values(), 0..4),
        volumes in prop::option::of(prop::collection::vec(values(), 0..3)),
        account in prop::option::of(prop::sample::select(vec!["", "default", "own", "piefed-init-checker"])),
        style in 0..5,
    ) {
        let mut spec = serde_json::Map::from_iter(extra);
        spec.insert("containers".into(), json!([{"name": "web", "image": "piefed:1"}]));
        if let Some(volumes) = volumes {
            spec.insert("volumes".into(), json!(volumes));
        }
        if let Some(account) = account {
            spec.insert("serviceAccountName".into(), json!(account));
        }
        let object = json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "piefed-web", "namespace": "piefed-application"},
            "spec": {"template": {"spec": spec}},
        });
        let block = render::yaml(&object).expect("shallow");
        let text = match style {
            0 => block,
            1 => block.replace('\n', "\r\n"),
            2 => object.to_string(),
            3 => serde_json::to_string_pretty(&object).expect("JSON"),
            _ => block.trim_end().to_owned(),
        };
        // CRLF in a block scalar makes another text, so this only checks that nothing breaks.
        check(&text);
    }

    #[test]
    fn no_text_makes_a_review_panic(text in "\\PC*") {
        check(&text);
    }

    #[test]
    fn no_damaged_manifest_makes_a_review_panic(
        cut in any::<prop::sample::Index>(),
        insert in prop::sample::select(vec!["{", "[", "\n", "- ", ": ", "*a", "&a ", "'", "\"", "|", "\t", "---\n", "é", "\u{1b}[31m", "items", "List"]),
        remove in 0..40usize,
    ) {
        let old = std::fs::read_to_string("examples/piefed-old/deployment-web.yaml").expect("example");
        let text = format!("{old}---\n{DEPLOYMENT}");
        let cut = text.floor_char_boundary(cut.index(text.len()));
        let end = text.floor_char_boundary((cut + remove).min(text.len()));
        let damaged = format!("{}{insert}{}", &text[..cut], &text[end..]);
        check(&damaged);
    }
}

fn values() -> impl Strategy<Value = Value> {
    // Texts that read as something else without quotes.
    let words = r##"["y", "no", "on", "~", "null", "true", "0755", "0o7", "1e3", "1_000", ".5", "-",
        "- a", "a: b", "#c", "a #c", "'", "\"", "|", ">", "*a", "&a", "!a", "%a", "@a",
        "`a`", "{", "[", "<<", "=", "---", "...", "? a", ": a", " a", "a ", "a\nb", "a\n",
        "\n", "\na", "a\n\n", "a\r\n", "\t", "a\tb", "", "\u0085", "\u2028", "\ufeff",
        "\u007f", "é", "😀", "2001-01-01", "12:30"]"##;
    let words: Vec<String> = serde_json::from_str(words).expect("JSON");
    let words = prop::sample::select(words);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        words.prop_map(Value::from),
        "\\PC{0,20}".prop_map(Value::from),
        "[a-z \n:#'\"-]{0,20}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map("[a-z]{1,5}|on|1|a b|<<|[-?:#]", inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
