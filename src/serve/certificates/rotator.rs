//! Certificates that the server makes itself.
//!
//! Watches the Secret that all replicas share and the webhook configurations that call them, and
//! carries out the actions of [`state`](super::state). No replica leads: each does the same, and a
//! write fails if the object has changed since it was read.

use std::collections::{BTreeMap, VecDeque};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::stream::SelectAll;
use futures::{StreamExt, future};
use jiff::Timestamp;
use json_patch::{AddOperation, PatchOperation, TestOperation};
use jsonptr::{PointerBuf, Token};
use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use kube::api::{ObjectMeta, Patch};
use serde_json::json;
use tracing::{error, info};

use super::install;
use super::issue::{IssueError, Material, MaterialError};
use super::state::{Action, State};
use super::trust::{Callers, CallersWriter, Configuration, ConfigurationName};
use super::watches::{self, Change};
use crate::api::{ApiError, Objects};
use crate::cli::chain;
use crate::serve::metrics::Metrics;
use crate::serve::stop::Stop;
use crate::serve::tls::Served;

/// Maximum time between two looks at the wall clock: timers stand still while a machine is
/// suspended.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

/// Delay after the first failure of a write.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Maximum delay after failures of a write.
const LAST_RETRY: Duration = Duration::from_secs(30);

/// If this many bundles are written to one configuration within [`CONTENTION_PERIOD`], another
/// client also writes it.
const CONTENTION_WRITES: usize = 5;

/// See [`CONTENTION_WRITES`].
const CONTENTION_PERIOD: Duration = Duration::from_secs(1);

/// The settings of the rotator.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The Secret's namespace.
    pub namespace: String,
    /// The Secret's name.
    pub secret: String,
    /// The names under which the API server calls this server: `NAME.NAMESPACE.svc`, or the host of
    /// a URL.
    pub names: Vec<String>,
    /// Lifetime of a certificate. It is renewed after two thirds of it.
    pub lifetime: Duration,
    /// How long an API server may take to see a changed webhook configuration.
    pub propagation: Duration,
    /// How long a configuration that does not exist is awaited after the start.
    pub patience: Duration,
}

/// Reasons why a write failed.
#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error(transparent)]
    Issue(#[from] IssueError),
    #[error("{what}")]
    Api { what: String, source: ApiError },
    #[error(
        "the caBundle of {0} keeps changing; something other than migration-gate sets it, such as an annotation of cert-manager or an applier that renders it; remove that"
    )]
    Contended(ConfigurationName),
}

impl KeepError {
    /// The error of a request that failed. `what` says what could not be done.
    fn api(what: String) -> impl FnOnce(ApiError) -> Self {
        |source| Self::Api { what, source }
    }

    /// The remedy, printed after the causes.
    fn hint(&self) -> &'static str {
        match self {
            Self::Api { source, .. } if source.code() == Some(403) => {
                "; grant it to migration-gate's ServiceAccount"
            }
            _ => "",
        }
    }
}

/// Keeps the Secret, the configurations' `caBundle`s and `served` up to date until the server
/// closes.
pub async fn run(
    client: Client,
    settings: Settings,
    writer: CallersWriter,
    served: Arc<Served>,
    metrics: Metrics,
    stop: Stop,
) {
    let callers = writer.callers();
    let secrets = Objects::namespaced::<Secret>(&client, &settings.namespace);
    let mut events = SelectAll::new();
    events.push(watches::secret(
        &client,
        &settings.namespace,
        &settings.secret,
    ));
    events.extend(watches::configurations(
        &client,
        &callers,
        settings.patience,
    ));
    let mut rotator = Rotator {
        state: State::new(
            settings.names.clone(),
            settings.lifetime,
            settings.propagation,
        ),
        secrets,
        client,
        settings,
        callers,
        writer,
        served,
        metrics,
        blocked: BTreeMap::new(),
        announced: VecDeque::new(),
    };
    // It goes on while the server drains: calls still arrive then, and must trust the certificate.
    let mut closing = pin!(stop.closing());
    loop {
        let work = async {
            let wake = rotator.work().await;
            let pause = wake.map(|at| until(at, Timestamp::now()));
            tokio::select! {
                change = events.next() => change,
                () = sleep(pause) => None,
            }
        };
        let change = tokio::select! {
            () = closing.as_mut() => return,
            change = work => change,
        };
        match change {
            Some(Change::Secret(secret)) => rotator.state.see_secret(secret.map(|s| content(*s))),
            Some(Change::Configuration(name, seen)) => rotator.writer.see(&name, seen),
            Some(Change::Waited) => rotator.writer.stop_waiting(),
            None => {}
        }
    }
}

/// The time to sleep from `now` until `at`, at most [`LONGEST_SLEEP`].
fn until(at: Timestamp, now: Timestamp) -> Duration {
    // A wake-up that is too early would do nothing, so it comes a little late.
    let pause = Duration::try_from(at.duration_since(now)).unwrap_or_default();
    (pause + Duration::from_millis(1)).min(LONGEST_SLEEP)
}

async fn sleep(pause: Option<Duration>) {
    match pause {
        Some(pause) => tokio::time::sleep(pause).await,
        None => future::pending().await,
    }
}

/// The Secret's `resourceVersion` and its parsed content.
fn content(secret: Secret) -> (String, Result<Material, MaterialError>) {
    let data = secret.data.unwrap_or_default();
    (
        secret.metadata.resource_version.unwrap_or_default(),
        Material::from_data(&data),
    )
}

/// An object that the rotator writes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Writable {
    Secret,
    Configuration(ConfigurationName),
}

impl Writable {
    fn of(action: &Action) -> Self {
        match action {
            Action::Issue { .. } | Action::Prune { .. } => Self::Secret,
            Action::Announce { name, .. } => Self::Configuration(name.clone()),
        }
    }
}

/// A write that failed.
#[derive(Debug)]
struct Blocked {
    /// The time of the next attempt.
    until: Timestamp,
    /// The pause after the next failure.
    pause: Duration,
}

impl Default for Blocked {
    fn default() -> Self {
        Self {
            until: Timestamp::UNIX_EPOCH,
            pause: FIRST_RETRY,
        }
    }
}

struct Rotator {
    state: State,
    secrets: Objects,
    client: Client,
    settings: Settings,
    callers: Callers,
    writer: CallersWriter,
    served: Arc<Served>,
    metrics: Metrics,
    /// Failed writes, by object. A failed write does not hold up others.
    blocked: BTreeMap<Writable, Blocked>,
    /// The times of the bundle writes within [`CONTENTION_PERIOD`].
    announced: VecDeque<Instant>,
}

impl Rotator {
    /// Carries out the actions, and returns the time of the next check without an event.
    async fn work(&mut self) -> Option<Timestamp> {
        loop {
            let now = Timestamp::now();
            let step = self.state.step(&self.callers, now);
            let mut wrote = false;
            if let Some(identity) = step.serve {
                install(Arc::clone(&identity), &self.served, &self.metrics);
                self.state.see_served(identity);
            }
            for action in step.actions {
                let target = Writable::of(&action);
                if self.blocked.get(&target).is_some_and(|b| b.until > now) {
                    continue;
                }
                match self.write(action).await {
                    Ok(()) => {
                        wrote = true;
                        self.blocked.remove(&target);
                        if target == Writable::Secret {
                            break;
                        }
                    }
                    Err(error) => {
                        let blocked = self.blocked.entry(target).or_default();
                        let cause = format!("{}{}", chain(&error), error.hint());
                        error!(cause, retry_in = ?blocked.pause, "cannot keep the certificate");
                        blocked.until = now.checked_add(blocked.pause).unwrap_or(now);
                        blocked.pause = (blocked.pause * 2).min(LAST_RETRY);
                    }
                }
            }
            if !wrote {
                let blocked = self.blocked.values().map(|blocked| blocked.until);
                let blocked = blocked.filter(|until| *until > now);
                return blocked.chain(step.wake).min();
            }
        }
    }

    /// Carries out an action, unless another writer was faster. In both cases, the state is up to
    /// date afterwards.
    async fn write(&mut self, action: Action) -> Result<(), KeepError> {
        match action {
            Action::Issue {
                names,
                keep,
                base,
                why,
            } => {
                let lifetime = self.settings.lifetime;
                let material = Material::issue(&names, lifetime, Timestamp::now(), keep)?;
                info!(
                    secret = self.settings.secret,
                    why, "making a new CA and certificate"
                );
                match base {
                    Some(base) => self.replace(&base, &material).await,
                    None => self.create(&material).await,
                }
            }
            Action::Prune { material, base } => {
                info!(secret = self.settings.secret, "dropping expired CAs");
                self.replace(&base, &material).await
            }
            Action::Announce { name, seen, bundle } => self.announce(name, &seen, &bundle).await,
        }
    }

    async fn create(&mut self, material: &Material) -> Result<(), KeepError> {
        let name = &self.settings.secret;
        let secret = Secret {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                ..ObjectMeta::default()
            },
            data: Some(material.to_data()),
            type_: Some("Opaque".to_owned()),
            ..Secret::default()
        };
        let what = format!("cannot create Secret {name}");
        self.wrote(self.secrets.create(&secret).await, what).await
    }

    async fn replace(&mut self, base: &str, material: &Material) -> Result<(), KeepError> {
        let name = &self.settings.secret;
        // Other keys and all metadata stay as they are.
        let patch = Patch::Merge(json!({
            "metadata": {"resourceVersion": base},
            "data": material.to_data(),
        }));
        let what = format!("cannot write Secret {name}");
        self.wrote(self.secrets.patch(name, &patch).await, what)
            .await
    }

    /// Stores the Secret that a write returned. If another replica was faster, reads the Secret.
    async fn wrote(
        &mut self,
        answer: Result<Secret, ApiError>,
        what: String,
    ) -> Result<(), KeepError> {
        match answer {
            Ok(written) => self.state.see_secret(Some(content(written))),
            // It exists already, has changed since, or was deleted.
            Err(error) if matches!(error.code(), Some(404 | 409)) => {
                self.refresh().await?;
            }
            Err(error) => return Err(KeepError::api(what)(error)),
        }
        Ok(())
    }

    /// Reads the Secret. Returns whether it differs from the one in the state.
    async fn refresh(&mut self) -> Result<bool, KeepError> {
        let name = &self.settings.secret;
        let what = format!("cannot read Secret {name}");
        let now = self.secrets.get(name).await.map_err(KeepError::api(what))?;
        let now = now.map(content);
        let known = self.state.resource_version();
        let differs = now.as_ref().map(|(version, _)| version.as_str()) != known;
        if differs {
            self.state.see_secret(now);
        }
        Ok(differs)
    }

    /// Writes the bundle to a configuration.
    ///
    /// A replica with an old view of the Secret must not overwrite a newer bundle. So it reads the
    /// Secret again after it has seen the configuration, and the write fails if the configuration
    /// has changed since it was seen. A replica with a newer bundle has then either written it, or
    /// will.
    async fn announce(
        &mut self,
        name: ConfigurationName,
        seen: &Configuration,
        bundle: &[u8],
    ) -> Result<(), KeepError> {
        if self.refresh().await? {
            return Ok(());
        }
        let now = Instant::now();
        while self
            .announced
            .front()
            .is_some_and(|at| now - *at > CONTENTION_PERIOD)
        {
            self.announced.pop_front();
        }
        if self.announced.len() >= CONTENTION_WRITES * self.callers.names().len() {
            return Err(KeepError::Contended(name));
        }
        self.announced.push_back(now);
        let now = match &name {
            ConfigurationName::Mutating(object) => {
                let api = Objects::cluster::<MutatingWebhookConfiguration>(&self.client);
                put_bundle::<MutatingWebhookConfiguration>(&api, object, &name, seen, bundle).await
            }
            ConfigurationName::Validating(object) => {
                let api = Objects::cluster::<ValidatingWebhookConfiguration>(&self.client);
                put_bundle::<ValidatingWebhookConfiguration>(&api, object, &name, seen, bundle)
                    .await
            }
        }?;
        self.writer.see(&name, now);
        Ok(())
    }
}

/// Writes the bundle to every webhook of a configuration, unless that has changed since it was
/// seen. Returns the configuration as it is now, `None` if it does not exist.
async fn put_bundle<K>(
    api: &Objects,
    object: &str,
    name: &ConfigurationName,
    seen: &Configuration,
    bundle: &[u8],
) -> Result<Option<Configuration>, KeepError>
where
    K: serde::de::DeserializeOwned,
    Configuration: From<K>,
{
    let bundle = json!(ByteString(bundle.to_vec()));
    let mut operations = vec![PatchOperation::Test(TestOperation {
        path: PointerBuf::from_tokens(["metadata", "resourceVersion"]),
        value: json!(seen.resource_version),
    })];
    operations.extend((0..seen.webhooks.len()).map(|index| {
        let webhook = ["webhooks".into(), Token::from(index)];
        let field = ["clientConfig".into(), "caBundle".into()];
        PatchOperation::Add(AddOperation {
            path: PointerBuf::from_tokens(webhook.into_iter().chain(field)),
            value: bundle.clone(),
        })
    }));
    let patch = Patch::Json::<()>(json_patch::Patch(operations));
    let refused = match api.patch::<K>(object, &patch).await {
        Ok(written) => {
            info!(configuration = %name, "caBundle written");
            return Ok(Some(written.into()));
        }
        Err(refused) => refused,
    };
    // The API server has no status code of its own for a failed `test`, so compare the versions.
    let what = format!("cannot read {name}");
    let now = api.get::<K>(object).await.map_err(KeepError::api(what))?;
    let now = now.map(Configuration::from);
    if now
        .as_ref()
        .is_some_and(|now| now.resource_version == seen.resource_version)
    {
        let what = format!("cannot write the caBundle of {name}");
        return Err(KeepError::api(what)(refused));
    }
    Ok(now)
}
