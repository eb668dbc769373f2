//! `--live`, against a fake API server.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use testkit::fake::FakeApi;

fn review(kubeconfig: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_migration-gate"))
        .args(["review", "--live"])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output()
        .expect("a run")
}

fn deployment(name: &str, env: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "piefed-application", "managedFields": [{"manager": "m"}]},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "piefed:1", "env": env}]}}},
        "status": {"replicas": 1},
    })
}

fn cluster() -> FakeApi {
    let api = FakeApi::start();
    let apps = "/apis/apps/v1/namespaces/piefed-application";
    let variable = json!([{"name": "PIEFED_INIT_CONTAINER", "value": "true"}]);
    let put = |path, object| api.put(&format!("{apps}/{path}"), object);
    put(
        "deployments/piefed-web",
        deployment("piefed-web", &json!([])),
    );
    put("deployments/other", deployment("other", &variable));
    let mut owned = deployment("owned", &variable);
    owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "u", "controller": true}]);
    put("replicasets/owned", owned);
    api.page(1);
    api.deny("list", "cronjobs");
    api
}

#[test]
fn what_is_in_the_cluster_is_reviewed() {
    let output = review(&cluster().kubeconfig(), &["--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(2), "{report:#}");
    let names: Vec<&str> = report["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|object| object["name"].as_str())
        .collect();
    // The objects of both pages, without those that a controller owns.
    assert_eq!(names, ["other", "piefed-web"]);
    assert_eq!(report["objects"][1]["outcome"], "injected");
    assert_eq!(report["objects"][0]["outcome"], "denied");
    let found = report["findings"]
        .as_array()
        .expect("a list")
        .iter()
        .find(|finding| finding["code"] == "forbidden-env")
        .expect("the violation");
    assert_eq!(
        found["file"],
        "live/piefed-application/deployments/other.yaml"
    );
    assert_eq!(report["badInput"].as_array().map(Vec::len), Some(1));
    assert_eq!(report["badInput"][0]["file"], "live/*/cronjobs");
    let message = report["badInput"][0]["message"].as_str().expect("text");
    assert!(
        message.contains("`kubectl auth can-i list cronjobs.batch --all-namespaces`"),
        "{message}"
    );
    let diff = report["diffs"][0].as_str().expect("text");
    assert!(
        diff.contains("+      - name: wait-for-migrations"),
        "{diff}"
    );
    assert!(
        !diff.contains("managedFields") && !diff.contains("status"),
        "{diff}"
    );
}

#[test]
fn one_namespace_can_be_asked_for() {
    let api = FakeApi::start();
    let output = review(&api.kubeconfig(), &["--namespace", "other"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let asked = api.requests();
    assert_eq!(asked.len(), 9, "{asked:#?}");
    assert!(
        asked.iter().all(|line| line.contains("/namespaces/other/")),
        "{asked:#?}"
    );
}

#[test]
fn no_cluster_is_bad_input() {
    let missing = review(Path::new("/nowhere/kubeconfig"), &[]);
    assert_eq!(missing.status.code(), Some(2));
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(message.contains("KUBECONFIG"), "{message}");
}
