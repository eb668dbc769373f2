//! The waiter's loop.

use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use jiff::Timestamp;
use kube::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

use super::output::{Level, Output};
use super::{Exit, Plan, identity, logs};
use crate::cluster;
use crate::core::explain::{self, Moment};
use crate::core::job::Job;
use crate::core::record::Record;
use crate::core::verdict::{Seen, Sight, Source, Trouble, TroubleKind, Verdict, Waiting, verdict};
use crate::observe::{self, Pacing, Target, Update, observe};

/// Waits, and stops at once at a signal.
pub(super) fn to_the_end(plan: &Plan, output: &mut Output) -> Exit {
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            output.give_up(&format!("cannot start: {error}"));
            return Exit::Internal;
        }
    };
    let exit = runtime.block_on(async {
        let stopped = match stopped() {
            Ok(stopped) => stopped,
            Err(error) => {
                output.give_up(&format!("cannot listen for signals: {error}"));
                return Exit::Internal;
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

async fn wait(plan: &Plan, output: &mut Output) -> Exit {
    let start = Instant::now();
    let client = match cluster::config().await.and_then(cluster::client) {
        Ok(client) => client,
        Err(error) => {
            output.give_up(&format!("cannot wait: {}", observe::chain(&error)));
            return Exit::Internal;
        }
    };
    let subject = &plan.subject;
    let pacing = Pacing::default();
    let job = Target::job(&subject.namespace, &subject.job);
    let record = Target::config_map(&subject.namespace, &plan.record);
    let mut jobs = pin!(observe::<Job>(client.clone(), job, pacing));
    let mut records = pin!(observe::<Record>(client.clone(), record, pacing));
    let mut seen = Seen::default();
    let mut told = Told::default();
    loop {
        let now = start.elapsed();
        let until = match verdict(&seen, &subject.wanted, &plan.limits, now) {
            Verdict::Wait { waiting, until } => {
                told.waiting(plan, &seen, waiting, now, output);
                told.record(plan, &seen, output);
                until
            }
            end => return finish(plan, &seen, end, &client, output).await,
        };
        tokio::select! {
            Some(update) = jobs.next() => {
                if let Update::Absent(Some(last)) = &update {
                    // Deleted before anything else was heard of its completion.
                    seen.job.sight = Sight::Present(last.clone());
                    let last = verdict(&seen, &subject.wanted, &plan.limits, start.elapsed());
                    if matches!(last, Verdict::Open(_)) {
                        return finish(plan, &seen, last, &client, output).await;
                    }
                }
                apply(&mut seen.job, update, start.elapsed());
            }
            Some(update) = records.next() => apply(&mut seen.record, update, start.elapsed()),
            () = tokio::time::sleep_until(start + until) => {}
        }
    }
}

fn apply<T>(source: &mut Source<T>, update: Update<T>, now: Duration) {
    match update {
        Update::Present(object) => source.sight = Sight::Present(object),
        Update::Absent(_) => {
            let vanished = match source.sight {
                Sight::Unknown => None,
                Sight::Present(_) => Some(now),
                Sight::Absent { vanished } => vanished,
            };
            source.sight = Sight::Absent { vanished };
        }
        Update::Resumed => source.trouble = None,
        Update::Trouble(trouble) => {
            let (kind, message) = match trouble {
                observe::Trouble::Denied(message) => (TroubleKind::Denied, message),
                observe::Trouble::Unreachable(message) => (TroubleKind::Unreachable, message),
            };
            let since = source
                .trouble
                .take()
                .filter(|before| before.kind == kind)
                .map_or(now, |before| before.since);
            source.trouble = Some(Trouble {
                since,
                kind,
                message,
            });
        }
    }
}

/// What was said already, so that it is said once.
#[derive(Default)]
struct Told {
    waiting: Option<Waiting>,
    record_denied: bool,
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
            trouble: job_trouble(seen),
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
            && trouble.kind == TroubleKind::Denied
            && !std::mem::replace(&mut self.record_denied, true)
        {
            output.say(
                Level::Warn,
                &format!(
                    "not permitted to read the record, going on with the Job alone: {}",
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

fn job_trouble(seen: &Seen) -> Option<String> {
    seen.job
        .trouble
        .as_ref()
        .map(|trouble| trouble.message.clone())
}

async fn finish(
    plan: &Plan,
    seen: &Seen,
    end: Verdict,
    client: &Client,
    output: &mut Output,
) -> Exit {
    let subject = &plan.subject;
    match end {
        Verdict::Open(why) => {
            output.say(Level::Info, &explain::opened(subject, &why));
            Exit::Open
        }
        Verdict::Failed {
            uid,
            reason,
            message,
        } => {
            output.say(
                Level::Error,
                &format!("Job {} has failed; its logs:", subject.job),
            );
            logs::print(client, subject, &uid, output).await;
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
            let trouble = job_trouble(seen);
            output.give_up(&explain::timed_out(
                subject,
                &waiting,
                trouble.as_deref(),
                plan.limits.timeout,
            ));
            Exit::TimedOut
        }
        // Never an end; if it were one, the pod must not start.
        Verdict::Wait { .. } => Exit::Internal,
    }
}
