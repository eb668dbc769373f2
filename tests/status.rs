//! `status` against a local API server.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use testkit::fake::FakeApi;

const CA: &str = "-----BEGIN CERTIFICATE-----\nQQ==\n-----END CERTIFICATE-----";

/// A release whose gates `shop0`, `shop1`, … are each in a namespace of that name.
struct Shops {
    api: FakeApi,
}

impl Shops {
    /// A release whose gates are all migrated, and whose workloads run version 2.
    fn well(number: usize) -> Self {
        let api = FakeApi::start();
        let gates: Value = (0..number)
            .map(|n| {
                json!({"name": format!("shop{n}"), "namespace": format!("shop{n}"),
                       "job": "migrate", "deployments": ["web"], "serviceAccount": "waiter"})
            })
            .collect();
        let shops = Self { api };
        shops.install(&json!({"gates": gates, "waiter": {"image": "gate:1"}}));
        for n in 0..number {
            shops.migrate(n);
        }
        shops
    }

    fn install(&self, config: &Value) {
        let labels = json!({"app.kubernetes.io/name": "migration-gate",
                            "app.kubernetes.io/version": "0.1.0"});
        let metadata = json!({
            "namespace": "ops", "labels": labels, "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": {"meta.helm.sh/release-name": "gate"},
        });
        let (api, ops) = (&self.api, "namespaces/ops");
        let put = |path: &str, mut object: Value| {
            object["metadata"] = metadata.clone();
            api.put(path, object);
        };
        put(
            &format!("/api/v1/{ops}/configmaps/gate"),
            json!({"data": {"config.yaml": config.to_string()}}),
        );
        put(
            &format!("/apis/apps/v1/{ops}/deployments/gate"),
            json!({
                "spec": {"replicas": 2, "template": {"spec": {
                    "serviceAccountName": "gate",
                    "containers": [{"name": "serve", "args": ["--secret=ops/gate-certificate"]}],
                }}},
                "status": {"readyReplicas": 2},
            }),
        );
        let bundle = STANDARD.encode(CA);
        for kind in ["mutating", "validating"] {
            put(
                &format!("/apis/admissionregistration.k8s.io/v1/{kind}webhookconfigurations/gate"),
                json!({"webhooks": [{"clientConfig": {"caBundle": bundle}}]}),
            );
        }
        api.deny("create", "subjectaccessreviews");
    }

    fn migrate(&self, n: usize) {
        let namespace = format!("shop{n}");
        let core = format!("/api/v1/namespaces/{namespace}");
        self.api.put(
            &format!("/api/v1/namespaces/{namespace}"),
            json!({"metadata": {"creationTimestamp": "2025-01-01T00:00:00Z"}}),
        );
        self.api.put(
            &format!("{core}/serviceaccounts/waiter"),
            json!({"metadata": {"namespace": namespace}}),
        );
        let entry = json!({"image": "shop:2", "job": "migrate", "uid": "u",
                           "completed": "2026-01-01T00:00:00Z", "took": 20});
        self.api.put(
            &format!("{core}/configmaps/migration-gate-{namespace}"),
            json!({
                "metadata": {"namespace": namespace,
                             "labels": {"app.kubernetes.io/managed-by": "migration-gate"}},
                "data": {"2": entry.to_string()},
            }),
        );
        self.api.put(
            &format!("/apis/apps/v1/namespaces/{namespace}/deployments/web"),
            json!({
                "metadata": {"namespace": namespace},
                "spec": {"replicas": 2, "template": template(&namespace)},
                "status": {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2},
            }),
        );
    }

    #[allow(
        clippy::needless_pass_by_value,
        reason = "a status is made for the call"
    )]
    fn job(&self, n: usize, status: Value) {
        let namespace = format!("shop{n}");
        self.api.put(
            &format!("/apis/batch/v1/namespaces/{namespace}/jobs/migrate"),
            json!({
                "metadata": {"namespace": namespace, "uid": "of-the-job"},
                "spec": {"template": {"spec": {"containers": [{"name": "m", "image": "shop:2"}]}}},
                "status": status,
            }),
        );
    }

    /// Removes the record, and adds pods that wait.
    fn hold(&self, n: usize, pods: usize) {
        let core = format!("/api/v1/namespaces/shop{n}");
        self.api
            .delete(&format!("{core}/configmaps/migration-gate-shop{n}"));
        for pod in 0..pods {
            let namespace = format!("shop{n}");
            let spec = template(&namespace)["spec"].clone();
            let running = json!({"running": {"startedAt": jiff::Timestamp::now()}});
            self.api.put(
                &format!("{core}/pods/web-{pod}"),
                json!({
                    "metadata": {"namespace": namespace}, "spec": spec,
                    "status": {"phase": "Pending", "initContainerStatuses": [
                        {"name": "wait-for-migrations", "state": running, "restartCount": 0},
                    ]},
                }),
            );
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_migration-gate"));
        command
            .arg("status")
            .args(arguments)
            .env("KUBECONFIG", self.api.kubeconfig());
        command
    }

    fn run(&self, arguments: &[&str], code: i32) -> String {
        let output: Output = self.command(arguments).output().expect("the program");
        assert_eq!(
            output.status.code(),
            Some(code),
            "{arguments:?}: {output:?}"
        );
        let text = if code == 2 {
            output.stderr
        } else {
            output.stdout
        };
        String::from_utf8(text).expect("text")
    }

    fn json(&self, arguments: &[&str], code: i32) -> Value {
        let arguments = [&["--output=json"], arguments].concat();
        serde_json::from_str(&self.run(&arguments, code)).expect("JSON")
    }
}

/// The pod template of a held Deployment, with the waiter that the gate's webhook puts there.
fn template(gate: &str) -> Value {
    let args: Vec<String> = [
        "wait".to_owned(),
        format!("--gate={gate}"),
        format!("--namespace={gate}"),
        "--job=migrate".to_owned(),
        format!("--record=migration-gate-{gate}"),
        "--image=shop:2".to_owned(),
        "--timeout=600s".to_owned(),
        "--freshness=version".to_owned(),
    ]
    .into();
    json!({"spec": {
        "serviceAccountName": "waiter",
        "initContainers": [{
            "name": "wait-for-migrations", "image": "gate:1", "args": args,
            "volumeMounts": [{"name": "migration-gate-token"}],
        }],
        "containers": [{"name": "web", "image": "shop:2"}],
        "volumes": [{"name": "migration-gate-token"}],
    }})
}

fn failed() -> Value {
    json!({"failed": 1, "startTime": "2026-01-01T00:00:00Z", "conditions": [
        {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "m"},
    ]})
}

#[test]
fn a_gate_that_is_open_is_shown_as_such() {
    let shops = Shops::well(1);
    let text = shops.run(&[], 0);
    for part in [
        "Release gate in namespace ops, version 0.1.0, 2 of 2 replicas ready, webhooks\nanswer",
        "GATE   NAMESPACE  STATE",
        "shop0  shop0      open",
        "Deployment web  2",
        "in-place  open",
        "Nothing is wrong, as far as it could be read.",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    // In a pipe there are no colours.
    assert!(!text.contains('\x1b'), "{text}");
    let report = shops.json(&[], 0);
    assert_eq!(report["wrong"], false);
    assert_eq!(report["gates"][0]["state"], "open");
}

#[test]
fn a_failed_job_is_told_with_the_end_of_its_log_and_the_command() {
    let shops = Shops::well(2);
    shops.hold(1, 1);
    shops.job(1, failed());
    shops.api.put(
        "/api/v1/namespaces/shop1/pods/migrate-1",
        json!({
            "metadata": {"namespace": "shop1", "labels": {
                "batch.kubernetes.io/job-name": "migrate",
                "batch.kubernetes.io/controller-uid": "of-the-job",
            }},
            "spec": {"containers": [{"name": "m"}]}, "status": {"phase": "Failed"},
        }),
    );
    let log = "connecting to postgres://shop:secret@db\nno such table\n";
    shops.api.log("migrate-1", "m", log);
    let text = shops.run(&["--context", "c"], 1);
    for part in [
        "error[job-failed]: Job migrate in shop1",
        "  | connecting to postgres://shop:***@db",
        "  | no such table",
        "    kubectl --context c -n shop1 delete job migrate",
        "1 error.",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
    // A gate or a namespace alone.
    assert!(!shops.run(&["shop0"], 0).contains("shop1"));
    assert!(shops.run(&["-n", "shop1"], 1).contains("shop1"));
    let error = shops.run(&["other"], 2);
    assert!(
        error.contains("there is no gate other, only shop0, shop1"),
        "{error}"
    );
}

#[test]
fn a_migration_that_is_started_again_and_again_is_told_with_its_log() {
    let shops = Shops::well(1);
    shops.hold(0, 1);
    shops.job(
        0,
        json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 0}),
    );
    let ended = json!({"terminated": {"exitCode": 1, "reason": "Error"}});
    shops.api.put(
        "/api/v1/namespaces/shop0/pods/migrate-1",
        json!({
            "metadata": {"namespace": "shop0", "labels": {
                "batch.kubernetes.io/job-name": "migrate",
                "batch.kubernetes.io/controller-uid": "of-the-job",
            }},
            "spec": {"containers": [{"name": "m"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "m", "restartCount": 3, "lastState": ended,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            }]},
        }),
    );
    shops.api.log("migrate-1", "m", "no such table\n");
    let text = shops.run(&[], 1);
    for part in [
        "error[job-crashing]: Job migrate in shop0",
        "container m has been started 4 times",
        "  | no such table",
        "logs -l batch.kubernetes.io/job-name=migrate",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

/// Text that the author of a manifest wrote reaches an administrator's terminal, and must not
/// control it.
#[test]
fn what_others_have_written_moves_no_cursor() {
    let shops = Shops::well(1);
    let gate = json!({"name": "shop0", "namespace": "shop0", "job": "migrate", "deployments": ["web"],
                      "serviceAccount": "waiter", "version": {"annotation": "v"}});
    shops.install(&json!({"gates": [gate], "waiter": {"image": "gate:1"}}));
    shops.hold(0, 1);
    let mut template = template("shop0");
    template["metadata"] = json!({"annotations": {"v": "1\u{1b}[2J"}});
    shops.api.put(
        "/apis/apps/v1/namespaces/shop0/deployments/web",
        json!({"metadata": {"namespace": "shop0"}, "spec": {"template": template}, "status": {}}),
    );
    let text = shops.run(&[], 1);
    assert!(!text.contains('\u{1b}'), "{text:?}");
    assert!(text.contains(r"record done $'1\x1b[2J'"), "{text}");
    let lines = shops.run(&["--watch", "--timeout=1s"], 1);
    assert!(lines.contains("1\u{fffd}[2J"), "{lines:?}");
    assert!(!lines.contains('\u{1b}'), "{lines:?}");
}

#[test]
fn what_may_not_be_read_is_said_and_not_fatal() {
    let shops = Shops::well(1);
    for resource in [
        "pods",
        "serviceaccounts",
        "deployments",
        "validatingwebhookconfigurations",
    ] {
        shops.api.deny("list", resource);
        shops.api.deny("get", resource);
    }
    let report = shops.json(&[], 0);
    let unread = report["unread"].as_array().expect("a list");
    let unread: Vec<&str> = unread
        .iter()
        .filter_map(|one| one["what"].as_str())
        .collect();
    for part in [
        "pods in shop0",
        "serviceaccounts in shop0",
        "deployments in shop0",
        "Deployment ops/gate",
        "ValidatingWebhookConfiguration gate",
    ] {
        assert!(unread.contains(&part), "no `{part}` in {unread:?}");
    }
    assert_eq!(report["gates"][0]["state"], "unknown");
    assert_eq!(report["troubles"], json!([]));
    let text = shops.run(&[], 0);
    assert!(text.contains("Not read: pods in shop0: "), "{text}");

    // Without its ConfigMap, the gates are known only from --config.
    shops.api.deny("list", "configmaps");
    shops.api.deny("get", "configmaps");
    let error = shops.run(&[], 2);
    assert!(error.contains("name them with --config"), "{error}");
    let config = shops.api.folder().join("gates.yaml");
    let gate = "{name: shop0, namespace: shop0, job: migrate, deployments: [web], \
                serviceAccount: waiter}";
    std::fs::write(&config, format!("gates: [{gate}]\n")).expect("a file");
    let config = config.to_str().expect("a path");
    let text = shops.run(&["--config", config], 0);
    assert!(text.contains("Not read: the installed release: "), "{text}");
}

#[test]
fn without_a_release_or_a_cluster_there_is_no_report() {
    let shops = Shops {
        api: FakeApi::start(),
    };
    let error = shops.run(&[], 2);
    assert!(error.contains("no installed release was found"), "{error}");
    let mut shops = shops;
    shops.api.stop();
    let error = shops.run(&[], 2);
    assert!(
        error.contains("cannot connect to http://127.0.0.1:"),
        "{error}"
    );
}

#[test]
fn watching_prints_what_changes_until_every_gate_is_open() {
    let shops = Shops::well(2);
    shops.hold(1, 1);
    shops.job(
        1,
        json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 1}),
    );
    let mut watching = shops
        .command(&["--watch", "--timeout=1m"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program");
    let mut lines = BufReader::new(watching.stdout.take().expect("its output"))
        .lines()
        .map_while(Result::ok);
    let mut seen = Vec::new();
    let mut until = |part: &str| {
        for line in lines.by_ref() {
            let found = line.contains(part);
            seen.push(line);
            if found {
                return;
            }
        }
        panic!("no `{part}` in {seen:#?}");
    };
    until("gate shop1: Deployment web waits: Job migrate is running");
    shops.job(1, failed());
    until("trouble: error job-failed");
    let conditions = json!([{"type": "Complete", "status": "True"}]);
    shops.job(
        1,
        json!({"succeeded": 1, "conditions": conditions,
                        "completionTime": jiff::Timestamp::now().to_string()}),
    );
    until("fixed: error job-failed");
    until("gate shop1: open");
    assert!(lines.next().is_none_or(|line| !line.contains("shop0")));
    assert!(watching.wait().expect("its end").success());
    let told = seen.iter().filter(|line| line.contains("gate shop0: open"));
    assert_eq!(told.count(), 1, "{seen:#?}");

    // If a gate stays closed, the watch ends with the timeout.
    shops.hold(0, 1);
    let text = shops.run(&["--watch", "--timeout=1s", "--output=json"], 1);
    assert_eq!(text.lines().count(), 1, "{text}");
}

/// On a terminal of 80 columns and few rows.
#[test]
fn watching_on_a_terminal_redraws_it_in_place() {
    let has_script = Command::new("script").arg("--version").output();
    if !has_script.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: util-linux' `script` makes the terminal, and is not here");
        return;
    }
    let shops = Shops::well(1);
    shops.hold(0, 9);
    shops.job(0, failed());
    let line = format!(
        "stty cols 80 rows 16; exec {} status --watch --timeout=1m",
        env!("CARGO_BIN_EXE_migration-gate")
    );
    let mut watching = Command::new("script")
        .args([
            "--quiet",
            "--return",
            "--flush",
            "--command",
            &line,
            "/dev/null",
        ])
        .env("KUBECONFIG", shops.api.kubeconfig())
        .env("NO_COLOR", "")
        .env("SHELL", "/bin/sh")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script");
    let mut output = watching.stdout.take().expect("its output");
    let (mut seen, mut piece) = (String::new(), [0; 4096]);
    let mut fixed = false;
    loop {
        let length = output.read(&mut piece).unwrap_or_default();
        if length == 0 {
            break;
        }
        seen += &String::from_utf8_lossy(&piece[..length]);
        // Two whole frames are enough of what waits.
        if !fixed && seen.matches("\x1b[?2026l").count() == 2 {
            fixed = true;
            let conditions = json!([{"type": "Complete", "status": "True"}]);
            shops.job(
                0,
                json!({"succeeded": 1, "conditions": conditions,
                                "completionTime": jiff::Timestamp::now().to_string()}),
            );
        }
    }
    assert!(watching.wait().expect("its end").success(), "{seen}");
    let frames: Vec<&str> = seen.split("\x1b[H\x1b[J").skip(1).collect();
    assert!(frames.len() > 2, "{seen}");
    let (last, earlier) = frames.split_last().expect("frames");
    assert!(
        last.contains("Nothing is wrong, as far as it could be read."),
        "{last}"
    );
    for frame in earlier {
        let lines: Vec<String> = frame.lines().map(plain).collect();
        let rows: usize = lines
            .iter()
            .map(|line| line.chars().count().div_ceil(80).max(1))
            .sum();
        assert!(
            rows <= 16 && frame.contains(" more lines"),
            "{rows} rows: {frame}"
        );
        assert!(
            frame.contains("shop0") && frame.contains("\x1b[31mfailed"),
            "{frame}"
        );
        let wide = lines
            .iter()
            .find(|line| line.chars().count() > 80 && !line.contains("kubectl"));
        assert_eq!(wide, None, "{frame}");
    }
}

/// A line without its colour codes.
fn plain(line: &str) -> String {
    let mut parts = line.trim_end().split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let letter = |c: char| c.is_ascii_alphabetic();
    parts.fold(first, |text, part| {
        text + part.split_once(letter).map_or("", |(_, rest)| rest)
    })
}

/// A Secret that a Job's pod mounts does not exist: only an Event says so.
#[test]
fn a_volume_that_can_not_be_mounted_is_told() {
    let shops = Shops::well(1);
    shops.hold(0, 1);
    shops.job(
        0,
        json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 0}),
    );
    let core = "/api/v1/namespaces/shop0";
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    shops.api.put(
        &format!("{core}/pods/migrate-1"),
        json!({
            "metadata": {"namespace": "shop0", "uid": "of-the-pod",
                         "creationTimestamp": "2026-01-01T00:00:00Z",
                         "labels": {"batch.kubernetes.io/job-name": "migrate"}},
            "spec": {"nodeName": "n", "containers": [{"name": "m"}]},
            "status": {"phase": "Pending", "containerStatuses": [
                {"name": "m", "restartCount": 0, "state": waiting},
            ]},
        }),
    );
    assert!(!shops.run(&[], 0).contains("job-pod-blocked"));
    shops.api.put(
        &format!("{core}/events/e"),
        json!({
            "metadata": {"namespace": "shop0"}, "type": "Warning", "reason": "FailedMount",
            "involvedObject": {"kind": "Pod", "name": "migrate-1", "uid": "of-the-pod"},
            "message": "MountVolume.SetUp failed for volume \"key\" : secret \"key\" not found",
        }),
    );
    let text = shops.run(&[], 1);
    for part in [
        "error[job-pod-blocked]: Job migrate in shop0",
        "secret \"key\" not found",
    ] {
        assert!(text.contains(part), "no `{part}` in\n{text}");
    }
}

#[test]
fn a_report_takes_few_requests() {
    let shops = Shops::well(5);
    for n in 0..5 {
        shops.hold(n, 40);
        shops.job(
            n,
            json!({"startTime": "2026-01-01T00:00:00Z", "active": 1, "ready": 1}),
        );
    }
    let begun = Instant::now();
    let report = shops.json(&[], 0);
    eprintln!(
        "status: 5 gates, 200 pods: {} ms",
        begun.elapsed().as_millis()
    );
    let pods: usize = (0..5)
        .map(|n| report["gates"][n]["pods"].as_array().map_or(0, Vec::len))
        .sum();
    assert_eq!(pods, 200);
    let requests = shops.api.requests().len();
    assert!(
        requests < 5 * 14 + 10,
        "{requests} requests: {:#?}",
        shops.api.requests()
    );
}

/// The places of all values in a document, such as `gates[].name`.
fn places(value: &Value, at: &str, places: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            for (key, value) in members {
                let at = if at.is_empty() {
                    key.clone()
                } else {
                    format!("{at}.{key}")
                };
                places.insert(at.clone());
                self::places(value, &at, places);
            }
        }
        Value::Array(elements) => {
            for element in elements {
                self::places(element, &format!("{at}[]"), places);
            }
        }
        _ => {}
    }
}

#[test]
fn the_documentation_tells_every_field_of_the_json() {
    let shops = Shops::well(1);
    shops.hold(0, 1);
    shops.job(0, failed());
    shops.api.deny("list", "serviceaccounts");
    let mut report = shops.json(&[], 1);
    // Adds a record, which a gate that holds pods may have, too.
    report["gates"][0]["record"] = json!({"versions": 1, "last": "2", "completed": "…"});
    let mut found = BTreeSet::new();
    places(&report, "", &mut found);
    let page = include_str!("../docs/status.md");
    let told: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(place, _)| place.to_owned())
        .collect();
    assert_eq!(told, found);
}

#[test]
fn the_documentation_tells_every_code() {
    use migration_gate_core::status::TroubleCode;
    let page = include_str!("../docs/troubleshooting.md");
    for code in TroubleCode::ALL {
        let row = format!("| `{}` | {} |", code.as_str(), code.meaning());
        assert!(page.contains(&row), "docs/troubleshooting.md lacks:\n{row}");
    }
}
