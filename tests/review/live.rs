//! `--live`, against a small API server on loopback that answers lists.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

/// Answers lists until the test ends.
struct Cluster {
    folder: TempDir,
}

impl Cluster {
    fn start(answer: impl Fn(&str) -> (u16, Value) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let server = listener.local_addr().expect("an address");
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                // A client that goes away is nobody's failure.
                let _ = serve(&connection, &answer);
            }
        });
        let folder = TempDir::new().expect("a folder");
        let kubeconfig = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\nclusters: [{{name: c, cluster: {{server: 'http://{server}'}}}}]\ncontexts: [{{name: c, context: {{cluster: c, user: u}}}}]\nusers: [{{name: u, user: {{}}}}]\n"
        );
        std::fs::write(folder.path().join("kubeconfig"), kubeconfig).expect("a file");
        Self { folder }
    }

    fn review(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_migration-gate"))
            .args(["review", "--live"])
            .args(arguments)
            .env("KUBECONFIG", self.folder.path().join("kubeconfig"))
            .output()
            .expect("a run")
    }
}

/// One request a connection.
fn serve(
    mut connection: &TcpStream,
    answer: &impl Fn(&str) -> (u16, Value),
) -> std::io::Result<()> {
    let mut request = BufReader::new(connection);
    let mut line = String::new();
    request.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    while line.trim() != "" {
        line.clear();
        request.read_line(&mut line)?;
    }
    let (status, body) = answer(&path);
    let body = body.to_string();
    write!(
        connection,
        "HTTP/1.1 {status} -\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn list(items: &[Value]) -> (u16, Value) {
    (
        200,
        json!({"apiVersion": "v1", "kind": "List", "metadata": {}, "items": items}),
    )
}

fn deployment(name: &str, env: &Value) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "piefed-application", "managedFields": [{"manager": "m"}]},
        "spec": {"template": {"spec": {"containers": [{"name": "a", "image": "piefed:1", "env": env}]}}},
        "status": {"replicas": 1},
    })
}

fn cluster() -> Cluster {
    Cluster::start(|path| {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let variable = json!([{"name": "PIEFED_INIT_CONTAINER", "value": "true"}]);
        match path {
            "/apis/apps/v1/deployments" if query.contains("continue=next") => {
                list(&[deployment("other", &variable)])
            }
            "/apis/apps/v1/deployments" => {
                let (status, mut first) = list(&[deployment("piefed-web", &json!([]))]);
                first["metadata"]["continue"] = json!("next");
                (status, first)
            }
            "/apis/apps/v1/replicasets" => {
                let mut owned = deployment("owned", &variable);
                owned["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": "other", "uid": "u", "controller": true}]);
                list(&[owned])
            }
            "/apis/batch/v1/cronjobs" => (
                403,
                json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "Forbidden", "message": "cronjobs are forbidden", "code": 403}),
            ),
            _ => list(&[]),
        }
    })
}

#[test]
fn what_is_in_the_cluster_is_reviewed() {
    let output = cluster().review(&["--output", "json"]);
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(output.status.code(), Some(2), "{report:#}");
    let names: Vec<&str> = report["objects"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|object| object["name"].as_str())
        .collect();
    // Both pages, and nothing that a controller owns.
    assert_eq!(names, ["piefed-web", "other"]);
    assert_eq!(report["objects"][0]["outcome"], "injected");
    assert_eq!(report["objects"][1]["outcome"], "denied");
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
    let asked = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let log = asked.clone();
    let cluster = Cluster::start(move |path| {
        log.lock().expect("no panic").push(path.to_owned());
        list(&[])
    });
    let output = cluster.review(&["--namespace", "other"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let asked = asked.lock().expect("no panic");
    assert_eq!(asked.len(), 9, "{asked:#?}");
    assert!(
        asked.iter().all(|path| path.contains("/namespaces/other/")),
        "{asked:#?}"
    );
}

#[test]
fn no_cluster_is_bad_input() {
    let folder = TempDir::new().expect("a folder");
    let missing = Cluster { folder }.review(&[]);
    assert_eq!(missing.status.code(), Some(2));
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(message.contains("KUBECONFIG"), "{message}");
}
