//! Documents that no rule and no lint needs: only their names stay in memory.

use checks::manifests::check_trimming;
use migration_gate::review::engine::review;
use migration_gate::review::input::{SourceText, gather};
use migration_gate::review::load::{Retention, load};
use migration_gate_core::gates::Config;

use super::loaded;

/// A Deployment of another namespace, with more in a container or in `metadata`.
fn deployment(metadata: &str, container: &str) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web, namespace: other{metadata}}}
spec:
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - {{name: web, image: web:1{container}}}
"
    )
}

fn text(text: &str) -> SourceText {
    SourceText {
        name: "app.yaml".to_owned(),
        text: text.to_owned(),
        ..SourceText::default()
    }
}

fn is_trimmed(config: &Config, one: &str) -> bool {
    let namespace = None;
    let loaded = load(vec![text(one)], Retention::Needed { config, namespace });
    loaded[0].trimmed == [true]
}

#[test]
fn what_nothing_needs_is_reduced_to_its_name() {
    let config = Config::default();
    let plain = deployment("", "");
    let namespace = None;
    let loaded = load(
        vec![text(&plain)],
        Retention::Needed {
            config: &config,
            namespace,
        },
    );
    let left = &loaded[0].documents[0].as_ref().expect("a document").value;
    let name = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "other"},
    });
    assert_eq!(left, &name);
    let report = review(&config, &loaded, namespace);
    assert_eq!((report.objects.len(), report.skipped.len()), (1, 0));

    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: other}\n";
    assert!(is_trimmed(&config, service));
    for needed in [
        plain.replace("other", "piefed-application"),
        // An object without a namespace may be meant for the gate's.
        plain.replace(", namespace: other", ""),
        deployment("", ", env: [{name: PIEFED_INIT_CONTAINER}]"),
        deployment("", ", envFrom: [{configMapRef: {name: web}}]"),
        plain.replace("name: web, image", "name: wait-for-migrations, image"),
        // A part of an object, of which a note is printed.
        plain.replace(", image: web:1", ""),
        service.replace("Service", "ConfigMap"),
        service.replace("Service", "Secret"),
        service
            .replace("v1\n", "rbac.authorization.k8s.io/v1\n")
            .replace("Service", "ClusterRole"),
        format!(
            "apiVersion: v1\nkind: List\nitems:\n- {}",
            service.replace('\n', "\n  ")
        ),
    ] {
        assert!(!is_trimmed(&config, &needed), "{needed}");
    }
}

/// Other objects are before, between and after the reviewed ones, so that many are trimmed.
#[test]
fn the_report_is_the_same() {
    let others = [
        deployment("", ""),
        deployment(", labels: {app: x}", ", ports: []"),
    ];
    // Each file of examples/codes has a finding; a folder's files together have others.
    let folders = [
        "examples/piefed",
        "examples/piefed-old",
        "examples/piefed-handwritten",
    ];
    let mut reviewed: Vec<String> = folders.iter().map(|folder| joined(folder)).collect();
    let (sources, _) = gather(&["examples/codes".into()], &b""[..]);
    reviewed.extend(sources.into_iter().map(|source| source.text));
    let config = Config::default();
    let mut findings = 0;
    for one in reviewed {
        let many = others.concat().repeat(100);
        let whole = format!("{many}---\n{one}\n{many}");
        let loaded = loaded(&whole);
        let report = review(&config, &loaded, None);
        findings += report.findings.len();
        check_trimming(&config, &report);
    }
    assert!(findings > 30, "{findings}");
}

/// A folder's manifests as one text.
fn joined(folder: &str) -> String {
    let (sources, _) = gather(&[folder.into()], &b""[..]);
    let texts: Vec<String> = sources.into_iter().map(|source| source.text).collect();
    texts.join("\n---\n")
}
