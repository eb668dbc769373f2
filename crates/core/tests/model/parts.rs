//! The program's own functions, asked for the model's small values. Every question is asked once.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::Hash;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use migration_gate_core::gates::Gate;
use migration_gate_core::image::Relation;
use migration_gate_core::job;
use migration_gate_core::record::{
    Entry, HISTORY, Record, RecordPatch, Recorded, Write, forget, next_write,
};
use migration_gate_core::verdict::{End, Jobs, Limits, Now, Seen, Verdict, verdict};
use migration_gate_core::version::{Contents, Wanted};
use serde_json::{Value, json};

use crate::world::{JobEvent, JobPhase, ModelJob, WorldState};

/// What is searched.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub naming: Naming,
    pub tags: Tags,
    pub fault: Option<Omission>,
    /// How many Jobs are created.
    pub jobs: u8,
    /// How many of them are suspended, or to run nothing.
    pub odd: u8,
    /// How often time goes on by [`TICK`].
    pub ticks: u8,
    /// How many pods start to wait.
    pub pods: u8,
    /// How many orders operators give.
    pub orders: u8,
    /// How often the API server is away.
    pub outages: u8,
    /// How often the recorder is restarted.
    pub crashes: u8,
}

/// How Jobs are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Naming {
    /// All alike.
    Named,
    /// Each by another name.
    Generated,
}

/// What tells versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tags {
    /// The tag, of two images.
    Fixed,
    /// The digest, under one tag.
    Digest,
    /// The tag of the second container; the first is a proxy.
    Proxy,
    /// A label.
    Label,
    /// Nothing: all are `main`.
    Moving,
}

/// A rule that is taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Omission {
    TagsNeverMove,
    DigestsDontCount,
    FirstContainer,
    RecordIsDeleted,
    NothingDoneByHand,
    RecordUnread,
    ListsAfterOutage,
    LastStateIgnored,
    AttemptsDontHold,
    EmptyCounts,
    DeletedCounts,
    NeverSettles,
    NeverStays,
}

/// What one step of time is.
const TICK: Duration = Duration::from_secs(6);

/// What the waiter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaiterAnswer {
    Open,
    Failed,
    Wait,
}

/// What a waiter hears of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Heard {
    Jobs(Vec<ModelJob>),
    Event(JobEvent),
    Record(Map),
    Restarted,
}

/// A state of the record's ConfigMap.
pub type Map = u32;

/// A state of what a waiter has seen.
pub type Sight = u32;

/// Values that are called by numbers.
struct Numbered<K, V> {
    numbers: HashMap<K, u32>,
    values: Vec<V>,
}

impl<K: Hash + Eq, V> Numbered<K, V> {
    fn new() -> Self {
        Self {
            numbers: HashMap::new(),
            values: Vec::new(),
        }
    }

    fn number(&mut self, key: K, value: V) -> u32 {
        let next = u32::try_from(self.values.len()).unwrap();
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.values.push(value);
        }
        number
    }

    fn value(&self, number: u32) -> &V {
        &self.values[number as usize]
    }
}

type Data = Option<BTreeMap<String, String>>;

/// A write, and what is still to be written afterwards.
type Writing = (Option<Write>, Vec<ModelJob>);

pub struct Parts {
    pub setting: Setting,
    gate: Gate,
    sights: Numbered<String, Seen>,
    maps: Numbered<Data, (Data, Option<Record>)>,
    wanted: HashMap<u8, Wanted>,
    entries: HashMap<ModelJob, Option<Entry>>,
    recorded: HashMap<(Map, u8), bool>,
    heard: HashMap<(Sight, u8, Heard), Sight>,
    answers: HashMap<(Sight, u8, u8, u8), WaiterAnswer>,
    /// What has come to rest already.
    pub rests: HashSet<WorldState>,
    writes: HashMap<(Map, Vec<ModelJob>), Writing>,
}

impl Parts {
    pub fn new(setting: Setting) -> Self {
        let mut gate = json!({
            "name": "g", "namespace": "n", "serviceAccount": "s",
            "job": match setting.naming {
                Naming::Named => "migrate",
                Naming::Generated => "migrate-*",
            },
        });
        if setting.tags == Tags::Label {
            gate["version"] = json!({"label": "v"});
        }
        let fixed = [Omission::TagsNeverMove, Omission::DigestsDontCount];
        if setting.fault.is_some_and(|fault| fixed.contains(&fault)) {
            gate["movingTags"] = json!([]);
        }
        Self {
            setting,
            gate: serde_json::from_value(gate).unwrap(),
            sights: Numbered::new(),
            maps: Numbered::new(),
            wanted: HashMap::new(),
            entries: HashMap::new(),
            recorded: HashMap::new(),
            heard: HashMap::new(),
            answers: HashMap::new(),
            rests: HashSet::new(),
            writes: HashMap::new(),
        }
    }

    fn has(&self, fault: Omission) -> bool {
        self.setting.fault == Some(fault)
    }

    /// The pod template of a build, of the application or of its Job.
    fn template(&self, build: u8, application: bool) -> Value {
        let own = match self.setting.tags {
            Tags::Fixed if application => format!("web:{build}"),
            Tags::Fixed => format!("job:{build}"),
            Tags::Digest if self.has(Omission::DigestsDontCount) => "shop:main".to_owned(),
            Tags::Digest => format!("shop:main@sha256:{build}"),
            Tags::Proxy => format!("shop:{build}"),
            Tags::Label | Tags::Moving => "shop:main".to_owned(),
        };
        let mut containers = vec![json!({"name": "own", "image": own})];
        if self.setting.tags == Tags::Proxy {
            containers.insert(0, json!({"name": "proxy", "image": "proxy:8"}));
        }
        if self.has(Omission::FirstContainer) {
            containers.truncate(1);
        }
        json!({
            "metadata": {"labels": {"v": build.to_string()}},
            "spec": {"containers": containers},
        })
    }

    fn wanted(&mut self, build: u8) -> &Wanted {
        if !self.wanted.contains_key(&build) {
            let wanted = Wanted::of(&self.gate, &self.template(build, true)).unwrap();
            self.wanted.insert(build, wanted);
        }
        &self.wanted[&build]
    }

    fn job(&self, job: ModelJob) -> job::Job {
        let name = match self.setting.naming {
            Naming::Named => "migrate".to_owned(),
            Naming::Generated => format!("migrate-{}", job.uid),
        };
        let conditions = |kind: &str| json!([{"type": kind, "status": "True"}]);
        let mut status = match job.phase {
            JobPhase::Suspended | JobPhase::NoPod => json!({}),
            JobPhase::Running => json!({"active": 1, "ready": 1}),
            JobPhase::Retrying => json!({"active": 1, "ready": 1, "failed": 1}),
            JobPhase::Failed => json!({"failed": 2, "conditions": conditions("Failed")}),
            JobPhase::Complete | JobPhase::Empty => {
                json!({"completionTime": time(job.completed), "conditions": conditions("Complete")})
            }
        };
        if self.has(Omission::AttemptsDontHold) {
            status["failed"] = json!(1);
        }
        let empty = job.phase == JobPhase::Empty && !self.has(Omission::EmptyCounts);
        let deleting = job.deleting && !self.has(Omission::DeletedCounts);
        serde_json::from_value(json!({
            "metadata": {
                "name": name,
                "uid": format!("u{}", job.uid),
                "creationTimestamp": clock(job.made),
                "deletionTimestamp": deleting.then(|| time(0)),
            },
            "spec": {
                "suspend": job.phase == JobPhase::Suspended,
                "completions": i32::from(!empty),
                "template": self.template(job.build, false),
            },
            "status": status,
        }))
        .unwrap()
    }

    /// What the recorder makes of a Job.
    fn entry(&mut self, job: ModelJob) -> Option<&Entry> {
        if !self.entries.contains_key(&job) {
            let source = self.gate.version.as_ref();
            let entry = Entry::of(&self.job(job), source, time(job.completed));
            self.entries.insert(job, entry);
        }
        self.entries[&job].as_ref()
    }

    /// Whether the recorder has something to record of a Job.
    pub fn completes(&mut self, job: ModelJob) -> bool {
        self.entry(job).is_some()
    }

    /// A waiter that has just been started.
    pub fn unseen(&mut self) -> Sight {
        let jobs = self.gate.requirements().into_iter().map(Jobs::new);
        let seen = Seen {
            jobs: jobs.collect(),
            ..Seen::default()
        };
        self.sights.number(format!("{seen:?}"), seen)
    }

    /// What a waiter knows after it has heard of something, so many ticks after its start.
    pub fn hears(&mut self, sight: Sight, elapsed: u8, heard: Heard) -> Sight {
        let question = (sight, elapsed, heard);
        if let Some(known) = self.heard.get(&question) {
            return *known;
        }
        let mut seen = self.sights.value(sight).clone();
        let now = TICK * u32::from(elapsed);
        match &question.2 {
            Heard::Jobs(jobs) => {
                let jobs = jobs.iter().map(|job| self.job(*job)).collect();
                seen.jobs[0].listed(0, jobs, now);
            }
            Heard::Event(JobEvent::Changed(job)) => seen.jobs[0].changed(self.job(*job), now),
            Heard::Event(JobEvent::Deleted(job)) => seen.jobs[0].deleted(self.job(*job), now),
            Heard::Record(map) => {
                seen.record.watch.answers(now);
                seen.record.record = self.record(*map).cloned();
            }
            Heard::Restarted => seen.restarted = !self.has(Omission::NeverStays),
        }
        let known = self.sights.number(format!("{seen:?}"), seen);
        self.heard.insert(question, known);
        known
    }

    /// What a waiter of a pod of that build does, so many ticks after its start at that time.
    pub fn answer(&mut self, sight: Sight, build: u8, elapsed: u8, ticks: u8) -> WaiterAnswer {
        let question = (sight, build, elapsed, ticks);
        if let Some(known) = self.answers.get(&question) {
            return *known;
        }
        let mut seen = self.sights.value(sight).clone();
        if self.has(Omission::RecordUnread) {
            seen.record.watch.answers(Duration::ZERO);
        }
        let limits = Limits {
            timeout: Duration::from_mins(10),
            denied: Duration::from_secs(30),
            settle: if self.has(Omission::NeverSettles) {
                Duration::ZERO
            } else {
                Duration::from_secs(5)
            },
            no_pod: Duration::from_secs(10),
        };
        let now = Now {
            elapsed: TICK * u32::from(elapsed),
            clock: clock(ticks),
        };
        let answer = match verdict(&seen, self.wanted(build), &limits, now) {
            Verdict::Wait { .. } => WaiterAnswer::Wait,
            Verdict::End(End::Open(_)) => WaiterAnswer::Open,
            Verdict::End(End::Failed(_)) => WaiterAnswer::Failed,
            Verdict::End(end) => panic!("there is no reason for {end:?}"),
        };
        self.answers.insert(question, answer);
        answer
    }

    fn map(&mut self, data: Data) -> Map {
        let next = self.maps.values.len();
        let record = data.as_ref().map(|data| {
            serde_json::from_value(json!({
                "metadata": {"resourceVersion": next.to_string()},
                "data": data,
            }))
            .unwrap()
        });
        self.maps.number(data.clone(), (data, record))
    }

    /// No ConfigMap.
    pub fn no_map(&mut self) -> Map {
        self.map(None)
    }

    fn record(&self, map: Map) -> Option<&Record> {
        self.maps.value(map).1.as_ref()
    }

    /// Whether the record speaks for a build.
    pub fn records(&mut self, map: Map, build: u8) -> bool {
        if let Some(known) = self.recorded.get(&(map, build)) {
            return *known;
        }
        let wanted = self.wanted(build).clone();
        let requirement = &self.gate.requirements()[0];
        let recorded = self.record(map).is_some_and(|record| {
            let found = record.find(&wanted, requirement, false);
            found.is_some_and(|(_, relation)| relation != Relation::Different)
        });
        self.recorded.insert((map, build), recorded);
        recorded
    }

    /// Whether the record has an entry of a Job, or has forgotten it.
    pub fn knows(&self, map: Map, job: ModelJob) -> bool {
        let uid = format!("u{}", job.uid);
        self.record(map).is_some_and(|record| {
            record.has_forgotten(&uid) || record.entries.values().any(|entry| entry.uid == uid)
        })
    }

    /// Whether a recorder has something to remove.
    pub fn is_corrupt(&self, map: Map) -> bool {
        self.record(map)
            .is_some_and(|record| !record.corrupt.is_empty())
    }

    pub fn has_forgotten(&self, map: Map, job: ModelJob) -> bool {
        let uid = format!("u{}", job.uid);
        self.record(map)
            .is_some_and(|record| record.has_forgotten(&uid))
    }

    /// What a recorder writes that sees the record so, and what it still has to write afterwards.
    pub fn write(&mut self, view: Map, completed: &[ModelJob]) -> Writing {
        let question = (view, completed.to_vec());
        if let Some(known) = self.writes.get(&question) {
            return known.clone();
        }
        let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
        for job in completed {
            let Some(entry) = self.entry(*job).cloned() else {
                continue;
            };
            let key = entry.key();
            if entries
                .get(&key)
                .is_none_or(|known| known.completed < entry.completed)
            {
                entries.insert(key, entry);
            }
        }
        let write = next_write(self.record(view), &mut entries, HISTORY);
        let left = |job: &ModelJob| {
            let uid = format!("u{}", job.uid);
            entries.values().any(|entry| entry.uid == uid)
        };
        let writing: Writing = (write, completed.iter().copied().filter(left).collect());
        self.writes.insert(question, writing.clone());
        writing
    }

    /// The ConfigMap after a write; `None` if the API server refuses it.
    pub fn written(&mut self, map: Map, write: &Write) -> Option<Map> {
        let (data, record) = self.maps.value(map);
        let now = record
            .as_ref()
            .map(|record| record.resource_version.clone());
        match (write, data.clone()) {
            (Write::Create(data), None) => {
                let data = data.clone();
                Some(self.map(Some(data)))
            }
            (Write::Patch(patch), Some(data)) => {
                let mut object = json!({ "data": data });
                let mut body = patch.body();
                let version = body["metadata"]["resourceVersion"].take();
                if version
                    .as_str()
                    .is_some_and(|version| Some(version) != now.as_deref())
                {
                    return None;
                }
                body["binaryData"] = Value::Null;
                json_patch::merge(&mut object, &body);
                let data = serde_json::from_value(object["data"].take()).unwrap();
                Some(self.map(Some(data)))
            }
            _ => None,
        }
    }

    /// `record forget --all`, while these Jobs are there.
    pub fn forget(&mut self, map: Map, jobs: &[ModelJob]) -> Map {
        if self.has(Omission::RecordIsDeleted) {
            return self.no_map();
        }
        let complete = jobs.iter().filter(|job| self.completes(**job));
        let uids = complete.map(|job| format!("u{}", job.uid)).collect();
        let record = self.record(map);
        let keys: BTreeSet<String> = record
            .map(|record| record.entries.keys().cloned().collect())
            .unwrap_or_default();
        match forget(record, &keys, &uids, &uids).unwrap() {
            Some(write) => self.written(map, &write).unwrap(),
            None => map,
        }
    }

    /// `record done` of a build.
    pub fn done(&mut self, map: Map, build: u8, now: u8) -> Map {
        if self.has(Omission::NothingDoneByHand) {
            return map;
        }
        let template = self.template(build, true);
        let version = match self.wanted(build).word() {
            Some(word) => Recorded::Word(word.to_owned()),
            None => Recorded::Contents(Contents::of(&Value::Null, &template)),
        };
        let entry = Entry {
            version,
            job: String::new(),
            uid: String::new(),
            completed: time(now),
            took: None,
            requirement: None,
        };
        let data = [(entry.key(), entry.to_value())].into();
        let write = match self.record(map) {
            Some(_) => Write::Patch(RecordPatch::Put(data)),
            None => Write::Create(data),
        };
        self.written(map, &write).unwrap()
    }
}

/// When the n-th thing happened.
fn time(second: u8) -> Timestamp {
    Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second.into())
}

/// What the clock says.
fn clock(ticks: u8) -> Timestamp {
    let start = Timestamp::UNIX_EPOCH + SignedDuration::from_hours(1);
    start + TICK * u32::from(ticks)
}
