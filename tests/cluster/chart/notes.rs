//! What Helm prints after an installation.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::CHART;
use testkit::process;

testkit::tests! {
    helm: the_notes_say_what_to_do;
}

fn notes(helm: &Path, values: &Value) -> Result<String> {
    let said = process::run(
        Command::new(helm).args([
            "install",
            "migration-gate",
            CHART,
            "--namespace=migration-gate",
            "--dry-run=client",
            "--values=-",
        ]),
        &values.to_string(),
        Duration::from_mins(3),
    )?
    .success()?;
    Ok(said
        .split_once("NOTES:\n")
        .map_or(String::new(), |(_, notes)| notes.to_owned()))
}

fn the_notes_say_what_to_do(helm: &Path) -> Result<()> {
    let warn = "helm upgrade migration-gate CHART --namespace migration-gate --reset-then-reuse-values --set mode=enforce";
    let trust = "The webhooks answer once the CA of Secret tls is in the caBundle";
    let alone = "There is only one replica";
    let left = "kubectl -n migration-gate delete secret migration-gate-cert-manager";
    let selected = json!({
        "name": "b", "namespace": "two", "serviceAccount": "s", "timeout": "5m",
        "jobs": [{"name": "b-migrate"}, {"anyOf": [{"name": "c-*"}, {"selector": {"matchExpressions": [
            {"key": "d", "operator": "In", "values": ["e", "f"]}, {"key": "g", "operator": "DoesNotExist"},
        ]}}]}],
        "selector": {"matchLabels": {"tier": "web"}},
        "workloads": [{"kind": "StatefulSet", "name": "db-*"}],
    });
    let always = [
        "helm test migration-gate --namespace migration-gate",
        "get configmap migration-gate -o jsonpath='{.data.config\\.yaml}' > gates.yaml",
        "helm uninstall migration-gate --namespace migration-gate --wait",
        "migration-gate eject --config gates.yaml",
    ];
    let shared =
        "Gate b gives the waiter's rights to the account default, and so to every pod of two";
    let mut of_default = selected.clone();
    of_default["serviceAccount"] = json!("default");
    let cases: [(Value, &[&str], &[&str]); 7] = [
        (json!({"gates": [of_default]}), &[shared], &[]),
        (
            json!({"certificates": {
                "source": "existingSecret", "existingSecret": "tls", "injectCaFrom": "a/b",
            }}),
            &[],
            &[trust, shared],
        ),
        (
            json!({}),
            &[
                "gate piefed: in piefed-application, Deployment piefed-web, Deployment piefed-worker\n",
                "wait for Job piefed-db-init, 10m at most",
                "kubectl -n piefed-application logs POD -c wait-for-migrations",
            ],
            &[warn, trust, alone, left],
        ),
        (
            json!({"mode": "warn", "replicas": 1}),
            &[warn, alone],
            &[trust],
        ),
        (
            json!({"certificates": {"source": "existingSecret", "existingSecret": "tls"}}),
            &[trust, "and held workloads cannot be rolled out"],
            &[left],
        ),
        (
            json!({"certificates": {"source": "certManager"}}),
            &[left],
            &[trust],
        ),
        (
            json!({"gates": [selected]}),
            &[
                "gate b: in two, Deployments with tier=web, StatefulSet db-*\n",
                "wait for Job b-migrate and one of (Job c-*, Jobs with d in (e,f),!g), 5m at most",
            ],
            &["piefed"],
        ),
    ];
    for (values, says, not) in cases {
        let notes = notes(helm, &values)?;
        for part in always.iter().chain(says) {
            ensure!(notes.contains(part), "{values}: no `{part}` in\n{notes}");
        }
        for part in not {
            ensure!(!notes.contains(part), "{values}: `{part}` in\n{notes}");
        }
    }
    Ok(())
}
