//! The waiter's loop.

use std::pin::{Pin, pin};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::{BoxStream, SelectAll};
use jiff::Timestamp;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::args::Plan;
use super::identity;
use super::logs::{Kept, LogReader};
use super::output::{Output, Severity};
use super::own_pod::was_restarted;
use super::told::Told;
use crate::api::observe::{Delta, Pacing, list_jobs, observe, observe_jobs};
use crate::api::seen::{take_in, take_in_record};
use crate::api::{ApiError, Objects, TIMEOUT};
use crate::cli::{self, Exit};
use migration_gate_core::explain;
use migration_gate_core::gates::Requirement;
use migration_gate_core::job::Job;
use migration_gate_core::record::Record;
use migration_gate_core::verdict::{
    End, Failure, Jobs, Now, Seen, Verdict, Waiting, What, opens_by_silence, verdict,
};

/// Waits until the gate opens or the wait fails. SIGINT and SIGTERM end it at once.
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
    // A DNS lookup may hang in a blocking thread. Do not wait for it.
    runtime.shutdown_background();
    exit
}

/// Installs the signal handlers now, before the future is polled. Process 1 of a container ignores
/// a signal without a handler.
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

/// The pause after a list of the Jobs that failed.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// How much longer than the wait its watches may last, so that the wait ends before them.
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
    let objects = Objects::jobs(&client, &subject.namespace);
    let mut jobs = job_watches(&plan.jobs, &objects, pacing);
    let records = Objects::config_maps(&client, &subject.namespace);
    let mut records = pin!(observe::<Record>(records, &plan.record, pacing));
    let mut wait = Wait {
        plan,
        seen: Seen {
            jobs: plan.jobs.iter().cloned().map(Jobs::new).collect(),
            ..Seen::default()
        },
        told: Told::default(),
        reader: LogReader::new(&client, &subject.namespace, plan.log_timeout),
        logs: Logs::default(),
    };
    let mut restart_is_known = false;
    let mut confirmed = false;
    loop {
        let now = start.elapsed();
        let until = match wait.verdict(now) {
            Verdict::Wait { waiting, until } => {
                wait.says(waiting, now, output).await;
                until
            }
            Verdict::End(End::Failed(_) | End::NotPermitted { .. }) if !restart_is_known => {
                restart_is_known = true;
                wait.seen.restarted = was_restarted(&client, &subject.namespace).await;
                continue;
            }
            Verdict::End(End::Open(_)) if !confirmed && wait.opens_by_silence(now) => {
                confirmed = wait.looks_again(&objects, start).await;
                wait.seen.unconfirmed = !confirmed;
                continue;
            }
            Verdict::End(end) => return wait.finish(end, output).await,
        };
        confirmed = false;
        tokio::select! {
            Some((requirement, alternative, delta)) = jobs.next() => {
                let jobs = &mut wait.seen.jobs[requirement];
                take_in(jobs, alternative, delta, start.elapsed());
            }
            Some(update) = records.next() => {
                take_in_record(&mut wait.seen.record, update, start.elapsed());
            }
            () = tokio::time::sleep_until(start + until) => {}
            () = tokio::time::sleep(LOOK_AGAIN), if wait.seen.unconfirmed => {
                wait.seen.unconfirmed = false;
            }
            () = wait.logs.read() => {}
        }
    }
}

/// A watch for each alternative of each requirement. Each event has both indices.
fn job_watches(
    requirements: &[Requirement],
    objects: &Objects,
    pacing: Pacing,
) -> SelectAll<BoxStream<'static, (usize, usize, Delta<Job>)>> {
    let mut watches = SelectAll::new();
    for (i, requirement) in requirements.iter().enumerate() {
        for (j, source) in requirement.any_of.iter().enumerate() {
            let deltas = observe_jobs(objects.clone(), source, pacing);
            watches.push(deltas.map(move |delta| (i, j, delta)).boxed());
        }
    }
    watches
}

/// The logs of a Job that is sure to fail, read while its pods exist.
#[derive(Default)]
struct Logs {
    /// The uid of the Job whose logs are read.
    uid: String,
    /// The uid of the Job whose logs were printed.
    shown: String,
    reading: Option<Pin<Box<dyn Future<Output = Kept>>>>,
    kept: Kept,
}

impl Logs {
    /// Starts to read the logs of `failing`, once for each Job.
    fn prepare(&mut self, reader: &LogReader, failing: Option<&str>) {
        if let Some(uid) = failing
            && uid != self.uid
        {
            *self = Self {
                uid: uid.to_owned(),
                shown: std::mem::take(&mut self.shown),
                reading: Some(Box::pin(reader.clone().keep(uid.to_owned()))),
                kept: Kept::default(),
            };
        }
    }

    /// Goes on reading. Never resolves while there is nothing to read.
    async fn read(&mut self) {
        match &mut self.reading {
            Some(reading) => self.kept = reading.await,
            None => std::future::pending().await,
        }
        self.reading = None;
    }

    /// The kept logs of the Job with this uid. Finishes reading them first.
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

fn at(elapsed: Duration) -> Now {
    Now {
        elapsed,
        clock: Timestamp::now(),
    }
}

/// A wait in progress.
struct Wait<'p> {
    plan: &'p Plan,
    seen: Seen,
    told: Told,
    reader: LogReader,
    logs: Logs,
}

impl Wait<'_> {
    fn verdict(&self, elapsed: Duration) -> Verdict {
        let plan = self.plan;
        verdict(&self.seen, &plan.subject.wanted, &plan.limits, at(elapsed))
    }

    fn opens_by_silence(&self, elapsed: Duration) -> bool {
        let plan = self.plan;
        opens_by_silence(&self.seen, &plan.subject.wanted, &plan.limits, at(elapsed))
    }

    /// Lists the Jobs again. Returns whether the API server has answered.
    async fn looks_again(&mut self, objects: &Objects, start: Instant) -> bool {
        let left = self.plan.limits.timeout.saturating_sub(start.elapsed());
        let look = async {
            for (requirement, jobs) in self.plan.jobs.iter().zip(&mut self.seen.jobs) {
                for (alternative, source) in requirement.any_of.iter().enumerate() {
                    let listed = list_jobs(objects, source).await?;
                    jobs.listed(alternative, listed, start.elapsed());
                }
            }
            Ok::<_, ApiError>(())
        };
        let patience = left.clamp(LOOK_AGAIN, TIMEOUT);
        matches!(tokio::time::timeout(patience, look).await, Ok(Ok(())))
    }

    async fn says(&mut self, waiting: Vec<Waiting>, now: Duration, output: &mut Output) {
        for waiting in &waiting {
            if let What::Failed { failure } = &waiting.what {
                self.shows_logs(failure, output).await;
            }
        }
        self.told
            .waiting(self.plan, &self.seen, waiting, now, output);
        self.told.record(self.plan, &self.seen, output);
        let failing = self.seen.about_to_fail(&self.plan.subject.wanted);
        self.logs.prepare(&self.reader, failing);
    }

    /// Prints a failed Job's logs, once.
    async fn shows_logs(&mut self, failure: &Failure, output: &mut Output) {
        if self.logs.shown == failure.uid {
            return;
        }
        let logs = std::mem::take(&mut self.logs);
        let heading = format!("Job {} has failed; its logs:", failure.job);
        output.say(Severity::Error, &heading);
        self.reader
            .print(failure, logs.of(&failure.uid), output)
            .await;
        self.logs.shown.clone_from(&failure.uid);
    }

    async fn finish(&mut self, end: End, output: &mut Output) -> Exit {
        let subject = &self.plan.subject;
        match end {
            End::Open(whys) => {
                for why in whys {
                    output.say(Severity::Info, &explain::opened(&why));
                }
                Exit::Success
            }
            End::Failed(failure) => {
                self.shows_logs(&failure, output).await;
                output.give_up(&explain::job_failed(subject, &failure));
                Exit::JobFailed
            }
            End::NotPermitted {
                subject: job,
                message,
            } => {
                let user = identity::user(&message);
                let tolerated = self.plan.limits.denied;
                let reason = explain::not_permitted(subject, &job, &message, &user, tolerated);
                output.give_up(&reason);
                Exit::NotPermitted
            }
            End::TimedOut(waiting) => {
                let mut troubles = self.seen.jobs.iter().filter_map(Jobs::trouble);
                let refusal = troubles.next().map(|trouble| trouble.message.as_str());
                let user = identity::user(refusal.unwrap_or_default());
                let timeout = self.plan.limits.timeout;
                let reason = explain::timed_out(subject, &waiting, &self.seen, timeout, &user);
                output.give_up(&reason);
                Exit::TimedOut
            }
        }
    }
}
