//! What is shipped beside the program: the Dockerfile's build context, the development certificates, and no key.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// What a run printed, or a panic that shows it.
fn succeeded(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{out}{err}", output.status);
    out.into_owned()
}

/// The arguments of a Dockerfile's instructions of one kind, each split at white space.
fn instructions<'d>(dockerfile: &'d str, kind: &str) -> Vec<Vec<&'d str>> {
    dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '))
        .map(|arguments| arguments.split_whitespace().collect())
        .collect()
}

/// Of all packages, cargo would link what any of them asks of a dependency, those of the tests too.
#[test]
fn the_release_is_built_of_its_own_package_alone() {
    for (file, command) in [
        ("Dockerfile", "cargo build"),
        ("build/binary.sh", "cargo build"),
        ("build/sbom.sh", "cargo tree"),
    ] {
        let text = read(file);
        let mut lines = text
            .lines()
            .filter(|line| line.contains(command))
            .peekable();
        assert!(lines.peek().is_some(), "{file} has no `{command}`");
        assert!(
            lines.all(|line| line.contains(" --package migration-gate ")),
            "{file} builds more than the program"
        );
    }
}

/// Whether `.dockerignore` lets a path of the repository's root into the build context. The last line that matches wins.
fn admitted(ignore: &str, path: &str) -> bool {
    let mut matching = ignore
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| {
            line.strip_prefix('!')
                .map_or((false, line), |it| (true, it))
        })
        .filter(|(_, pattern)| *pattern == "*" || *pattern == path);
    matching.next_back().is_none_or(|(admits, _)| admits)
}

fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// Cargo reads the whole manifest before it builds one binary, so a target whose file isn't copied can stop it.
#[test]
fn cargo_accepts_what_the_dockerfile_copies() {
    let dockerfile = read("Dockerfile");
    let ignore = read(".dockerignore");
    let context = tempfile::tempdir().unwrap();
    for arguments in instructions(&dockerfile, "COPY") {
        let (destination, sources) = arguments.split_last().unwrap();
        if sources[0].starts_with("--from=") {
            continue;
        }
        for source in sources {
            assert!(
                admitted(&ignore, source),
                ".dockerignore withholds {source}"
            );
            let to = match *destination {
                "./" => context.path().join(source),
                folder => context.path().join(folder),
            };
            copy(&repository().join(source), &to);
        }
    }
    // Of cargo's quick commands, the one that wants the whole manifest as a build does. `--offline`, since every crate is
    // here already, for this very test.
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .args(["fetch", "--locked", "--offline", "--target", &host()])
        .current_dir(context.path());
    succeeded(&cargo.output().unwrap());
}

/// The triple that this machine builds for.
fn host() -> String {
    let said = succeeded(&Command::new("rustc").arg("-vV").output().unwrap());
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.unwrap().to_owned()
}

#[test]
fn the_script_makes_certificates_that_verify() {
    let script = repository().join("certs/development.sh");
    let folder = tempfile::tempdir().unwrap();
    let made = folder.path().join("made");
    let mut run = Command::new(&script);
    run.arg(&made).args(["localhost", "127.0.0.1", "::1"]);
    let said = succeeded(&run.output().unwrap());
    assert_eq!(said.trim(), made.to_str().unwrap());
    let mut names: Vec<_> = fs::read_dir(&made)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["ca.crt", "ca.key", "tls.crt", "tls.key"]);

    let (_, certificate) =
        x509_parser::pem::parse_x509_pem(&fs::read(made.join("tls.crt")).unwrap()).unwrap();
    let certificate = certificate.parse_x509().unwrap();
    let names = certificate.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names.len(), 3, "{names:?}");

    // What openssl has to say about a failure is said.
    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let refused = Command::new(&script).arg(&file).output().unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("file"), "{said}");
    let refused = Command::new(&script)
        .arg(folder.path().join("odd"))
        .arg("no,name")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("certs/development.sh") && said.contains("name"),
        "{said}"
    );
}

#[test]
fn no_key_is_committed() {
    // In two parts, since this file is looked at as well.
    let marker = ["PRIVATE", "KEY-----"].join(" ");
    let listed = Command::new("git")
        .args(["ls-files", "-z"])
        .current_dir(repository())
        .output();
    let Some(listed) = listed.ok().filter(|listed| listed.status.success()) else {
        eprintln!("skipped: this is no git repository, so nothing is committed");
        return;
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let mut count = 0;
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // A file may have been deleted and not committed yet.
        let Ok(content) = fs::read(repository().join(path)) else {
            continue;
        };
        count += 1;
        let found = content
            .windows(marker.len())
            .any(|window| window == marker.as_bytes());
        assert!(!found, "{path} holds a private key");
    }
    assert!(count > 100, "only {count} files were looked at");
}
