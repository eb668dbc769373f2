//! The sources of the serving certificate, and its replacement while calls arrive.
//!
//! There are two: [`files`], such as cert-manager's mounted Secret, and [`rotator`], which makes
//! certificates and shares them among all replicas through a Secret. Both write to [`Served`], from
//! which the next handshake takes its certificate. [`trust`] tells whether the webhook
//! configurations that call this server trust it, by what `verify` knows of the API server.

pub(super) mod clients;
mod files;
mod issue;
pub mod rotator;
mod state;
pub mod trust;
mod verify;
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

/// How long a configuration that does not exist is awaited after the start. An installation creates
/// it within seconds. An operator who has deleted it still needs replicas that can be restarted.
const PATIENCE: Duration = Duration::from_mins(1);

/// The source of the certificate: `--tls-cert` and `--tls-key`, or `--secret`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Certificate")]
pub struct CertificateArgs {
    /// Serving certificate and its chain, PEM; reloaded when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,

    /// Private key of the certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,

    /// How often to check the files for changes
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    tls_reload_interval: Duration,

    /// Secret for certificates that the server makes and all replicas share
    #[arg(
        long,
        value_name = "[NAMESPACE/]NAME",
        conflicts_with = "tls_cert",
        requires = "server_name"
    )]
    secret: Option<String>,

    /// DNS name of the server, such as migration-gate.migration-gate.svc; repeatable
    #[arg(long, value_name = "NAME", requires = "secret")]
    server_name: Vec<String>,

    /// MutatingWebhookConfiguration that calls this server; repeatable
    ///
    /// With --secret, the server keeps its caBundle up to date. A replica reports ready only while
    /// this configuration trusts its certificate.
    #[arg(long, value_name = "NAME")]
    mutating_webhook_configuration: Vec<String>,

    /// ValidatingWebhookConfiguration that calls this server; repeatable
    #[arg(long, value_name = "NAME")]
    validating_webhook_configuration: Vec<String>,

    /// Lifetime of the certificates, with --secret
    ///
    /// A certificate is renewed after two thirds of it.
    #[arg(long, value_name = "DURATION", default_value = "2160h", value_parser = duration)]
    certificate_lifetime: Duration,

    /// How long an API server may take to see a changed webhook configuration
    ///
    /// A new certificate is served only after its CA has been in all configurations for this long.
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = duration_or_zero)]
    propagation_delay: Duration,
}

/// The source of the certificate, validated.
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
    /// Interval of the checks for changed files.
    pub(super) fn reload_interval(&self) -> Duration {
        self.tls_reload_interval
    }
}

impl CertificateSource {
    /// Checks the arguments. A certificate from files is served from here on, one from a Secret
    /// only after [`CertificateSource::run`] has started.
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
                    "--secret makes certificates that no API server trusts yet; name the configurations that call this server with --mutating-webhook-configuration and --validating-webhook-configuration"
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
                        patience: PATIENCE,
                    },
                }
            }
            (None, None) => bail!(
                "there is no certificate; give --tls-cert and --tls-key, or --secret and --server-name to have one made"
            ),
        };
        Ok(Self { callers, kind })
    }

    /// The configurations that must trust the certificate.
    pub(super) fn callers(&self) -> Callers {
        self.callers.callers()
    }

    /// Keeps `served` up to date until the server closes.
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
                        watches::observe(client, self.callers, PATIENCE, stop.clone()).await;
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

/// Serves `identity`, and logs it.
fn install(identity: Arc<Identity>, served: &Served, metrics: &Metrics) {
    let not_after = identity.not_after();
    metrics.set_certificate_expiry(not_after.as_second());
    served.set(identity);
    info!(%not_after, "certificate loaded");
}
