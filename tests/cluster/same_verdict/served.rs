//! An API server with this program's webhooks.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt as _;
use migration_gate_core::gates::Config;
use migration_gate_core::podspec::PodKind;
use migration_gate_core::prefilter::{Prefilter, mutating, validating};
use serde_json::{Value, json};
use testkit::assets;
use testkit::client::block_on;
use testkit::pki::ClusterAuthority;
use testkit::poll::{Look, until};
use testkit::process::{Process, program};
use testkit::sandbox::Sandbox;
use testkit::scene::Plane;

use super::cases::GATED;
use super::{ComparedVerdict, SHOWN};

/// The namespaces, and the pods' `ServiceAccount`s.
const PREPARED: &str = include_str!("prepared.yaml");

/// The server's process. Dropping this ends it.
pub(super) struct Webhooks {
    _server: Process,
    _folder: tempfile::TempDir,
}

/// Prepares the API server. [`install`] adds the webhooks.
pub(super) fn prepare(plane: &Plane) -> Result<()> {
    let prepared = PREPARED.replace("GATED", GATED).replace("SHOWN", SHOWN);
    plane.kubectl.apply(&prepared)?;
    define_rollouts(plane)
}

/// Creates the CRD of the kind Rollout.
pub(crate) fn define_rollouts(plane: &Plane) -> Result<()> {
    let rollouts = assets::definitions()?.join("rollout-crd.yaml");
    let apply = format!("apply --server-side -f {}", rollouts.display());
    plane.kubectl.run(&apply)?;
    let rollouts = "get --raw /apis/argoproj.io/v1alpha1/rollouts";
    until("Rollouts", Duration::from_mins(1), || {
        match plane.kubectl.run(rollouts) {
            Ok(_) => Look::Done(()),
            Err(error) => Look::Pending(format!("{error:#}")),
        }
    })
}

/// Starts the server, and installs webhook configurations as in the chart. The API server may use
/// them only after a moment.
pub(super) fn install(
    sandbox: &Sandbox,
    plane: &Plane,
    port: u16,
    gates: &str,
    config: &Config,
) -> Result<Webhooks> {
    let folder = tempfile::tempdir()?;
    let authority = ClusterAuthority::create(folder.path())?;
    let pair = authority.server("serve", &["localhost"], &[])?;
    let file = folder.path().join("gates.yaml");
    fs::write(&file, gates)?;
    let mut command = Command::new(program());
    command
        .env("KUBECONFIG", plane.server.admin())
        .arg("serve")
        .arg("--config")
        .arg(file)
        .arg("--tls-cert")
        .arg(pair.certificate)
        .arg("--tls-key")
        .arg(pair.key)
        .arg(format!("--listen=127.0.0.1:{port}"))
        .arg(format!("--health-listen=127.0.0.1:{}", port + 1));
    let server = Process::spawn(
        "serve",
        &sandbox.logs(&format!("same-verdict-{port}"))?,
        &mut command,
    )?;
    let bundle = STANDARD.encode(fs::read(authority.pair().certificate)?);
    plane
        .kubectl
        .apply(&configurations(config, port, &bundle))?;
    Ok(Webhooks {
        _server: server,
        _folder: folder,
    })
}

fn configurations(config: &Config, port: u16, bundle: &str) -> String {
    let configuration = |kind: &str, path: &str, prefilters: Vec<Prefilter>| {
        let webhooks: Value = prefilters
            .into_iter()
            .map(|prefilter| webhook(&prefilter.of(config), &format!("{port}/{path}"), bundle))
            .collect();
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1",
            "kind": kind,
            "metadata": {"name": GATED},
            "webhooks": webhooks,
        })
    };
    let mutating = configuration("MutatingWebhookConfiguration", "mutate", mutating());
    let validating = configuration("ValidatingWebhookConfiguration", "validate", validating());
    json!({"apiVersion": "v1", "kind": "List", "items": [mutating, validating]}).to_string()
}

/// `place` is the port and the path.
fn webhook(prefilter: &Prefilter, place: &str, bundle: &str) -> Value {
    let mut webhook = json!({
        "name": format!("{}.same-verdict.test", prefilter.name),
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": format!("https://localhost:{place}"), "caBundle": bundle},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": GATED}},
        "rules": prefilter.rules,
        "matchConditions": prefilter.match_conditions,
    });
    if place.ends_with("/mutate") {
        webhook["reinvocationPolicy"] = json!("IfNeeded");
    }
    webhook
}

/// The API server's answer for an object.
#[derive(Debug)]
pub(super) struct Served {
    /// The HTTP code.
    pub(super) code: u16,
    /// The stored object, or a `Status`.
    pub(super) body: Value,
    warnings: Vec<String>,
}

/// How an object is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// As a new object, which is stored.
    Created,
    /// As a dry run of a new object.
    Tried,
    /// As a dry run that replaces the stored object with its name.
    TriedOver(&'static str),
}

/// Sends an object. [`Sent::TriedOver`] has the name of a subresource, or is empty.
pub(super) fn send(
    client: &kube::Client,
    kind: &PodKind,
    sent: Sent,
    object: &Value,
) -> Result<Served> {
    let (method, rest) = match sent {
        Sent::Created => ("POST", String::new()),
        Sent::Tried => ("POST", "?dryRun=All".to_owned()),
        Sent::TriedOver(subresource) => {
            let name = object["metadata"]["name"].as_str().context("a name")?;
            let below = if subresource.is_empty() { "" } else { "/" };
            ("PUT", format!("/{name}{below}{subresource}?dryRun=All"))
        }
    };
    request(client, kind, method, object, &rest)
}

/// The stored object with an object's name.
pub(super) fn get(client: &kube::Client, kind: &PodKind, object: &Value) -> Result<Value> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    let served = request(client, kind, "GET", object, &format!("/{name}"))?;
    ensure!(served.code == 200, "{served:?}");
    Ok(served.body)
}

/// Deletes the object. A finalizer keeps it.
pub(super) fn begin_to_delete(client: &kube::Client, kind: &PodKind, object: &Value) -> Result<()> {
    let name = object["metadata"]["name"].as_str().context("a name")?;
    let served = request(client, kind, "DELETE", object, &format!("/{name}"))?;
    ensure!(served.code < 300, "{served:?}");
    Ok(())
}

fn request(
    client: &kube::Client,
    kind: &PodKind,
    method: &str,
    object: &Value,
    rest: &str,
) -> Result<Served> {
    let namespace = object["metadata"]["namespace"].as_str();
    let root = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    let path = format!(
        "{root}/namespaces/{}/{}{rest}",
        namespace.context("a namespace")?,
        kind.resource
    );
    let body = match method {
        "POST" | "PUT" => object.to_string().into_bytes(),
        _ => Vec::new(),
    };
    let request = hyper::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(kube::client::Body::from(body))?;
    block_on(async {
        let answer = client.send(request).await?;
        let code = answer.status().as_u16();
        let warnings = answer.headers().get_all("warning").iter();
        let warnings = warnings
            .map(|warning| String::from_utf8_lossy(warning.as_bytes()).into_owned())
            .collect();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok(Served {
            code,
            body: serde_json::from_slice(&body)?,
            warnings,
        })
    })
}

impl Served {
    /// The webhooks' verdict on the object.
    pub(super) fn verdict(&self) -> Result<ComparedVerdict> {
        let mut verdict = ComparedVerdict::default();
        for text in texts(&self.warnings)? {
            verdict.warn(&text);
        }
        if self.code < 300 {
            return Ok(verdict);
        }
        ensure!(self.code == 403, "{self:?}");
        let causes = self.body["details"]["causes"].as_array();
        for cause in causes.with_context(|| self.body.to_string())? {
            let text = |field: &str| cause[field].as_str().unwrap_or_default();
            verdict.refuse(text("field"), text("message"));
        }
        Ok(verdict)
    }
}

/// The texts of `Warning` headers (RFC 7234, section 5.5). Long texts are split.
fn texts(headers: &[String]) -> Result<BTreeSet<String>> {
    let mut texts: Vec<String> = Vec::new();
    for header in headers {
        let quoted = header.strip_prefix("299 - \"");
        let text = quoted.and_then(|text| text.strip_suffix('"'));
        let text = text.with_context(|| header.clone())?;
        let text = text.replace("\\\"", "\"").replace("\\\\", "\\");
        match (texts.last_mut(), text.strip_prefix('…')) {
            (Some(last), Some(rest)) if last.ends_with('…') => {
                last.pop();
                *last = format!("{last} {rest}");
            }
            _ => texts.push(text),
        }
    }
    Ok(texts.into_iter().collect())
}
