//! The world that a gate is in, and what can happen there.

use crate::parts::{Heard, Map, Naming, Omission, Parts, Sight, Tags, WaiterAnswer};

/// A Job as the API server has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelJob {
    /// Counts the Jobs.
    pub uid: u8,
    pub build: u8,
    pub phase: JobPhase,
    pub deleting: bool,
    /// In which tick it was created.
    pub made: u8,
    /// As the how manieth it completed.
    pub completed: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobPhase {
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
pub enum JobEvent {
    Changed(ModelJob),
    Deleted(ModelJob),
}

/// One of the writers of the record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ModelRecorder {
    cut: bool,
    /// What it will hear of once it isn't cut off any more.
    queue: Vec<JobEvent>,
    /// What it has to record.
    completed: Vec<ModelJob>,
    /// The record as it last saw it.
    view: Map,
}

/// A pod whose waiter waits.
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is independent of the others"
)]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct ModelPod {
    build: u8,
    started: u8,
    sight: Sight,
    listed: bool,
    read: bool,
    cut_from_jobs: bool,
    cut_from_record: bool,
    queue: Vec<JobEvent>,
    restarted: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorldState {
    ticks: u8,
    made: u8,
    completions: u8,
    pods: u8,
    orders: u8,
    outages: u8,
    crashes: u8,
    /// How many Jobs may be suspended, or run nothing.
    odd: u8,
    jobs: Vec<ModelJob>,
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
    recorder: ModelRecorder,
    pod: Option<ModelPod>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// Someone applies a Job of a build, in that phase; its completions are none if that is
    /// `Empty`.
    Apply(u8, JobPhase),
    /// Someone replaces a Job under a tag that moves: it goes now, or waits for what it owns.
    Replace(bool),
    Unsuspend(u8),
    StartsPod(u8),
    FailsAttempt(u8),
    Fails(u8),
    Completes(u8),
    /// It completes and is gone before anyone sees it.
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

impl WorldState {
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
            recorder: ModelRecorder {
                cut: false,
                queue: Vec::new(),
                completed: Vec::new(),
                view: map,
            },
            pod: None,
        }
    }

    fn job(&self, uid: u8) -> Option<ModelJob> {
        self.jobs.iter().copied().find(|job| job.uid == uid)
    }

    /// What can happen next.
    pub fn actions(&self, parts: &Parts) -> Vec<Move> {
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
            actions.push(Move::TimeGoesOn);
        }
        if self.outages > 0 && !self.recorder.cut {
            actions.push(Move::ServerIsAway);
        }
        if self.orders > 0 && self.everything_is_known(parts) {
            actions.push(Move::Forget);
            let moves = parts.setting.tags == Tags::Moving;
            let builds = if moves {
                vec![self.pushed]
            } else {
                BUILDS.to_vec()
            };
            let known = |build: &u8| *build > 0 && self.migrated & bit(*build) == 0;
            actions.extend(builds.into_iter().filter(known).map(Move::Done));
        }
        actions
    }

    /// Whether an operator sees all completions that there were.
    fn everything_is_known(&self, parts: &Parts) -> bool {
        // Under a tag that moves, an older build that is still being migrated can't be told from
        // it.
        let over = |job: &ModelJob| {
            matches!(
                job.phase,
                JobPhase::Complete | JobPhase::Empty | JobPhase::Failed
            )
        };
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

    fn of_appliers(&self, parts: &Parts, actions: &mut Vec<Move>) {
        let setting = parts.setting;
        if self.made == setting.jobs {
            return;
        }
        let free = setting.naming == Naming::Generated || self.jobs.is_empty();
        let phases = [JobPhase::NoPod, JobPhase::Suspended, JobPhase::Empty];
        if setting.tags != Tags::Moving {
            if free {
                for build in BUILDS {
                    let phases = phases.iter().take(if self.odd > 0 { 3 } else { 1 });
                    actions.extend(phases.map(|phase| Move::Apply(build, *phase)));
                }
            }
            return;
        }
        // Under a tag that moves, each apply pushes another build.
        let next = self.made + 1;
        if free && (self.replacing || self.made == 0 || setting.naming == Naming::Generated) {
            actions.push(Move::Apply(next, JobPhase::NoPod));
        }
        // Their Job may have gone before: they delete what isn't there.
        if setting.naming == Naming::Named && !self.replacing && self.made > 0 {
            actions.push(Move::Replace(false));
            if !self.jobs.is_empty() {
                actions.push(Move::Replace(true));
            }
        }
    }

    fn of_job(&self, parts: &Parts, job: ModelJob, actions: &mut Vec<Move>) {
        let uid = job.uid;
        match job.phase {
            JobPhase::Suspended => actions.push(Move::Unsuspend(uid)),
            JobPhase::NoPod => actions.push(Move::StartsPod(uid)),
            JobPhase::Running => actions.extend([
                Move::Completes(uid),
                Move::FailsAttempt(uid),
                Move::CompletesAndGoes(uid),
            ]),
            JobPhase::Retrying => actions.extend([Move::Completes(uid), Move::Fails(uid)]),
            JobPhase::Complete | JobPhase::Empty | JobPhase::Failed => {}
        }
        // Under a tag that moves, the newest Job decides alone: without it, an older record does.
        let newest = self.jobs.iter().all(|other| other.uid <= uid);
        if parts.setting.tags != Tags::Moving || job.phase == JobPhase::Complete || !newest {
            actions.push(Move::Delete(uid));
            if !job.deleting {
                actions.push(Move::MarkDeleted(uid));
            }
        } else if job.deleting {
            actions.push(Move::Delete(uid));
        }
    }

    fn of_pods(&self, parts: &Parts, actions: &mut Vec<Move>) {
        let Some(pod) = &self.pod else {
            if self.pods > 0 {
                match parts.setting.tags {
                    Tags::Moving if self.replacing => {
                        actions.push(Move::PodWaits(self.made + 1));
                    }
                    Tags::Moving if self.pushed == 0 => {}
                    Tags::Moving => actions.push(Move::PodWaits(self.pushed)),
                    // Both builds are alike, so one of them will do.
                    _ => actions.push(Move::PodWaits(2)),
                }
            }
            return;
        };
        if pod.cut_from_jobs {
            actions.push(Move::PodHearsOfJobs);
            if pod.listed {
                actions.push(Move::PodListsAnew);
            }
        } else if !pod.listed {
            actions.push(Move::PodLists);
        }
        if pod.cut_from_record {
            actions.push(Move::PodHearsOfRecord);
        } else if !pod.read {
            actions.push(Move::PodReads);
        }
    }

    fn of_recorder(&self, parts: &Parts, actions: &mut Vec<Move>) {
        let recorder = &self.recorder;
        if recorder.cut {
            actions.extend([Move::RecorderHears, Move::RecorderListsAnew]);
        } else {
            if recorder.view != self.map {
                actions.push(Move::RecorderReads);
            }
            if !recorder.completed.is_empty() || parts.is_corrupt(recorder.view) {
                actions.push(Move::RecorderWrites);
            }
        }
        if self.crashes > 0 {
            actions.push(Move::RecorderStartsAnew);
        }
    }

    /// The state after that has happened.
    pub fn after(&self, action: Move, parts: &mut Parts) -> Result<Self, Broken> {
        let mut next = self.clone();
        next.does(action, parts)?;
        next.pod_asks(parts)?;
        Ok(next)
    }

    fn does(&mut self, action: Move, parts: &mut Parts) -> Result<(), Broken> {
        match action {
            Move::Apply(build, phase) => {
                self.made += 1;
                self.odd -= u8::from(phase != JobPhase::NoPod);
                let job = ModelJob {
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
                self.tell(JobEvent::Changed(job), parts)?;
            }
            Move::Replace(marks) => {
                self.replacing = true;
                if let Some(job) = self.jobs.first().copied() {
                    let action = if marks {
                        Move::MarkDeleted
                    } else {
                        Move::Delete
                    };
                    self.does(action(job.uid), parts)?;
                }
            }
            Move::Unsuspend(uid) => self.enters(uid, JobPhase::NoPod, parts)?,
            Move::StartsPod(uid) => self.enters(uid, JobPhase::Running, parts)?,
            Move::FailsAttempt(uid) => self.enters(uid, JobPhase::Retrying, parts)?,
            Move::Fails(uid) => self.enters(uid, JobPhase::Failed, parts)?,
            Move::Completes(uid) => {
                self.completions += 1;
                self.enters(uid, JobPhase::Complete, parts)?;
            }
            Move::CompletesAndGoes(uid) => {
                self.completions += 1;
                if let Some(job) = self.jobs.iter_mut().find(|job| job.uid == uid) {
                    job.phase = JobPhase::Complete;
                    job.completed = self.completions;
                    self.migrated |= bit(job.build);
                    self.owed |= bit(job.build);
                }
                self.does(Move::Delete(uid), parts)?;
            }
            Move::Delete(uid) => {
                let last = self.job(uid);
                self.jobs.retain(|job| job.uid != uid);

                if let Some(last) = last {
                    self.tell(JobEvent::Deleted(last), parts)?;
                }
            }
            Move::MarkDeleted(uid) => self.changes(uid, |job| job.deleting = true, parts)?,
            Move::TimeGoesOn => self.ticks += 1,
            Move::ServerIsAway => {
                self.outages -= 1;
                self.recorder.cut = true;
                if let Some(pod) = &mut self.pod {
                    pod.cut_from_jobs = true;
                    pod.cut_from_record = true;
                }
            }
            Move::Forget => self.forget(parts),
            Move::Done(build) => {
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

    fn watchers_do(&mut self, action: Move, parts: &mut Parts) -> Result<(), Broken> {
        match action {
            Move::PodWaits(build) => {
                self.pods -= 1;
                self.pod = Some(ModelPod {
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

            Move::PodLists => self.pod_lists(parts),
            Move::PodListsAnew => {
                self.pod_lists(parts);
                self.owed &= self.known(parts);
            }
            Move::PodHearsOfJobs => {
                let lists = parts.setting.fault == Some(Omission::ListsAfterOutage);
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
            Move::PodReads | Move::PodHearsOfRecord => {
                let Some(pod) = &mut self.pod else {
                    return Ok(());
                };
                pod.cut_from_record = false;
                if pod.read || action == Move::PodReads {
                    pod.read = true;
                    self.pod_hears(Heard::Record(self.map), parts);
                }
            }

            Move::RecorderHears => {
                self.recorder.cut = false;
                let queue = std::mem::take(&mut self.recorder.queue);
                if parts.setting.fault == Some(Omission::ListsAfterOutage) {
                    self.recorder_lists(parts);
                } else {
                    for event in queue {
                        self.recorder_hears(event, parts);
                    }
                }
            }
            Move::RecorderListsAnew => {
                self.recorder.cut = false;
                self.recorder.queue.clear();
                self.recorder_lists(parts);
                self.owed &= self.known(parts);
            }
            Move::RecorderStartsAnew => {
                self.crashes -= 1;
                self.recorder = ModelRecorder {
                    cut: false,
                    queue: Vec::new(),
                    completed: Vec::new(),
                    view: self.map,
                };
                self.recorder_lists(parts);
                self.owed &= self.known(parts);
            }
            Move::RecorderReads => {
                self.recorder.view = self.map;
                self.recorder_drops(parts);
            }
            Move::RecorderWrites => self.recorder_writes(parts),
            action => panic!("{action:?} is another's"),
        }
        Ok(())
    }

    fn enters(&mut self, uid: u8, phase: JobPhase, parts: &mut Parts) -> Result<(), Broken> {
        let completed = self.completions;
        if let (Some(job), JobPhase::Complete) = (self.job(uid), phase) {
            self.migrated |= bit(job.build);
            self.owed |= bit(job.build);
        }
        let enter = |job: &mut ModelJob| {
            job.phase = phase;
            if phase == JobPhase::Complete {
                job.completed = completed;
            }
        };
        self.changes(uid, enter, parts)
    }

    fn changes(
        &mut self,
        uid: u8,
        change: impl Fn(&mut ModelJob),
        parts: &mut Parts,
    ) -> Result<(), Broken> {
        let Some(job) = self.jobs.iter_mut().find(|job| job.uid == uid) else {
            return Ok(());
        };
        change(job);
        let event = JobEvent::Changed(*job);
        self.tell(event, parts)
    }

    /// Those who watch hear of it, at once or later.
    fn tell(&mut self, event: JobEvent, parts: &mut Parts) -> Result<(), Broken> {
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

    fn recorder_hears(&mut self, event: JobEvent, parts: &mut Parts) {
        let job = match event {
            JobEvent::Deleted(_) if parts.setting.fault == Some(Omission::LastStateIgnored) => {
                return;
            }
            JobEvent::Changed(job) | JobEvent::Deleted(job) => job,
        };
        self.recorder_keeps(job, parts);
    }

    fn recorder_lists(&mut self, parts: &mut Parts) {
        for job in self.jobs.clone() {
            self.recorder_keeps(job, parts);
        }
    }

    fn recorder_keeps(&mut self, job: ModelJob, parts: &mut Parts) {
        let completed = &mut self.recorder.completed;
        let job = ModelJob {
            deleting: false,
            ..job
        };
        if parts.completes(job) && !completed.contains(&job) {
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
            WaiterAnswer::Wait => {}
            WaiterAnswer::Open => {
                self.may_start(&pod, parts)?;
                self.pod = None;
            }
            WaiterAnswer::Failed if pod.restarted => {
                return Err(format!("a waiter of build {} gave up again", pod.build));
            }
            WaiterAnswer::Failed => {
                let unseen = parts.unseen();
                self.pod = Some(ModelPod {
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
    fn may_start(&self, pod: &ModelPod, parts: &Parts) -> Result<(), Broken> {
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
        let runs = newest.is_some_and(|job| job.phase == JobPhase::Running && !job.deleting);
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
            if job.phase == JobPhase::Complete && !parts.has_forgotten(self.map, *job) {
                known |= bit(job.build);
            }
        }
        for build in 1..=parts.setting.jobs.max(2) {
            if parts.records(self.map, build) {
                known |= bit(build);
            }
        }
        known
    }

    /// The promise to those who wait. Nothing else happens any more, the watches work, time goes
    /// on, and Jobs that run fail.
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
        for action in [Move::RecorderHears, Move::RecorderReads] {
            rest.does(action, parts)?;
        }
        for job in self.jobs.clone() {
            if job.deleting {
                rest.does(Move::Delete(job.uid), parts)?;
            } else if matches!(job.phase, JobPhase::Running | JobPhase::Retrying) {
                rest.does(Move::Fails(job.uid), parts)?;
            }
        }
        for _ in 0..3 {
            rest.recorder.view = rest.map;
            rest.recorder_writes(parts);
        }
        // There the newest Job decides alone; one that was forgotten says nothing of older ones.
        let newest = rest.jobs.iter().max_by_key(|job| job.uid);
        let is_silent = |job: &ModelJob| {
            job.phase != JobPhase::Complete
                || (parts.has_forgotten(rest.map, *job) && rest.jobs.len() > 1)
        };
        if parts.setting.tags == Tags::Moving && newest.is_some_and(is_silent) {
            return Ok(());
        }
        // Twice, as a waiter that gives up is started again.
        for _ in 0..2 {
            for action in [Move::PodHearsOfJobs, Move::PodHearsOfRecord] {
                rest.does(action, parts)?;
                rest.pod_asks(parts)?;
            }
            for action in [Move::PodLists, Move::PodReads] {
                let new = |pod: &ModelPod| (action == Move::PodReads && !pod.read) || !pod.listed;
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
