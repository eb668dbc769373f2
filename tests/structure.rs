//! Checks what ARCHITECTURE.md says about crates and modules: the core has no runtime, client or
//! file, within `src` no import runs upwards or in a circle, and a type's name means one thing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// All dependencies of the core, but for those of its derive macros.
const CORE: &[&str] = &[
    "equivalent",
    "foldhash",
    "hashbrown",
    "indexmap",
    "itoa",
    "jiff",
    "jiff-core",
    "json-patch",
    "jsonptr",
    "memchr",
    "migration-gate-core",
    "serde",
    "serde_core",
    "serde_json",
    "thiserror",
    "zmij",
];

/// The modules of `src`, from the bottom up. Each may import those of the floors below it.
const FLOORS: &[&[&str]] = &[
    &["api"],
    &["cli"],
    &["admission"],
    &[
        "check", "eject", "record", "review", "serve", "status", "version", "wait",
    ],
    &["main"],
];

#[test]
fn the_core_can_do_nothing_but_decide() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--package=migration-gate-core", "--prefix=none"])
        .args(["--edges=normal,no-proc-macro", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    let errors = String::from_utf8_lossy(&tree.stderr);
    assert!(tree.status.success(), "{errors}");
    let tree = String::from_utf8_lossy(&tree.stdout);
    let used: BTreeSet<&str> = tree
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    let known = CORE.iter().copied().collect();
    let new: Vec<_> = used.difference(&known).collect();
    assert!(
        new.is_empty(),
        "the core has come to depend on {new:?}; if they do no I/O and start nothing, list them here"
    );
}

#[test]
fn no_module_imports_upwards() {
    let floor = |module: &str| {
        FLOORS
            .iter()
            .position(|floor| floor.contains(&module))
            .unwrap_or_else(|| panic!("module {module} has no floor; give it one in FLOORS"))
    };
    for (importer, imported) in imports() {
        let (from, to) = (top(&importer), top(&imported));
        assert!(
            from == to || floor(from) > floor(to),
            "{importer} imports {imported}, which is not below it"
        );
    }
}

/// Modules within `src/x/y.rs` count as a part of it.
#[test]
fn no_modules_import_each_other_in_a_circle() {
    let mut imported: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (from, to) in imports() {
        imported.entry(from).or_default().insert(to);
    }
    // A module that imports none of those left, or that none of them imports, is on no circle.
    loop {
        let before = imported.len();
        let importers: BTreeSet<String> = imported.keys().cloned().collect();
        for to in imported.values_mut() {
            to.retain(|to| importers.contains(to));
        }
        let on_circle: BTreeSet<String> = imported.values().flatten().cloned().collect();
        imported.retain(|from, to| !to.is_empty() && on_circle.contains(from));
        if imported.len() == before {
            break;
        }
    }
    assert!(imported.is_empty(), "a circle is among {imported:#?}");
}

/// In all crates, with their own tests. A search for a name finds one definition.
#[test]
fn each_type_has_a_name_of_its_own() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut definitions: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in files(&["src", "crates"].map(|folder| root.join(folder))) {
        for name in types(&fs::read_to_string(&file).expect("a source file")) {
            let place = file.strip_prefix(root).expect("a file in it");
            let places = definitions.entry(name).or_default();
            places.push(place.display().to_string());
        }
    }
    assert!(definitions.len() > 300, "{definitions:?}");
    definitions.retain(|_, places| places.len() > 1);
    assert!(
        definitions.is_empty(),
        "rename all but one: {definitions:#?}"
    );
}

#[test]
fn what_asks_changes_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files(&["src", "crates"].map(|folder| root.join(folder))) {
        let text = fs::read_to_string(&file).expect("a source file");
        let questions = text
            .split("fn ")
            .filter(|f| ["is_", "has_"].iter().any(|asks| f.starts_with(asks)));
        for question in questions {
            let (name, rest) = question.split_once('(').unwrap_or((question, ""));
            let changes = rest.trim_start().starts_with("&mut self");
            assert!(!changes, "{}: {name} takes `&mut self`", file.display());
        }
    }
}

/// The types that a text defines, but for a trait's and an implementation's.
fn types(text: &str) -> Vec<String> {
    let defined = |line: &str| {
        let words = line.split_whitespace();
        let mut words = words.skip_while(|word| word.starts_with("pub") || word.ends_with(')'));
        let associated = line.starts_with(' ');
        match words.next()? {
            "struct" | "enum" | "trait" => {}
            "type" if !associated => {}
            _ => return None,
        }
        let name = words.next()?;
        let end = name.find(|c: char| !c.is_alphanumeric());
        Some(name[..end.unwrap_or(name.len())].to_owned())
    };
    text.lines().filter_map(defined).collect()
}

fn top(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

/// Which module imports which, by the first two names of their paths, such as `serve::tls`.
fn imports() -> BTreeSet<(String, String)> {
    let modules = modules();
    let mut imports = BTreeSet::new();
    for (module, text) in &modules {
        let inside = module.len() > 1;
        if inside && modules.contains_key(&module[..module.len() - 1]) {
            // The parent declares the module, and so knows its name.
            imports.insert((room(&module[..module.len() - 1]), room(module)));
        }
        for path in paths(text) {
            let mut path = absolute(module, &path);
            while !path.is_empty() && !modules.contains_key(&path) {
                path.pop();
            }
            if !path.is_empty() {
                imports.insert((room(module), room(&path)));
            }
        }
    }
    imports.retain(|(from, to)| from != to);
    assert!(imports.len() > 50, "the imports are not found: {imports:?}");
    imports
}

fn room(module: &[String]) -> String {
    module[..module.len().min(2)].join("::")
}

/// The Rust files in the folders.
fn files(folders: &[PathBuf]) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = folders.to_vec();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// The modules of `src` by their paths, with their code: without tests and comments.
fn modules() -> BTreeMap<Vec<String>, String> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    files(std::slice::from_ref(&src))
        .iter()
        .map(|file| {
            let path = file.strip_prefix(&src).expect("a file in src");
            let names = path.with_extension("");
            let names = names.iter().map(|n| n.to_string_lossy().into_owned());
            let text = fs::read_to_string(file).expect("a source file");
            let (code, _) = text.split_once("#[cfg(test)]").unwrap_or((&text, ""));
            let code: Vec<&str> = code
                .lines()
                .filter_map(|line| line.split("//").next())
                .collect();
            (names.collect(), code.join("\n"))
        })
        .filter(|(names, _): &(Vec<String>, _)| *names != ["lib"])
        .collect()
}

/// The paths in a text that begin with `crate`, `self` or `super`.
fn paths(text: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    for root in ["crate::", "self::", "super::"] {
        for (at, _) in text.match_indices(root) {
            let before = &text[..at];
            let inside = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            // `pub(in crate::x)` imports nothing.
            if !before.ends_with(inside) && !before.ends_with("(in ") {
                tree(&text[at..], &[], &mut paths);
            }
        }
    }
    paths
}

/// Reads a path such as `a::b`, or with groups as after `use`: `a::{b, c::{d, e}}`. Returns the
/// text after it.
fn tree<'t>(text: &'t str, prefix: &[String], paths: &mut Vec<Vec<String>>) -> &'t str {
    let mut path = prefix.to_vec();
    let mut text = text.trim_start();
    loop {
        if let Some(mut group) = text.strip_prefix('{') {
            while !group.trim_start().starts_with('}') && !group.is_empty() {
                group = tree(group, &path, paths);
                let end = group.find([',', '}']).unwrap_or(group.len());
                group = group[end..].trim_start_matches(',');
            }
            return group.trim_start().trim_start_matches('}');
        }
        let end = text
            .find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len());
        path.push(text[..end].to_owned());
        text = &text[end..];
        match text.strip_prefix("::") {
            Some(rest) => text = rest,
            None => break,
        }
    }
    paths.push(path);
    text
}

/// A path as seen from the root.
fn absolute(module: &[String], path: &[String]) -> Vec<String> {
    let mut base = match path.first().map(String::as_str) {
        Some("crate") => Vec::new(),
        _ => module.to_vec(),
    };
    for name in path {
        match name.as_str() {
            "crate" | "self" => {}
            "super" => {
                base.pop();
            }
            name => base.push(name.to_owned()),
        }
    }
    base
}

#[test]
fn imports_are_read_as_rust_reads_them() {
    let found = |text: &str| -> Vec<String> {
        let module = ["a", "b"].map(str::to_owned);
        let absolute = paths(text).into_iter().map(|path| absolute(&module, &path));
        absolute.map(|path| path.join("::")).collect()
    };
    assert_eq!(found("use crate::x::y;"), ["x::y"]);
    assert_eq!(
        found("use super::{c::{D, E as F}, g};"),
        ["a::c::D", "a::c::E", "a::g"]
    );
    assert_eq!(
        found("self::c::d(super::super::e::F)"),
        ["a::b::c::d", "e::F"]
    );
    assert_eq!(found("pub(in crate::x) fn f(x: a::super::y)"), [""; 0]);
}

#[test]
fn types_are_found_where_rust_defines_them() {
    let text = "pub(in crate::x) struct A<'a>(\n    enum B {\nfn c() {\n// struct C\n\
                pub trait D: Sized {\n    type E = F;\ntype G<T> = H;\nstruct I;\n";
    assert_eq!(types(text), ["A", "B", "D", "G", "I"]);
}
