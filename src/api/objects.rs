//! The objects of one kind: typed reads and writes, each with a deadline.

use std::time::Duration;

use futures::stream::BoxStream;
use futures::{AsyncBufRead, StreamExt as _};
use http_body_util::BodyExt as _;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, GetParams, ListParams, LogParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::{
    ApiResource, ClusterResourceScope, DynamicObject, GroupVersionKind, NamespaceResourceScope,
    Request, WatchEvent,
};
use kube::{Client, Resource};
use migration_gate_core::gates::LabelSelector;
use migration_gate_core::podspec::PodKind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::ApiError;

/// The field manager of this program's writes, in `metadata.managedFields`.
pub const FIELD_MANAGER: &str = "migration-gate";

/// How long the API server may take to answer one request.
pub const TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of objects in one page of a list.
pub(crate) const PAGE: u32 = 250;

/// Encodes all characters in a query's value but RFC 3986's unreserved ones (section 2.3).
const QUERY: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// The objects of one kind, in one namespace or in the whole cluster.
///
/// Each call chooses a type to decode objects into, and so how much of them it keeps.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    kind: ApiResource,
    namespace: Option<String>,
}

/// A workload's kind as the client's [`ApiResource`].
pub fn workload(kind: &PodKind) -> ApiResource {
    let name = GroupVersionKind::gvk(kind.group, kind.version, kind.kind);
    ApiResource::from_gvk_with_plural(&name, kind.resource)
}

impl Objects {
    /// The objects of a namespaced kind in one namespace.
    pub fn namespaced<K>(client: &Client, namespace: &str) -> Self
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Self::of(client, ApiResource::erase::<K>(&()), Some(namespace))
    }

    /// The Jobs of a namespace.
    pub fn jobs(client: &Client, namespace: &str) -> Self {
        Self::namespaced::<Job>(client, namespace)
    }

    /// The `ConfigMap`s of a namespace.
    pub fn config_maps(client: &Client, namespace: &str) -> Self {
        Self::namespaced::<ConfigMap>(client, namespace)
    }

    /// The objects of a cluster-scoped kind.
    pub fn cluster<K>(client: &Client) -> Self
    where
        K: Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        Self::of(client, ApiResource::erase::<K>(&()), None)
    }

    /// The objects of a kind that is known at run time; without a namespace, in the whole cluster.
    pub fn of(client: &Client, kind: ApiResource, namespace: Option<&str>) -> Self {
        Self {
            client: client.clone(),
            kind,
            namespace: namespace.map(str::to_owned),
        }
    }

    /// Their kind.
    pub fn kind(&self) -> &ApiResource {
        &self.kind
    }

    /// Their namespace; `None` for the whole cluster.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// The path of the collection, such as `/apis/batch/v1/namespaces/x/jobs`.
    pub fn path(&self) -> String {
        DynamicObject::url_path(&self.kind, self.namespace.as_deref())
    }

    /// Lists all objects that the parameters select, page by page.
    pub async fn list<T: DeserializeOwned>(&self, params: &ListParams) -> Result<Vec<T>, ApiError> {
        let (objects, _) = self.list_at(params).await?;
        Ok(objects)
    }

    /// As [`list`](Self::list), with the collection's `resourceVersion`, from which a watch can
    /// start.
    pub(super) async fn list_at<T: DeserializeOwned>(
        &self,
        params: &ListParams,
    ) -> Result<(Vec<T>, String), ApiError> {
        let mut params = params.clone().limit(PAGE);
        let mut objects = Vec::new();
        loop {
            let Page { metadata, items } = self.page(&params).await?;
            objects.extend(items);
            if metadata.next.is_empty() {
                return Ok((objects, metadata.resource_version));
            }
            params.continue_token = Some(metadata.next);
        }
    }

    /// Lists one page of the objects that the parameters select.
    pub async fn page<T: DeserializeOwned>(
        &self,
        params: &ListParams,
    ) -> Result<Page<T>, ApiError> {
        self.request(self.to().list(params)).await
    }

    /// The object of that name; `None` if the response is 404.
    pub async fn get<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, ApiError> {
        match self
            .request(self.to().get(name, &GetParams::default()))
            .await
        {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.code() == Some(404) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Creates an object and returns it as stored.
    pub async fn create<T: DeserializeOwned>(
        &self,
        object: &impl Serialize,
    ) -> Result<T, ApiError> {
        self.request(self.to().create(&creating(false), json(object)?))
            .await
    }

    /// Patches an object and returns it as stored.
    pub async fn patch<T: DeserializeOwned>(
        &self,
        name: &str,
        patch: &Patch<impl Serialize>,
    ) -> Result<T, ApiError> {
        self.request(self.to().patch(name, &patching(false), patch))
            .await
    }

    /// Deletes an object. It is no error if there is no such object.
    pub async fn delete(&self, name: &str) -> Result<(), ApiError> {
        let request = self.to().delete(name, &DeleteParams::default());
        match self.request::<Value>(request).await {
            Err(error) if error.code() != Some(404) => Err(error),
            _ => Ok(()),
        }
    }

    /// Dry-runs the creation of an object. Nothing is stored.
    pub async fn try_create(&self, object: &impl Serialize) -> Result<DryRun, ApiError> {
        self.answer(self.to().create(&creating(true), json(object)?))
            .await
    }

    /// Dry-runs the change of an object. Nothing is stored.
    pub async fn try_patch(
        &self,
        name: &str,
        patch: &Patch<impl Serialize>,
    ) -> Result<DryRun, ApiError> {
        self.answer(self.to().patch(name, &patching(true), patch))
            .await
    }

    /// Opens the log of a pod. [`TIMEOUT`] applies until the response starts, not to reading the
    /// log.
    pub async fn log(&self, pod: &str, params: &LogParams) -> Result<impl AsyncBufRead, ApiError> {
        let request = self.to().logs(pod, params).map_err(ApiError::request)?;
        within(TIMEOUT, self.client.request_stream(request)).await
    }

    /// Watches the selected objects from a `resourceVersion` on. The server ends the watch after
    /// `lasting`, cut to whole seconds.
    pub(super) async fn watch<T>(
        &self,
        selection: &Selectors,
        version: &str,
        lasting: Duration,
    ) -> Result<BoxStream<'static, kube::Result<WatchEvent<T>>>, ApiError>
    where
        T: Clone + DeserializeOwned + Send + 'static,
    {
        // Built by hand, because kube refuses a watch of five minutes or more.
        let uri = format!(
            "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={}{}&resourceVersion={}",
            self.path(),
            lasting.as_secs(),
            selection.query(),
            utf8_percent_encode(version, QUERY),
        );
        let request = hyper::Request::get(uri)
            .body(Vec::new())
            .map_err(ApiError::request)?;
        let events = within(TIMEOUT, self.client.request_events(request)).await?;
        Ok(events.boxed())
    }

    fn to(&self) -> Request {
        Request::new(self.path())
    }

    async fn request<T: DeserializeOwned>(
        &self,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<T, ApiError> {
        let request = request.map_err(ApiError::request)?;
        within(TIMEOUT, self.client.request(request)).await
    }

    /// Sends a request and keeps what kube's own methods drop: the warnings, and the body of a
    /// refusal.
    async fn answer(
        &self,
        request: Result<hyper::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<DryRun, ApiError> {
        let request = request.map_err(ApiError::request)?.map(Body::from);
        within(TIMEOUT, async {
            let response = self.client.send(request).await?;
            let code = response.status().as_u16();
            let warnings = response
                .headers()
                .get_all(hyper::header::WARNING)
                .iter()
                .filter_map(|value| value.to_str().ok().map(str::to_owned))
                .collect();
            let body = response.into_body().collect().await?.to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
            Ok(DryRun {
                code,
                body,
                warnings,
            })
        })
        .await
    }
}

/// Selects objects of a collection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selectors {
    /// The field selector, if there is one.
    fields: Option<String>,
    /// The label selector, if there is one.
    labels: Option<String>,
}

impl Selectors {
    /// The object of that name.
    pub(super) fn named(name: &str) -> Self {
        Self {
            fields: Some(format!("metadata.name={name}")),
            labels: None,
        }
    }

    /// The objects whose labels match.
    pub(super) fn labelled(selector: &LabelSelector) -> Self {
        Self {
            fields: None,
            labels: Some(selector.to_string()),
        }
    }

    /// The selectors as parameters of a list.
    pub(super) fn params(&self) -> ListParams {
        ListParams {
            field_selector: self.fields.clone(),
            label_selector: self.labels.clone(),
            ..ListParams::default()
        }
    }

    /// The selectors as query parameters, each with a leading `&`.
    fn query(&self) -> String {
        let parameter = |(name, value): (&str, &Option<String>)| {
            let value = utf8_percent_encode(value.as_deref()?, QUERY);
            Some(format!("&{name}={value}"))
        };
        [
            ("fieldSelector", &self.fields),
            ("labelSelector", &self.labels),
        ]
        .into_iter()
        .filter_map(parameter)
        .collect()
    }
}

/// The server's response to a dry run.
pub struct DryRun {
    /// The HTTP status.
    pub code: u16,
    /// The object as it would be stored, or a `Status`. Null if the body is not JSON.
    pub body: Value,
    /// The values of the `Warning` headers, undecoded.
    pub warnings: Vec<String>,
}

/// One page of a list.
#[derive(Debug, Deserialize)]
pub struct Page<T> {
    /// The list's metadata.
    #[serde(default)]
    pub metadata: PageMeta,
    /// The objects, without `apiVersion` and `kind`.
    pub items: Vec<T>,
}

/// The position of a page in its collection.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PageMeta {
    /// The collection's `resourceVersion`, from which a watch can start.
    pub resource_version: String,
    #[serde(rename = "continue")]
    next: String,
}

impl PageMeta {
    /// The token for the next page, if there is one.
    pub fn next(self) -> Option<String> {
        Some(self.next).filter(|next| !next.is_empty())
    }
}

fn creating(dry_run: bool) -> PostParams {
    PostParams {
        dry_run,
        field_manager: Some(FIELD_MANAGER.to_owned()),
    }
}

fn patching(dry_run: bool) -> PatchParams {
    PatchParams {
        dry_run,
        ..PatchParams::apply(FIELD_MANAGER)
    }
}

fn json(object: &impl Serialize) -> Result<Vec<u8>, ApiError> {
    serde_json::to_vec(object).map_err(ApiError::request)
}

async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = kube::Result<T>>,
) -> Result<T, ApiError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(ApiError::from),
        Err(_) => Err(ApiError::late(limit)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_in_a_query_is_encoded() {
        let check = |text: &str, expect: &str| {
            assert_eq!(utf8_percent_encode(text, QUERY).to_string(), expect);
        };
        check("metadata.name=a-b.c", "metadata.name%3Da-b.c");
        check("1&x ä", "1%26x%20%C3%A4");
    }
}
