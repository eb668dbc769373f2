//! The record's writes and their results.

use tracing::info;

use super::{GateNews, Recorder, Stored, keep_latest};
use crate::api::observe::{Pacing, backoff};
use crate::api::{ApiError, records};
use migration_gate_core::names;
use migration_gate_core::record::{Entry, HISTORY, RecordPatch, Write, next_write};

impl Recorder {
    /// Writes until there is nothing to write, or a write fails.
    pub(super) async fn write(&mut self) {
        while self.pause.is_none() {
            let record = match &self.record {
                Stored::Unknown => return,
                Stored::Absent => None,
                Stored::Present(record) => Some(record),
            };
            // A forgotten completion may be later than one that still counts, and would replace it
            // in `keep_latest`.
            let counts =
                |entry: &Entry| !record.is_some_and(|record| record.has_forgotten(&entry.uid));
            self.completed.retain(|_, entry| counts(entry));
            // While a Job exists, it is recorded again if the record loses its entry.
            for entry in self.entries.values().filter(|entry| counts(entry)) {
                keep_latest(&mut self.completed, entry);
            }
            if self.refused {
                if !self.lookout.sees_jobs() {
                    // It is not known which Jobs exist, until the watches work again.
                    return;
                }
                let entries = &self.entries;
                self.completed
                    .retain(|_, entry| entries.values().any(|there| there.uid == entry.uid));
            }
            let Some(write) = next_write(record, &mut self.completed, HISTORY) else {
                return;
            };
            if record.is_some_and(|record| record.immutable) {
                // The API server would refuse the write. The watch reports when the record has
                // changed.
                return self.report_immutable();
            }
            match records::write(&self.records(), &self.gate.name, &write).await {
                Ok(record) => {
                    if write.shows_in(&record) {
                        self.log(&write);
                        self.report_solved("write");
                        self.refused = false;
                        self.pauses = backoff(Pacing::default());
                    } else {
                        self.on_lost_write();
                    }
                    self.remember(Stored::Present(record));
                }
                Err(error) => {
                    let creates = matches!(write, Write::Create(_));
                    self.refused |= creates && matches!(error.code(), Some(403 | 404));
                    self.on_failed_write(&error);
                }
            }
        }
    }

    fn report_failed_write(&mut self, cause: &str) {
        let what = format!("cannot write the record {}", self.name());
        (self.report)(&self.gate.name, GateNews::WriteFailed);
        self.report_problem("write", &what, cause);
    }

    fn report_immutable(&mut self) {
        let what = format!("cannot write the record {}", self.name());
        let cause = format!(
            "it is immutable; delete it, and the server writes its entries to a new one: kubectl delete \
             configmap {name} -n {namespace}",
            name = names::record(&self.gate.name),
            namespace = self.gate.namespace,
        );
        self.report_problem("write", &what, &cause);
    }

    /// Handles a write that the API server has accepted, but not returned.
    fn on_lost_write(&mut self) {
        self.pause = self.pauses.next().map(tokio::time::sleep).map(Box::pin);
        let cause = "the API server accepts it, but returns a record without it; check for a mutating webhook that changes ConfigMaps";
        self.report_failed_write(cause);
    }

    fn on_failed_write(&mut self, error: &ApiError) {
        self.pause = self.pauses.next().map(tokio::time::sleep).map(Box::pin);
        if self.is_race(error) {
            return;
        }
        self.report_failed_write(&error.to_string());
    }

    /// Whether another replica was faster: the record exists already, has changed since, or was
    /// just deleted. The watch reports it then. Without a known record, a 404 means that the
    /// namespace does not exist, which must be reported.
    fn is_race(&self, error: &ApiError) -> bool {
        match error.code() {
            Some(409) => true,
            Some(404) => matches!(self.record, Stored::Present(_)),
            _ => false,
        }
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
            // Only the command `record forget` writes this.
            Write::Patch(RecordPatch::Forget { .. }) => {}
        }
    }
}
