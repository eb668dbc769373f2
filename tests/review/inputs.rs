//! Files, folders and standard input.

use std::fs;
use std::path::{Path, PathBuf};

use migration_gate::review::input::{MAX_INPUT, STDIN, gather};
use tempfile::TempDir;

/// A folder with these files.
pub(super) fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    folder
}

/// The files that are read for a path in the folder: their names relative to it, with the
/// namespaces of their objects.
fn read(folder: &Path, path: &str) -> Vec<String> {
    let (sources, unreadable) = gather(&[folder.join(path)], std::io::empty());
    let relative = |name: &str| {
        let name = Path::new(name);
        name.strip_prefix(folder)
            .unwrap_or(name)
            .display()
            .to_string()
    };
    sources
        .iter()
        .map(|source| match &source.namespace {
            Some(namespace) => format!("{} -> {namespace}", relative(&source.name)),
            None => relative(&source.name),
        })
        .chain(
            unreadable
                .iter()
                .map(|bad| format!("{}: {}", relative(&bad.name), bad.message)),
        )
        .collect()
}

#[test]
fn a_folder_is_read_with_all_below_it_in_the_order_of_names() {
    let folder = folder(&[
        ("b.yml", ""),
        ("a.yaml", ""),
        ("c/e.JSON", ""),
        ("c/d.yaml", ""),
        ("README.md", ""),
        (".hidden.yaml", ""),
        (".git/x.yaml", ""),
    ]);
    assert_eq!(
        read(folder.path(), ""),
        ["a.yaml", "b.yml", "c/d.yaml", "c/e.JSON"]
    );
    // A file that is named is read, whatever its extension.
    assert_eq!(read(folder.path(), "README.md"), ["README.md"]);
}

#[test]
fn the_nearest_kustomization_says_where_objects_go() {
    let folder = folder(&[
        ("a.yaml", ""),
        ("app/kustomization.yaml", "namespace: outer"),
        ("app/a.yaml", ""),
        ("app/base/a.yaml", ""),
        ("app/inner/Kustomization", "namespace: inner"),
        ("app/inner/a.yaml", ""),
        ("app/none/kustomization.yml", "resources: []"),
        ("app/none/a.yaml", ""),
        ("broken/kustomization.yaml", "["),
        ("broken/a.yaml", ""),
    ]);
    assert_eq!(
        read(folder.path(), ""),
        [
            "a.yaml",
            "app/a.yaml -> outer",
            "app/base/a.yaml -> outer",
            "app/inner/a.yaml -> inner",
            "app/kustomization.yaml -> outer",
            "app/none/a.yaml -> outer",
            "app/none/kustomization.yml -> outer",
            "broken/a.yaml",
            "broken/kustomization.yaml",
        ]
    );
    assert_eq!(
        read(folder.path(), "app/inner/a.yaml"),
        ["app/inner/a.yaml -> inner"]
    );
    // For a file that is named alone, only its own folder counts.
    assert_eq!(read(folder.path(), "app/base/a.yaml"), ["app/base/a.yaml"]);
}

#[test]
fn what_cannot_be_read_is_told() {
    let folder = folder(&[("empty/README.md", ""), ("a.yaml", "a")]);
    let check = |path: &str, expect: &str| {
        let found = read(folder.path(), path);
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with(expect), "{}", found[0]);
    };
    check("none", "none: cannot be read: ");
    check("empty", "empty: there is no *.yaml, *.yml or *.json file");
    fs::write(folder.path().join("a.yaml"), b"a\n\xff").expect("a file");
    check("a.yaml", "a.yaml: line 2 is not UTF-8");
    fs::write(folder.path().join("a.yaml"), b"\xff\xfea\0").expect("a file");
    check("a.yaml", "a.yaml: this is UTF-16");
}

#[cfg(unix)]
#[test]
fn links_are_followed_but_not_in_circles() {
    use std::os::unix::fs::symlink;
    let folder = folder(&[("real/a.yaml", "")]);
    symlink(
        folder.path().join("real/a.yaml"),
        folder.path().join("b.yaml"),
    )
    .expect("a link");
    symlink("..", folder.path().join("real/up")).expect("a link");
    symlink("gone.yaml", folder.path().join("c.yaml")).expect("a link");
    let found = read(folder.path(), "");
    assert_eq!(found.len(), 4, "{found:#?}");
    assert_eq!(found[..2], ["b.yaml", "real/a.yaml"]);
    assert!(
        found[2].starts_with("c.yaml: cannot be read"),
        "{}",
        found[2]
    );
    assert!(
        found[3].starts_with("real/up: cannot be read"),
        "{}",
        found[3]
    );
}

#[test]
fn standard_input_is_read_once() {
    let dash = PathBuf::from("-");
    let (sources, unreadable) = gather(&[dash.clone(), dash], &b"a: 1\n"[..]);
    assert!(unreadable.is_empty());
    assert_eq!(sources.len(), 1);
    assert_eq!(
        (sources[0].name.as_str(), sources[0].text.as_str()),
        (STDIN, "a: 1\n")
    );
}

#[test]
fn what_is_read_is_bounded() {
    let (sources, unreadable) = gather(&[PathBuf::from("-")], std::io::repeat(b'#'));
    assert!(sources.is_empty());
    assert!(
        unreadable[0].message.contains("256 MiB in all"),
        "{}",
        unreadable[0]
    );
    assert_eq!(MAX_INPUT, 256 << 20);
}
