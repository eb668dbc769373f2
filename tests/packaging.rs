//! What is shipped beside the program: the Dockerfile's build context, the development
//! certificates, and no key.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "packaging/compatibility.rs"]
mod compatibility;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap()
}

/// The output of a run, or a panic that shows it.
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

/// A new advisory about a dependency stops a release.
#[test]
fn nothing_is_released_without_a_look_at_the_advisories() {
    let release = read(".github/workflows/release.yaml");
    let (_, publish) = release.split_once("\n  publish:\n").unwrap();
    let needs = publish
        .lines()
        .find(|line| line.contains("needs:"))
        .unwrap();
    assert!(needs.contains("audit"), "{needs}");
    let (_, audit) = release.split_once("\n  audit:\n").unwrap();
    let (audit, _) = audit.split_once("\n  publish:\n").unwrap();
    assert!(audit.contains("run: make audit"));
    assert!(read("Makefile").contains("--locked check advisories"));
}

/// With all packages selected, cargo would also enable the features that the other packages, such
/// as the tests', ask for in a dependency.
#[test]
fn the_release_is_built_of_its_own_package_alone() {
    for (file, command) in [
        ("Dockerfile", "cargo build"),
        ("build/binary.sh", "cargo rustc"),
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

/// A tag can be moved to another commit, a hash can't. The comment is for people and for the bot.
#[test]
fn actions_and_base_images_are_pinned() {
    let workflows = repository().join(".github/workflows");
    let mut pinned = 0;
    for workflow in fs::read_dir(workflows).unwrap() {
        let path = workflow.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for line in text.lines().filter(|line| line.contains("uses: ")) {
            let uses = line.split_once("uses: ").unwrap().1;
            let hash = uses
                .split_once('@')
                .and_then(|(_, rest)| rest.split_once(" # v"));
            let good = hash.is_some_and(|(hash, _)| {
                hash.len() == 40 && hash.bytes().all(|byte| byte.is_ascii_hexdigit())
            });
            assert!(good, "{}: {uses} is not pinned by its hash", path.display());
            pinned += 1;
        }
    }
    assert!(pinned > 20, "only {pinned} actions were looked at");
    let dockerfile = read("Dockerfile");
    for arguments in instructions(&dockerfile, "FROM") {
        let image = arguments
            .iter()
            .find(|word| !word.starts_with("--"))
            .unwrap();
        assert!(
            *image == "scratch" || image.contains("@sha256:"),
            "the Dockerfile takes {image} by its tag"
        );
    }
    let manifest = read("Cargo.toml");
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("rust-version = "));
    let image = format!("rust:{}-slim@", version.unwrap().trim_matches('"'));
    assert!(
        dockerfile.contains(&image),
        "the Dockerfile is not of {image}"
    );
}

/// The package is read without the repository: on Artifact Hub, or unpacked.
#[test]
fn the_chart_stands_alone() {
    let chart = "charts/migration-gate";
    assert_eq!(read(&format!("{chart}/LICENSE")), read("LICENSE"));
    for file in ["README.md", "Chart.yaml"] {
        let text = read(&format!("{chart}/{file}"));
        let relative = text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split_once(')'));
        for (link, _) in relative {
            assert!(
                link.starts_with("https://") || link.starts_with('#'),
                "{file}: {link}"
            );
        }
        // The files of the repository that they link to exist.
        let root = "https://github.com/migration-gate/migration-gate/blob/main/";
        let mut count = 0;
        for rest in text.split(root).skip(1) {
            let path = rest
                .split(|end: char| end.is_whitespace() || "#)\"".contains(end))
                .next()
                .unwrap();
            assert!(
                repository().join(path).is_file(),
                "{file}: there is no {path}"
            );
            count += 1;
        }
        assert!(count > 2, "{file}: {count} links");
    }
    let description = read(&format!("{chart}/Chart.yaml"));
    let icon = description
        .lines()
        .find_map(|line| line.strip_prefix("icon: "))
        .unwrap();
    let icon = icon.split_once("/main/").unwrap().1;
    assert!(read(icon).starts_with("<svg "), "{icon}");
}

#[test]
fn krews_manifest_is_filled_in() {
    let folder = tempfile::tempdir().unwrap();
    let sums = folder.path().join("SHA256SUMS");
    let line = |digit: &str, platform: &str| {
        format!(
            "{}  migration-gate-1.2.3-{platform}.tar.gz\n",
            digit.repeat(64)
        )
    };
    let all = [
        line("a", "linux-amd64"),
        line("b", "linux-arm64"),
        line("c", "darwin-arm64"),
    ];
    let run = |sums_of: &str| {
        fs::write(&sums, sums_of).unwrap();
        let mut krew = Command::new(repository().join("build/krew.sh"));
        krew.args(["1.2.3", "https://example.org/x"])
            .arg(&sums)
            .output()
            .unwrap()
    };
    let manifest = succeeded(&run(&all.concat()));
    for (digit, platform) in [
        ("a", "linux-amd64"),
        ("b", "linux-arm64"),
        ("c", "darwin-arm64"),
    ] {
        let wanted = format!(
            "    uri: https://example.org/x/releases/download/v1.2.3/migration-gate-1.2.3-{platform}.tar.gz\n    sha256: {}\n",
            digit.repeat(64)
        );
        assert!(manifest.contains(&wanted), "{manifest}");
    }
    assert!(
        !manifest.contains("VERSION") && !manifest.contains("SOURCE"),
        "{manifest}"
    );
    // A release without one of its archives is refused.
    let refused = run(&all[..2].concat());
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(
        !refused.status.success() && said.contains("darwin-arm64"),
        "{said}"
    );
}

/// The calls of the container engine by `build-all.sh`, and its output.
#[test]
fn the_examples_image_is_built_and_pushed() {
    let folder = tempfile::tempdir().unwrap();
    let asked = folder.path().join("asked");
    let engine = folder.path().join("engine");
    fs::write(
        &engine,
        format!("#!/bin/sh\necho \"$@\" >>{}\n", asked.display()),
    )
    .unwrap();
    fs::set_permissions(&engine, fs::Permissions::from_mode(0o755)).unwrap();
    let mut build = Command::new(repository().join("examples/piefed/image/build-all.sh"));
    build
        .args(["registry.example/piefed", "1.2.0"])
        .env("ENGINE", &engine)
        .env("STOCK", "stock.example/piefed:1.2.0");
    let said = succeeded(&build.output().unwrap());
    assert!(
        said.contains("kustomize edit set image piefed/piefed=registry.example/piefed:1.2.0"),
        "{said}"
    );
    assert_eq!(
        fs::read_to_string(asked).unwrap(),
        "build --build-arg STOCK=stock.example/piefed:1.2.0 --file Containerfile --tag registry.example/piefed:1.2.0 .\n\
         push registry.example/piefed:1.2.0\n"
    );
    // The image holds the scripts that the manifests run.
    let copied = read("examples/piefed/image/Containerfile");
    assert!(copied.contains("COPY --chmod=0755 entrypoint-*.sh await-services.py /app/k8s/"));
    let mut run = 0;
    for manifest in fs::read_dir(repository().join("examples/piefed")).unwrap() {
        let path = manifest.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        for line in fs::read_to_string(&path).unwrap().lines() {
            let Some((_, script)) = line.split_once("command: [\"/app/k8s/") else {
                continue;
            };
            let script = script.split('"').next().unwrap();
            let file = repository().join("examples/piefed/image").join(script);
            assert!(file.is_file(), "{} runs {script}", path.display());
            run += 1;
        }
    }
    assert_eq!(run, 8, "the manifests run {run} entrypoints");
}

/// Whether `.dockerignore` lets a path of the repository's root into the build context. The last
/// line that matches wins.
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

/// Cargo reads the whole manifest before it builds one binary, so a target whose file isn't copied
/// can stop it.
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
    // The only quick cargo command that needs the whole manifest, as a build does. `--offline`
    // works because every crate was downloaded for this very test.
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

    // openssl's own error is printed.
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
    // The marker is in two parts, because this file is searched as well.
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
