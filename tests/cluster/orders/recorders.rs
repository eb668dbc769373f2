//! The recorders: two `serve` processes that are killed and cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Result;
use serde_json::Value;

use super::watchers::Watchers;
use testkit::pki::Pair;
use testkit::process::Process;
use testkit::proxy::Proxy;
use testkit::scene::Plane;

/// The prefix of the users' names.
const USER: &str = "a-recorder-";

/// One process of a recorder.
struct Recorder {
    number: u64,
    process: Process,
    /// The proxy between it and the API server.
    proxy: Proxy,
}

/// The settings of the replicas.
pub(super) struct Settings<'a> {
    pub(super) program: &'a Path,
    pub(super) config: &'a Path,
    pub(super) logs: &'a Path,
    pub(super) certificate: &'a Pair,
    /// The first port. Each replica has two.
    pub(super) port: u16,
    /// Number of namespaces, each with a gate.
    pub(super) namespaces: usize,
}

/// The replicas. Each process has a user of its own, by which its requests are identified.
pub(super) struct Recorders<'a> {
    settings: Settings<'a>,
    running: [Option<Recorder>; 2],
    /// The replicas whose watches have not all begun, with the namespaces that they already watch.
    beginning: BTreeMap<u64, BTreeSet<String>>,
    /// The offset up to which the API server's audit log has been read.
    read: u64,
    pub(super) kills: usize,
}

/// The number of started processes, over all batches.
static STARTS: AtomicU64 = AtomicU64::new(0);

impl<'a> Recorders<'a> {
    /// Replicas that do not run yet.
    pub(super) fn new(settings: Settings<'a>, plane: &Plane) -> Result<Self> {
        Ok(Self {
            settings,
            running: [None, None],
            beginning: BTreeMap::new(),
            read: plane.server.audit_size()?,
            kills: 0,
        })
    }

    /// Starts the replicas that do not run.
    pub(super) fn revive(&mut self, plane: &Plane, watchers: &Watchers) -> Result<()> {
        for index in 0..self.running.len() {
            if self.running[index].is_none() {
                self.running[index] = Some(self.start(index, plane, watchers)?);
            }
        }
        Ok(())
    }

    fn start(&mut self, index: usize, plane: &Plane, watchers: &Watchers) -> Result<Recorder> {
        let number = STARTS.fetch_add(1, Ordering::Relaxed);
        let user = format!("{USER}{number}");
        let kubeconfig = plane.server.user(&user, &user, Some("system:masters"))?;
        let through = self.settings.logs.join(format!("{user}.kubeconfig"));
        let proxy = Proxy::start(&kubeconfig, &through)?;
        let port = self.settings.port + 2 * u16::try_from(index)?;
        let mut command = Command::new(self.settings.program);
        command
            .env("KUBECONFIG", &through)
            .arg("serve")
            .arg("--config")
            .arg(self.settings.config)
            .arg("--tls-cert")
            .arg(&self.settings.certificate.certificate)
            .arg("--tls-key")
            .arg(&self.settings.certificate.key)
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--health-listen=127.0.0.1:{}", port + 1));
        let process = Process::spawn(&format!("serve-{index}"), self.settings.logs, &mut command)?;
        watchers.starts(number);
        self.beginning.insert(number, BTreeSet::new());
        Ok(Recorder {
            number,
            process,
            proxy,
        })
    }

    /// Kills a replica by SIGKILL.
    pub(super) fn kill(&mut self, index: usize, watchers: &Watchers) {
        if let Some(recorder) = self.running[index].take() {
            watchers.dies(recorder.number);
            self.beginning.remove(&recorder.number);
            self.kills += 1;
        }
    }

    /// Cuts a replica's connections, and holds back the data of new ones until [`Self::reconnect`].
    pub(super) fn cut_off(&self, index: usize) {
        if let Some(recorder) = &self.running[index] {
            recorder.proxy.hold();
            recorder.proxy.cut();
        }
    }

    pub(super) fn reconnect(&self, index: usize) {
        if let Some(recorder) = &self.running[index] {
            recorder.proxy.release();
        }
    }

    /// Handles a restart of the API server: all watches must begin again.
    pub(super) fn server_restarts(&mut self, plane: &Plane, watchers: &Watchers) -> Result<()> {
        watchers.server_restarts();
        self.read = plane.server.audit_size()?;
        let living = self.running.iter().flatten();
        self.beginning = living
            .map(|recorder| (recorder.number, BTreeSet::new()))
            .collect();
        Ok(())
    }

    /// Finds out which replicas' watches have all begun.
    pub(super) fn look(&mut self, plane: &Plane, watchers: &Watchers) -> Result<()> {
        for recorder in self.running.iter().flatten() {
            recorder.process.check()?;
        }
        if self.beginning.is_empty() {
            return Ok(());
        }
        let (events, read) = plane.server.audit_events_from(self.read, USER)?;
        self.read = read;
        for event in &events {
            self.takes_in(event);
        }
        let all = self.settings.namespaces;
        let begun = self.beginning.extract_if(.., |_, begun| begun.len() == all);
        begun.for_each(|(number, _)| watchers.watches(number));
        Ok(())
    }

    fn takes_in(&mut self, event: &Value) {
        let is_watch = event["verb"] == "watch"
            && event["objectRef"]["resource"] == "jobs"
            && event["stage"] == "ResponseStarted";
        if !is_watch {
            return;
        }
        let user = event["user"]["username"].as_str().unwrap_or_default();
        let number = user
            .strip_prefix(USER)
            .and_then(|number| number.parse().ok());
        let namespace = event["objectRef"]["namespace"].as_str().unwrap_or_default();
        if let Some(begun) = number.and_then(|number: u64| self.beginning.get_mut(&number)) {
            begun.insert(namespace.to_owned());
        }
    }

    /// Whether all running replicas watch.
    pub(super) fn ready(&self) -> bool {
        self.beginning.is_empty()
    }
}
