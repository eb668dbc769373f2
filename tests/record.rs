//! `record` against a local API server.

use std::process::{Command, Output};

use serde_json::{Value, json};
use testkit::fake::FakeApi;

const RECORD: &str = "/api/v1/namespaces/shop/configmaps/migration-gate-shop";
const JOB: &str = "/apis/batch/v1/namespaces/shop/jobs/migrate";

/// A gate `shop` that holds the Deployment `web` until the Job `migrate` has completed.
struct Shop {
    api: FakeApi,
}

impl Shop {
    fn start() -> Self {
        Self::start_for("migrate")
    }

    /// A shop whose gate waits for the Job of this name or pattern.
    fn start_for(job: &str) -> Self {
        let api = FakeApi::start();
        let gate = format!(
            "{{name: shop, namespace: shop, job: {job}, deployments: [web], \
              serviceAccount: waiter}}"
        );
        let config = format!("gates: [{gate}]\n");
        std::fs::write(api.folder().join("gates.yaml"), config).expect("a file");
        Self { api }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_migration-gate"))
            .arg("record")
            .args(arguments)
            .arg("--config")
            .arg(self.api.folder().join("gates.yaml"))
            .env("KUBECONFIG", self.api.kubeconfig())
            .output()
            .expect("the program")
    }

    fn succeeds(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).expect("text")
    }

    /// The keys of the record.
    fn keys(&self) -> Vec<String> {
        let record = self.api.get(RECORD).unwrap_or_default();
        let data = record["data"].as_object().cloned().unwrap_or_default();
        data.into_iter().map(|(key, _)| key).collect()
    }
}

/// A completed Job.
fn completed(name: &str, uid: &str, image: &str) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "shop", "uid": uid},
        "spec": {"template": template(image)},
        "status": {
            "succeeded": 1,
            "conditions": [{"type": "Complete", "status": "True"}],
            "completionTime": "2026-01-02T03:04:05Z",
        },
    })
}

fn template(image: &str) -> Value {
    json!({"spec": {"containers": [{"name": "main", "image": image}]}})
}

#[test]
fn a_version_is_recorded_by_hand_and_forgotten() {
    let shop = Shop::start();
    assert!(shop.succeeds(&["list"]).contains("no record yet"));

    let shown = shop.succeeds(&["done", "1.2"]);
    assert!(shown.contains("1.2: recorded as migrated"), "{shown}");
    assert!(shown.contains("Nothing was changed."), "{shown}");
    assert!(shown.contains(&shop.api.url()), "{shown}");
    assert_eq!(shop.keys(), [""; 0]);
    assert!(
        shop.succeeds(&["done", "1.2", "--yes"])
            .ends_with("Done.\n")
    );
    shop.succeeds(&["done", "example.org/shop:1.3", "--yes"]);
    assert_eq!(shop.keys(), ["1.2", "1.3"]);
    let listed = shop.succeeds(&["list"]);
    assert!(
        listed.contains("  1.3  ") && listed.contains("by hand"),
        "{listed}"
    );
    let listed = shop.succeeds(&["list", "--output=json"]);
    assert_eq!(listed.lines().count(), 2, "{listed}");
    for line in listed.lines() {
        let entry: Value = serde_json::from_str(line).expect("JSON");
        assert_eq!(entry["gate"], "shop");
    }

    assert!(
        shop.succeeds(&["forget", "1.2"])
            .contains("Nothing was changed.")
    );
    assert_eq!(shop.keys(), ["1.2", "1.3"]);
    shop.succeeds(&["forget", "1.2", "--yes"]);
    assert!(!shop.keys().contains(&"1.2".to_owned()));
    assert!(
        shop.fails(&["forget", "1.2", "--yes"])
            .contains("no 1.2 is recorded")
    );
    shop.succeeds(&["forget", "--all", "--yes"]);
    assert!(shop.succeeds(&["list"]).contains("nothing"));
}

/// The waiter's message names a gate, and no file.
#[test]
fn without_a_file_the_gates_are_those_of_the_installed_release() {
    let shop = Shop::start();
    let done = || {
        Command::new(env!("CARGO_BIN_EXE_migration-gate"))
            .args(["record", "done", "1.2", "--gate", "shop", "--yes"])
            .env("KUBECONFIG", shop.api.kubeconfig())
            .output()
            .expect("the program")
    };
    let none = done();
    let said = String::from_utf8_lossy(&none.stderr);
    assert!(said.contains("no gate of that name, only piefed"), "{said}");

    // A ConfigMap alone makes a release, even without webhooks.
    let config = std::fs::read_to_string(shop.api.folder().join("gates.yaml")).expect("a file");
    let release = |name: &str| {
        let labels = json!({"app.kubernetes.io/name": "migration-gate"});
        shop.api.put(
            &format!("/api/v1/namespaces/gate/configmaps/{name}"),
            json!({
                "metadata": {"namespace": "gate", "name": name, "labels": labels},
                "data": {"config.yaml": config},
            }),
        );
    };
    release("one");
    let found = done();
    assert!(found.status.success(), "{found:?}");
    assert_eq!(shop.keys(), ["1.2"]);

    release("two");
    let several = done();
    let said = String::from_utf8_lossy(&several.stderr);
    assert!(
        said.contains("name a file with --config: there are several releases: gate/one, gate/two"),
        "{said}"
    );
}

#[test]
fn a_tag_that_moves_is_not_recorded_by_hand() {
    let shop = Shop::start();
    let refusal = shop.fails(&["done", "shop:latest", "--yes"]);
    assert!(
        refusal.contains("`latest` does not identify a version"),
        "{refusal}"
    );
    assert_eq!(shop.keys(), [""; 0]);
}

/// `status` and the waiter's message suggest `--wanted` if one word cannot name the version.
#[test]
fn what_is_wanted_is_what_the_pod_templates_say() {
    let shop = Shop::start();
    let said = shop.fails(&["done", "--wanted", "--yes"]);
    assert!(said.contains("gate shop holds nothing"), "{said}");
    let containers = json!([
        {"name": "main", "image": "shop:latest"}, {"name": "proxy", "image": "proxy:7"},
    ]);
    let web = json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"template": {"spec": {"containers": containers}}},
    });
    shop.api
        .put("/apis/apps/v1/namespaces/shop/deployments/web", web);
    shop.succeeds(&["done", "--wanted", "--yes"]);
    let record = shop.api.get(RECORD).expect("a record")["data"].to_string();
    assert!(
        record.contains("shop:latest") && record.contains("proxy:7"),
        "{record}"
    );
}

#[test]
fn a_completed_job_that_is_still_there_is_forgotten_with_its_version() {
    let shop = Shop::start();
    shop.api
        .put(JOB, completed("migrate", "uid-of-the-job", "shop:2"));
    assert!(
        shop.fails(&["forget", "1", "--yes"])
            .contains("no 1 is recorded")
    );
    let said = shop.succeeds(&["forget", "2", "--yes"]);
    assert!(
        said.contains("Job shop/migrate: no longer counts"),
        "{said}"
    );
    let record = shop.api.get(RECORD).expect("a record");
    assert!(
        record["data"].to_string().contains("uid-of-the-job"),
        "{record}"
    );
}

/// The uid of a Job that exists keeps it from being recorded again, so none may be left out.
#[test]
fn of_more_completed_jobs_than_the_record_can_forget_none_is_forgotten() {
    let shop = Shop::start_for("migrate-*");
    let path = |i: usize| format!("{JOB}-{i:03}");
    let uid = |i: usize| format!("00000000-0000-0000-0000-{i:012}");
    for i in 0..110 {
        let (name, image) = (format!("migrate-{i:03}"), format!("shop:{i}"));
        shop.api.put(&path(i), completed(&name, &uid(i), &image));
    }
    let said = shop.fails(&["forget", "--all", "--yes"]);
    let cure = "kubectl delete job migrate-000 migrate-001 ";
    assert!(said.contains(cure), "{said}");
    assert_eq!(shop.keys(), [""; 0]);
    for i in 90..110 {
        shop.api.delete(&path(i));
    }
    shop.succeeds(&["forget", "--all", "--yes"]);
    let forgets_all = |number: usize| {
        let record = shop.api.get(RECORD).expect("a record")["data"].to_string();
        (0..number).all(|i| record.contains(&uid(i)))
    };
    assert!(forgets_all(90));
    // One more is forgotten by its version; the others stay forgotten.
    shop.api
        .put(&path(90), completed("migrate-090", &uid(90), "shop:90"));
    shop.succeeds(&["forget", "90", "--yes"]);
    assert!(forgets_all(91));
}

#[test]
fn what_runs_is_what_the_ready_replica_sets_say() {
    let shop = Shop::start();
    let said = shop.fails(&["done", "--running", "--yes"]);
    assert!(
        said.contains("no workload of gate shop has running pods"),
        "{said}"
    );
    let apps = "/apis/apps/v1/namespaces/shop";
    let web = json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "web"},
        "spec": {"template": template("shop:2")},
    });
    shop.api.put(&format!("{apps}/deployments/web"), web);
    for (image, owner, ready) in [
        ("shop:1", "web", 1),
        ("shop:2", "web", 0),
        ("shop:3", "x", 1),
    ] {
        let name = image.replace(':', "-");
        let set = json!({
            "metadata": {"name": name, "namespace": "shop", "ownerReferences": [{"uid": owner}]},
            "spec": {"template": template(image)},
            "status": {"readyReplicas": ready},
        });
        shop.api.put(&format!("{apps}/replicasets/{name}"), set);
    }
    shop.succeeds(&["done", "--running", "--yes"]);
    assert_eq!(shop.keys(), ["1"]);
}
