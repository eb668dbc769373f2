//! Whether the API server would accept a certificate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::sync::watch;

use crate::serve::tls::{self, Identity};

/// The kind and name of a webhook configuration.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConfigurationName {
    /// A `MutatingWebhookConfiguration`.
    Mutating(String),
    /// A `ValidatingWebhookConfiguration`.
    Validating(String),
}

impl fmt::Display for ConfigurationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mutating(name) => write!(f, "MutatingWebhookConfiguration {name}"),
            Self::Validating(name) => write!(f, "ValidatingWebhookConfiguration {name}"),
        }
    }
}

/// The parts of a webhook configuration that are used here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Configuration {
    /// Its `metadata.resourceVersion`.
    pub resource_version: String,
    /// Its `webhooks`, in their order.
    pub webhooks: Vec<CallingWebhook>,
}

/// One of a configuration's `webhooks`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingWebhook {
    /// Its name.
    pub name: String,
    /// The name that the API server expects in the certificate.
    pub server_name: String,
    /// Its `clientConfig.caBundle`, empty if there is none.
    pub ca_bundle: Vec<u8>,
}

impl From<MutatingWebhookConfiguration> for Configuration {
    fn from(configuration: MutatingWebhookConfiguration) -> Self {
        let webhooks = configuration.webhooks.unwrap_or_default();
        Self::new(
            configuration.metadata,
            webhooks.into_iter().map(|w| (w.name, w.client_config)),
        )
    }
}

impl From<ValidatingWebhookConfiguration> for Configuration {
    fn from(configuration: ValidatingWebhookConfiguration) -> Self {
        let webhooks = configuration.webhooks.unwrap_or_default();
        Self::new(
            configuration.metadata,
            webhooks.into_iter().map(|w| (w.name, w.client_config)),
        )
    }
}

impl Configuration {
    fn new(
        metadata: ObjectMeta,
        webhooks: impl Iterator<Item = (String, WebhookClientConfig)>,
    ) -> Self {
        Self {
            resource_version: metadata.resource_version.unwrap_or_default(),
            webhooks: webhooks
                .map(|(name, client)| CallingWebhook {
                    name,
                    server_name: server_name(&client),
                    ca_bundle: client.ca_bundle.map(|bytes| bytes.0).unwrap_or_default(),
                })
                .collect(),
        }
    }
}

/// The server name that the API server verifies for a webhook: `NAME.NAMESPACE.svc`, or the host of
/// its URL.
fn server_name(client: &WebhookClientConfig) -> String {
    if let Some(service) = &client.service {
        return format!("{}.{}.svc", service.name, service.namespace);
    }
    client
        .url
        .as_deref()
        .and_then(|url| url.parse::<axum::http::Uri>().ok())
        .and_then(|url| {
            url.host()
                .map(|host| host.trim_matches(['[', ']']).to_owned())
        })
        .unwrap_or_default()
}

/// The webhook configurations that call this server, as they were last seen. Clones see the same.
#[derive(Debug, Clone)]
pub struct Callers(watch::Receiver<BTreeMap<ConfigurationName, Caller>>);

/// Updates [`Callers`].
///
/// There is only one writer, and it cannot be cloned. So its owner applies what the watches report
/// and what its own writes return in one order, and never overwrites a newer state with an older
/// one.
#[derive(Debug)]
pub struct CallersWriter(watch::Sender<BTreeMap<ConfigurationName, Caller>>);

impl CallersWriter {
    /// A writer for the configurations `names`, none of them seen yet.
    pub fn new(names: impl IntoIterator<Item = ConfigurationName>) -> Self {
        let callers = names.into_iter().map(|name| (name, Caller::Unknown));
        Self(watch::Sender::new(callers.collect()))
    }

    /// Stores a configuration as it is now; `None` if it does not exist.
    pub fn see(&mut self, name: &ConfigurationName, seen: Option<Configuration>) {
        self.0.send_modify(|callers| {
            let caller = callers.entry(name.clone()).or_default();
            *caller = match (&*caller, seen) {
                (_, Some(seen)) => Caller::Present(seen),
                (Caller::Present(_) | Caller::Gone, None) => Caller::Gone,
                (Caller::Unknown | Caller::Absent, None) => Caller::Absent,
            };
        });
    }

    /// The configurations that this writer updates.
    pub fn callers(&self) -> Callers {
        Callers(self.0.subscribe())
    }
}

/// A configuration as it was last seen.
#[derive(Debug, Clone, Default)]
enum Caller {
    /// It has not been read yet.
    #[default]
    Unknown,
    /// It does not exist, and this replica has never seen it: the installation may be in progress.
    Absent,
    Present(Configuration),
    /// It was deleted, so it calls no replica. The replica must stay ready for the other
    /// configuration: the API server calls only ready replicas.
    Gone,
}

/// Reasons why the API server would not trust the serving certificate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotTrusted {
    #[error("{0} does not exist, or has not been read yet")]
    NoConfiguration(ConfigurationName),
    #[error("{configuration}: the caBundle of webhook {webhook} {cause}")]
    Webhook {
        configuration: ConfigurationName,
        webhook: String,
        cause: String,
    },
}

impl Callers {
    /// The configurations' kinds and names.
    pub fn names(&self) -> Vec<ConfigurationName> {
        self.0.borrow().keys().cloned().collect()
    }

    /// The configurations that exist.
    pub(super) fn seen(&self) -> Vec<(ConfigurationName, Configuration)> {
        self.0
            .borrow()
            .iter()
            .filter_map(|(name, caller)| match caller {
                Caller::Present(seen) => Some((name.clone(), seen.clone())),
                Caller::Unknown | Caller::Absent | Caller::Gone => None,
            })
            .collect()
    }

    /// Whether all configurations have been read.
    pub(super) fn all_known(&self) -> bool {
        let callers = self.0.borrow();
        !callers.values().any(|c| matches!(c, Caller::Unknown))
    }

    /// The certificates in the configurations' `caBundle`s, each once.
    pub(super) fn bundles(&self) -> Vec<CertificateDer<'static>> {
        let mut certificates = Vec::new();
        for (_, seen) in self.seen() {
            for webhook in seen.webhooks {
                // Ignore certificates that cannot be parsed.
                let bundle = tls::certificates(&webhook.ca_bundle).unwrap_or_default();
                for certificate in bundle {
                    if !certificates.contains(&certificate) {
                        certificates.push(certificate);
                    }
                }
            }
        }
        certificates
    }

    /// Checks that every webhook of the configurations would accept `identity` at `now`. Ignores
    /// configurations that were deleted; fails for one that was never seen.
    pub fn accept(&self, identity: &Identity, now: Timestamp) -> Result<(), NotTrusted> {
        for (configuration, caller) in self.0.borrow().iter() {
            let seen = match caller {
                Caller::Present(seen) => seen,
                Caller::Gone => continue,
                Caller::Unknown | Caller::Absent => {
                    return Err(NotTrusted::NoConfiguration(configuration.clone()));
                }
            };
            for webhook in &seen.webhooks {
                verify(identity, &webhook.ca_bundle, &webhook.server_name, now).map_err(
                    |cause| NotTrusted::Webhook {
                        configuration: configuration.clone(),
                        webhook: webhook.name.clone(),
                        cause,
                    },
                )?;
            }
        }
        Ok(())
    }
}

/// Checks that a client that trusts `bundle` accepts `identity` as `server_name` at `now`.
fn verify(
    identity: &Identity,
    bundle: &[u8],
    server_name: &str,
    now: Timestamp,
) -> Result<(), String> {
    if bundle.is_empty() {
        return Err("is empty".to_owned());
    }
    let bundle = tls::certificates(bundle).map_err(|error| error.to_string())?;
    verify_for(identity, &bundle, server_name, now)
}

/// As [`verify`], with parsed CA certificates.
pub(super) fn verify_for(
    identity: &Identity,
    bundle: &[CertificateDer<'static>],
    server_name: &str,
    now: Timestamp,
) -> Result<(), String> {
    let refuse = |error: &dyn fmt::Display| {
        format!("does not verify the certificate that is served, as {server_name}: {error}")
    };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(bundle.iter().cloned());
    let verifier =
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::new(tls::provider()))
            .build()
            .map_err(|error| refuse(&error))?;
    let name = ServerName::try_from(server_name).map_err(|error| refuse(&error))?;
    let seconds = u64::try_from(now.as_second()).unwrap_or_default();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
    let Some((leaf, intermediates)) = identity.chain().split_first() else {
        return Err(refuse(&"there is none"));
    };
    verifier
        .verify_server_cert(leaf, intermediates, &name, &[], now)
        .map(|_| ())
        .map_err(|error| refuse(&error))
}
