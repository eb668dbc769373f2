//! The record's writes and their results.

use std::collections::{BTreeMap, BTreeSet};

use tracing::info;

use super::{GateNews, Recorder, Stored, keep_latest};
use crate::api::observe::{Pacing, backoff, list_jobs};
use crate::api::{ApiError, Objects, records};
use migration_gate_core::names;
use migration_gate_core::record::{
    Entry, FORGOTTEN, HISTORY, RecordPatch, Write, next_write, tombstones,
};

impl Recorder {
    /// Writes until there is nothing to write, or a write fails.
    pub(super) async fn write(&mut self) {
        let mut knows_jobs = false;
        while self.pause.is_none() {
            let record = match &self.record {
                Stored::Unknown => return,
                Stored::Absent => None,
                Stored::Present(record) => Some(record),
            };
            // A forgotten completion may be later than one that still counts, and would replace it
            // in `keep_latest`.
            let counts = |entry: &Entry| {
                !record.is_some_and(|record| record.has_forgotten(&entry.uid))
                    && !self.forgotten.contains(&entry.uid)
                    && !self.gone.contains(&entry.uid)
            };
            self.completed.retain(|_, entry| counts(entry));
            // While a Job exists, it is recorded again if the record loses its entry.
            for entry in self.entries.values().filter(|entry| counts(entry)) {
                keep_latest(&mut self.completed, entry);
            }
            let mut write = next_write(record, &mut self.completed, HISTORY);
            if record.is_none() {
                write = with_tombstones(write, &self.forgotten);
            }
            let Some(write) = write else {
                return;
            };
            if record.is_some_and(|record| record.immutable) {
                // The API server would refuse the write. The watch reports when the record has
                // changed.
                return self.report_immutable();
            }
            if self.in_doubt && !knows_jobs {
                match self.drop_gone().await {
                    Ok(()) => knows_jobs = true,
                    Err(error) => self.on_failed_write(&error),
                }
                continue;
            }
            match records::write(&self.records(), &self.gate.name, &write).await {
                Ok(record) => {
                    if write.shows_in(&record) {
                        self.log(&write);
                        self.report_solved("write");
                        self.in_doubt = false;
                        self.pauses = backoff(Pacing::default());
                    } else {
                        self.on_lost_write();
                    }
                    self.remember(Stored::Present(record));
                }
                Err(error) => {
                    let creates = matches!(write, Write::Create(_));
                    self.in_doubt |= creates && matches!(error.code(), Some(403 | 404));
                    self.on_failed_write(&error);
                }
            }
        }
    }

    /// Asks which Jobs exist, and drops what the others have completed. The watches may be late.
    async fn drop_gone(&mut self) -> Result<(), ApiError> {
        let objects = Objects::jobs(&self.client, &self.gate.namespace);
        let mut there = BTreeSet::new();
        for source in self.requirements.iter().flat_map(|of| &of.any_of) {
            let jobs = list_jobs(&objects, source).await?;
            there.extend(jobs.into_iter().map(|job| job.uid));
        }
        self.completed.retain(|_, entry| there.contains(&entry.uid));
        self.forgotten.retain(|uid| there.contains(uid));
        let known = self.entries.values().map(|entry| &entry.uid);
        self.gone
            .extend(known.filter(|uid| !there.contains(*uid)).cloned());
        Ok(())
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
                for version in data.keys().filter(|key| *key != FORGOTTEN) {
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

/// Adds what is forgotten to the write that begins a record.
fn with_tombstones(write: Option<Write>, forgotten: &[String]) -> Option<Write> {
    let Some(tombstones) = tombstones(forgotten) else {
        return write;
    };
    let mut data = match write {
        Some(Write::Create(data)) => data,
        _ => BTreeMap::new(),
    };
    data.extend([tombstones]);
    Some(Write::Create(data))
}
