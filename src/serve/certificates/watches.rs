//! The watches of the rotator.

use std::iter;
use std::time::Duration;

use futures::stream::{self, BoxStream, SelectAll};
use futures::{StreamExt, future};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tracing::{info, warn};

use super::trust::{Callers, CallersWriter, Configuration, ConfigurationName};
use crate::api::Objects;
use crate::api::observe::{self, Object, Pacing, Update, WatchError};
use crate::serve::stop::Stop;

/// A watch's report: an object as it is now, `None` if it does not exist.
pub(super) enum Change {
    Secret(Option<Box<Secret>>),
    Configuration(ConfigurationName, Option<Configuration>),
    /// Configurations that do not exist have been awaited for long enough.
    Waited,
}

macro_rules! object {
    ($($kind:ty),+) => {$(
        impl Object for $kind {
            fn resource_version(&self) -> &str {
                self.metadata.resource_version.as_deref().unwrap_or_default()
            }
        }
    )+};
}

object!(
    Secret,
    MutatingWebhookConfiguration,
    ValidatingWebhookConfiguration
);

/// Keeps `callers` up to date, for a certificate from files. It writes nothing.
pub(super) async fn observe(
    client: Client,
    mut callers: CallersWriter,
    patience: Duration,
    stop: Stop,
) {
    let mut events: SelectAll<_> = configurations(&client, &callers.callers(), patience).collect();
    loop {
        let change = tokio::select! {
            () = stop.closing() => return,
            change = events.next() => change,
        };
        match change {
            Some(Change::Configuration(name, seen)) => callers.see(&name, seen),
            Some(Change::Waited) => callers.stop_waiting(),
            Some(Change::Secret(_)) => {}
            None => return,
        }
    }
}

/// A watch of the Secret.
pub(super) fn secret(client: &Client, namespace: &str, name: &str) -> BoxStream<'static, Change> {
    let secrets = Objects::namespaced::<Secret>(client, namespace);
    one(secrets, name, |secret| Change::Secret(secret.map(Box::new)))
}

/// A watch of each configuration, and [`Change::Waited`] after `patience`.
pub(super) fn configurations(
    client: &Client,
    callers: &Callers,
    patience: Duration,
) -> impl Iterator<Item = BoxStream<'static, Change>> {
    let end = stream::once(tokio::time::sleep(patience)).map(|()| Change::Waited);
    let watches = callers.names().into_iter().map(move |name| match &name {
        ConfigurationName::Mutating(wanted) => {
            let objects = Objects::cluster::<MutatingWebhookConfiguration>(client);
            let wanted = wanted.clone();
            one::<MutatingWebhookConfiguration>(objects, &wanted, move |seen| {
                Change::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
        ConfigurationName::Validating(wanted) => {
            let objects = Objects::cluster::<ValidatingWebhookConfiguration>(client);
            let wanted = wanted.clone();
            one::<ValidatingWebhookConfiguration>(objects, &wanted, move |seen| {
                Change::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
    });
    watches.chain(iter::once(end.boxed()))
}

/// A watch of one object by its name, which is all that a Role with `resourceNames` permits.
fn one<K: Object>(
    objects: Objects,
    name: &str,
    seen: impl Fn(Option<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change> {
    let what = format!("{}/{name}", objects.path());
    observe::observe(objects, name, Pacing::default())
        .filter_map(move |update| {
            future::ready(match update {
                Update::Present(object) => Some(seen(Some(object))),
                Update::Absent(_) => Some(seen(None)),
                Update::Resumed => {
                    info!(object = what, "watched again");
                    None
                }
                Update::Failed(WatchError::Denied(cause)) => {
                    warn!(
                        object = what,
                        cause, "not permitted to list and watch; trying again"
                    );
                    None
                }
                Update::Failed(
                    WatchError::Unreachable(cause)
                    | WatchError::NoSuchKind(cause)
                    | WatchError::Failing(cause),
                ) => {
                    warn!(object = what, cause, "cannot watch; trying again");
                    None
                }
            })
        })
        .boxed()
}
