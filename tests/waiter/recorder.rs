//! The record's writers, any number of them, over an API server that fails.

use std::collections::BTreeSet;
use std::sync::{Arc, Condvar, Mutex, OnceLock};

use migration_gate::serve::recorder::{self, GateNews, GateReport};
use migration_gate_core::gates::Config;
use migration_gate_core::glob::Glob;
use migration_gate_core::outlook::GateState::{self, Open, Unknown};
use migration_gate_core::record::{HISTORY, Write, forget};
use serde_json::{Value, json};

use crate::client;
use testkit::fake::FakeApi;
use testkit::gate::{
    COMPLETED, JOB, JOB_PATH, RECORD_PATH, complete, failed, job, record, running,
};
use testkit::waiter::PATIENCE;

/// A recorder in a thread of its own. Dropping it ends it, at any point.
pub(crate) struct RecorderThread {
    runtime: Option<tokio::runtime::Runtime>,
    news: Arc<(Mutex<Vec<GateNews>>, Condvar)>,
}

impl RecorderThread {
    /// A recorder of a gate that holds nothing.
    fn start(api: &FakeApi) -> Self {
        Self::start_with(api, |_| {})
    }

    /// Calls `before` with each state that it reports.
    fn start_with(api: &FakeApi, before: impl Fn(GateState) + Send + Sync + 'static) -> Self {
        Self::start_holding(api, &[], true, before)
    }

    /// A recorder of a gate that holds these Deployments, with Events or without.
    pub(crate) fn start_holding(
        api: &FakeApi,
        deployments: &[&str],
        events: bool,
        before: impl Fn(GateState) + Send + Sync + 'static,
    ) -> Self {
        Self::start_of(api, gate_g(deployments), events, before)
    }

    /// A recorder of a gate that waits for any Job whose name has the prefix.
    fn start_for_any(api: &FakeApi) -> Self {
        let mut config = gate_g(&[]);
        config.gates[0].job = Glob::parse(&format!("{JOB}-*")).ok();
        Self::start_of(api, config, true, |_| {})
    }

    fn start_of(
        api: &FakeApi,
        config: Config,
        events: bool,
        before: impl Fn(GateState) + Send + Sync + 'static,
    ) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let news = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let client = runtime.block_on(async { client(api) });
        let report = {
            let told = Arc::clone(&news);
            move |gate: &str, news| {
                assert_eq!(gate, "g");
                if let GateNews::State(report) = &news {
                    before(report.state);
                }
                told.0.lock().expect("the news").push(news);
                told.1.notify_all();
            }
        };
        let forever = std::future::pending();
        runtime.spawn(recorder::run(
            client,
            Arc::new(config),
            events,
            report,
            forever,
        ));
        Self {
            runtime: Some(runtime),
            news,
        }
    }

    pub(crate) fn states(&self) -> Vec<GateState> {
        let mut states: Vec<GateState> = self.reports().iter().map(|r| r.state).collect();
        states.dedup();
        states
    }

    fn reports(&self) -> Vec<GateReport> {
        let news = self.news.0.lock().expect("the news");
        let reports = news.iter().filter_map(|news| match news {
            GateNews::State(report) => Some(report.clone()),
            GateNews::WriteFailed => None,
        });
        reports.collect()
    }

    /// Waits until its last report fulfils `is_so`.
    pub(crate) fn await_report(&self, what: &str, is_so: impl Fn(&GateReport) -> bool) {
        let is_missing = |news: &mut Vec<GateNews>| {
            let mut reports = news.iter().rev();
            let last = reports.find_map(|news| match news {
                GateNews::State(report) => Some(report),
                GateNews::WriteFailed => None,
            });
            !last.is_some_and(&is_so)
        };
        let news = self.news.0.lock().expect("the news");
        let (news, waited) = self
            .news
            .1
            .wait_timeout_while(news, PATIENCE, is_missing)
            .expect("the news");
        let last = news.last();
        assert!(
            !waited.timed_out(),
            "timed out waiting for {what}: {last:?}"
        );
    }

    /// How many writes have failed.
    fn failed_writes(&self) -> usize {
        let news = self.news.0.lock().expect("the news");
        let failed = news.iter().filter(|news| **news == GateNews::WriteFailed);
        failed.count()
    }
}

/// The configuration of a gate `g` that waits for the Job and holds these Deployments.
pub(crate) fn gate_g(deployments: &[&str]) -> Config {
    let mut config = Config::default();
    let gate = &mut config.gates[0];
    gate.name = "g".into();
    gate.namespace = "ns".into();
    gate.job = Glob::parse(JOB).ok();
    gate.deployments = deployments.iter().map(|name| (*name).to_owned()).collect();
    config
}

impl RecorderThread {
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for RecorderThread {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The log of all recorders of this program, one JSON object per line.
#[derive(Clone, Default)]
pub(crate) struct RecorderLog(Arc<(Mutex<Vec<u8>>, Condvar)>);

impl RecorderLog {
    /// Starts to collect lines, if that has not begun yet.
    pub(crate) fn shared() -> &'static Self {
        static LOG: OnceLock<RecorderLog> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Self::default();
            let writer = log.clone();
            tracing_subscriber::fmt()
                .json()
                .with_writer(move || writer.clone())
                .init();
            log
        })
    }

    /// The number of lines that contain `part`.
    pub(crate) fn count(&self, part: &str) -> usize {
        count(&self.0.0.lock().expect("the log"), part)
    }

    /// Waits for a line that contains `part`.
    pub(crate) fn await_line(&self, part: &str) {
        let log = self.0.0.lock().expect("the log");
        let (log, waited) = self
            .0
            .1
            .wait_timeout_while(log, PATIENCE, |log| count(log, part) == 0)
            .expect("the log");
        let log = String::from_utf8_lossy(&log);
        assert!(!waited.timed_out(), "no one logs `{part}`, but\n{log}");
    }
}

impl std::fmt::Display for RecorderLog {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.0.0.lock().expect("the log")))
    }
}

fn count(log: &[u8], part: &str) -> usize {
    String::from_utf8_lossy(log).matches(part).count()
}

impl std::io::Write for RecorderLog {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.0.lock().expect("the log").extend(text);
        self.0.1.notify_all();
        Ok(text.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn has(versions: &[&str]) -> impl Fn(&Value) -> bool {
    let versions: BTreeSet<_> = versions.iter().map(|v| (*v).to_owned()).collect();
    move |object| {
        let data = object["data"].as_object();
        data.is_some_and(|data| data.keys().cloned().collect::<BTreeSet<_>>() == versions)
    }
}

/// A Job of several, by the end of its name, that completed at this time.
fn completed_at(end: &str, tag: &str, time: &str) -> (String, Value) {
    let mut object = job(tag, complete());
    object["metadata"]["uid"] = json!(end);
    object["status"]["completionTime"] = json!(time);
    (format!("{JOB_PATH}-{end}"), object)
}

/// Whether this Job's completion is recorded for a version.
fn recorded_of(version: &str, end: &str) -> impl Fn(&Value) -> bool {
    let uid = format!(r#""uid":"{end}""#);
    let version = version.to_owned();
    move |object| {
        let entry = object["data"][&version].as_str();
        entry.is_some_and(|entry| entry.contains(&uid))
    }
}

fn writes(api: &FakeApi) -> usize {
    let requests = api.requests();
    let writes = requests.iter().filter(|line| {
        line.starts_with("create configmaps") || line.starts_with("patch configmaps")
    });
    writes.count()
}

#[test]
fn what_completes_is_recorded_and_nothing_else() {
    let api = FakeApi::start();
    let recorder = RecorderThread::start(&api);
    api.await_watches(2);
    api.put(JOB_PATH, job("1", running()));
    api.put(JOB_PATH, job("1", complete()));
    api.await_object(RECORD_PATH, has(&["1"]));
    api.delete(JOB_PATH);
    api.put(JOB_PATH, job("2", failed()));
    api.delete(JOB_PATH);
    api.put(JOB_PATH, job("3", complete()));
    api.await_object(RECORD_PATH, has(&["1", "3"]));
    let entry = &api.get(RECORD_PATH).expect("the record")["data"]["3"];
    let entry: Value = serde_json::from_str(entry.as_str().expect("text")).expect("JSON");
    assert_eq!(
        entry,
        json!({"image": "init:3", "job": JOB, "uid": "uid-of-3", "completed": COMPLETED,
               "took": 60, "containers": [["migrate", "init:3"]], "defaultContainer": "migrate"})
    );
    recorder.await_report("the last migration", |report| {
        report.last == Some((COMPLETED.parse().expect("a time"), Some(60)))
    });
    // The gate holds nothing.
    recorder.await_report("an open gate", |report| report.state == Open);
    assert_eq!(recorder.states(), [Unknown, Open]);
}

#[test]
fn what_completed_while_nobody_looked_is_recorded() {
    let api = FakeApi::start();
    api.put(RECORD_PATH, record(&["1"]));
    api.put(JOB_PATH, job("2", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, has(&["1", "2"]));
}

#[test]
fn a_job_that_completes_and_goes_during_a_cut_is_recorded() {
    let mut api = FakeApi::start();
    api.put(JOB_PATH, job("1", running()));
    let _recorder = RecorderThread::start(&api);
    api.await_watches(2);
    api.stop();
    api.put(JOB_PATH, job("1", complete()));
    api.delete(JOB_PATH);
    api.resume();
    api.await_object(RECORD_PATH, has(&["1"]));
}

#[test]
fn five_recorders_that_start_at_once_write_one_record_and_come_to_rest() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("1", complete()));
    let recorders: Vec<_> = (0..5).map(|_| RecorderThread::start(&api)).collect();
    api.await_object(RECORD_PATH, has(&["1"]));
    api.await_watches(10);
    // Each has seen the record by the time it has recorded something else.
    api.put(JOB_PATH, job("2", complete()));
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    drop(recorders);
    // At most one of each for every recorder.
    assert!(writes(&api) <= 10, "{:#?}", api.requests());
}

#[test]
fn recorders_that_die_at_any_moment_miss_nothing() {
    let api = FakeApi::start();
    let mut recorders = [RecorderThread::start(&api), RecorderThread::start(&api)];
    let mut completed: Vec<String> = Vec::new();
    let mut last_death = 0;
    for i in 0..60_usize {
        api.await_watches(4);
        if i % 3 != 0 {
            // Completions before the start of the other recorder are known to this one alone. Those
            // that both know survive the death of one, at any moment.
            let only_here = completed[..last_death].to_vec();
            api.await_object(RECORD_PATH, |object| {
                only_here.iter().all(|v| object["data"].get(v).is_some())
            });
            last_death = completed.len();
            recorders[i % 2].kill();
            // The dead one's connections are not to be counted any more.
            api.await_watches(2);
            recorders[i % 2] = RecorderThread::start(&api);
        }
        let version = format!("1.{i}");
        api.delete(JOB_PATH);
        api.put(JOB_PATH, job(&version, running()));
        api.put(JOB_PATH, job(&version, complete()));
        completed.push(version);
    }
    let completed: Vec<_> = completed.iter().map(String::as_str).collect();
    api.await_object(RECORD_PATH, has(&completed));
}

#[test]
fn corrupt_entries_are_removed_or_replaced() {
    let api = FakeApi::start();
    let mut object = record(&["1"]);
    object["data"]["2"] = json!("rubbish");
    object["data"]["3"] = json!("{}");
    api.put(RECORD_PATH, object);
    api.put(JOB_PATH, job("3", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, has(&["1", "3"]));
    // Later, too.
    let mut object = api.get(RECORD_PATH).expect("the record");
    object["data"]["3"] = object["data"]["1"].clone();
    api.put(RECORD_PATH, object);
    api.await_object(RECORD_PATH, |object| {
        let entry = object["data"]["3"].as_str().unwrap_or_default();
        entry.contains("uid-of-3")
    });
}

/// During an upgrade replicas of release 0.1 run beside this one's, and write one image of each
/// Job.
#[test]
fn what_an_earlier_release_writes_of_the_same_completion_is_made_whole() {
    let api = FakeApi::start();
    let short = json!({"image": "init:1", "job": JOB, "uid": "uid-of-1", "completed": COMPLETED});
    let abridge = || {
        let mut object = api.get(RECORD_PATH).unwrap_or_else(|| record(&[]));
        object["data"]["1"] = json!(short.to_string());
        api.put(RECORD_PATH, object);
    };
    let is_whole = |object: &Value| {
        let entry = object["data"]["1"].as_str().unwrap_or_default();
        entry.contains(r#""containers":[["migrate","init:1"]]"#)
    };
    // The other replica was faster.
    abridge();
    api.put(JOB_PATH, job("1", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, is_whole);
    // The recorder has not seen it yet, and the Job is gone.
    api.await_watches(2);
    api.delete(JOB_PATH);
    abridge();
    api.await_object(RECORD_PATH, is_whole);
}

/// As with a moving tag: another replica's watch of the record was late, and the Job is gone.
#[test]
fn a_completion_that_an_older_one_has_replaced_is_put_back() {
    let api = FakeApi::start();
    let write = |uid: &str, completed: &str| {
        let entry = json!({"image": "init:1", "job": JOB, "uid": uid, "completed": completed});
        let mut object = record(&[]);
        object["data"]["1"] = json!(entry.to_string());
        api.put(RECORD_PATH, object);
    };
    write("later", "2026-01-01T00:02:00Z");
    let _recorder = RecorderThread::start(&api);
    api.await_watches(2);
    write("older", "2026-01-01T00:01:00Z");
    api.await_object(RECORD_PATH, |object| {
        let entry = object["data"]["1"].as_str().unwrap_or_default();
        entry.contains("later")
    });
}

/// An operator may have forgotten it since: without a uid, nothing shows who removed it.
#[test]
fn what_was_recorded_by_hand_is_not_put_back() {
    let api = FakeApi::start();
    let write = |entry: Value| {
        let mut object = record(&[]);
        object["data"]["1"] = json!(entry.to_string());
        api.put(RECORD_PATH, object);
    };
    write(
        json!({"image": "by-hand:1", "job": "", "uid": "", "done": "1",
                 "completed": "2026-01-01T00:02:00Z"}),
    );
    let recorder = RecorderThread::start(&api);
    api.await_watches(2);
    let older = "2026-01-01T00:01:00Z";
    write(json!({"image": "init:1", "job": JOB, "uid": "older", "completed": older}));
    recorder.await_report("the older one", |report| {
        report.last == Some((older.parse().expect("a time"), None))
    });
    api.put(JOB_PATH, job("2", complete()));
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    let record = api.get(RECORD_PATH).expect("the record");
    assert!(recorded_of("1", "older")(&record), "{record:#}");
}

#[test]
fn a_record_that_is_deleted_is_begun_anew() {
    let api = FakeApi::start();
    api.put(JOB_PATH, job("1", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, has(&["1"]));
    api.await_watches(2);
    api.delete(RECORD_PATH);
    api.await_object(RECORD_PATH, has(&["1"]));
}

/// The watches work again. The record of the new namespace has version 2. Only 3 is added to it.
fn goes_on_with_the_new_namespace(api: &mut FakeApi) {
    api.heal();
    api.stop();
    api.resume();
    api.await_watches(2);
    api.put(JOB_PATH, job("3", complete()));
    api.await_object(RECORD_PATH, |object| object["data"].get("3").is_some());
    let record = api.get(RECORD_PATH).expect("the record");
    assert!(has(&["2", "3"])(&record), "{record:#}");
}

/// A namespace is deleted and created again while the watch of the Jobs reports nothing. The new
/// one may have another database.
#[test]
fn a_namespace_that_is_created_again_gets_no_completion_of_the_old_one() {
    let mut api = FakeApi::start();
    api.put(JOB_PATH, job("1", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, has(&["1"]));
    api.await_watches(2);
    api.await_request("watch jobs");
    api.hold("watch", "jobs");
    api.cut();
    api.delete(JOB_PATH);
    api.delete(RECORD_PATH);
    // Before it creates a record, it asks for the Jobs.
    api.await_request("list jobs");
    // Another replica records the first completion of the new namespace.
    api.put(RECORD_PATH, record(&["2"]));
    goes_on_with_the_new_namespace(&mut api);
}

/// The record of the old namespace is replaced before its deletion was seen.
#[test]
fn another_record_of_that_name_gets_no_completion_of_a_job_that_is_gone() {
    let mut api = FakeApi::start();
    let with_uid = |uid: &str, tag: &str| {
        let mut object = record(&[tag]);
        object["metadata"]["uid"] = json!(uid);
        object
    };
    api.put(RECORD_PATH, with_uid("old", "0"));
    api.put(JOB_PATH, job("1", complete()));
    let recorder = RecorderThread::start(&api);
    api.await_object(RECORD_PATH, has(&["0", "1"]));
    recorder.await_report("a record", |report| report.last.is_some());
    api.await_watches(2);
    api.hold("watch", "jobs");
    api.cut();
    api.delete(JOB_PATH);
    let mut other = with_uid("new", "2");
    other["data"]["0"] = json!("rubbish");
    api.put(RECORD_PATH, other);
    // The recorder has seen it.
    api.await_object(RECORD_PATH, has(&["2"]));
    goes_on_with_the_new_namespace(&mut api);
}

#[test]
fn corruption_that_first_shows_in_a_writes_answer_is_reported() {
    let log = RecorderLog::shared();
    let api = FakeApi::start();
    api.put(RECORD_PATH, record(&["1"]));
    // The record's own watch reports nothing.
    api.hold("watch", "configmaps");
    let _recorder = RecorderThread::start(&api);
    api.await_request("watch configmaps");
    let mut object = record(&["1"]);
    object["data"]["corrupt-in-an-answer"] = json!("rubbish");
    api.put(RECORD_PATH, object);
    api.put(JOB_PATH, job("2", complete()));
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    assert_eq!(log.count(r#""key":"corrupt-in-an-answer""#), 1);
}

#[test]
fn a_write_that_has_no_effect_is_not_repeated_without_a_pause() {
    let api = FakeApi::start();
    api.put(RECORD_PATH, record(&["1"]));
    api.forget_writes(true);
    api.put(JOB_PATH, job("2", complete()));
    let _recorder = RecorderThread::start(&api);
    api.await_watches(2);
    for _ in 0..3 {
        api.await_request("patch configmaps");
    }
    api.forget_writes(false);
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    // Without pauses there would be hundreds.
    assert!(writes(&api) < 10, "{:#?}", api.requests());
}

#[test]
fn an_immutable_record_is_left_alone_until_it_is_deleted() {
    let log = RecorderLog::shared();
    let api = FakeApi::start();
    let mut immutable = record(&["1"]);
    immutable["immutable"] = json!(true);
    api.put(RECORD_PATH, immutable);
    api.put(JOB_PATH, job("2", complete()));
    let _recorder = RecorderThread::start(&api);
    // The end of the failure is logged with its cause, too.
    let told =
        r#"trying again","gate":"g","cause":"it is immutable; delete it, and the server writes"#;
    log.await_line(told);
    api.delete(RECORD_PATH);
    // The new record has the entries of the old one.
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    assert_eq!(writes(&api), 1, "{:#?}", api.requests());
    assert_eq!(log.count(told), 1, "{log}");
}

#[test]
fn what_an_immutable_record_has_forgotten_stays_forgotten_after_its_deletion() {
    for versions in [&["1"] as &[&str], &[]] {
        let api = FakeApi::start();
        let nothing = BTreeSet::new();
        let forgotten = BTreeSet::from(["uid-of-2".to_owned()]);
        let Ok(Some(Write::Create(data))) = forget(None, &nothing, &forgotten, &forgotten) else {
            panic!("nothing to forget");
        };
        let mut immutable = record(versions);
        immutable["immutable"] = json!(true);
        immutable["data"]["-forgotten"] = json!(data["-forgotten"]);
        api.put(RECORD_PATH, immutable);
        api.put(JOB_PATH, job("2", complete()));
        let _recorder = RecorderThread::start(&api);
        api.await_watches(2);
        api.delete(RECORD_PATH);
        api.await_object(RECORD_PATH, |_| true);
        let record = api.get(RECORD_PATH).expect("the record");
        let mut keys = vec!["-forgotten"];
        keys.extend(versions);
        assert!(has(&keys)(&record), "{record:#}");
        assert_eq!(record["data"]["-forgotten"], data["-forgotten"]);
    }
}

#[test]
fn a_recorder_that_panics_is_started_again() {
    let api = FakeApi::start();
    let panicked = std::sync::atomic::AtomicBool::new(false);
    let recorder = RecorderThread::start_with(&api, move |state| {
        let first = state == Open && !panicked.swap(true, std::sync::atomic::Ordering::Relaxed);
        assert!(!first, "as a bug would");
    });
    api.await_watches(2);
    api.put(JOB_PATH, job("1", running()));
    api.await_request("watch jobs");
    api.put(JOB_PATH, job("1", complete()));
    api.await_object(RECORD_PATH, has(&["1"]));
    recorder.await_report("an open gate", |report| report.state == Open);
}

#[test]
fn writes_that_fail_or_are_not_permitted_are_tried_again() {
    let api = FakeApi::start();
    api.fail_writes(3);
    api.put(JOB_PATH, job("1", complete()));
    let recorder = RecorderThread::start(&api);
    recorder.await_report("a completion to record", |report| report.unrecorded == 1);
    api.await_object(RECORD_PATH, has(&["1"]));
    assert_eq!(recorder.failed_writes(), 3);
    recorder.await_report("none", |report| report.unrecorded == 0);
    api.deny("patch", "configmaps");
    api.put(JOB_PATH, job("2", complete()));
    api.await_request("patch configmaps");
    api.heal();
    api.await_object(RECORD_PATH, has(&["1", "2"]));
}

#[test]
fn the_later_completion_of_a_version_is_recorded_whichever_job_changed_last() {
    let api = FakeApi::start();
    api.fail("create", "configmaps");
    let recorder = RecorderThread::start_for_any(&api);
    api.await_watches(2);
    let (older, object) = completed_at("a", "1", "2026-01-01T00:01:00Z");
    api.put(&older, object);
    let (later, object) = completed_at("b", "1", "2026-01-01T00:02:00Z");
    api.put(&later, object);
    api.delete(&later);
    api.delete(&older);
    // Events arrive in order: if the recorder knows this Job, it knows the others.
    let (other, object) = completed_at("c", "2", COMPLETED);
    api.put(&other, object);
    recorder.await_report("both versions", |report| report.unrecorded == 2);
    api.heal();
    api.await_object(RECORD_PATH, has(&["1", "2"]));
    let record = api.get(RECORD_PATH).expect("the record");
    assert!(recorded_of("1", "b")(&record), "{record:#}");
}

#[test]
fn of_two_jobs_that_are_there_a_record_that_is_begun_anew_has_the_later_completion() {
    let api = FakeApi::start();
    for (end, time) in [("a", "2026-01-01T00:01:00Z"), ("b", "2026-01-01T00:02:00Z")] {
        let (path, object) = completed_at(end, "1", time);
        api.put(&path, object);
    }
    let _recorder = RecorderThread::start_for_any(&api);
    api.await_object(RECORD_PATH, recorded_of("1", "b"));
    api.await_watches(2);
    api.delete(RECORD_PATH);
    api.await_object(RECORD_PATH, recorded_of("1", "b"));
}

#[test]
fn a_completion_that_was_forgotten_hides_none_that_counts() {
    let api = FakeApi::start();
    let nothing = BTreeSet::new();
    let forgotten = BTreeSet::from(["b".to_owned()]);
    let Ok(Some(Write::Create(data))) = forget(None, &nothing, &forgotten, &forgotten) else {
        panic!("nothing to forget");
    };
    api.put(RECORD_PATH, json!({"metadata": {}, "data": data}));
    for (end, time) in [("a", "2026-01-01T00:01:00Z"), ("b", "2026-01-01T00:02:00Z")] {
        let (path, object) = completed_at(end, "1", time);
        api.put(&path, object);
    }
    let _recorder = RecorderThread::start_for_any(&api);
    api.await_object(RECORD_PATH, recorded_of("1", "a"));
}

#[test]
fn rights_that_come_late_are_waited_for() {
    let api = FakeApi::start();
    api.deny("list", "jobs");
    api.deny("list", "configmaps");
    api.put(JOB_PATH, job("1", complete()));
    let recorder = RecorderThread::start(&api);
    api.await_request("list jobs");
    api.await_request("list jobs");
    api.heal();
    api.await_object(RECORD_PATH, has(&["1"]));
    recorder.await_report("an open gate", |report| report.state == Open);
    assert_eq!(recorder.states(), [Unknown, Open]);
}

#[test]
fn the_history_is_bounded_and_the_newest_stay() {
    let api = FakeApi::start();
    let mut object = json!({"metadata": {}, "data": {}});
    for i in 0..HISTORY + 5 {
        let entry = json!({"image": format!("init:{i}"), "job": JOB, "uid": "u",
                           "completed": format!("2025-01-01T00:{:02}:{:02}Z", i / 60, i % 60)});
        object["data"][i.to_string()] = json!(entry.to_string());
    }
    api.put(RECORD_PATH, object);
    api.put(JOB_PATH, job("new", complete()));
    let _recorders = [RecorderThread::start(&api), RecorderThread::start(&api)];
    let mut expect: Vec<_> = (6..HISTORY + 5).map(|i| i.to_string()).collect();
    expect.push("new".into());
    let expect: Vec<_> = expect.iter().map(String::as_str).collect();
    api.await_object(RECORD_PATH, has(&expect));
}

#[test]
fn it_ends_when_it_is_told_to() {
    let api = FakeApi::start();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let run = recorder::run(
            client(&api),
            Arc::new(Config::default()),
            true,
            |_, _| {},
            async {
                let _ = stopped.await;
            },
        );
        let running = tokio::spawn(run);
        tokio::task::yield_now().await;
        stop.send(()).expect("it still runs");
        running.await.expect("its end");
    });
}
