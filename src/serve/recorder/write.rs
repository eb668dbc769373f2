//! The record's writes, and what becomes of them.

use std::time::Duration;

use kube::api::{Patch, PatchParams, PostParams};
use kube::core::Request;
use serde_json::json;
use tracing::info;

use super::Recorder;
use crate::api::observe::{Pacing, Target, backoff, chain};
use migration_gate_core::names;
use migration_gate_core::record::{HISTORY, Record, RecordPatch, Write, next_write};
use migration_gate_core::verdict::Sight;

/// Who wrote, in `managedFields`.
const FIELD_MANAGER: &str = "migration-gate";

/// How long the API server may take to answer a write.
const WRITE: Duration = Duration::from_secs(10);

impl Recorder {
    /// Writes until there is nothing to write, or a write fails.
    pub(super) async fn write(&mut self) {
        while self.pause.is_none() {
            let record = match &self.record {
                Sight::Unknown => return,
                Sight::Absent { .. } => None,
                Sight::Present(record) => Some(record),
            };
            if let Some(entry) = &self.current {
                self.completed.insert(entry.key(), entry.clone());
            }
            let Some(write) = next_write(record, &mut self.completed, HISTORY) else {
                return;
            };
            if record.is_some_and(|record| record.immutable) {
                // No use in trying; the watch tells when that changes.
                return self.report_immutable();
            }
            let answer = match tokio::time::timeout(WRITE, self.send(&write)).await {
                Ok(answer) => answer.map_err(Some),
                Err(_) => Err(None),
            };
            match answer {
                Ok(record) => {
                    if write.shows_in(&record) {
                        self.log(&write);
                        self.report_solved("write");
                        self.pauses = backoff(Pacing::default());
                    } else {
                        self.on_lost_write();
                    }
                    self.remember(Sight::Present(record));
                }
                Err(error) => self.on_failed_write(error),
            }
        }
    }

    async fn send(&self, write: &Write) -> kube::Result<Record> {
        let name = names::record(&self.gate.name);
        let collection = Request::new(Target::config_map(&self.gate.namespace, &name).path);
        let request = match write {
            Write::Create(data) => {
                let object = json!({
                    "apiVersion": "v1",
                    "kind": "ConfigMap",
                    "metadata": {
                        "name": name,
                        "labels": {"app.kubernetes.io/managed-by": FIELD_MANAGER},
                    },
                    "data": data,
                });
                let params = PostParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PostParams::default()
                };
                collection.create(&params, object.to_string().into_bytes())
            }
            Write::Patch(patch) => {
                let params = PatchParams {
                    field_manager: Some(FIELD_MANAGER.to_owned()),
                    ..PatchParams::default()
                };
                collection.patch(&name, &params, &Patch::Merge(patch.body()))
            }
        };
        self.client
            .request(request.map_err(kube::Error::BuildRequest)?)
            .await
    }

    fn report_immutable(&mut self) {
        let what = format!("cannot write the record {}", self.name());
        let cause = format!(
            "it is immutable; delete it, and what it says is written to a new one: kubectl delete \
             configmap {name} -n {namespace}",
            name = names::record(&self.gate.name),
            namespace = self.gate.namespace,
        );
        self.report_problem("write", &what, &cause);
    }

    /// The API server has accepted a write that doesn't show in its answer.
    fn on_lost_write(&mut self) {
        self.pause = self.pauses.next().map(tokio::time::sleep).map(Box::pin);
        let what = format!("cannot write the record {}", self.name());
        let cause = "the API server accepts it, and answers with a record that does not show it; look \
                     for a mutating webhook that changes ConfigMaps";
        self.report_problem("write", &what, cause);
    }

    /// `None` for an answer that never came.
    fn on_failed_write(&mut self, error: Option<kube::Error>) {
        self.pause = self.pauses.next().map(tokio::time::sleep).map(Box::pin);
        let cause = match error {
            // Another replica was faster: there already, changed since, or just deleted. The watch
            // brings what it is now.
            Some(kube::Error::Api(status))
                if matches!(status.code, 404 | 409) && self.is_race(&status) =>
            {
                return;
            }
            Some(kube::Error::Api(status)) => status.message,
            Some(error) => chain(&error),
            None => format!("no answer within {}s", WRITE.as_secs()),
        };
        let what = format!("cannot write the record {}", self.name());
        self.report_problem("write", &what, &cause);
    }

    /// A 404 may also mean that the namespace isn't there, and that should be said.
    fn is_race(&self, status: &kube::core::Status) -> bool {
        status.code == 409 || matches!(self.record, Sight::Present(_))
    }

    fn log(&self, write: &Write) {
        let (gate, record) = (&self.gate.name, self.name());
        match write {
            Write::Create(data) | Write::Patch(RecordPatch::Put(data)) => {
                for version in data.keys() {
                    info!(gate, record, version, "recorded a completion");
                }
            }
            Write::Patch(RecordPatch::Remove { keys, .. }) => {
                info!(gate, record, ?keys, "removed entries from the record");
            }
        }
    }
}
