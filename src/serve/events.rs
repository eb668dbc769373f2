//! Creates the Events that the core decides on.

use std::env;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::events::v1::Event;
use kube::Client;
use serde::de::IgnoredAny;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::{info, warn};

use crate::api::observe::{Pacing, backoff};
use crate::api::{ApiError, Objects};
use migration_gate_core::announcement::{Announcement, CONTROLLER};
use migration_gate_core::gates::Gate;

/// Maximum number of Events that wait to be created. A gate has fewer at once, so the queue is full
/// only while the API server accepts none.
const WAITING: usize = 64;

/// Maximum number of attempts to create one Event.
const ATTEMPTS: u32 = 5;

/// Creates a gate's Events in a task of its own, so that nothing else waits for them. Dropping the
/// emitter ends the task.
pub(super) struct Emitter {
    gate: String,
    namespace: String,
    instance: String,
    queue: mpsc::Sender<Value>,
    _task: JoinSet<()>,
}

impl Emitter {
    /// Starts the task for a gate's Events.
    pub(super) fn start(client: &Client, gate: &Gate) -> Self {
        let (queue, events) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        let objects = Objects::namespaced::<Event>(client, &gate.namespace);
        task.spawn(create_all(objects, gate.name.clone(), events));
        // The container runtime sets it to the pod's name.
        let instance = env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
        Self {
            gate: gate.name.clone(),
            namespace: gate.namespace.clone(),
            instance: instance.unwrap_or_else(|| CONTROLLER.to_owned()),
            queue,
            _task: task,
        }
    }

    /// Creates an Event in the background. Failures are only logged.
    pub(super) fn emit(&self, announcement: &Announcement) {
        let event = announcement.event(&self.namespace, &self.instance, Timestamp::now());
        if self.queue.try_send(event).is_err() {
            let cause = "the API server accepts no Events, and too many wait already";
            warn!(gate = self.gate, event = announcement.name, cause, "{LOST}");
        }
    }
}

const LOST: &str = "cannot create an Event";

async fn create_all(objects: Objects, gate: String, mut events: mpsc::Receiver<Value>) {
    while let Some(event) = events.recv().await {
        let (name, note) = (text(&event["metadata"]["name"]), text(&event["note"]));
        match create(&objects, &event).await {
            Ok(true) => info!(gate, event = name, note, "created an Event"),
            Ok(false) => {}
            Err(error) => {
                warn!(gate, event = name, cause = %error, "{LOST}");
            }
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// Creates one Event. Returns `false` if the Event already exists because another replica was
/// faster.
async fn create(objects: &Objects, event: &Value) -> Result<bool, ApiError> {
    let mut pauses = backoff(Pacing::default());
    for attempt in 1.. {
        let error = match objects.create::<IgnoredAny>(event).await {
            Ok(_) => return Ok(true),
            Err(error) if error.code() == Some(409) => return Ok(false),
            Err(error) => error,
        };
        let may_pass = error.code().is_none_or(|code| code == 429 || code >= 500);
        if !may_pass || attempt >= ATTEMPTS {
            return Err(error);
        }
        let pause = pauses.next().unwrap_or(Duration::from_secs(1));
        tokio::time::sleep(pause).await;
    }
    Ok(false)
}
