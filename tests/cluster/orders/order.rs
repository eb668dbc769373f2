//! One order: random steps for one gate, in a namespace of its own.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::RwLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use k8s_openapi::api::batch::v1::Job as ApiJob;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use serde_json::{Value, json};

use super::history::{Completion, History, Job, Phase};
use super::waiter::Waiter;
use super::watchers::Watchers;
use testkit::client::block_on;
use testkit::gate;
use testkit::poll::{Look, until};
use testkit::process;
use testkit::random::Random;
use testkit::scene::set_status;

/// Time limit for each wait on a busy machine, with all faults.
const PATIENCE: Duration = Duration::from_mins(2);
const TAGS: [&str; 3] = ["1", "2", "3"];
const MOVING: [&str; 1] = ["main"];

/// The state that all orders share.
pub(super) struct Shared<'a> {
    pub(super) client: kube::Client,
    pub(super) program: PathBuf,
    pub(super) kubeconfig: PathBuf,
    /// The kubeconfig for a proxy that is cut and held.
    pub(super) shaky: PathBuf,
    pub(super) config: PathBuf,
    pub(super) folder: &'a Path,
    pub(super) watchers: Watchers,
    /// Locked for writing while the API server restarts or a recorder is killed, and for reading
    /// during each step.
    pub(super) calm: RwLock<()>,
    pub(super) counts: &'a Counts,
}

/// Numbers of events, for the printed figures.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) steps: AtomicUsize,
    pub(super) waiters: AtomicUsize,
    pub(super) opened: AtomicUsize,
    pub(super) failed: AtomicUsize,
    pub(super) completions: AtomicUsize,
    pub(super) corrections: AtomicUsize,
    /// Waiters for a forgotten version whose completed Job still existed.
    pub(super) forgotten: AtomicUsize,
    /// Versions for which waiters still waited at the end, by the contract, and which were migrated
    /// then.
    pub(super) repaired: AtomicUsize,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        write!(
            f,
            "{} steps, {} Jobs completed, {} corrections of records, {} waiters, of which {} began with a completion that \
             was forgotten, {} opened and {} ended with a failed Job; {} versions were migrated at the end",
            of(&self.steps),
            of(&self.completions),
            of(&self.corrections),
            of(&self.waiters),
            of(&self.forgotten),
            of(&self.opened),
            of(&self.failed),
            of(&self.repaired),
        )
    }
}

fn count(counter: &AtomicUsize) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The settings of one order: its gate, and the names and tags of its Jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setting {
    number: usize,
    /// Whether each Job has a name of its own.
    generated: bool,
    /// Whether all images have the same moving tag.
    moves: bool,
}

impl Setting {
    pub(super) fn of(number: usize) -> Self {
        Self {
            number,
            generated: number % 2 == 1,
            moves: number % 4 >= 2,
        }
    }

    pub(super) fn gate(self) -> String {
        format!("g{}", self.number)
    }

    pub(super) fn namespace(self) -> String {
        format!("order-{}", self.number)
    }

    fn job(self) -> &'static str {
        if self.generated { "db-*" } else { "db-init" }
    }

    /// The gate's configuration.
    pub(super) fn config(self) -> Value {
        json!({
            "name": self.gate(), "namespace": self.namespace(), "job": self.job(),
            "deployments": ["web"], "serviceAccount": "waiter",
        })
    }

    fn tags(self) -> &'static [&'static str] {
        if self.moves { &MOVING } else { &TAGS }
    }
}

/// A step.
#[derive(Debug, Clone)]
enum Step {
    Waits(&'static str),
    Apply(&'static str, Phase),
    /// Deletes a Job and creates one at once, as `kubectl replace --force` does.
    Replace(String, &'static str),
    Runs(String),
    FailsAttempt(String),
    Fails(String),
    Completes(String),
    /// A Job completes, and is deleted at once by a client that has been waiting for its
    /// completion.
    CompletesAndGoes(String),
    Delete(String),
    MarkDeleted(String),
    LetGo(String),
    Forget(&'static str),
    Done(&'static str),
    Pause,
}

pub(super) struct Order<'a> {
    shared: &'a Shared<'a>,
    setting: Setting,
    random: Random,
    jobs: Api<ApiJob>,
    records: Api<ConfigMap>,
    history: History,
    waiters: Vec<Waiter>,
    started: usize,
    made: usize,
}

impl<'a> Order<'a> {
    pub(super) fn new(shared: &'a Shared<'a>, setting: Setting, random: &Random) -> Self {
        let namespace = setting.namespace();
        Self {
            jobs: Api::namespaced(shared.client.clone(), &namespace),
            records: Api::namespaced(shared.client.clone(), &namespace),
            history: History::new(setting.moves),
            waiters: Vec::new(),
            started: 0,
            made: 0,
            shared,
            setting,
            random: random.part(setting.number as u64),
        }
    }

    /// Runs from the first step until no waiter waits any more. An error lists all steps.
    pub(super) fn run(mut self) -> Result<()> {
        self.goes().with_context(|| {
            format!(
                "order {} ({:?}):\n{}",
                self.setting.number,
                self.setting,
                self.history.text()
            )
        })
    }

    fn goes(&mut self) -> Result<()> {
        let steps = self.random.within(8..24);
        for _ in 0..steps {
            let step = self.draws();
            {
                let _calm = self.shared.calm.read();
                self.does(step)?;
            }
            count(&self.shared.counts.steps);
            self.looks()?;
            if self.random.one_in(3) {
                // Let something else happen first.
                sleep(Duration::from_millis(self.random.number() % 60));
            }
        }
        self.comes_to_rest()
    }

    /// Draws one of the possible steps, by their weights.
    fn draws(&mut self) -> Step {
        let tags = self.setting.tags();
        let tag = *self.random.pick(tags);
        let mut steps = vec![Step::Pause];
        let mut may = |times: usize, step: Step| steps.extend(std::iter::repeat_n(step, times));
        if self.waiters.len() < 3 && self.started < 6 {
            may(5, Step::Waits(tag));
        }
        let state = &self.history.now;
        // Waiters for a forgotten version are most interesting at once.
        for job in state.jobs.iter().filter(|job| job.is_void()) {
            may(10, Step::Waits(job.tag));
        }
        if state.jobs.is_empty() || self.setting.generated && state.jobs.len() < 4 {
            may(5, Step::Apply(tag, Phase::NoPod));
            may(1, Step::Apply(tag, Phase::Empty));
        }
        for job in &state.jobs {
            let name = || job.name.clone();
            match job.phase {
                Phase::NoPod => may(8, Step::Runs(name())),
                Phase::Running => {
                    may(4, Step::Completes(name()));
                    may(4, Step::CompletesAndGoes(name()));
                    may(4, Step::FailsAttempt(name()));
                }
                Phase::Retrying => {
                    may(3, Step::Completes(name()));
                    may(5, Step::Fails(name()));
                }
                Phase::Failed | Phase::Complete | Phase::Empty => may(1, Step::Delete(name())),
            }
            if job.deleting {
                may(4, Step::LetGo(name()));
            } else {
                may(1, Step::Delete(name()));
                may(1, Step::MarkDeleted(name()));
            }
            if !self.setting.generated {
                may(
                    if job.is_over() { 4 } else { 1 },
                    Step::Replace(name(), tag),
                );
            }
        }
        if state.migrated.contains(tag) {
            // Forgetting is most interesting while the Job exists.
            let there = state.jobs.iter().any(|job| job.tag == tag && job.counts());
            may(if there { 6 } else { 2 }, Step::Forget(tag));
        } else if !self.setting.moves {
            may(1, Step::Done(tag));
        }
        self.random.pick(&steps).clone()
    }

    fn does(&mut self, step: Step) -> Result<()> {
        match step {
            Step::Waits(tag) => self.waits(tag),
            Step::Apply(tag, phase) => self.applies(tag, phase),
            Step::Replace(name, tag) => {
                self.deletes(&name)?;
                self.applies(tag, Phase::NoPod)
            }
            Step::Runs(name) => self.enters(&name, Phase::Running, &gate::running()),
            Step::FailsAttempt(name) => {
                let status = json!({"active": 0, "ready": 0, "failed": 1});
                self.enters(&name, Phase::Retrying, &status)
            }
            Step::Fails(name) => self.enters(&name, Phase::Failed, &gate::failed()),
            Step::Completes(name) => self.completes(&name),
            Step::CompletesAndGoes(name) => {
                self.completes(&name)?;
                self.deletes(&name)
            }
            Step::Delete(name) => self.deletes(&name),
            Step::MarkDeleted(name) => {
                let what = format!("{name} is to be deleted after its pods");
                let mark = |state: &mut super::history::OrderState| {
                    if let Some(job) = state.job(&name) {
                        job.deleting = true;
                    }
                };
                let jobs = self.jobs.clone();
                self.history.step(&what, mark, || {
                    block_on(jobs.delete(&name, &DeleteParams::foreground()))?;
                    Ok(())
                })
            }
            Step::LetGo(name) => self.lets_go(&name),
            Step::Forget(tag) => self.forgets(tag),
            Step::Done(tag) => {
                count(&self.shared.counts.corrections);
                self.history.done.insert(tag);
                let command = self.record("done", tag);
                let insert = |state: &mut super::history::OrderState| {
                    state.migrated.insert(tag);
                };
                self.history
                    .step(&format!("record done {tag}"), insert, || run(command))
            }
            Step::Pause => {
                sleep(Duration::from_millis(self.random.number() % 300));
                Ok(())
            }
        }
    }

    fn waits(&mut self, tag: &'static str) -> Result<()> {
        self.started += 1;
        count(&self.shared.counts.waiters);
        let number = self.started;
        let gate = format!("--gate={}", self.setting.gate());
        let namespace = format!("--namespace={}", self.setting.namespace());
        let job = format!("--job={}", self.setting.job());
        let mut jobs = self.history.now.jobs.iter();
        if jobs.any(|job| job.tag == tag && job.is_void()) {
            count(&self.shared.counts.forgotten);
        }
        let shaky = self.random.one_in(2);
        let kubeconfig = if shaky {
            &self.shared.shaky
        } else {
            &self.shared.kubeconfig
        };
        let output = format!("{}-{number}.log", self.setting.namespace());
        self.history.note(&format!(
            "waiter {number} for {tag}{}",
            if shaky {
                " over a shaky connection"
            } else {
                ""
            }
        ));
        self.waiters.push(Waiter::start(
            &self.shared.program,
            kubeconfig,
            self.shared.folder.join(output),
            tag,
            &[&gate, &namespace, &job],
        )?);
        Ok(())
    }

    fn applies(&mut self, tag: &'static str, phase: Phase) -> Result<()> {
        self.made += 1;
        // Later Jobs have later names, which order Jobs of the same second.
        let name = if self.setting.generated {
            format!("db-{:02}", self.made)
        } else {
            self.setting.job().to_owned()
        };
        let mut manifest = gate::manifest(&name, tag);
        if phase == Phase::Empty {
            manifest["spec"]["completions"] = json!(0);
        }
        let object: ApiJob = serde_json::from_value(manifest)?;
        let what = format!("{name} of {tag} is applied ({phase:?})");
        let first = if phase == Phase::Empty {
            phase
        } else {
            Phase::NoPod
        };
        let job = Job::new(name.clone(), tag, first);
        let jobs = self.jobs.clone();
        self.history.step(
            &what,
            |state| state.jobs.push(job),
            || {
                block_on(jobs.create(&PostParams::default(), &object))
                    .with_context(|| what.clone())?;
                if phase == Phase::Empty {
                    set_status(&jobs, &name, &gate::complete())?;
                }
                Ok(())
            },
        )
    }

    fn enters(&mut self, name: &str, phase: Phase, status: &Value) -> Result<()> {
        let jobs = self.jobs.clone();
        self.history.step(
            &format!("{name}: {phase:?}"),
            |state| {
                if let Some(job) = state.job(name) {
                    job.phase = phase;
                }
            },
            || set_status(&jobs, name, status),
        )
    }

    /// Completes a Job, with a time that is wrong by up to an hour.
    fn completes(&mut self, name: &str) -> Result<()> {
        count(&self.shared.counts.completions);
        let seen = self.shared.watchers.now();
        let uid = block_on(self.jobs.get(name))?
            .metadata
            .uid
            .context("a uid")?;
        let Some(tag) = self.history.now.job(name).map(|job| job.tag) else {
            bail!("there is no {name}");
        };
        let minute = self.random.within(61..180);
        let at = format!("2026-01-01T{:02}:{:02}:00Z", minute / 60, minute % 60);
        let mut status = gate::complete();
        status["completionTime"] = json!(at);
        let completion = Completion {
            tag,
            at,
            forgotten: false,
            gone: None,
            seen,
        };
        self.history.completions.insert(uid, completion);
        let jobs = self.jobs.clone();
        self.history.step(
            &format!("{name}: Complete"),
            |state| {
                state.migrated.insert(tag);
                if let Some(job) = state.job(name) {
                    job.phase = Phase::Complete;
                }
            },
            || set_status(&jobs, name, &status),
        )
    }

    /// Recorders that see the deletion of a Job also see its completion.
    fn goes_away(&mut self, name: &str) -> Result<()> {
        let uid = block_on(self.jobs.get(name))?
            .metadata
            .uid
            .context("a uid")?;
        if let Some(completion) = self.history.completions.get_mut(&uid) {
            completion.gone = Some(self.shared.watchers.now().and(&completion.seen));
        }
        Ok(())
    }

    fn deletes(&mut self, name: &str) -> Result<()> {
        if self.history.now.job(name).is_some_and(|job| job.deleting) {
            return self.lets_go(name);
        }
        self.goes_away(name)?;
        let jobs = self.jobs.clone();
        self.history.step(
            &format!("{name} is deleted"),
            |state| state.jobs.retain(|job| job.name != name),
            || {
                block_on(jobs.delete(name, &DeleteParams::background()))?;
                Ok(())
            },
        )
    }

    fn lets_go(&mut self, name: &str) -> Result<()> {
        self.goes_away(name)?;
        let jobs = self.jobs.clone();
        let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
        self.history.step(
            &format!("{name} is gone"),
            |state| state.jobs.retain(|job| job.name != name),
            || {
                block_on(jobs.patch(name, &PatchParams::default(), &patch))?;
                Ok(())
            },
        )
    }

    /// Forgets a version, when the record has all of its completions.
    fn forgets(&mut self, tag: &'static str) -> Result<()> {
        if self.may_be_lost().next().is_some() {
            return Ok(());
        }
        self.awaits_record()?;
        if self.hides_one(tag)? {
            return Ok(());
        }
        count(&self.shared.counts.corrections);
        let command = self.record("forget", tag);
        self.history.done.remove(tag);
        for completion in self.history.completions.values_mut() {
            completion.forgotten |= completion.tag == tag;
        }
        let what = format!("record forget {tag}");
        self.history
            .step(&what, |state| state.forget(tag), || run(command))
    }

    /// Whether a completed and deleted Job of the tag is not in the record, because that has a
    /// later completion, or one by hand. `forget` cannot know this Job, and a recorder that was cut
    /// off may see it afterwards.
    fn hides_one(&self, tag: &str) -> Result<bool> {
        let shown: Value = match self.data()?.get(tag) {
            Some(text) => serde_json::from_str(text)?,
            None => Value::Null,
        };
        let mut completions = self.history.completions.iter();
        Ok(completions.any(|(uid, completion)| {
            let counts = completion.tag == tag && !completion.forgotten;
            counts && completion.gone.is_some() && shown["uid"] != uid.as_str()
        }))
    }

    fn record(&self, verb: &str, tag: &str) -> Command {
        let mut command = Command::new(&self.shared.program);
        command
            .args(["record", verb, tag, "--yes", "--gate", &self.setting.gate()])
            .arg("--config")
            .arg(&self.shared.config)
            .env("KUBECONFIG", &self.shared.kubeconfig);
        command
    }

    /// The completions that may be lost: no recorder that saw them is still alive.
    fn may_be_lost(&self) -> impl Iterator<Item = &Completion> {
        let watchers = &self.shared.watchers;
        let completions = self.history.completions.values();
        completions.filter(|completion| {
            let gone = completion.gone.as_ref();
            !completion.forgotten && gone.is_some_and(|seen| !watchers.remember(seen))
        })
    }

    /// The completions of a tag that a living recorder has seen.
    fn owed(&self, tag: &str) -> impl Iterator<Item = &Completion> {
        let watchers = &self.shared.watchers;
        self.history.completions.values().filter(move |completion| {
            completion.tag == tag
                && !completion.forgotten
                && match &completion.gone {
                    Some(seen) => watchers.remember(seen),
                    None => watchers.watch(),
                }
        })
    }

    /// Waits until the record has everything that it must have, and nothing wrong.
    fn awaits_record(&self) -> Result<()> {
        until("the record to be right", PATIENCE, || {
            match self.data().and_then(|data| self.is_right(&data)) {
                Ok(()) => Look::Done(()),
                Err(error) => Look::Pending(format!("{error:#}")),
            }
        })
    }

    fn data(&self) -> Result<BTreeMap<String, String>> {
        let record = block_on(
            self.records
                .get_opt(&format!("migration-gate-{}", self.setting.gate())),
        )?;
        Ok(record.and_then(|record| record.data).unwrap_or_default())
    }

    fn is_right(&self, data: &BTreeMap<String, String>) -> Result<()> {
        for &tag in self.setting.tags() {
            let entry: Value = match data.get(tag) {
                Some(text) => serde_json::from_str(text)?,
                None => Value::Null,
            };
            let by_hand = self.history.done.contains(tag);
            ensure!(!by_hand || !entry.is_null(), "it lacks {tag}: {data:?}");
            // The record has the latest one.
            let has = |owed: &Completion| by_hand || entry["completed"].as_str() >= Some(&owed.at);
            ensure!(
                self.owed(tag).all(has),
                "it lacks a completion of {tag}: {data:?}"
            );
        }
        for (tag, text) in data.iter().filter(|(key, _)| *key != "-forgotten") {
            let entry: Value = serde_json::from_str(text)?;
            let uid = entry["uid"].as_str().unwrap_or_default();
            let completed = self.history.completions.get(uid);
            let right = match completed {
                Some(completion) => completion.tag == tag && !completion.forgotten,
                None => uid.is_empty() && self.history.done.contains(tag.as_str()),
            };
            ensure!(right, "it has {tag}: {text}");
        }
        Ok(())
    }

    /// Checks the waiters that have ended. Starts a waiter again if a pod would.
    fn looks(&mut self) -> Result<()> {
        let mut running = Vec::new();
        for waiter in std::mem::take(&mut self.waiters) {
            match waiter.end() {
                None => running.push(waiter),
                Some((at, code)) => self.ends(&waiter, at, code)?,
            }
        }
        self.waiters.append(&mut running);
        Ok(())
    }

    fn ends(&mut self, waiter: &Waiter, at: Instant, code: Option<i32>) -> Result<()> {
        let tag = waiter.tag;
        self.history
            .note(&format!("a waiter for {tag} has ended with {code:?}"));
        let counts = &self.shared.counts;
        count(if code == Some(0) {
            &counts.opened
        } else {
            &counts.failed
        });
        self.history
            .judge(tag, code, waiter.begun, at)
            .with_context(|| format!("it said:\n{}", waiter.lines()))?;
        // The waiter's output is no longer needed.
        fs::remove_file(&waiter.output)?;
        if code != Some(0) {
            self.waits(tag)?;
        }
        Ok(())
    }

    /// Ends all faults and steps. Waiters for migrated versions must open; then the other versions
    /// are migrated, too.
    fn comes_to_rest(&mut self) -> Result<()> {
        {
            // No recorder may be killed now, because its completions would no longer have to be
            // recorded.
            let _calm = self.shared.calm.read();
            self.awaits_record()?;
        }
        for &tag in self.setting.tags() {
            self.looks()?;
            if self.waiters.iter().any(|waiter| waiter.tag == tag) {
                let _calm = self.shared.calm.read();
                if !self.is_sure_to_open(tag)? {
                    count(&self.shared.counts.repaired);
                    self.migrates(tag)?;
                }
            }
            self.all_open(tag)?;
        }
        self.awaits_record()?;
        self.opens_by_the_record()
    }

    /// Whether the stored state opens the gate for this tag.
    fn is_sure_to_open(&self, tag: &'static str) -> Result<bool> {
        let (now, later) = (Instant::now(), Instant::now() + 2 * super::history::SETTLE);
        let state = &self.history.now;
        let there = state.jobs.iter().any(|job| job.tag == tag && job.counts());
        Ok(state.is_open(tag, self.setting.moves, now, later)
            && (there || self.data()?.contains_key(tag)))
    }

    /// Completes a Job of this tag, as an operator does to repair an upgrade.
    fn migrates(&mut self, tag: &'static str) -> Result<()> {
        let jobs = self.history.now.jobs.clone();
        for job in jobs {
            let is_it = job.tag == tag && !job.deleting && !job.is_over();
            if !is_it && (!self.setting.generated || job.tag == tag) {
                self.deletes(&job.name)?;
            }
        }
        let jobs = self.history.now.jobs.clone();
        let mut open = jobs
            .into_iter()
            .filter(|job| job.tag == tag)
            .collect::<Vec<_>>();
        if open.is_empty() {
            self.applies(tag, Phase::NoPod)?;
            open.extend(self.history.now.jobs.last().cloned());
        }
        for job in open {
            if job.phase == Phase::NoPod {
                self.enters(&job.name, Phase::Running, &gate::running())?;
            }
            self.completes(&job.name)?;
        }
        Ok(())
    }

    fn all_open(&mut self, tag: &'static str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while let Some(place) = self.waiters.iter().position(|waiter| waiter.tag == tag) {
            let waiter = self.waiters.swap_remove(place);
            let left = deadline.saturating_duration_since(Instant::now());
            let Some((at, code)) = waiter.end_within(left) else {
                bail!(
                    "a waiter for {tag} waits for ever; it said:\n{}",
                    waiter.lines()
                );
            };
            self.ends(&waiter, at, code)?;
        }
        Ok(())
    }

    /// Checks that a migrated version opens by the record after its Job is deleted.
    fn opens_by_the_record(&mut self) -> Result<()> {
        let tag = self.random.pick(self.setting.tags());
        {
            let _calm = self.shared.calm.read();
            for job in self.history.now.jobs.clone() {
                self.deletes(&job.name)?;
            }
            if !self.history.now.migrated.contains(tag) || !self.data()?.contains_key(*tag) {
                return Ok(());
            }
        }
        self.waits(tag)?;
        self.all_open(tag)
    }
}

fn run(mut command: Command) -> Result<()> {
    process::run(&mut command, "", PATIENCE)?.success()?;
    Ok(())
}
