//! A repository as it is: manifests beside patches, charts and values.

use migration_gate::review::engine::review;
use migration_gate::review::input::gather;
use migration_gate::review::manifest::Loaded;
use migration_gate_core::gates::Config;

use super::found;
use super::inputs::folder;

const WEB: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata: {name: piefed-web, namespace: piefed-application}
spec:
  template:
    spec:
      containers:
      - name: web
        image: piefed/piefed:1.2.0
";

/// The review's result for each file, of a path in a folder with these files: the file's objects,
/// those that are injected, and what was skipped or could not be reviewed.
fn check(files: &[(&str, &str)], path: &str, expect: &[&str]) {
    let folder = folder(files);
    let (sources, _) = gather(&[folder.path().join(path)], std::io::empty());
    let loaded: Vec<Loaded> = sources.into_iter().map(Loaded::new).collect();
    let report = review(&Config::default(), &loaded, None);
    let name = |source: usize| {
        let name = &loaded[source].source.name;
        let name = name.strip_prefix(&folder.path().display().to_string());
        name.unwrap_or_default().trim_start_matches('/').to_owned()
    };
    let mut said = Vec::new();
    for source in 0..loaded.len() {
        let objects = &report.objects[report.objects_of(source)];
        said.extend(objects.iter().map(|object| {
            let outcome = object.outcome.as_str();
            format!(
                "{}: {} {outcome}",
                name(source),
                object.manifest.request.kind
            )
        }));
        let skipped = report
            .skipped_in(source)
            .iter()
            .map(|one| one.part.as_str());
        let bad = report
            .bad_input_in(source)
            .iter()
            .map(|bad| bad.code.as_str());
        said.extend(
            skipped
                .chain(bad)
                .map(|code| format!("{}: {code}", name(source))),
        );
    }
    assert_eq!(said, expect, "{files:?}");
}

#[test]
fn a_part_of_an_object_is_no_object() {
    let check = |text: &str, expect: &[&str]| check(&[("a.yaml", text)], "", expect);
    check(WEB, &["a.yaml: Deployment injected"]);
    let patch = &["a.yaml: Deployment untouched", "a.yaml: patch"];
    check(
        &WEB.replace("        image: piefed/piefed:1.2.0\n", ""),
        patch,
    );
    check(
        &WEB.replace("        image", "        $patch: replace\n        image"),
        patch,
    );
    let (head, _) = WEB.split_once("  template").expect("a template");
    check(&format!("{head}  replicas: 3\n"), patch);
    check(
        &format!("{WEB}      $setElementOrder/containers: [{{name: web}}]\n"),
        patch,
    );
    // A forbidden variable that a patch adds is refused; one that it deletes is not.
    let patch = WEB.replace("        image: piefed/piefed:1.2.0\n", "");
    check(
        &format!("{patch}        env: [{{name: PIEFED_INIT_CONTAINER, value: x}}]\n"),
        &["a.yaml: Deployment denied", "a.yaml: patch"],
    );
    check(
        &format!("{patch}        env: [{{name: PIEFED_INIT_CONTAINER, $patch: delete}}]\n"),
        &["a.yaml: Deployment untouched", "a.yaml: patch"],
    );
    // A patch does not stand in for the object that it is merged into.
    let config = Config::default();
    assert_eq!(
        found(&config, &format!("{WEB}---\n{patch}")),
        found(&config, WEB)
    );
}

#[test]
fn patches_are_those_that_a_kustomization_names() {
    let files = [
        ("base/web.yaml", WEB),
        (
            "overlay/kustomization.yaml",
            "resources: [../base]\npatches: [{path: ./web.yaml}, {path: ops.yaml}, {patch: x}]\npatchesStrategicMerge: [../more/web.yaml]\n",
        ),
        ("overlay/web.yaml", WEB),
        ("overlay/ops.yaml", "- {op: remove, path: /spec}\n"),
        ("overlay/other.yaml", WEB),
        ("more/web.yaml", WEB),
    ];
    check(
        &files,
        "",
        &[
            "base/web.yaml: Deployment injected",
            "more/web.yaml: Deployment untouched",
            "more/web.yaml: patch",
            "overlay/ops.yaml: patch",
            "overlay/other.yaml: Deployment injected",
            "overlay/web.yaml: Deployment untouched",
            "overlay/web.yaml: patch",
        ],
    );
    let named = [
        "overlay/web.yaml: Deployment untouched",
        "overlay/web.yaml: patch",
    ];
    check(&files, "overlay/web.yaml", &named);
}

#[test]
fn templates_and_values_are_passed_over_where_nobody_named_them() {
    let template = "apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: {{ .Release.Name }}\n{{- with .Values.x }}\n";
    let files = [
        ("chart/Chart.yaml", "apiVersion: v2\nname: chart\n"),
        ("chart/values.yaml", "image: {tag: 1}\n"),
        ("chart/values-prod.yaml", "apiVersion: v1\nkind: x\n"),
        ("chart/templates/web.yaml", template),
        ("chart/templates/plain/web.yaml", WEB),
        ("chart/crds/web.yaml", WEB),
        ("compose.yaml", "services: {}\n"),
        ("half.yaml", "kind: Deployment\n"),
        ("broken.yaml", "a: [\n"),
        ("loose.yaml", template),
        ("templates/web.yaml", WEB),
    ];
    check(
        &files,
        "",
        &[
            "broken.yaml: syntax",
            "chart/Chart.yaml: values",
            "chart/crds/web.yaml: Deployment injected",
            "chart/templates/plain/web.yaml: template",
            "chart/templates/web.yaml: template",
            "chart/values-prod.yaml: values",
            "chart/values.yaml: values",
            "compose.yaml: values",
            "half.yaml: not-an-object",
            "loose.yaml: template",
            "templates/web.yaml: Deployment injected",
        ],
    );
    check(&files, "compose.yaml", &["compose.yaml: not-an-object"]);
    check(&files, "loose.yaml", &["loose.yaml: syntax"]);
}
