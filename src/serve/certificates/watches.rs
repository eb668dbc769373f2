//! The watches that tell what the cluster holds.

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, future};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::Client;
use tracing::{info, warn};

use super::trust::{Callers, CallersWriter, Configuration, ConfigurationName};
use crate::api::observe::{self, Object, Pacing, Target, Trouble, Update};
use crate::serve::stop::Stop;

/// What a watch brings: an object as it is now, `None` if it isn't there.
pub(super) enum Change {
    Secret(Option<Box<Secret>>),
    Configuration(ConfigurationName, Option<Configuration>),
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

/// Keeps `callers` right and nothing else, for a certificate that comes from elsewhere.
pub(super) async fn observe(client: Client, mut callers: CallersWriter, stop: Stop) {
    let mut events: SelectAll<_> = configurations(&client, &callers.callers()).collect();
    loop {
        let change = tokio::select! {
            () = stop.closing() => return,
            change = events.next() => change,
        };
        match change {
            Some(Change::Configuration(name, seen)) => callers.see(&name, seen),
            Some(Change::Secret(_)) => {}
            None => return,
        }
    }
}

/// A watch of the Secret.
pub(super) fn secret(client: &Client, namespace: &str, name: &str) -> BoxStream<'static, Change> {
    let target = Target {
        path: format!("/api/v1/namespaces/{namespace}/secrets"),
        name: name.to_owned(),
    };
    one(client, target, |secret| {
        Change::Secret(secret.map(Box::new))
    })
}

/// A watch of each of the callers.
pub(super) fn configurations(
    client: &Client,
    callers: &Callers,
) -> impl Iterator<Item = BoxStream<'static, Change>> {
    let target = |resource, name: &str| Target {
        path: format!("/apis/admissionregistration.k8s.io/v1/{resource}"),
        name: name.to_owned(),
    };
    callers.names().into_iter().map(move |name| match &name {
        ConfigurationName::Mutating(wanted) => {
            let target = target("mutatingwebhookconfigurations", wanted);
            one::<MutatingWebhookConfiguration>(client, target, move |seen| {
                Change::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
        ConfigurationName::Validating(wanted) => {
            let target = target("validatingwebhookconfigurations", wanted);
            one::<ValidatingWebhookConfiguration>(client, target, move |seen| {
                Change::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
    })
}

/// A watch of one object by its name, which is as much as a Role with `resourceNames` permits.
fn one<K: Object>(
    client: &Client,
    target: Target,
    seen: impl Fn(Option<K>) -> Change + Send + 'static,
) -> BoxStream<'static, Change> {
    let what = format!("{}/{}", target.path, target.name);
    observe::observe(client.clone(), target, Pacing::default())
        .filter_map(move |update| {
            future::ready(match update {
                Update::Present(object) => Some(seen(Some(object))),
                Update::Absent(_) => Some(seen(None)),
                Update::Resumed => {
                    info!(object = what, "watched again");
                    None
                }
                Update::Trouble(Trouble::Denied(cause)) => {
                    warn!(
                        object = what,
                        cause, "not permitted to list and watch; trying again"
                    );
                    None
                }
                Update::Trouble(Trouble::Unreachable(cause) | Trouble::Failing(cause)) => {
                    warn!(object = what, cause, "cannot watch; trying again");
                    None
                }
            })
        })
        .boxed()
}
