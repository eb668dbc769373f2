//! The installed release: its configuration, its server, its webhooks and its certificate.

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use serde_json::Value;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::found::{Unread, text};
use crate::api::Objects;
use crate::cli::installed;
use migration_gate_core::gates::Config;
use migration_gate_core::podspec::list;
use migration_gate_core::status::{Certificate, CertificateMaker, Installation, Server, Webhooks};

/// The configuration, which is `own` if that is given, and the installed release, with what could
/// not be read.
pub(super) async fn find(
    client: &Client,
    own: Option<Config>,
) -> anyhow::Result<(Config, Option<Installation>, Vec<Unread>)> {
    let found = match installed::releases(client).await {
        Ok(found) => found,
        Err(error) => {
            let unread = Unread::new("the installed release", &error);
            return match own {
                Some(config) => Ok((config, Some(Installation::default()), vec![unread])),
                None => Err(error).context(
                    "cannot read the gates of the installed release; name them with --config",
                ),
            };
        }
    };
    let config = match (own, found.as_slice()) {
        (Some(config), _) => config,
        (None, [config_map]) => installed::configuration(config_map)?,
        (None, []) => bail!(
            "no installed release was found; install the chart, or name the gates with --config"
        ),
        (None, several) => bail!(
            "several releases are installed ({}); name the gates of one with --config",
            places(several)
        ),
    };
    let config_map = match found.as_slice() {
        [] => return Ok((config, None, Vec::new())),
        [one] => one,
        // Nothing in a configuration names its release.
        several => {
            let unread = Unread {
                what: "the release of these gates".to_owned(),
                why: format!("several are installed ({})", places(several)),
            };
            return Ok((config, Some(Installation::default()), vec![unread]));
        }
    };
    let mut unread = Vec::new();
    let release = release(client, config_map, &mut unread).await;
    Ok((config, Some(release), unread))
}

fn places(releases: &[Value]) -> String {
    let places: Vec<String> = releases.iter().map(installed::place).collect();
    places.join(", ")
}

async fn release(client: &Client, config_map: &Value, unread: &mut Vec<Unread>) -> Installation {
    let metadata = &config_map["metadata"];
    let (name, namespace) = (text(&metadata["name"]), text(&metadata["namespace"]));
    let helm = metadata["annotations"]["meta.helm.sh/release-name"].as_str();
    let version = metadata["labels"]["app.kubernetes.io/version"].as_str();
    let deployments = Objects::namespaced::<Deployment>(client, namespace);
    let mutating = Objects::cluster::<MutatingWebhookConfiguration>(client);
    let validating = Objects::cluster::<ValidatingWebhookConfiguration>(client);
    let (deployment, mutating_found, validating_found) = tokio::join!(
        deployments.get::<Value>(name),
        mutating.get::<Value>(name),
        validating.get::<Value>(name),
    );
    let mut release = Installation {
        name: name.to_owned(),
        namespace: namespace.to_owned(),
        helm: helm.map(str::to_owned),
        version: version.map(str::to_owned),
        created: text(&metadata["creationTimestamp"]).parse().ok(),
        ..Installation::default()
    };
    let mut by_cert_manager = false;
    for (objects, found) in [(mutating, mutating_found), (validating, validating_found)] {
        let kind = objects.kind().kind.clone();
        match found {
            Ok(found) => {
                by_cert_manager |= found.as_ref().is_some_and(|found| {
                    let annotations = &found["metadata"]["annotations"];
                    annotations["cert-manager.io/inject-ca-from"].is_string()
                });
                release.webhooks.insert(kind, found.as_ref().map(webhooks));
            }
            Err(error) => unread.push(Unread::new(&format!("{kind} {name}"), &error)),
        }
    }
    let deployment = match deployment {
        Ok(deployment) => deployment,
        Err(error) => {
            unread.push(Unread::new(
                &format!("Deployment {namespace}/{name}"),
                &error,
            ));
            return release;
        }
    };
    release.server = Some(deployment.as_ref().map_or(Server::Missing, server));
    let secret = deployment.as_ref().and_then(|d| secret(d, by_cert_manager));
    if let Some((secret, source)) = secret {
        let secrets = Objects::namespaced::<Secret>(client, namespace);
        match secrets.get::<Value>(&secret).await {
            Ok(Some(found)) => release.certificate = certificate(&found, secret, source),
            Ok(None) => {}
            Err(error) => unread.push(Unread::new(&format!("Secret {namespace}/{secret}"), &error)),
        }
    }
    release
}

fn server(deployment: &Value) -> Server {
    let pod = &deployment["spec"]["template"]["spec"];
    let status = &deployment["status"];
    Server::Present {
        replicas: deployment["spec"]["replicas"].as_u64().unwrap_or(1),
        ready: status["readyReplicas"].as_u64().unwrap_or_default(),
        account: text(&pod["serviceAccountName"]).to_owned(),
    }
}

fn webhooks(configuration: &Value) -> Webhooks {
    let bundles = list(configuration, "webhooks").iter().map(|webhook| {
        let bundle = text(&webhook["clientConfig"]["caBundle"]);
        let decoded = STANDARD.decode(bundle).unwrap_or_default();
        String::from_utf8_lossy(&decoded).into_owned()
    });
    Webhooks {
        bundles: bundles.collect(),
    }
}

/// The Secret of the serving certificate, and who issues that.
fn secret(deployment: &Value, by_cert_manager: bool) -> Option<(String, CertificateMaker)> {
    let pod = &deployment["spec"]["template"]["spec"];
    let mut args = list(&pod["containers"][0], "args").iter();
    let own = args.find_map(|arg| arg.as_str()?.strip_prefix("--secret="));
    if let Some(own) = own {
        let (_, name) = own.split_once('/').unwrap_or(("", own));
        return Some((name.to_owned(), CertificateMaker::SelfManaged));
    }
    let mut volumes = list(pod, "volumes").iter();
    let volume = volumes.find(|volume| volume["name"] == "tls")?;
    let source = if by_cert_manager {
        CertificateMaker::CertManager
    } else {
        CertificateMaker::Files
    };
    Some((text(&volume["secret"]["secretName"]).to_owned(), source))
}

fn certificate(secret: &Value, name: String, source: CertificateMaker) -> Option<Certificate> {
    let data = |key: &str| STANDARD.decode(text(&secret["data"][key])).ok();
    let (not_before, not_after) = validity(&data("tls.crt")?)?;
    let authorities = data("ca.crt").unwrap_or_default();
    Some(Certificate {
        secret: name,
        source,
        not_before: Some(not_before),
        not_after: Some(not_after),
        authorities: String::from_utf8_lossy(&authorities).into_owned(),
    })
}

/// From when and until when the first certificate of a PEM file is valid.
fn validity(file: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let block = pem::parse(file).ok()?;
    let (_, certificate) = X509Certificate::from_der(block.contents()).ok()?;
    let validity = certificate.validity();
    let time = |seconds: i64| Timestamp::from_second(seconds).ok();
    Some((
        time(validity.not_before.timestamp())?,
        time(validity.not_after.timestamp())?,
    ))
}
