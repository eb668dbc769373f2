//! The waiter's loop.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::args::Plan;
use super::identity;
use super::logs::{Kept, LogReader};
use super::output::{Level, Output};
use crate::api::Objects;
use crate::api::observe::{Pacing, Update, WatchError, observe};
use crate::cli::{self, Exit};
use migration_gate_core::explain::{self, Moment};
use migration_gate_core::job::Job;
use migration_gate_core::record::Record;
use migration_gate_core::verdict::{Seen, Sight, Source, TroubleKind, Verdict, Waiting, verdict};

/// Waits, and stops at once at a signal.
pub(super) fn to_the_end(plan: &Plan, output: &mut Output) -> Exit {
    let runtime = match cli::runtime() {
        Ok(runtime) => runtime,
        Err(error) => {
            output.give_up(&cli::chain(error.as_ref()));
            return Exit::Failure;
        }
    };
    let exit = runtime.block_on(async {
        let stopped = match stopped() {
            Ok(stopped) => stopped,
            Err(error) => {
                output.give_up(&format!("cannot listen for signals: {error}"));
                return Exit::Failure;
            }
        };
        tokio::select! {
            biased;
            (name, exit) = stopped => {
                output.give_up(&format!("stopped by {name} before the gate opened"));
                exit
            }
            exit = wait(plan, output) => exit,
        }
    });
    // A name look-up that hangs in a thread of its own must not hold up the end.
    runtime.shutdown_background();
    exit
}

/// Listens before it is awaited. Process 1 of a container ignores what it doesn't listen for.
fn stopped() -> std::io::Result<impl Future<Output = (&'static str, Exit)>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => ("SIGTERM", Exit::Terminated),
            _ = interrupt.recv() => ("SIGINT", Exit::Interrupted),
        }
    })
}

/// How much longer than the wait its watches may last, so that it is the wait that ends.
const WATCH_MARGIN: Duration = Duration::from_mins(1);

async fn wait(plan: &Plan, output: &mut Output) -> Exit {
    let start = Instant::now();
    let client = match plan.cluster.connect().await {
        Ok(cluster) => cluster.client,
        Err(error) => {
            output.give_up(&format!("cannot wait: {}", cli::chain(&error)));
            return Exit::Failure;
        }
    };
    let subject = &plan.subject;
    let pacing = Pacing {
        // One watch for the whole wait.
        watch: plan.limits.timeout + WATCH_MARGIN,
        ..Pacing::default()
    };
    let jobs = Objects::jobs(&client, &subject.namespace);
    let records = Objects::config_maps(&client, &subject.namespace);
    let mut jobs = pin!(observe::<Job>(jobs, &subject.job, pacing));
    let mut records = pin!(observe::<Record>(records, &plan.record, pacing));
    let mut seen = Seen::default();
    let mut told = Told::default();
    let reader = LogReader::new(&client, &subject.namespace, plan.log_timeout);
    let mut logs = Logs::default();
    loop {
        let now = start.elapsed();
        let until = match verdict(&seen, &subject.wanted, &plan.limits, now) {
            Verdict::Wait { waiting, until } => {
                told.waiting(plan, &seen, waiting, now, output);
                told.record(plan, &seen, output);
                logs.prepare(&reader, seen.about_to_fail(&subject.wanted));
                until
            }
            end => return finish(plan, &seen, end, &reader, logs, output).await,
        };
        tokio::select! {
            Some(update) = jobs.next() => {
                if let Update::Absent(Some(last)) = &update {
                    // Deleted before anything else was heard of its completion.
                    seen.job.sight = Sight::Present(last.clone());
                    let last = verdict(&seen, &subject.wanted, &plan.limits, start.elapsed());
                    if matches!(last, Verdict::Open(_)) {
                        return finish(plan, &seen, last, &reader, logs, output).await;
                    }
                }
                apply(&mut seen.job, update, start.elapsed());
            }
            Some(update) = records.next() => apply(&mut seen.record, update, start.elapsed()),
            () = tokio::time::sleep_until(start + until) => {}
            () = logs.read() => {}
        }
    }
}

/// The logs of a Job that is sure to fail, read while it is still there.
#[derive(Default)]
struct Logs {
    /// Of the Job with this uid.
    uid: String,
    reading: Option<Pin<Box<dyn Future<Output = Kept>>>>,
    kept: Kept,
}

impl Logs {
    /// Begins to read, once for each Job.
    fn prepare(&mut self, reader: &LogReader, failing: Option<&str>) {
        if let Some(uid) = failing
            && uid != self.uid
        {
            *self = Self {
                uid: uid.to_owned(),
                reading: Some(Box::pin(reader.clone().keep(uid.to_owned()))),
                kept: Kept::default(),
            };
        }
    }

    /// Goes on reading; never ends while there is nothing to read.
    async fn read(&mut self) {
        match &mut self.reading {
            Some(reading) => self.kept = reading.await,
            None => std::future::pending().await,
        }
        self.reading = None;
    }

    /// What was read of that Job.
    async fn of(mut self, uid: &str) -> Kept {
        if uid != self.uid {
            return Kept::default();
        }
        if self.reading.is_some() {
            self.read().await;
        }
        self.kept
    }
}

fn apply<T>(source: &mut Source<T>, update: Update<T>, now: Duration) {
    match update {
        Update::Present(object) => source.sight = Sight::Present(object),
        Update::Absent(_) => source.is_absent(now),
        Update::Resumed => source.trouble = None,
        Update::Failed(error) => {
            let (kind, message, answered) = match error {
                WatchError::Denied(message) => (TroubleKind::Denied, message, true),
                WatchError::Failing(message) => (TroubleKind::Unreachable, message, true),
                WatchError::Unreachable(message) => (TroubleKind::Unreachable, message, false),
            };
            source.is_in_trouble(kind, message, answered, now);
        }
    }
}

/// What was said already, so that it is said once.
#[derive(Default)]
struct Told {
    waiting: Option<Waiting>,
    record: Vec<TroubleKind>,
    corrupt: Vec<String>,
}

impl Told {
    fn waiting(
        &mut self,
        plan: &Plan,
        seen: &Seen,
        waiting: Waiting,
        now: Duration,
        output: &Output,
    ) {
        if self.waiting.as_ref() == Some(&waiting) {
            return;
        }
        let moment = Moment {
            running: running(seen),
            remaining: plan.limits.timeout.saturating_sub(now),
            trouble: seen.job.trouble.clone(),
        };
        if let Some(line) = explain::line(&plan.subject, &waiting, &moment) {
            let level = match waiting.trouble {
                Some(_) => Level::Warn,
                None => Level::Info,
            };
            output.say(level, &line);
        }
        self.waiting = Some(waiting);
    }

    fn record(&mut self, plan: &Plan, seen: &Seen, output: &Output) {
        if let Some(trouble) = &seen.record.trouble
            && !self.record.contains(&trouble.kind)
            && let Some(problem) = match trouble.kind {
                TroubleKind::Denied => Some("not permitted to read the record"),
                // What was read before is good enough, and where the API server is away altogether,
                // the Job's line says so.
                TroubleKind::Unreachable => (seen.record.sight == Sight::Unknown
                    && seen.job.sight != Sight::Unknown
                    && seen.job.trouble.is_none())
                .then_some("cannot read the record yet"),
            }
        {
            self.record.push(trouble.kind);
            output.say(
                Level::Warn,
                &format!(
                    "{problem}, going on with the Job alone: {}",
                    trouble.message
                ),
            );
        }
        if let Sight::Present(record) = &seen.record.sight
            && !record.corrupt.keys().eq(&self.corrupt)
        {
            for (key, cause) in &record.corrupt {
                if !self.corrupt.contains(key) {
                    output.say(
                        Level::Warn,
                        &format!(
                            "ConfigMap {}: the entry {key} is corrupt and not obeyed: {cause}",
                            plan.record
                        ),
                    );
                }
            }
            self.corrupt = record.corrupt.keys().cloned().collect();
        }
    }
}

/// How long the Job has been at it, by the cluster's clock and ours.
fn running(seen: &Seen) -> Option<Duration> {
    let Sight::Present(job) = &seen.job.sight else {
        return None;
    };
    Some(
        Timestamp::now()
            .duration_since(job.started?)
            .try_into()
            .unwrap_or_default(),
    )
}

async fn finish(
    plan: &Plan,
    seen: &Seen,
    end: Verdict,
    reader: &LogReader,
    logs: Logs,
    output: &mut Output,
) -> Exit {
    let subject = &plan.subject;
    match end {
        Verdict::Open(why) => {
            output.say(Level::Info, &explain::opened(subject, &why));
            Exit::Success
        }
        Verdict::Failed {
            uid,
            reason,
            message,
            attempt,
        } => {
            output.say(
                Level::Error,
                &format!("Job {} has failed; its logs:", subject.job),
            );
            reader
                .print(subject, &uid, attempt, logs.of(&uid), output)
                .await;
            output.give_up(&explain::job_failed(subject, &reason, &message));
            Exit::JobFailed
        }
        Verdict::NotPermitted { message } => {
            let user = identity::user(&message);
            output.give_up(&explain::not_permitted(
                subject,
                &message,
                &user,
                plan.limits.denied,
            ));
            Exit::NotPermitted
        }
        Verdict::TimedOut(waiting) => {
            let refusal = seen.job.trouble.as_ref().map(|t| t.message.as_str());
            let user = identity::user(refusal.unwrap_or_default());
            let timeout = plan.limits.timeout;
            output.give_up(&explain::timed_out(subject, &waiting, seen, timeout, &user));
            Exit::TimedOut
        }
        // Never an end; if it were one, the pod must not start.
        Verdict::Wait { .. } => {
            output.give_up("cannot wait: the wait ended without a reason");
            Exit::Failure
        }
    }
}
