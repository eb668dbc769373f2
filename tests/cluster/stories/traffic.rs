//! Visitors: requests to every pod that a Service would send them to.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use k8s_openapi::api::core::v1::Pod;

use super::application::{Application, PATIENCE, WEB, of};
use testkit::client::Watched;

/// The time between two rounds. Each round sends one request to every ready pod.
const PAUSE: Duration = Duration::from_millis(250);
/// Maximum number of rounds. No story takes longer.
const ROUNDS: u32 = 2400;

/// The results of the visits.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visits {
    /// Rounds in which no ready pod returned a page, although one had before.
    pub(crate) outages: u32,
    /// Pages, by the release that returned them.
    pub(crate) pages: BTreeMap<String, u32>,
    /// Responses of pods whose schema was not migrated.
    pub(crate) unmigrated: u32,
    /// Requests that a stopping pod no longer accepted.
    pub(crate) unreachable: u32,
}

impl fmt::Display for Visits {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pages: u32 = self.pages.values().sum();
        write!(
            formatter,
            "{} requests: {pages} pages ({:?}), {} on an unmigrated schema, {} to a stopping pod; {} outages",
            pages + self.unmigrated + self.unreachable,
            self.pages,
            self.unmigrated,
            self.unreachable,
            self.outages
        )
    }
}

/// Visitors that send requests until this is dropped.
pub(crate) struct Traffic {
    stop: Sender<()>,
    seen: Arc<(Mutex<Visits>, Condvar)>,
    visitors: JoinHandle<()>,
}

impl Traffic {
    pub(crate) fn start(application: &Application) -> Self {
        let pods = Watched::begin(&application.api(), &of(WEB));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::new((Mutex::new(Visits::default()), Condvar::new()));
        let seen = Arc::clone(&shared);
        let visitors = thread::spawn(move || {
            for _ in 0..ROUNDS {
                let mut so_far = lock(&seen.0).clone();
                round(&pods, &mut so_far);
                *lock(&seen.0) = so_far;
                seen.1.notify_all();
                // Wait between two rounds.
                if stopped.recv_timeout(PAUSE) != Err(RecvTimeoutError::Timeout) {
                    break;
                }
            }
        });
        Self {
            stop,
            seen: shared,
            visitors,
        }
    }

    /// Waits until `enough` is true for the results. Returns them.
    pub(crate) fn until(&self, what: &str, enough: impl Fn(&Visits) -> bool) -> Result<Visits> {
        let seen = lock(&self.seen.0);
        let (seen, timeout) = self
            .seen
            .1
            .wait_timeout_while(seen, PATIENCE, |seen| !enough(seen))
            .unwrap_or_else(PoisonError::into_inner);
        ensure!(
            !timeout.timed_out(),
            "waited {PATIENCE:?} for {what}; the visitors saw {seen}"
        );
        Ok(seen.clone())
    }

    pub(crate) fn stop(self) -> Result<Visits> {
        // The visitors may have stopped already.
        let _ = self.stop.send(());
        self.visitors
            .join()
            .map_err(|_| anyhow!("the visitors' thread panicked"))?;
        Ok(lock(&self.seen.0).clone())
    }
}

fn lock(seen: &Mutex<Visits>) -> MutexGuard<'_, Visits> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Maximum age of the view of the pods on a busy machine.
const STALE: Duration = Duration::from_secs(10);

/// Visits all ready pods. If none of them serves, that is an outage. The view of the pods may be
/// old, so it counts only if that view does not change.
fn round(pods: &Watched<Pod>, seen: &mut Visits) {
    let began = Instant::now();
    let mut failed: Option<Vec<Arc<Pod>>> = None;
    loop {
        let mut ready = pods.now();
        ready.retain(|pod| is_ready(pod));
        if failed.as_ref() != Some(&ready) {
            if visit(&ready, seen) || seen.pages.is_empty() {
                return;
            }
            if ready.is_empty() {
                break;
            }
            failed = Some(ready);
        }
        if began.elapsed() > STALE {
            break;
        }
        thread::sleep(PAUSE);
    }
    seen.outages += 1;
}

/// Whether any of these pods serves a page.
fn visit(pods: &[Arc<Pod>], seen: &mut Visits) -> bool {
    let mut served = false;
    for pod in pods {
        let Some(address) = address(pod) else {
            continue;
        };
        let answer = get(address);
        let release = |body: &String| Some(body.split_once(':')?.0.to_owned());
        match answer
            .as_ref()
            .map(|(status, body)| (*status, release(body)))
        {
            Ok((200, Some(release))) => {
                *seen.pages.entry(release).or_default() += 1;
                served = true;
            }
            Ok((500, _)) => seen.unmigrated += 1,
            Ok(_) | Err(_) => seen.unreachable += 1,
        }
    }
    served
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none()
        && conditions
            .into_iter()
            .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn address(pod: &Pod) -> Option<SocketAddr> {
    let address = pod.status.as_ref()?.pod_ip.as_ref()?.parse().ok()?;
    Some(SocketAddr::new(address, 5000))
}

/// Sends a request. Returns the status and the body.
fn get(address: SocketAddr) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let status = answer
        .get(9..12)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0);
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Ok((status, body.to_owned()))
}
