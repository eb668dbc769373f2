//! A release of migration-gate that stories and tests share if they do not change it, with a gate
//! for each.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::application::{Application, JOB, WEB, WORKER};
use testkit::cluster::Cluster;
use testkit::namespace::Namespace;
use testkit::release::Release;

/// The namespaces of the stories, each with a gate of the same name.
const NAMESPACES: &[&str] = &[
    "story-first-deployment",
    "story-upgrade",
    "story-upgrade-by-kubectl",
    "story-failure",
    "story-day-after",
    "waiter-ttl",
    "waiter-versions",
    "waiter-moving-tag",
    "waiter-proxy",
    "waiter-digest",
    "waiter-repaired",
    BY_KUBECTL,
    BY_HELM,
    BY_FLUX,
    EVERY_KIND,
    REVISIONS,
    SLEEPER,
    HEALTH_CHECKS,
    "piefed-failed-job",
    "piefed-dry-run",
    "piefed-restricted",
];

/// The namespace of an application that kubectl applies.
pub(crate) const BY_KUBECTL: &str = "waiter-by-kubectl";

/// The namespace of an application that Helm applies.
pub(crate) const BY_HELM: &str = "waiter-by-helm";

/// The namespace of an application that Flux applies.
pub(crate) const BY_FLUX: &str = "waiter-by-flux";

/// The namespace whose gate holds workloads of other kinds, too.
pub(crate) const EVERY_KIND: &str = "waiter-every-kind";

/// The namespace whose gate waits for a Job with another name in each revision.
pub(crate) const REVISIONS: &str = "story-revisions";

/// The namespace of an application that scales to zero.
pub(crate) const SLEEPER: &str = "story-from-zero";

/// The namespace of an application with Flux's health checks.
pub(crate) const HEALTH_CHECKS: &str = "story-health-checks";

/// The tests that share a release: their namespaces, each with a gate.
pub(crate) struct Cast {
    pub(crate) namespaces: &'static [&'static str],
    pub(crate) gate: fn(&str) -> Value,
    // Locked while the release is installed or uninstalled, so that it is not installed again too
    // early.
    pub(crate) scenery: Mutex<Option<Scenery>>,
}

static STORIES: Cast = Cast {
    namespaces: NAMESPACES,
    gate,
    scenery: Mutex::new(None),
};

/// The objects that exist while a story runs.
pub(crate) struct Scenery {
    // Dropped first: the release has objects in the namespaces.
    _release: Release,
    namespaces: BTreeMap<String, Namespace>,
    players: usize,
    _theatre: Theatre,
}

/// The permission to install a release, which one cast has at a time.
struct Theatre;

static IS_TAKEN: Mutex<bool> = Mutex::new(false);
static IS_LEFT: Condvar = Condvar::new();

impl Theatre {
    /// Waits until no other cast has it.
    fn enter() -> Self {
        let taken = IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = IS_LEFT.wait_while(taken, |taken| *taken);
        *taken.unwrap_or_else(PoisonError::into_inner) = true;
        Self
    }
}

impl Drop for Theatre {
    fn drop(&mut self) {
        *IS_TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        IS_LEFT.notify_all();
    }
}

/// A story's share of the release, which is uninstalled when the last running story is over.
pub(crate) struct Stage {
    scenery: &'static Mutex<Option<Scenery>>,
}

impl Stage {
    /// Joins the running stories, or installs the release for them.
    pub(crate) fn enter(cluster: &Cluster) -> Result<Self> {
        Self::enter_with(cluster, &STORIES)
    }

    /// The same for another cast.
    pub(crate) fn enter_with(cluster: &Cluster, cast: &'static Cast) -> Result<Self> {
        let mut scenery = cast.scenery.lock().unwrap_or_else(PoisonError::into_inner);
        match scenery.as_mut() {
            Some(scenery) => scenery.players += 1,
            None => *scenery = Some(Scenery::set(cluster, cast)?),
        }
        Ok(Self {
            scenery: &cast.scenery,
        })
    }

    /// The application in a story's namespace.
    pub(crate) fn application(&self, cluster: &Cluster, name: &str) -> Result<Application> {
        Application::new(cluster, self.namespace(name)?)
    }

    /// A namespace with a gate. Only the first call gets it.
    pub(crate) fn namespace(&self, name: &str) -> Result<Namespace> {
        self.scenery()
            .as_mut()
            .and_then(|scenery| scenery.namespaces.remove(name))
            .with_context(|| format!("no namespace {name}"))
    }

    fn scenery(&self) -> MutexGuard<'static, Option<Scenery>> {
        self.scenery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        let mut scenery = self.scenery();
        let left = scenery.as_mut().map_or(0, |scenery| {
            scenery.players -= 1;
            scenery.players
        });
        if left == 0 {
            *scenery = None;
        }
    }
}

impl Scenery {
    fn set(cluster: &Cluster, cast: &Cast) -> Result<Self> {
        // Two casts at once would be two releases in one namespace.
        let theatre = Theatre::enter();
        let mut namespaces = BTreeMap::new();
        for name in cast.namespaces {
            namespaces.insert((*name).to_owned(), cluster.namespace_named(name)?);
        }
        let gates: Vec<_> = cast.namespaces.iter().copied().map(cast.gate).collect();
        Ok(Self {
            _release: Release::install_with(cluster, &json!({"gates": gates}))?,
            namespaces,
            players: 1,
            _theatre: theatre,
        })
    }
}

/// A gate like PieFed's, in another namespace.
pub(crate) fn gate(namespace: &str) -> Value {
    let mut gate = json!({
        "name": namespace, "namespace": namespace, "job": JOB, "deployments": [WEB, WORKER],
        "serviceAccount": "piefed-init-checker", "timeout": "10m", "freshness": "version",
    });
    match namespace {
        EVERY_KIND => {
            gate["workloads"] = json!([
                {"kind": "StatefulSet", "name": "piefed-search"},
                {"kind": "DaemonSet", "name": "piefed-*"},
                {"kind": "CronJob", "selector": {"matchLabels": {"app": "clean"}}},
            ]);
        }
        REVISIONS => {
            gate["job"] = json!("shop-migrate-*");
            gate["deployments"] = json!(["shop-web"]);
        }
        _ => {}
    }
    gate
}
