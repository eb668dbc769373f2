//! The watches that tell what the cluster holds.

use std::sync::Arc;

use futures::stream::{BoxStream, SelectAll};
use futures::{StreamExt, future};
use k8s_openapi::api::admissionregistration::v1::{
    MutatingWebhookConfiguration, ValidatingWebhookConfiguration,
};
use k8s_openapi::api::core::v1::Secret;
use kube::api::Api;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Resource};
use tracing::warn;

use super::trust::{Callers, Configuration, ConfigurationName};
use crate::serve::stop::Stop;

/// What a watch brings.
pub(super) enum Seen {
    Secret(Option<Box<Secret>>),
    Configuration(ConfigurationName, Option<Configuration>),
    Trouble(String),
}

/// Keeps `callers` right and nothing else, for a certificate that comes from elsewhere.
pub(super) async fn observe(client: Client, callers: Arc<Callers>, stop: Stop) {
    let mut events: SelectAll<_> = configurations(&client, &callers).collect();
    loop {
        let seen = tokio::select! {
            () = stop.closing() => return,
            seen = events.next() => seen,
        };
        match seen {
            Some(Seen::Configuration(name, seen)) => callers.see(&name, seen),
            Some(Seen::Trouble(cause)) => warn!(cause, "a watch was cut; it will be resumed"),
            Some(Seen::Secret(_)) => {}
            None => return,
        }
    }
}

/// A watch of each of the callers.
pub(super) fn configurations(
    client: &Client,
    callers: &Callers,
) -> impl Iterator<Item = BoxStream<'static, Seen>> {
    callers.names().into_iter().map(|name| match &name {
        ConfigurationName::Mutating(wanted) => {
            let api = Api::<MutatingWebhookConfiguration>::all(client.clone());
            let wanted = wanted.clone();
            one(api, &wanted, move |seen| {
                Seen::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
        ConfigurationName::Validating(wanted) => {
            let api = Api::<ValidatingWebhookConfiguration>::all(client.clone());
            let wanted = wanted.clone();
            one(api, &wanted, move |seen| {
                Seen::Configuration(name.clone(), seen.map(Configuration::from))
            })
        }
    })
}

/// A watch of one object by its name, which is as much as a Role with `resourceNames` permits.
pub(super) fn one<K>(
    api: Api<K>,
    name: &str,
    seen: impl Fn(Option<K>) -> Seen + Send + 'static,
) -> BoxStream<'static, Seen>
where
    K: Resource + Clone + std::fmt::Debug + serde::de::DeserializeOwned + Send + 'static,
{
    let mut listed = None;
    let selector = watcher::Config::default().fields(&format!("metadata.name={name}"));
    watcher(api, selector)
        .default_backoff()
        .filter_map(move |event| {
            future::ready(match event {
                Ok(Event::Init) => {
                    listed = None;
                    None
                }
                Ok(Event::InitApply(object)) => {
                    listed = Some(object);
                    None
                }
                Ok(Event::InitDone) => Some(seen(listed.take())),
                Ok(Event::Apply(object)) => Some(seen(Some(object))),
                Ok(Event::Delete(_)) => Some(seen(None)),
                Err(cause) => Some(Seen::Trouble(cause.to_string())),
            })
        })
        .boxed()
}
