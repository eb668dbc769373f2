//! The gates of `docs/gates.md` hold applications as charts install them, release after release,
//! and without a change.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use migration_gate::cli::config::parse;
use migration_gate_core::gates::{Config, HeldKind};
use migration_gate_core::held::holding;
use migration_gate_core::image::Relation;
use migration_gate_core::mutate::mutate;
use migration_gate_core::podspec::pod_kind;
use migration_gate_core::request::Request;
use migration_gate_core::version::{Contents, Wanted};
use migration_gate_yaml as yaml;
use serde_json::Value;

/// How many releases follow each other.
const RELEASES: usize = 10;

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The page's gates: those of each shape, by its name, and the others.
fn page() -> (BTreeMap<String, Config>, Vec<Config>) {
    let page = fs::read_to_string(repository().join("docs/gates.md")).unwrap();
    let (mut shapes, mut others) = (BTreeMap::new(), Vec::new());
    let mut blocks = page.split("```yaml\n");
    let mut before = blocks.next().unwrap();
    for block in blocks {
        let (text, after) = block.split_once("```\n").unwrap();
        let config = parse(text, "docs/gates.md").unwrap_or_else(|error| panic!("{error}\n{text}"));
        let marked = before.lines().last().and_then(|line| {
            line.strip_prefix("<!-- shape: ")?
                .strip_suffix(" -->")
                .map(str::to_owned)
        });
        match marked {
            Some(name) => assert!(shapes.insert(name, config).is_none(), "twice: {text}"),
            None => others.push(config),
        }
        before = after;
    }
    (shapes, others)
}

/// The manifests of a shape, as they are at one of its releases, the first of which is an
/// installation.
fn manifests(text: &str, release: usize) -> Vec<Value> {
    let text = text
        .replace("${VERSION}", &format!("1.{release}.0"))
        .replace("${REVISION}", &release.to_string())
        .replace("${TIMESTAMP}", &format!("2026-11-26-10-{release:02}-59"))
        .replace("${DIGEST}", &format!("{release:064x}"));
    let phase = if release == 1 { "install" } else { "upgrade" };
    yaml::documents(&text)
        .map(|document| document.unwrap().value)
        .filter(|object| {
            let hook = object["metadata"]["annotations"]["helm.sh/hook"].as_str();
            hook.is_none_or(|hook| hook.contains(phase))
        })
        .collect()
}

/// The pod template of an object that has one.
fn template(object: &Value) -> Option<&Value> {
    let request = Request::create(object, "any")?;
    pod_kind(request.group, request.kind)?.template(object)
}

/// The arguments of the injected waiter, but for the version. Checks that the waiter comes first,
/// and that there is no warning.
fn waiter(config: &Config, request: &Request<'_>, kind: HeldKind) -> Vec<String> {
    let decision = mutate(config, request);
    // The gate lists the accounts, and knows the container whose version counts.
    assert_eq!(decision.warnings, [], "{:#}", request.object);
    let mut mutated = request.object.clone();
    json_patch::patch(&mut mutated, &decision.patch).unwrap();
    let spec = kind.pod_kind().pod_spec(&mutated).unwrap();
    let first = &spec["initContainers"][0];
    assert_eq!(first["name"], "wait-for-migrations", "{mutated:#}");
    let args = first["args"].as_array().unwrap().iter();
    let args = args.map(|arg| arg.as_str().unwrap());
    let tells_the_version = |arg: &&str| {
        ["--image=", "--version="]
            .iter()
            .any(|p| arg.starts_with(p))
    };
    args.filter(|arg| !tells_the_version(arg))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_page_has_a_gate_for_each_shape() {
    let (shapes, others) = page();
    let folder = fs::read_dir(repository().join("tests/shapes")).unwrap();
    let files = folder.map(|entry| entry.unwrap().path());
    let files: BTreeSet<String> = files
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    assert!(shapes.keys().eq(&files), "{:?} {files:?}", shapes.keys());
    assert_eq!(others.len(), 2);
}

#[test]
fn each_gate_holds_its_workloads_release_after_release() {
    let (shapes, _) = page();
    for (name, config) in &shapes {
        let namespace = config.gates[0].namespace.as_str();
        let path = repository().join(format!("tests/shapes/{name}.yaml"));
        let text = fs::read_to_string(&path).unwrap();
        let holds = |line| str::strip_prefix(line, "# Its gate holds: ");
        let expected = text.lines().find_map(holds).unwrap().split(", ");
        let expected: Vec<_> = expected.collect();
        let mut waiters: Option<BTreeMap<String, Vec<String>>> = None;
        let mut jobs: Vec<(usize, Value)> = Vec::new();
        for release in 1..=RELEASES {
            let objects = manifests(&text, release);
            let of_jobs = objects.iter().filter(|object| object["kind"] == "Job");
            jobs.extend(of_jobs.map(|job| (release, job.clone())));
            let mut found = BTreeMap::new();
            for object in &objects {
                let request = Request::create(object, namespace).unwrap();
                let gates: Vec<_> = holding(config, &request).collect();
                let [(gate, kind)] = gates.as_slice() else {
                    assert!(gates.is_empty(), "{name}: {gates:?}");
                    continue;
                };
                let held = format!("{}/{}", request.kind, request.name().unwrap());
                let wanted = Wanted::of(gate, template(object).unwrap()).unwrap();
                for requirement in gate.requirements() {
                    let matching = jobs.iter().filter(|(_, job)| {
                        let metadata = &job["metadata"];
                        let label = |key: &str| metadata["labels"].get(key)?.as_str();
                        requirement.matches(metadata["name"].as_str().unwrap(), label)
                    });
                    let opens: Vec<usize> = matching
                        .filter(|(_, job)| {
                            let contents = Contents::of(&job["metadata"], template(job).unwrap());
                            wanted.relation(&contents) == Relation::Same
                        })
                        .map(|(release, _)| *release)
                        .collect();
                    let own = !opens.is_empty() && opens.iter().all(|of| *of == release);
                    assert!(
                        own,
                        "{name}: {held} of {release} and {requirement}: {opens:?}"
                    );
                }
                found.insert(held, waiter(config, &request, *kind));
            }
            let held: Vec<&str> = found.keys().map(String::as_str).collect();
            assert_eq!(held, expected, "{name}");
            assert_eq!(*waiters.get_or_insert(found.clone()), found, "{name}");
        }
    }
}
