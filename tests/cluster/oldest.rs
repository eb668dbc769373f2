//! Tests on the oldest Kubernetes release that the chart admits: only its API server, without a
//! node. `rows` tests the waiter there.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::admission::{self, APPLICATION};
use crate::{prefilter, same_verdict};

use testkit::kubectl::Kubectl;
use testkit::process::{self, Process, program};
use testkit::release::Release;
use testkit::sandbox::{NODE_ADDRESS, Sandbox};
use testkit::scene::Plane;

testkit::tests! {
    standalone: it_sends_what_the_rules_refuse_and_the_installed_chart_answers;
}

testkit::soaks! {
    standalone: review_says_what_the_api_server_does;
}

/// The name of the release, and of its namespace.
const RELEASE: &str = "migration-gate";
/// The port of `serve`. The next one is for probes.
const PORT: u16 = 18770;

/// Creates a namespace with its ServiceAccount, because no controller runs that would create it.
fn namespace(plane: &Plane, name: &str) -> Result<Kubectl> {
    plane.kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}\n---\n\
         {{apiVersion: v1, kind: ServiceAccount, metadata: {{name: default, namespace: {name}}}}}"
    ))?;
    Ok(plane.kubectl.in_namespace(name))
}

/// Starts `serve` as in the Deployment: with its arguments, its configuration and its
/// ServiceAccount.
fn serve(sandbox: &Sandbox, plane: &Plane, kubectl: &Kubectl, folder: &Path) -> Result<Process> {
    let deployment = kubectl.get(&format!("deployment {RELEASE}"))?;
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let config = configuration(kubectl, folder)?;
    let arguments = container["args"].as_array().context("arguments")?;
    let arguments = arguments.iter().filter_map(Value::as_str).map(|argument| {
        let option = argument
            .split_once('=')
            .map_or(argument, |(option, _)| option);
        match option {
            "--config" => format!("--config={}", config.display()),
            "--listen" => format!("--listen={NODE_ADDRESS}:{PORT}"),
            "--health-listen" => format!("--health-listen=127.0.0.1:{}", PORT + 1),
            _ => argument.to_owned(),
        }
    });
    let mut command = Command::new(program());
    command.args(arguments).env(
        "KUBECONFIG",
        account(kubectl, plane.server.admin(), folder)?,
    );
    let server = Process::spawn("serve", &sandbox.logs("oldest-serve")?, &mut command)?;
    // The object that the endpoints controller would create.
    kubectl.apply(&format!(
        "{{apiVersion: v1, kind: Endpoints, metadata: {{name: {RELEASE}}}, subsets: [\
           {{addresses: [{{ip: {NODE_ADDRESS}}}], ports: [{{name: webhooks, port: {PORT}}}]}}]}}"
    ))?;
    Ok(server)
}

/// Writes the configuration file that the Deployment mounts.
fn configuration(kubectl: &Kubectl, folder: &Path) -> Result<PathBuf> {
    let map = kubectl.get(&format!("configmap {RELEASE}"))?;
    let text = map["data"]["config.yaml"]
        .as_str()
        .context("a configuration")?;
    let file = folder.join("config.yaml");
    fs::write(&file, text)?;
    Ok(file)
}

/// Writes a kubeconfig of the release's ServiceAccount.
fn account(kubectl: &Kubectl, admin: &Path, folder: &Path) -> Result<PathBuf> {
    let token = kubectl.run(&format!("create token {RELEASE}"))?;
    let mut kubeconfig: Value = serde_json::from_slice(&fs::read(admin)?)?;
    kubeconfig["users"][0]["user"] = json!({"token": token.trim()});
    let file = folder.join("kubeconfig");
    fs::write(&file, kubeconfig.to_string())?;
    Ok(file)
}

/// One test, because the chart's webhooks are for all namespaces.
fn it_sends_what_the_rules_refuse_and_the_installed_chart_answers(sandbox: &Sandbox) -> Result<()> {
    let plane = Plane::oldest(sandbox)?;
    let version = plane.kubectl.run("get --raw /version")?;
    let version: Value = serde_json::from_str(&version)?;
    eprintln!("oldest: {}", version["gitVersion"]);
    let generated = namespace(plane, "prefilter")?;
    same_verdict::served::define_rollouts(plane)?;
    prefilter::sends_what_the_rules_refuse(plane.client.clone(), &generated, "prefilter")?;
    the_installed_chart_answers(sandbox, plane)
}

fn the_installed_chart_answers(sandbox: &Sandbox, plane: &Plane) -> Result<()> {
    let application = namespace(plane, APPLICATION)?;
    let elsewhere = namespace(plane, "calls")?;
    let installed = namespace(plane, RELEASE)?;
    // Helm compares the API server's version with the one that the chart requires.
    let release = Release::of(&installed);
    release.helm("install", "")?;
    let folder = tempfile::tempdir()?;
    let server = serve(sandbox, plane, &installed, folder.path())?;
    let ask = |line: &str| {
        let mut command = Command::new(program());
        command
            .args(line.split(' '))
            .env("KUBECONFIG", plane.server.admin());
        process::run(&mut command, "", Duration::from_mins(3))
    };
    // Waits until the server has made a certificate and written its CA to the configurations.
    let checked = ask("check --timeout=90s")?.success();
    checked.map_err(|error| server.check().err().unwrap_or(error))?;

    admission::costs_its_calls(&application, &elsewhere)?;
    records(&application)?;
    let status = ask("status --output=json")?;
    let status: Value = serde_json::from_str(&status.stdout).context(status.stderr)?;
    ensure!(
        status["gates"][0]["record"]["last"] == "1.2.0",
        "{status:#}"
    );
    server.check()
}

/// Checks that a completed Job's version is recorded.
fn records(application: &Kubectl) -> Result<()> {
    let job = testkit::gate::manifest("piefed-db-init", "1.2.0");
    application.apply(&job.to_string())?;
    let complete = json!({"status": testkit::gate::complete_of_old()});
    let patch = format!("--patch={complete}");
    let arguments = [
        "patch",
        "job",
        "piefed-db-init",
        "--subresource=status",
        "--type=merge",
        &patch,
    ];
    application
        .output(&arguments, "", Duration::from_mins(1))?
        .success()?;
    application.wait(
        "configmap/migration-gate-piefed",
        r"jsonpath={.data.1\.2\.0}",
        60,
    )
}

fn review_says_what_the_api_server_does(sandbox: &Sandbox) -> Result<()> {
    same_verdict::review_says_the_same(sandbox, Plane::oldest(sandbox)?, PORT + 2)
}
