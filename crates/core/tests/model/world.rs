//! The world that a gate is in, and what can happen there.

use crate::parts::{Answer, Fault, Heard, Map, Naming, Parts, Sight, Tags};

/// A Job as the API server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Job {
    /// Counts the Jobs.
    pub uid: u8,
    pub build: u8,
    pub phase: Phase,
    pub deleting: bool,
    /// In which tick it was created.
    pub made: u8,
    /// As the how manieth it completed.
    pub completed: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Phase {
    Suspended,
    NoPod,
    Running,
    /// After an attempt has failed.
    Retrying,
    Complete,
    /// Complete, and was to run nothing.
    Empty,
    Failed,
}

/// What watches tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    Changed(Job),
    Deleted(Job),
}

/// One of the writers of the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Recorder {
    cut: bool,
    /// What it will hear of once it isn't cut off any more.
    queue: Vec<Event>,
    /// What it has to record.
    completed: Vec<Job>,
    /// The record as it last saw it.
    view: Map,
}

/// A pod whose waiter waits.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each comes and goes by itself"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Pod {
    build: u8,
    started: u8,
    sight: Sight,
    listed: bool,
    read: bool,
    cut_from_jobs: bool,
    cut_from_record: bool,
    queue: Vec<Event>,
    restarted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    ticks: u8,
    made: u8,
    completions: u8,
    pods: u8,
    orders: u8,
    outages: u8,
    crashes: u8,
    /// How many Jobs may be suspended, or run nothing.
    odd: u8,
    jobs: Vec<Job>,
    /// The last Job of each build.
    newest: [u8; 5],
    /// The build whose images the tag names, where it moves.
    pushed: u8,
    /// An applier is about to replace a Job by one of the next build.
    replacing: bool,
    /// The builds whose migration the database has.
    migrated: u8,
    /// The builds whose completion has been seen, so that none of their pods may wait for ever.
    owed: u8,
    map: Map,
    recorder: Recorder,
    pod: Option<Pod>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Somebody applies a Job of a build, in that phase; its completions are none if that is `Empty`.
    Apply(u8, Phase),
    /// Somebody replaces a Job under a tag that moves: it goes now, or waits for what it owns.
    Replace(bool),
    Unsuspend(u8),
    StartsPod(u8),
    FailsAttempt(u8),
    Fails(u8),
    Completes(u8),
    /// It completes and is gone before anybody sees it.
    CompletesAndGoes(u8),
    Delete(u8),
    MarkDeleted(u8),
    TimeGoesOn,
    /// What happens meanwhile is heard of afterwards.
    ServerIsAway,
    /// A pod of a build starts to wait.
    PodWaits(u8),
    PodLists,
    PodReads,

    PodHearsOfJobs,
    /// The version that it saw last is too old to go on from.
    PodListsAnew,
    PodHearsOfRecord,

    RecorderHears,
    RecorderListsAnew,
    RecorderReads,
    RecorderWrites,
    RecorderStartsAnew,
    /// The database was restored.
    Forget,
    Done(u8),
}

/// Where the tag moves, each Job has a build of its own.
const BUILDS: [u8; 2] = [1, 2];

fn bit(build: u8) -> u8 {
    1 << build
}

type Broken = String;

impl State {
    pub fn first(parts: &mut Parts) -> Self {
        let map = parts.no_map();
        let setting = parts.setting;
        Self {
            ticks: 0,
            made: 0,
            completions: 0,
            pods: setting.pods,
            orders: setting.orders,
            outages: setting.outages,
            crashes: setting.crashes,
            odd: setting.odd,
            jobs: Vec::new(),
            newest: [0; 5],
            pushed: 0,
            replacing: false,
            migrated: 0,
            owed: 0,
            map,
            recorder: Recorder {
                cut: false,
                queue: Vec::new(),
                completed: Vec::new(),
                view: map,
            },
            pod: None,
        }
    }

    fn job(&self, uid: u8) -> Option<Job> {
        self.jobs.iter().copied().find(|job| job.uid == uid)
    }

    /// What can happen next.
    pub fn actions(&self, parts: &Parts) -> Vec<Action> {
        let mut actions = Vec::new();
        self.of_appliers(parts, &mut actions);
        for job in &self.jobs {
            self.of_job(parts, *job, &mut actions);
        }
        self.of_pods(parts, &mut actions);
        self.of_recorder(parts, &mut actions);
        // Appliers that replace a Job create the new one before the record may speak.
        let soon = self.replacing && self.jobs.is_empty();
        if self.ticks < parts.setting.ticks && !soon {
            actions.push(Action::TimeGoesOn);
        }
        if self.outages > 0 && !self.recorder.cut {
            actions.push(Action::ServerIsAway);
        }
        if self.orders > 0 && self.everything_is_known(parts) {
            actions.push(Action::Forget);
            let moves = parts.setting.tags == Tags::Moving;
            let builds = if moves {
                vec![self.pushed]
            } else {
                BUILDS.to_vec()
            };
            let known = |build: &u8| *build > 0 && self.migrated & bit(*build) == 0;
            actions.extend(builds.into_iter().filter(known).map(Action::Done));
        }
        actions
    }

    /// Whether an operator sees all completions that there were.
    fn everything_is_known(&self, parts: &Parts) -> bool {
        // Under a tag that moves, an older build that is still being migrated can't be told from it.
        let over = |job: &Job| matches!(job.phase, Phase::Complete | Phase::Empty | Phase::Failed);
        let mut older = self.jobs.iter().filter(|job| job.uid != self.made);
        if parts.setting.tags == Tags::Moving && !older.all(over) {
            return false;
        }
        let recorder = &self.recorder;
        // What a recorder lost, no operator can know of.
        self.migrated == self.owed
            && !recorder.cut
            && recorder
                .completed
                .iter()
                .all(|job| self.job(job.uid).is_some() || parts.knows(self.map, *job))
    }

    fn of_appliers(&self, parts: &Parts, actions: &mut Vec<Action>) {
        let setting = parts.setting;
        if self.made == setting.jobs {
            return;
        }
        let free = setting.naming == Naming::Generated || self.jobs.is_empty();
        let phases = [Phase::NoPod, Phase::Suspended, Phase::Empty];
        if setting.tags != Tags::Moving {
            if free {
                for build in BUILDS {
                    let phases = phases.iter().take(if self.odd > 0 { 3 } else { 1 });
                    actions.extend(phases.map(|phase| Action::Apply(build, *phase)));
                }
            }
            return;
        }
        // Whoever applies under a tag that moves has pushed another build.
        let next = self.made + 1;
        if free && (self.replacing || self.made == 0 || setting.naming == Naming::Generated) {
            actions.push(Action::Apply(next, Phase::NoPod));
        }
        // Their Job may have gone before: they delete what isn't there.
        if setting.naming == Naming::Named && !self.replacing && self.made > 0 {
            actions.push(Action::Replace(false));
            if !self.jobs.is_empty() {
                actions.push(Action::Replace(true));
            }
        }
    }

    fn of_job(&self, parts: &Parts, job: Job, actions: &mut Vec<Action>) {
        let uid = job.uid;
        match job.phase {
            Phase::Suspended => actions.push(Action::Unsuspend(uid)),
            Phase::NoPod => actions.push(Action::StartsPod(uid)),
            Phase::Running => actions.extend([
                Action::Completes(uid),
                Action::FailsAttempt(uid),
                Action::CompletesAndGoes(uid),
            ]),
            Phase::Retrying => actions.extend([Action::Completes(uid), Action::Fails(uid)]),
            Phase::Complete | Phase::Empty | Phase::Failed => {}
        }
        // Under a tag that moves, the newest Job decides alone: without it, an older record does.
        let newest = self.jobs.iter().all(|other| other.uid <= uid);
        if parts.setting.tags != Tags::Moving || job.phase == Phase::Complete || !newest {
            actions.push(Action::Delete(uid));
            if !job.deleting {
                actions.push(Action::MarkDeleted(uid));
            }
        } else if job.deleting {
            actions.push(Action::Delete(uid));
        }
    }

    fn of_pods(&self, parts: &Parts, actions: &mut Vec<Action>) {
        let Some(pod) = &self.pod else {
            if self.pods > 0 {
                match parts.setting.tags {
                    Tags::Moving if self.replacing => {
                        actions.push(Action::PodWaits(self.made + 1));
                    }
                    Tags::Moving if self.pushed == 0 => {}
                    Tags::Moving => actions.push(Action::PodWaits(self.pushed)),
                    // Both builds are alike, so one of them will do.
                    _ => actions.push(Action::PodWaits(2)),
                }
            }
            return;
        };
        if pod.cut_from_jobs {
            actions.push(Action::PodHearsOfJobs);
            if pod.listed {
                actions.push(Action::PodListsAnew);
            }
        } else if !pod.listed {
            actions.push(Action::PodLists);
        }
        if pod.cut_from_record {
            actions.push(Action::PodHearsOfRecord);
        } else if !pod.read {
            actions.push(Action::PodReads);
        }
    }

    fn of_recorder(&self, parts: &Parts, actions: &mut Vec<Action>) {
        let recorder = &self.recorder;
        if recorder.cut {
            actions.extend([Action::RecorderHears, Action::RecorderListsAnew]);
        } else {
            if recorder.view != self.map {
                actions.push(Action::RecorderReads);
            }
            if !recorder.completed.is_empty() || parts.is_corrupt(recorder.view) {
                actions.push(Action::RecorderWrites);
            }
        }
        if self.crashes > 0 {
            actions.push(Action::RecorderStartsAnew);
        }
    }

    /// The state after that has happened.
    pub fn after(&self, action: Action, parts: &mut Parts) -> Result<Self, Broken> {
        let mut next = self.clone();
        next.does(action, parts)?;
        next.pod_asks(parts)?;
        Ok(next)
    }

    fn does(&mut self, action: Action, parts: &mut Parts) -> Result<(), Broken> {
        match action {
            Action::Apply(build, phase) => {
                self.made += 1;
                self.odd -= u8::from(phase != Phase::NoPod);
                let job = Job {
                    uid: self.made,
                    build,
                    phase,
                    deleting: false,
                    made: self.ticks,
                    completed: 0,
                };
                self.jobs.push(job);
                self.newest[usize::from(build)] = job.uid;
                self.pushed = build;
                self.replacing = false;
                self.tell(Event::Changed(job), parts)?;
            }
            Action::Replace(marks) => {
                self.replacing = true;
                if let Some(job) = self.jobs.first().copied() {
                    let action = if marks {
                        Action::MarkDeleted
                    } else {
                        Action::Delete
                    };
                    self.does(action(job.uid), parts)?;
                }
            }
            Action::Unsuspend(uid) => self.enters(uid, Phase::NoPod, parts)?,
            Action::StartsPod(uid) => self.enters(uid, Phase::Running, parts)?,
            Action::FailsAttempt(uid) => self.enters(uid, Phase::Retrying, parts)?,
            Action::Fails(uid) => self.enters(uid, Phase::Failed, parts)?,
            Action::Completes(uid) => {
                self.completions += 1;
                self.enters(uid, Phase::Complete, parts)?;
            }
            Action::CompletesAndGoes(uid) => {
                self.completions += 1;
                if let Some(job) = self.jobs.iter_mut().find(|job| job.uid == uid) {
                    job.phase = Phase::Complete;
                    job.completed = self.completions;
                    self.migrated |= bit(job.build);
                    self.owed |= bit(job.build);
                }
                self.does(Action::Delete(uid), parts)?;
            }
            Action::Delete(uid) => {
                let last = self.job(uid);
                self.jobs.retain(|job| job.uid != uid);

                if let Some(last) = last {
                    self.tell(Event::Deleted(last), parts)?;
                }
            }
            Action::MarkDeleted(uid) => self.changes(uid, |job| job.deleting = true, parts)?,
            Action::TimeGoesOn => self.ticks += 1,
            Action::ServerIsAway => {
                self.outages -= 1;
                self.recorder.cut = true;
                if let Some(pod) = &mut self.pod {
                    pod.cut_from_jobs = true;
                    pod.cut_from_record = true;
                }
            }
            Action::Forget => self.forget(parts),
            Action::Done(build) => {
                self.orders -= 1;
                self.migrated |= bit(build);
                self.owed |= bit(build);
                // It comes after what has completed before.
                self.completions += 1;
                let map = parts.done(self.map, build, self.completions);
                self.stores(map, parts);
            }
            action => return self.watchers_do(action, parts),
        }
        Ok(())
    }

    fn watchers_do(&mut self, action: Action, parts: &mut Parts) -> Result<(), Broken> {
        match action {
            Action::PodWaits(build) => {
                self.pods -= 1;
                self.pod = Some(Pod {
                    build,
                    started: self.ticks,
                    sight: parts.unseen(),
                    listed: false,
                    read: false,
                    cut_from_jobs: false,
                    cut_from_record: false,
                    queue: Vec::new(),
                    restarted: false,
                });
            }

            Action::PodLists => self.pod_lists(parts),
            Action::PodListsAnew => {
                self.pod_lists(parts);
                self.owed &= self.known(parts);
            }
            Action::PodHearsOfJobs => {
                let lists = parts.setting.fault == Some(Fault::ListsAfterOutage);
                let Some(pod) = &mut self.pod else {
                    return Ok(());
                };
                let queue = std::mem::take(&mut pod.queue);
                if lists && pod.listed {
                    self.pod_lists(parts);
                } else {
                    for event in queue {
                        self.pod_hears(Heard::Event(event), parts);
                        self.pod_asks(parts)?;
                    }
                }
                if let Some(pod) = &mut self.pod {
                    pod.cut_from_jobs = false;
                }
            }
            Action::PodReads | Action::PodHearsOfRecord => {
                let Some(pod) = &mut self.pod else {
                    return Ok(());
                };
                pod.cut_from_record = false;
                if pod.read || action == Action::PodReads {
                    pod.read = true;
                    self.pod_hears(Heard::Record(self.map), parts);
                }
            }

            Action::RecorderHears => {
                self.recorder.cut = false;
                let queue = std::mem::take(&mut self.recorder.queue);
                if parts.setting.fault == Some(Fault::ListsAfterOutage) {
                    self.recorder_lists(parts);
                } else {
                    for event in queue {
                        self.recorder_hears(event, parts);
                    }
                }
            }
            Action::RecorderListsAnew => {
                self.recorder.cut = false;
                self.recorder.queue.clear();
                self.recorder_lists(parts);
                self.owed &= self.known(parts);
            }
            Action::RecorderStartsAnew => {
                self.crashes -= 1;
                self.recorder = Recorder {
                    cut: false,
                    queue: Vec::new(),
                    completed: Vec::new(),
                    view: self.map,
                };
                self.recorder_lists(parts);
                self.owed &= self.known(parts);
            }
            Action::RecorderReads => {
                self.recorder.view = self.map;
                self.recorder_drops(parts);
            }
            Action::RecorderWrites => self.recorder_writes(parts),
            action => panic!("{action:?} is another's"),
        }
        Ok(())
    }

    fn enters(&mut self, uid: u8, phase: Phase, parts: &mut Parts) -> Result<(), Broken> {
        let completed = self.completions;
        if let (Some(job), Phase::Complete) = (self.job(uid), phase) {
            self.migrated |= bit(job.build);
            self.owed |= bit(job.build);
        }
        let enter = |job: &mut Job| {
            job.phase = phase;
            if phase == Phase::Complete {
                job.completed = completed;
            }
        };
        self.changes(uid, enter, parts)
    }

    fn changes(
        &mut self,
        uid: u8,
        change: impl Fn(&mut Job),
        parts: &mut Parts,
    ) -> Result<(), Broken> {
        let Some(job) = self.jobs.iter_mut().find(|job| job.uid == uid) else {
            return Ok(());
        };
        change(job);
        let event = Event::Changed(*job);
        self.tell(event, parts)
    }

    /// Those who watch hear of it, at once or later.
    fn tell(&mut self, event: Event, parts: &mut Parts) -> Result<(), Broken> {
        if self.recorder.cut {
            self.recorder.queue.push(event);
        } else {
            self.recorder_hears(event, parts);
        }
        match &mut self.pod {
            Some(pod) if pod.listed && pod.cut_from_jobs => pod.queue.push(event),
            Some(pod) if pod.listed => self.pod_hears(Heard::Event(event), parts),
            _ => {}
        }
        self.pod_asks(parts)
    }

    fn recorder_hears(&mut self, event: Event, parts: &mut Parts) {
        let job = match event {
            Event::Deleted(_) if parts.setting.fault == Some(Fault::LastStateIgnored) => return,
            Event::Changed(job) | Event::Deleted(job) => job,
        };
        self.recorder_keeps(job, parts);
    }

    fn recorder_lists(&mut self, parts: &mut Parts) {
        for job in self.jobs.clone() {
            self.recorder_keeps(job, parts);
        }
    }

    fn recorder_keeps(&mut self, job: Job, parts: &mut Parts) {
        let completed = &mut self.recorder.completed;
        let job = Job {
            deleting: false,
            ..job
        };
        if parts.is_complete(job) && !completed.contains(&job) {
            completed.push(job);
            completed.sort();
        }
    }

    fn recorder_writes(&mut self, parts: &mut Parts) {
        let (write, left) = parts.write(self.recorder.view, &self.recorder.completed);
        self.recorder.completed = left;
        if let Some(map) = write.and_then(|write| parts.written(self.map, &write)) {
            // The answer is the record as it is now.
            self.recorder.view = map;
            self.stores(map, parts);
        }
        self.recorder_drops(parts);
    }

    /// What the record has needn't be written any more.
    fn recorder_drops(&mut self, parts: &mut Parts) {
        self.recorder.completed = parts.write(self.recorder.view, &self.recorder.completed).1;
    }

    /// Operators tell the record that nothing has been migrated, because that is so.
    fn forget(&mut self, parts: &mut Parts) {
        self.orders -= 1;
        self.migrated = 0;
        self.owed = 0;
        // What a waiter has heard of a moment before isn't its fault.
        self.pod = self.pod.take().filter(|pod| {
            let current = pod.read && !pod.cut_from_record && !pod.cut_from_jobs;
            current || (!pod.read && !pod.listed)
        });
        let map = parts.forget(self.map, &self.jobs);
        self.stores(map, parts);
    }

    fn stores(&mut self, map: Map, parts: &mut Parts) {
        self.map = map;
        if self
            .pod
            .as_ref()
            .is_some_and(|pod| pod.read && !pod.cut_from_record)
        {
            self.pod_hears(Heard::Record(map), parts);
        }
    }

    fn pod_lists(&mut self, parts: &mut Parts) {
        if let Some(pod) = &mut self.pod {
            pod.listed = true;
            pod.cut_from_jobs = false;
            pod.queue.clear();
            let jobs = Heard::Jobs(self.jobs.clone());
            self.pod_hears(jobs, parts);
        }
    }

    fn pod_hears(&mut self, heard: Heard, parts: &mut Parts) {
        if let Some(pod) = &mut self.pod {
            pod.sight = parts.hears(pod.sight, self.ticks - pod.started, heard);
        }
    }

    /// The waiter decides.
    fn pod_asks(&mut self, parts: &mut Parts) -> Result<(), Broken> {
        let Some(pod) = self.pod.clone() else {
            return Ok(());
        };
        let elapsed = self.ticks - pod.started;
        match parts.answer(pod.sight, pod.build, elapsed, self.ticks) {
            Answer::Wait => {}
            Answer::Open => {
                self.may_start(&pod, parts)?;
                self.pod = None;
            }
            Answer::Failed if pod.restarted => {
                return Err(format!("a waiter of build {} gave up again", pod.build));
            }
            Answer::Failed => {
                let unseen = parts.unseen();
                self.pod = Some(Pod {
                    started: self.ticks,
                    sight: parts.hears(unseen, 0, Heard::Restarted),
                    listed: false,
                    read: false,
                    queue: Vec::new(),
                    restarted: true,
                    ..pod
                });
            }
        }
        Ok(())
    }

    /// The promise to those who migrate.
    fn may_start(&self, pod: &Pod, parts: &Parts) -> Result<(), Broken> {
        let build = pod.build;
        // Under a tag that moves, a pod that has waited since then starts behind a newer migration.
        let (enough, last) = match parts.setting.tags {
            Tags::Moving => (u8::MAX << build, self.made),
            _ => (bit(build), self.newest[usize::from(build)]),
        };
        if self.migrated & enough == 0 {
            return Err(format!(
                "a pod of build {build} starts, which has not been migrated,"
            ));
        }
        let newest = self.job(last);
        let runs = newest.is_some_and(|job| job.phase == Phase::Running && !job.deleting);
        if runs && pod.listed && !pod.cut_from_jobs {
            return Err(format!(
                "a pod of build {build} starts while a first attempt runs,"
            ));
        }
        Ok(())
    }

    /// The builds that the record or a Job that is there speaks for.
    fn known(&self, parts: &mut Parts) -> u8 {
        let mut known = 0;
        for job in &self.jobs {
            if job.phase == Phase::Complete && !parts.has_forgotten(self.map, *job) {
                known |= bit(job.build);
            }
        }
        for build in 1..=parts.setting.jobs.max(2) {
            if parts.is_recorded(self.map, build) {
                known |= bit(build);
            }
        }
        known
    }

    /// The promise to those who wait. Nothing else happens any more, the watches work, time goes on,
    /// and Jobs that run fail.
    pub fn comes_to_rest(&self, parts: &mut Parts) -> Result<(), Broken> {
        let Some(build) = self.pod.as_ref().map(|pod| pod.build) else {
            return Ok(());
        };
        if self.owed & bit(build) == 0 || self.replacing {
            return Ok(());
        }
        let mut rest = self.clone();
        // Of all that has nothing to say any more, one is as good as another.
        (rest.made, rest.completions, rest.pods, rest.orders) = (0, 0, 0, 0);
        (rest.outages, rest.crashes, rest.odd) = (0, 0, 0);
        if !parts.rests.insert(rest.clone()) {
            return Ok(());
        }
        for action in [Action::RecorderHears, Action::RecorderReads] {
            rest.does(action, parts)?;
        }
        for job in self.jobs.clone() {
            if job.deleting {
                rest.does(Action::Delete(job.uid), parts)?;
            } else if matches!(job.phase, Phase::Running | Phase::Retrying) {
                rest.does(Action::Fails(job.uid), parts)?;
            }
        }
        for _ in 0..3 {
            rest.recorder.view = rest.map;
            rest.recorder_writes(parts);
        }
        // There the newest Job decides alone; one that was forgotten says nothing of older ones.
        let newest = rest.jobs.iter().max_by_key(|job| job.uid);
        let is_silent = |job: &Job| {
            job.phase != Phase::Complete
                || (parts.has_forgotten(rest.map, *job) && rest.jobs.len() > 1)
        };
        if parts.setting.tags == Tags::Moving && newest.is_some_and(is_silent) {
            return Ok(());
        }
        // Twice, as a waiter that gives up is started again.
        for _ in 0..2 {
            for action in [Action::PodHearsOfJobs, Action::PodHearsOfRecord] {
                rest.does(action, parts)?;
                rest.pod_asks(parts)?;
            }
            for action in [Action::PodLists, Action::PodReads] {
                let new = |pod: &Pod| (action == Action::PodReads && !pod.read) || !pod.listed;
                if rest.pod.as_ref().is_some_and(new) {
                    rest.does(action, parts)?;
                    rest.pod_asks(parts)?;
                }
            }
            for _ in 0..4 {
                rest.ticks += 1;
                rest.pod_asks(parts)?;
            }
        }
        match rest.pod {
            Some(_) => Err(format!(
                "a pod of build {build}, whose completion was seen, waits for ever"
            )),
            None => Ok(()),
        }
    }
}
