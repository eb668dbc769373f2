//! The image that is built without an engine has the same content as that of the Dockerfile.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use testkit::process;

testkit::tests! {
    helm:
        the_image_is_one_binary_and_the_dockerfiles,
        the_published_chart_names_the_published_image;
}

testkit::soaks! {
    helm: the_image_has_the_same_bytes_from_two_folders;
}

/// Maximum unpacked size of the image: 10 MiB. A registry sends less than half of that.
const LIMIT: u64 = 10 << 20;

fn tar(archive: &Path, options: &[&str]) -> Result<String> {
    let mut command = Command::new("tar");
    command.arg("--file").arg(archive).args(options);
    process::run(&mut command, "", Duration::from_mins(3))?.success()
}

fn json_of(folder: &Path, digest: &Value) -> Result<Value> {
    let digest = digest.as_str().context("a digest")?;
    let path = folder.join("blobs").join(digest.replace(':', "/"));
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// The last instruction of a kind in a Dockerfile.
fn instruction<'d>(dockerfile: &'d str, kind: &str) -> Result<&'d str> {
    let mut found = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix(kind)?.strip_prefix(' '));
    found
        .next_back()
        .with_context(|| format!("the Dockerfile has no {kind}"))
}

/// Checks that each linked crate is listed, and that the text is there which most licences require.
fn licences_are_those_of_what_is_linked(layer: &Path) -> Result<()> {
    let mut command = Command::new("sh");
    command
        .args([
            "-c",
            r#"tar --extract --to-stdout --file "$0" ./licenses/THIRD-PARTY.gz | gzip -d"#,
        ])
        .arg(layer);
    let text = process::run(&mut command, "", Duration::from_mins(1))?.success()?;
    for part in [
        "\nrustls 0.23.",
        "\nkube-client 5.",
        "Permission is hereby granted, free of charge",
        "Copyright 2015-2025 Brian Smith.",
    ] {
        ensure!(text.contains(part), "no `{part}` in the licence texts");
    }
    ensure!(
        !text.contains("\nmigration-gate"),
        "its own crates are listed as someone else's"
    );
    Ok(())
}

/// With a path of the machine in it, the binary would also differ on another machine.
fn nothing_tells_where_it_was_built(layer: &Path) -> Result<()> {
    let content = fs::read(layer)?;
    for place in [
        "/.cargo/registry/",
        concat!(env!("CARGO_MANIFEST_DIR"), "/"),
    ] {
        let found = content
            .windows(place.len())
            .any(|window| window == place.as_bytes());
        ensure!(!found, "the binary names {place}");
    }
    Ok(())
}

fn the_image_is_one_binary_and_the_dockerfiles(_: &Path) -> Result<()> {
    let archive = &testkit::image::archive()?;
    let size = fs::metadata(archive)?.len();
    ensure!(size < LIMIT, "{size} bytes");
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    tar(
        archive,
        &["--extract", "--directory", &folder.to_string_lossy()],
    )?;
    let index: Value = serde_json::from_slice(&fs::read(folder.join("index.json"))?)?;
    let manifest = json_of(folder, &index["manifests"][0]["digest"])?;
    let config = json_of(folder, &manifest["config"]["digest"])?["config"].take();
    let layers = manifest["layers"].as_array().context("layers")?;
    ensure!(layers.len() == 1, "{manifest:#}");
    let layer = layers[0]["digest"].as_str().context("a digest")?;
    let layer = folder.join("blobs").join(layer.replace(':', "/"));
    let listed = tar(&layer, &["--list", "--verbose"])?;
    let held: Vec<&str> = listed
        .lines()
        .filter(|line| !line.starts_with('d'))
        .collect();
    let files = [
        ("-rw-r--r--", " ./licenses/LICENSE"),
        ("-rw-r--r--", " ./licenses/THIRD-PARTY.gz"),
        ("-rwxr-xr-x", " ./migration-gate"),
    ];
    ensure!(
        held.len() == files.len()
            && files
                .iter()
                .zip(&held)
                .all(|((mode, name), line)| { line.starts_with(mode) && line.ends_with(name) }),
        "{listed}"
    );
    licences_are_those_of_what_is_linked(&layer)?;
    nothing_tells_where_it_was_built(&layer)?;

    let dockerfile = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Dockerfile"))?;
    ensure!(instruction(&dockerfile, "FROM")? == "scratch");
    ensure!(instruction(&dockerfile, "COPY")? == "--from=build /migration-gate /migration-gate");
    let entrypoint: Value = serde_json::from_str(instruction(&dockerfile, "ENTRYPOINT")?)?;
    let wanted = json!({"User": instruction(&dockerfile, "USER")?, "Entrypoint": entrypoint});
    ensure!(
        config == wanted,
        "{config} is not the Dockerfile's {wanted}"
    );
    Ok(())
}

/// Both are built from scratch, as by `make reproducible`.
fn the_image_has_the_same_bytes_from_two_folders(_: &Path) -> Result<()> {
    let mut build = Command::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/build/reproducible.sh"
    ));
    let said = process::run(&mut build, "", Duration::from_hours(1))?.success()?;
    ensure!(said.ends_with("the same bytes\n"), "{said}");
    Ok(())
}

/// By its digest, unless the values set another tag.
fn the_published_chart_names_the_published_image(helm: &Path) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let digest = format!("sha256:{}", "1".repeat(64));
    let source = "https://example.org/owner/gate";
    let mut pack = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/build/chart.sh"));
    pack.arg(folder.path())
        .args(["registry.example", "owner/gate", &digest, source])
        .env("HELM", helm);
    let package = process::run(&mut pack, "", Duration::from_mins(1))?.success()?;
    let package = Path::new(package.trim_end());
    let images = |options: &[&str]| -> Result<Vec<String>> {
        let mut template = Command::new(helm);
        template
            .args(["template", "gate"])
            .arg(package)
            .arg("--kube-version=1.37.2")
            .args(options);
        let rendered = process::run(&mut template, "", Duration::from_mins(1))?.success()?;
        let images = rendered
            .lines()
            .filter_map(|line| line.trim().strip_prefix("image: "));
        Ok(images.map(str::to_owned).collect())
    };
    let published = format!("registry.example/owner/gate@{digest}");
    for (options, wanted) in [
        (&[][..], published.as_str()),
        (&["--set=image.tag=v2"], "registry.example/owner/gate:v2"),
        (
            &["--set=global.imageRegistry=mirror"],
            &published.replace("registry.example", "mirror"),
        ),
    ] {
        let found = images(options)?;
        ensure!(found == [wanted; 4], "{options:?}: {found:?}, not {wanted}");
    }
    let shown = process::run(
        Command::new(helm).args(["show", "chart"]).arg(package),
        "",
        Duration::from_mins(1),
    )?
    .success()?;
    ensure!(
        shown.contains(source) && shown.contains(&format!("owner/gate:0.1.0@{digest}")),
        "{shown}"
    );
    let readme = process::run(
        Command::new(helm).args(["show", "readme"]).arg(package),
        "",
        Duration::from_mins(1),
    )?
    .success()?;
    ensure!(
        readme.contains(&format!("{source}/blob/main/docs/install.md")),
        "{readme}"
    );
    Ok(())
}
