//! All gates of `docs/gates.md` in one release, with their workloads: manifests like those of
//! charts, sent to the API server.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use migration_gate::cli::config::parse;
use migration_gate_core::held::holding;
use migration_gate_core::podspec::pod_kind;
use migration_gate_core::request::Request;
use serde_json::{Value, json};

use super::render::page;
use super::{define_other_operators_kinds, objects};
use testkit::cluster::Cluster;
use testkit::release::Release;

testkit::tests! {
    exclusive: the_gates_of_the_page_hold_what_they_are_for;
}

const SHAPES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shapes");

/// The objects of all setups for one of their releases, in their gates' namespaces.
fn shapes(gates: &[Value]) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for file in fs::read_dir(SHAPES)? {
        let path = file?.path();
        let text = fs::read_to_string(&path)?
            .replace("${VERSION}", "1.4.0")
            .replace("${REVISION}", "4")
            .replace("${TIMESTAMP}", "2026-11-26-10-04-59")
            .replace("${DIGEST}", &"4".repeat(64));
        for mut object in objects(&text)? {
            // Every name begins with the name of its application.
            let name = object["metadata"]["name"].as_str().context("a name")?;
            let namespace = name.split('-').next().unwrap_or_default().to_owned();
            let is_known = gates.iter().any(|gate| gate["namespace"] == *namespace);
            ensure!(is_known, "no gate for {name} of {}", path.display());
            object["metadata"]["namespace"] = json!(namespace);
            all.push(object);
        }
    }
    Ok(all)
}

fn the_gates_of_the_page_hold_what_they_are_for(cluster: &Cluster) -> Result<()> {
    let mut values = page()?;
    let gates = values["gates"].as_array().context("gates")?.clone();
    let _namespaces = gates
        .iter()
        .map(|gate| cluster.namespace_named(gate["namespace"].as_str().unwrap_or_default()))
        .collect::<Result<Vec<_>>>()?;
    define_other_operators_kinds(cluster)?;
    values["replicas"] = json!(1);
    let release = Release::install_with(cluster, &values)?;
    let config = release
        .kubectl()
        .run("get configmap migration-gate --output=jsonpath={.data.config\\.yaml}")?;
    let config = parse(&config, "config.yaml").map_err(|error| anyhow!("{error}"))?;
    ensure!(config.gates.len() == gates.len(), "{config:#?}");

    let sent = shapes(&gates)?;
    let list = json!({"apiVersion": "v1", "kind": "List", "items": sent});
    let create = ["create", "--dry-run=server", "--output=json", "-f", "-"];
    let admitted = cluster
        .kubectl()
        .output(&create, &list.to_string(), Duration::from_mins(3))?
        .success()?;
    // kubectl prints one object after another, not a list.
    let admitted = serde_json::Deserializer::from_str(&admitted).into_iter::<Value>();
    let admitted = admitted.collect::<Result<Vec<_>, _>>()?;
    ensure!(
        admitted.len() == sent.len(),
        "{} of {}",
        admitted.len(),
        sent.len()
    );
    let mut held: BTreeMap<&str, usize> = BTreeMap::new();
    for (sent, admitted) in sent.iter().zip(&admitted) {
        let request = Request::create(sent, "").context("a request")?;
        let Some(pods) = pod_kind(request.group, request.kind) else {
            continue;
        };
        let spec = pods.pod_spec(admitted).context("a pod spec")?;
        let waiter = &spec["initContainers"][0];
        let Some((gate, _)) = holding(&config, &request).next() else {
            ensure!(waiter["name"] != "wait-for-migrations", "{admitted:#}");
            continue;
        };
        ensure!(waiter["name"] == "wait-for-migrations", "{admitted:#}");
        let args = waiter["args"].as_array().context("arguments")?;
        ensure!(
            args.contains(&json!(format!("--gate={}", gate.name))),
            "{admitted:#}"
        );
        let own = pods.pod_spec(sent).map(|spec| &spec["serviceAccountName"]);
        let account = own.and_then(Value::as_str).unwrap_or(&gate.service_account);
        ensure!(
            spec["serviceAccountName"] == account,
            "{account}: {admitted:#}"
        );
        *held.entry(pods.kind).or_default() += 1;
    }
    eprintln!("chart: the shapes of the page: {held:?} are held");
    let kinds: Vec<&str> = held.keys().copied().collect();
    ensure!(
        kinds
            == [
                "CronJob",
                "DaemonSet",
                "Deployment",
                "Rollout",
                "StatefulSet"
            ],
        "{held:?}"
    );
    Ok(())
}
