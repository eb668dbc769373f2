//! What is packed: the image without an engine and the Dockerfile's are of one content.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use testkit::process;

testkit::tests! {
    helm: the_image_is_one_binary_and_the_dockerfiles;
}

/// What an image may weigh, unpacked: 10 MiB. A registry sends less than half of that.
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

fn the_image_is_one_binary_and_the_dockerfiles(_: &Path) -> Result<()> {
    let archive = std::env::var_os("MIGRATION_GATE_CLUSTER_IMAGE").context("an image")?;
    let archive = Path::new(&archive);
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
    ensure!(
        held.len() == 1
            && held[0].ends_with(" ./migration-gate")
            && held[0].starts_with("-rwxr-xr-x"),
        "{listed}"
    );

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
