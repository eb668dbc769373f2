//! `eject` against a local API server.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use testkit::fake::FakeApi;

const PODS: &str = "/api/v1/namespaces/piefed-application/pods";

fn pod(name: &str, init_containers: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "piefed-application"},
        "spec": {"initContainers": init_containers, "containers": [{"name": "a"}]},
        "status": {"phase": "Pending"},
    })
}

#[test]
fn waiting_for_the_last_waiter_takes_no_list_for_each_event() {
    let api = FakeApi::start();
    let waiter = json!([{
        "name": "wait-for-migrations",
        "args": ["wait", "--gate=piefed", "--job=piefed-db-init"],
        "volumeMounts": [{"name": "migration-gate-token"}],
    }]);
    api.put(&format!("{PODS}/held"), pod("held", &waiter));
    let mut eject = Command::new(env!("CARGO_BIN_EXE_migration-gate"))
        .args(["eject", "--yes", "--kubeconfig"])
        .arg(api.kubeconfig())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(eject.stdout.take().expect("its output"))
        .lines()
        .map_while(Result::ok);
    let waiting = "gate piefed: waiting for Pod piefed-application/held to end";
    assert!(lines.any(|line| line == waiting));
    api.await_watches(2);
    let lists = || {
        let requests = api.requests();
        requests
            .iter()
            .filter(|request| request.starts_with("list pods"))
            .count()
    };
    let before = lists();
    for event in 0..20 {
        let name = format!("other-{event}");
        api.put(&format!("{PODS}/{name}"), pod(&name, &json!([])));
    }
    api.delete(&format!("{PODS}/held"));
    assert!(lines.any(|line| line == "Done."));
    assert!(eject.wait().expect("its end").success());
    // One list shows that none is left.
    assert_eq!(lists(), before + 1, "{:?}", api.requests());
}
