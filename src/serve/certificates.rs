//! Where the serving certificate comes from, and how it is replaced while calls come in.
//!
//! Two ways: [`files`], as cert-manager's Secret is mounted, and [`rotator`], which makes
//! certificates itself and shares them among all replicas through a Secret. Both end in
//! [`Served`], which the next handshake takes its certificate from. What the API server makes of
//! it is for [`trust`] to say.

pub(super) mod clients;
mod files;
mod issue;
pub mod rotator;
mod state;
pub mod trust;
mod watches;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use kube::Client;
use tracing::info;

use self::files::Files;
use self::rotator::Settings;
use self::trust::{Callers, CallersWriter, ConfigurationName};
use super::limits::{duration, duration_or_zero};
use super::metrics::Metrics;
use super::stop::Stop;
use super::tls::{Identity, Served};
use crate::cli::ClusterArgs;

/// Where the certificate comes from: `--tls-cert` and `--tls-key`, or `--secret`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Certificate")]
pub struct CertificateArgs {
    /// The serving certificate with its chain, PEM; a change is picked up
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// The certificate's private key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// How often files are looked at for a change
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    tls_reload_interval: Duration,

    /// Make certificates, and share them among all replicas in this Secret
    #[arg(
        long,
        value_name = "[NAMESPACE/]NAME",
        conflicts_with = "tls_cert",
        requires = "server_name"
    )]
    secret: Option<String>,

    /// What the API server calls this server, such as migration-gate.migration-gate.svc; repeatable
    #[arg(long, value_name = "NAME", requires = "secret")]
    server_name: Vec<String>,

    /// A MutatingWebhookConfiguration that calls this server; repeatable
    ///
    /// With --secret, its caBundle is kept right. Ready is only who it would accept.
    #[arg(long, value_name = "NAME")]
    mutating_webhook_configuration: Vec<String>,

    /// A ValidatingWebhookConfiguration that calls this server; repeatable
    #[arg(long, value_name = "NAME")]
    validating_webhook_configuration: Vec<String>,

    /// How long a certificate that is made is valid; the next is made at two thirds of that
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    certificate_lifetime: Duration,

    /// How long an API server may take to learn of a changed webhook configuration
    ///
    /// A new certificate is served only once its CA has been in all of them for that long.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_or_zero)]
    propagation_delay: Duration,
}

/// Where the certificate comes from, found to be usable.
pub(super) struct CertificateSource {
    callers: CallersWriter,
    kind: Kind,
}

enum Kind {
    Files {
        files: Files,
        interval: Duration,
        /// For watching the configurations, if any are named.
        client: Option<Client>,
    },
    Rotator {
        client: Client,
        settings: Settings,
    },
}

impl CertificateArgs {
    /// How often files are looked at.
    pub(super) fn reload_interval(&self) -> Duration {
        self.tls_reload_interval
    }
}

impl CertificateSource {
    /// Checks the arguments. Files are served from here on; a Secret takes until [`CertificateSource::run`].
    pub(super) async fn new(
        args: CertificateArgs,
        cluster: &ClusterArgs,
        served: &Served,
        metrics: &Metrics,
    ) -> anyhow::Result<Self> {
        let CertificateArgs {
            tls_cert,
            tls_key,
            tls_reload_interval,
            secret,
            server_name,
            mutating_webhook_configuration: mutating,
            validating_webhook_configuration: validating,
            certificate_lifetime: lifetime,
            propagation_delay: propagation,
        } = args;
        let mutating = mutating.into_iter().map(ConfigurationName::Mutating);
        let validating = validating.into_iter().map(ConfigurationName::Validating);
        let callers = CallersWriter::new(mutating.chain(validating));
        let called = !callers.callers().names().is_empty();

        let kind = match (tls_cert.zip(tls_key), secret) {
            (Some((certificate, key)), _) => {
                let mut files = Files::new(certificate, key);
                if let Some(identity) = files.changed().await? {
                    install(Arc::new(identity), served, metrics);
                }
                Kind::Files {
                    files,
                    interval: tls_reload_interval,
                    client: if called {
                        Some(client(cluster).await?)
                    } else {
                        None
                    },
                }
            }
            (None, Some(secret)) => {
                ensure!(
                    called,
                    "--secret makes certificates that nobody trusts yet; name the configurations that call this server with --mutating-webhook-configuration and --validating-webhook-configuration"
                );
                ensure!(
                    lifetime / 3 > propagation * 2,
                    "--certificate-lifetime {lifetime:?} leaves no time to rotate; make it more than six times --propagation-delay ({propagation:?})"
                );
                let client = client(cluster).await?;
                let (namespace, name) = match secret.split_once('/') {
                    Some((namespace, name)) => (namespace.to_owned(), name.to_owned()),
                    None => (client.default_namespace().to_owned(), secret),
                };
                Kind::Rotator {
                    client,
                    settings: Settings {
                        namespace,
                        secret: name,
                        names: server_name,
                        lifetime,
                        propagation,
                    },
                }
            }
            (None, None) => bail!(
                "there is no certificate; give --tls-cert and --tls-key, or --secret and --server-name to have one made"
            ),
        };
        Ok(Self { callers, kind })
    }

    /// Who must accept the certificate.
    pub(super) fn callers(&self) -> Callers {
        self.callers.callers()
    }

    /// Keeps `served` right until the server closes.
    pub(super) async fn run(self, served: Arc<Served>, metrics: Metrics, stop: Stop) {
        match self.kind {
            Kind::Rotator { client, settings } => {
                rotator::run(client, settings, self.callers, served, metrics, stop).await;
            }
            Kind::Files {
                files,
                interval,
                client,
            } => {
                let observe = async {
                    if let Some(client) = client {
                        watches::observe(client, self.callers, stop.clone()).await;
                    }
                };
                let follow = files.follow(interval, served, metrics, stop.clone());
                tokio::join!(observe, follow);
            }
        }
    }
}

async fn client(cluster: &ClusterArgs) -> anyhow::Result<Client> {
    let cluster = cluster.connect().await.context("cannot find a cluster")?;
    Ok(cluster.client)
}

/// Serves `identity`, and says so.
fn install(identity: Arc<Identity>, served: &Served, metrics: &Metrics) {
    let not_after = identity.not_after();
    metrics.set_certificate_expiry(not_after.as_second());
    served.set(identity);
    info!(%not_after, "certificate loaded");
}
