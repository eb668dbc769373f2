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

/// How many Events may wait for their turn. More than a gate may have at once, so it is full only
/// while the API server takes none.
const WAITING: usize = 64;

/// How often one Event is tried.
const ATTEMPTS: u32 = 5;

/// Creates a gate's Events in a task of its own, so that nothing else waits for them. They end with
/// it.
pub(super) struct Emitter {
    gate: String,
    namespace: String,
    instance: String,
    queue: mpsc::Sender<Value>,
    _task: JoinSet<()>,
}

impl Emitter {
    /// Begins to wait for Events of a gate.
    pub(super) fn start(client: &Client, gate: &Gate) -> Self {
        let (queue, events) = mpsc::channel(WAITING);
        let mut task = JoinSet::new();
        let objects = Objects::namespaced::<Event>(client, &gate.namespace);
        task.spawn(create_all(objects, gate.name.clone(), events));
        // The container's runtime sets it to the name of the pod.
        let instance = env::var("HOSTNAME").ok().filter(|name| !name.is_empty());
        Self {
            gate: gate.name.clone(),
            namespace: gate.namespace.clone(),
            instance: instance.unwrap_or_else(|| CONTROLLER.to_owned()),
            queue,
            _task: task,
        }
    }

    /// Creates an Event in the background. Failures go only to the
    /// log.
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

/// Creates one Event. Answers whether it wasn't there yet: it is, if another replica was faster.
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
