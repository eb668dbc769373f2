//! Reads everything that a report needs: lists, page by page and in parallel. Each object is
//! reduced at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt as _, stream};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::Client;
use kube::api::ListParams;
use kube::core::ApiResource;
use serde::Deserialize as _;
use serde_json::Value;

use super::found::{Unread, text};
use crate::api::objects::{PAGE, workload};
use crate::api::{ApiError, Objects};
use crate::cli::installed::CHART_LABEL;
use migration_gate_core::gates::{Config, Gate, HeldKind};
use migration_gate_core::names;
use migration_gate_core::record::Record;
use migration_gate_core::status::{
    Flags, Installation, JobSeen, Lean, NamespaceSeen, Reduction, Snapshot,
};

/// For more namespaces than this, lists are of the whole cluster.
const MANY_NAMESPACES: usize = 8;

/// For more gates than this, their records are listed.
const MANY_GATES: usize = 16;

/// Maximum number of concurrent requests of one sort.
const AT_ONCE: usize = 16;

/// The label of the records.
const RECORDS: &str = "app.kubernetes.io/managed-by=migration-gate";

/// Reads for the gates of a configuration.
pub(super) struct Reading<'c> {
    client: Client,
    config: &'c Config,
    reduction: Reduction<'c>,
    unread: RefCell<BTreeMap<String, String>>,
}

/// The objects, by namespace.
type Into = RefCell<BTreeMap<String, NamespaceSeen>>;

impl<'c> Reading<'c> {
    pub(super) fn new(client: &Client, config: &'c Config) -> Self {
        Self {
            client: client.clone(),
            config,
            reduction: Reduction::new(config),
            unread: RefCell::default(),
        }
    }

    /// The objects that could not be read.
    pub(super) fn unread(&self) -> Vec<Unread> {
        let unread = self.unread.borrow();
        let unread = unread.iter().map(|(what, why)| Unread {
            what: what.clone(),
            why: why.clone(),
        });
        unread.collect()
    }

    fn cannot(&self, what: String, error: &ApiError) {
        self.unread.borrow_mut().insert(what, error.to_string());
    }

    pub(super) async fn snapshot(
        &self,
        gates: Vec<&'c Gate>,
        release: Option<Installation>,
        flags: Flags,
    ) -> Snapshot<'c> {
        let names: BTreeSet<&str> = gates.iter().map(|gate| gate.namespace.as_str()).collect();
        let namespaces = names
            .iter()
            .map(|name| ((*name).to_owned(), NamespaceSeen::default()))
            .collect();
        let into: Into = RefCell::new(namespaces);
        let (into, names) = (&into, &names);
        futures::join!(
            self.namespaces(names, into),
            self.jobs(names, into),
            self.workloads(names, into),
            self.pods(names, into),
            self.accounts(names, into),
            self.grants(names, into),
            self.records(&gates, into),
        );
        Snapshot {
            config: self.config,
            gates,
            flags,
            release,
            namespaces: into.take(),
            answers: BTreeMap::new(),
        }
    }

    /// Lists a kind, and passes each object to `take` with what is known of its namespace. Returns
    /// the namespaces that could be listed.
    async fn each<'n>(
        &self,
        kind: ApiResource,
        names: &BTreeSet<&'n str>,
        params: &ListParams,
        take: &dyn Fn(&mut NamespaceSeen, &Value),
        into: &Into,
    ) -> BTreeSet<&'n str> {
        let store = |object: &Value| {
            let namespace = text(&object["metadata"]["namespace"]);
            if let Some(seen) = into.borrow_mut().get_mut(namespace) {
                take(seen, object);
            }
        };
        if names.len() > MANY_NAMESPACES {
            let all = Objects::of(&self.client, kind.clone(), None);
            match each_of(&all, params, &store).await {
                Ok(()) => return names.clone(),
                Err(error) if error.is_denied() => {}
                Err(error) => {
                    self.cannot(kind.plural, &error);
                    return BTreeSet::new();
                }
            }
        }
        let one_by_one = names.iter().map(|name| {
            let objects = Objects::of(&self.client, kind.clone(), Some(name));
            let store = &store;
            async move { (*name, each_of(&objects, params, store).await) }
        });
        let mut read = BTreeSet::new();
        let mut answers = stream::iter(one_by_one).buffer_unordered(AT_ONCE);
        while let Some((name, answer)) = answers.next().await {
            match answer {
                Ok(()) => {
                    read.insert(name);
                }
                Err(error) => self.cannot(format!("{} in {name}", kind.plural), &error),
            }
        }
        read
    }

    async fn namespaces(&self, names: &BTreeSet<&str>, into: &Into) {
        let namespaces = Objects::cluster::<Namespace>(&self.client);
        let created = |object: &Value| text(&object["metadata"]["creationTimestamp"]).parse().ok();
        if names.len() > MANY_NAMESPACES {
            let found: RefCell<BTreeMap<String, Option<Timestamp>>> = RefCell::default();
            let store = |object: &Value| {
                let name = text(&object["metadata"]["name"]).to_owned();
                found.borrow_mut().insert(name, created(object));
            };
            let listed = each_of(&namespaces, &ListParams::default(), &store).await;
            if listed.is_ok() {
                let found = found.take();
                for (name, seen) in into.borrow_mut().iter_mut() {
                    seen.absent = !found.contains_key(name);
                    seen.created = found.get(name).copied().flatten();
                }
                return;
            }
        }
        let namespaces = &namespaces;
        let each = names.iter().map(|name| async move {
            match namespaces.get::<Value>(name).await {
                Ok(found) => {
                    if let Some(seen) = into.borrow_mut().get_mut(*name) {
                        seen.absent = found.is_none();
                        seen.created = found.as_ref().and_then(created);
                    }
                }
                Err(error) => self.cannot(format!("namespace {name}"), &error),
            }
        });
        stream::iter(each)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }

    async fn jobs(&self, names: &BTreeSet<&str>, into: &Into) {
        let take = |seen: &mut NamespaceSeen, object: &Value| {
            seen.jobs
                .get_or_insert_default()
                .extend(JobSeen::of(object));
        };
        let kind = ApiResource::erase::<Job>(&());
        let read = self
            .each(kind, names, &ListParams::default(), &take, into)
            .await;
        for (name, seen) in into.borrow_mut().iter_mut() {
            seen.jobs = seen
                .jobs
                .take()
                .or(read.contains(name.as_str()).then(Vec::new));
        }
    }

    async fn workloads(&self, names: &BTreeSet<&str>, into: &Into) {
        let kinds = HeldKind::ALL.map(|kind| async move {
            let take = |seen: &mut NamespaceSeen, object: &Value| {
                let found = self.reduction.workload(kind, object);
                seen.workloads.get_or_insert_default().extend(found);
            };
            let resource = workload(kind.pod_kind());
            let read = self
                .each(resource, names, &ListParams::default(), &take, into)
                .await;
            // A kind that no gate of a namespace holds is useful, but not necessary.
            let needed = |name: &&str| {
                let mut gates = self.config.gates.iter();
                gates.any(|gate| gate.namespace == **name && gate.kinds().contains(&kind))
            };
            let lacking = names
                .iter()
                .filter(|name| needed(name) && !read.contains(**name));
            lacking.copied().collect::<Vec<&str>>()
        });
        let lacking = futures::future::join_all(kinds).await.concat();
        for (name, seen) in into.borrow_mut().iter_mut() {
            seen.workloads = if lacking.contains(&name.as_str()) {
                None
            } else {
                Some(seen.workloads.take().unwrap_or_default())
            };
        }
    }

    async fn pods(&self, names: &BTreeSet<&str>, into: &Into) {
        let take = |seen: &mut NamespaceSeen, object: &Value| {
            seen.pods
                .get_or_insert_default()
                .extend(self.reduction.pod(object));
        };
        // A pod that has started does not wait.
        let params = ListParams::default().fields("status.phase=Pending");
        let kind = ApiResource::erase::<Pod>(&());
        let read = self.each(kind, names, &params, &take, into).await;
        for (name, seen) in into.borrow_mut().iter_mut() {
            seen.pods = seen
                .pods
                .take()
                .or(read.contains(name.as_str()).then(Vec::new));
        }
    }

    async fn accounts(&self, names: &BTreeSet<&str>, into: &Into) {
        let take = |seen: &mut NamespaceSeen, object: &Value| {
            let name = text(&object["metadata"]["name"]).to_owned();
            seen.accounts.get_or_insert_default().insert(name);
        };
        let kind = ApiResource::erase::<ServiceAccount>(&());
        let read = self
            .each(kind, names, &ListParams::default(), &take, into)
            .await;
        for (name, seen) in into.borrow_mut().iter_mut() {
            let empty = read.contains(name.as_str()).then(BTreeSet::new);
            seen.accounts = seen.accounts.take().or(empty);
        }
    }

    async fn grants(&self, names: &BTreeSet<&str>, into: &Into) {
        let params = ListParams::default().labels(CHART_LABEL);
        let role = |seen: &mut NamespaceSeen, object: &Value| seen.grants.add_role(object);
        let binding = |seen: &mut NamespaceSeen, object: &Value| seen.grants.add_binding(object);
        futures::join!(
            self.each(ApiResource::erase::<Role>(&()), names, &params, &role, into),
            self.each(
                ApiResource::erase::<RoleBinding>(&()),
                names,
                &params,
                &binding,
                into
            ),
        );
    }

    async fn records(&self, gates: &[&Gate], into: &Into) {
        let config_map = ApiResource::erase::<ConfigMap>(&());
        let mut wanted: Vec<&Gate> = gates.to_vec();
        if wanted.len() > MANY_GATES {
            let found: RefCell<BTreeMap<(String, String), Option<Record>>> = RefCell::default();
            let store = |object: &Value| {
                let metadata = &object["metadata"];
                let key = [&metadata["namespace"], &metadata["name"]].map(text);
                let record = Record::deserialize(object).ok();
                let [namespace, name] = key.map(str::to_owned);
                found.borrow_mut().insert((namespace, name), record);
            };
            let params = ListParams::default().labels(RECORDS);
            let all = Objects::of(&self.client, config_map, None);
            // Records that the list lacks are read one by one: an older release did not label them.
            if each_of(&all, &params, &store).await.is_ok() {
                let mut found = found.take();
                wanted.retain(|gate| {
                    let key = (gate.namespace.clone(), names::record(&gate.name));
                    let record = found.remove(&key);
                    let is_found = record.is_some();
                    if let Some(record) = record {
                        store_record(into, gate, record);
                    }
                    !is_found
                });
            }
        }
        let each = wanted.iter().map(|gate| async move {
            let records = Objects::config_maps(&self.client, &gate.namespace);
            let name = names::record(&gate.name);
            match records.get::<Record>(&name).await {
                Ok(record) => store_record(into, gate, record),
                Err(error) => {
                    self.cannot(format!("ConfigMap {}/{name}", gate.namespace), &error);
                }
            }
        });
        stream::iter(each)
            .buffer_unordered(AT_ONCE)
            .collect::<()>()
            .await;
    }
}

fn store_record(into: &Into, gate: &Gate, record: Option<Record>) {
    if let Some(seen) = into.borrow_mut().get_mut(&gate.namespace) {
        seen.records.insert(gate.name.clone(), record);
    }
}

/// Passes each object of a collection to `take`, page by page. A kind that the cluster does not
/// know has no objects.
pub(super) async fn each_of(
    objects: &Objects,
    params: &ListParams,
    take: &dyn Fn(&Value),
) -> Result<(), ApiError> {
    let mut params = params.clone().limit(PAGE);
    loop {
        let page = match objects.page::<Lean>(&params).await {
            Err(error) if error.code() == Some(404) => return Ok(()),
            page => page?,
        };
        for Lean(object) in &page.items {
            take(object);
        }
        match page.metadata.next() {
            None => return Ok(()),
            // A token that repeats would never end.
            next if next == params.continue_token => return Ok(()),
            next => params.continue_token = next,
        }
    }
}
