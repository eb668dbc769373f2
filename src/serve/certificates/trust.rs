//! The webhook configurations that call this server, and whether they trust its certificate.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration, WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use super::verify::verify;
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

    fn has_bundle(&self) -> bool {
        self.webhooks.iter().any(|w| !w.ca_bundle.is_empty())
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
pub struct CallersWriter {
    callers: watch::Sender<BTreeMap<ConfigurationName, Caller>>,
    /// Whether configurations that do not exist are still awaited.
    waits: bool,
}

impl CallersWriter {
    /// A writer for the configurations `names`, none of them seen yet.
    pub fn new(names: impl IntoIterator<Item = ConfigurationName>) -> Self {
        let callers = names.into_iter().map(|name| (name, Caller::Unknown));
        Self {
            callers: watch::Sender::new(callers.collect()),
            waits: true,
        }
    }

    /// Stores a configuration as it is now; `None` if it does not exist.
    pub fn see(&mut self, name: &ConfigurationName, seen: Option<Configuration>) {
        let waits = self.waits;
        self.callers.send_modify(|callers| {
            let caller = callers.entry(name.clone()).or_default();
            *caller = match (&*caller, seen) {
                (before, Some(seen)) => Caller::Present {
                    settled: before.is_settled() || seen.has_bundle(),
                    seen,
                },
                (Caller::Unknown | Caller::Absent, None) if waits => Caller::Absent,
                (_, None) => Caller::Gone,
            };
        });
    }

    /// From now on, a configuration that does not exist counts as deleted.
    pub(super) fn stop_waiting(&mut self) {
        self.waits = false;
        self.callers.send_modify(|callers| {
            for caller in callers.values_mut() {
                if matches!(caller, Caller::Absent) {
                    *caller = Caller::Gone;
                }
            }
        });
    }

    /// The configurations that this writer updates.
    pub fn callers(&self) -> Callers {
        Callers(self.callers.subscribe())
    }
}

/// A configuration as it was last seen.
#[derive(Debug, Clone, Default)]
enum Caller {
    /// It has not been read yet.
    #[default]
    Unknown,
    /// It does not exist, and this replica has never seen it: the installation may be in progress.
    /// It is awaited only for a while, because an operator may have deleted it.
    Absent,
    Present {
        seen: Configuration,
        /// It has had a `caBundle`, or was deleted. If it has none now, an applier has created it
        /// again, or replaced it. The webhooks without a bundle count as [`Caller::Gone`].
        settled: bool,
    },
    /// It was deleted, or awaited for too long, so it calls no replica. The replica must stay ready
    /// for the other configuration: the API server calls only ready replicas.
    Gone,
}

impl Caller {
    fn is_settled(&self) -> bool {
        match self {
            Self::Unknown | Self::Absent => false,
            Self::Present { settled, .. } => *settled,
            Self::Gone => true,
        }
    }
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
                Caller::Present { seen, .. } => Some((name.clone(), seen.clone())),
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
                for certificate in tls::readable_certificates(&webhook.ca_bundle) {
                    if !certificates.contains(&certificate) {
                        certificates.push(certificate);
                    }
                }
            }
        }
        certificates
    }

    /// Checks that every webhook of the configurations would accept `identity` at `now`. Ignores
    /// configurations that were deleted, and those that have lost their `caBundle`: no certificate
    /// would please them, and the other configuration calls only ready replicas. Fails for one that
    /// was never seen, or has never had a `caBundle`.
    pub fn accept(&self, identity: &Identity, now: Timestamp) -> Result<(), NotTrusted> {
        for (configuration, caller) in self.0.borrow().iter() {
            let (seen, settled) = match caller {
                Caller::Present { seen, settled } => (seen, *settled),
                Caller::Gone => continue,
                Caller::Unknown | Caller::Absent => {
                    return Err(NotTrusted::NoConfiguration(configuration.clone()));
                }
            };
            for webhook in &seen.webhooks {
                if settled && webhook.ca_bundle.is_empty() {
                    continue;
                }
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

#[cfg(test)]
mod tests;
