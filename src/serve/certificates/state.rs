//! The rotator's next action, as a function of its observations.
//!
//! The rotation, and why no call fails by it:
//!
//! 1. A new CA and a certificate of it go into the Secret, at two thirds of the old one's life. The
//!    old CA stays in the bundle. Of replicas that do this at once one wins, by `resourceVersion`.
//! 2. Every replica brings the bundle into every webhook configuration.
//! 3. A replica serves the new certificate once it has seen all configurations carry a bundle that
//!    verifies it, for as long as an API server may take to learn of that.
//! 4. The old CA leaves the bundle when it has expired. Its certificate expired with it, so no one
//!    can serve anything that needs it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::issue::{Material, MaterialError, SKEW, unexpired};
use super::trust::{Callers, Configuration, ConfigurationName, verify_for};
use crate::serve::tls::Identity;

/// Age, in propagation delays, at which every API server must know a certificate.
const LONG_KNOWN: u32 = 5;

/// Maximum number of names in a certificate, with those of earlier settings.
const MOST_NAMES: usize = 16;

/// One replica's wishes and observations.
pub(super) struct State {
    names: Vec<String>,
    lifetime: Duration,
    propagation: Duration,
    secret: SharedSecret,
    /// The certificate that is served.
    served: Option<Arc<Identity>>,
    /// The certificate in the Secret, and since when every configuration has accepted it.
    candidate: Option<(Arc<Identity>, Option<Timestamp>)>,
    /// The CAs of the last Secret that could be read, for when it is gone.
    last_bundle: Vec<CertificateDer<'static>>,
}

/// The Secret, as it was seen last.
#[derive(Default)]
enum SharedSecret {
    /// Not yet.
    #[default]
    Unknown,
    Absent,
    Unusable {
        resource_version: String,
        cause: MaterialError,
    },
    Usable {
        resource_version: String,
        material: Material,
    },
}

/// One write.
#[derive(Debug)]
pub(super) enum Action {
    /// Make a new CA and certificate, and write them to the Secret.
    Issue {
        /// The names in the certificate.
        names: Vec<String>,
        /// The CAs that must be trusted on for now.
        keep: Vec<CertificateDer<'static>>,
        /// The Secret's version that this replaces; `None` if there is no Secret.
        base: Option<String>,
        /// For the log.
        why: String,
    },
    /// Write the Secret without the CAs that have expired.
    Prune { material: Material, base: String },
    /// Bring the bundle into a configuration, on the condition that it is still as it was seen.
    Announce {
        name: ConfigurationName,
        seen: Configuration,
        bundle: Vec<u8>,
    },
}

/// The action now, and the time of the next check without an event.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// To be served from now on, before anything is written.
    pub serve: Option<Arc<Identity>>,
    /// To be written, the most urgent first.
    pub actions: Vec<Action>,
    pub wake: Option<Timestamp>,
}

impl Agenda {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}

impl State {
    pub(super) fn new(names: Vec<String>, lifetime: Duration, propagation: Duration) -> Self {
        Self {
            names,
            lifetime,
            propagation,
            secret: SharedSecret::Unknown,
            served: None,
            candidate: None,
            last_bundle: Vec::new(),
        }
    }

    /// Stores the Secret: its version and content, or that it does not exist.
    pub(super) fn see_secret(&mut self, seen: Option<(String, Result<Material, MaterialError>)>) {
        self.secret = match seen {
            None => SharedSecret::Absent,
            Some((resource_version, Err(cause))) => SharedSecret::Unusable {
                resource_version,
                cause,
            },
            Some((resource_version, Ok(material))) => {
                self.last_bundle.clone_from(&material.bundle);
                SharedSecret::Usable {
                    resource_version,
                    material,
                }
            }
        };
    }

    /// The Secret's version that this state was read from.
    pub(super) fn resource_version(&self) -> Option<&str> {
        match &self.secret {
            SharedSecret::Unknown | SharedSecret::Absent => None,
            SharedSecret::Unusable {
                resource_version, ..
            }
            | SharedSecret::Usable {
                resource_version, ..
            } => Some(resource_version),
        }
    }

    /// Tells that `identity` is served now.
    pub(super) fn see_served(&mut self, identity: Arc<Identity>) {
        self.served = Some(identity);
    }

    /// The action at `now`.
    ///
    /// Each write is worth doing even if one before it fails, with one exception: once the Secret
    /// is written, the rest is out of date, and the next step tells what to do.
    pub(super) fn step(&mut self, callers: &Callers, now: Timestamp) -> Agenda {
        let mut agenda = Agenda::default();
        let secret = self.maintain(callers, now, &mut agenda);
        // A trusted certificate can be served, even without permission to write.
        agenda.serve = self.due(callers, now, &mut agenda);
        agenda.actions.extend(secret);
        if let SharedSecret::Usable { material, .. } = &self.secret {
            let bundle = material.bundle_pem();
            for (name, seen) in callers.seen() {
                if seen.webhooks.iter().any(|w| w.ca_bundle != bundle) {
                    agenda.actions.push(Action::Announce {
                        name,
                        seen,
                        bundle: bundle.clone(),
                    });
                }
            }
        }
        agenda
    }

    /// The CAs that others may still serve and the API server trusts, if the Secret is not usable:
    /// a replica that has just started knows it from the configurations alone.
    fn trusted(&self, callers: &Callers, now: Timestamp) -> Vec<CertificateDer<'static>> {
        let mut trusted = self.last_bundle.clone();
        for certificate in callers.bundles() {
            if !trusted.contains(&certificate) {
                trusted.push(certificate);
            }
        }
        unexpired(&trusted, now)
    }

    /// The changes that the Secret needs.
    fn maintain(
        &mut self,
        callers: &Callers,
        now: Timestamp,
        agenda: &mut Agenda,
    ) -> Option<Action> {
        let (resource_version, material) = match &self.secret {
            SharedSecret::Unknown => return None,
            // Until then, it isn't known what is trusted.
            SharedSecret::Absent | SharedSecret::Unusable { .. } if !callers.all_known() => {
                return None;
            }
            SharedSecret::Absent => {
                return Some(Action::Issue {
                    names: self.names.clone(),
                    keep: self.trusted(callers, now),
                    base: None,
                    why: "there is no Secret yet".to_owned(),
                });
            }
            SharedSecret::Unusable {
                resource_version,
                cause,
            } => {
                return Some(Action::Issue {
                    names: self.names.clone(),
                    keep: self.trusted(callers, now),
                    base: Some(resource_version.clone()),
                    why: cause.to_string(),
                });
            }
            SharedSecret::Usable {
                resource_version,
                material,
            } => (resource_version, material),
        };
        let issue = |names: Vec<String>, why: String| {
            Some(Action::Issue {
                names,
                keep: unexpired(&material.bundle, now),
                base: Some(resource_version.clone()),
                why,
            })
        };
        // It could be read once, when it was seen.
        let Ok(identity) = material.identity() else {
            return issue(self.names.clone(), "it cannot be read".to_owned());
        };
        for name in &self.names {
            if let Err(cause) = verify_for(&identity, &material.bundle, name, now) {
                // In a roll-out that changes the names, the other replicas still use the old ones.
                // Without those they would issue in their turn, and so on.
                let mut names = self.names.clone();
                names.extend(
                    identity
                        .names()
                        .into_iter()
                        .filter(|n| !self.names.contains(n)),
                );
                names.truncate(MOST_NAMES);
                return issue(names, format!("its ca.crt {cause}"));
            }
        }
        let not_after = identity.not_after();
        let same = |known: &Arc<Identity>| known.chain() == identity.chain();
        if !self.candidate.as_ref().is_some_and(|(c, _)| same(c)) {
            self.candidate = Some((Arc::new(identity), None));
        }
        let renewal = not_after.checked_sub(self.lifetime / 3).unwrap_or(now);
        if now >= renewal {
            let why = format!("it expires at {not_after}");
            return issue(self.names.clone(), why);
        }
        agenda.wake_at(renewal);
        let kept = material.without_expired(now);
        if kept.bundle.len() < material.bundle.len() {
            return Some(Action::Prune {
                material: kept,
                base: resource_version.clone(),
            });
        }
        let expiry = kept
            .bundle
            .iter()
            .filter_map(|ca| crate::serve::tls::not_after(ca).ok())
            .min();
        if let Some(expiry) = expiry {
            agenda.wake_at(expiry);
        }
        None
    }

    /// The certificate that is to be served from now on, if it isn't yet.
    fn due(
        &mut self,
        callers: &Callers,
        now: Timestamp,
        agenda: &mut Agenda,
    ) -> Option<Arc<Identity>> {
        let (candidate, accepted) = self.candidate.as_mut()?;
        let served = self.served.as_ref();
        if served.is_some_and(|served| served.chain() == candidate.chain()) {
            return None;
        }
        if callers.accept(candidate, now).is_err() {
            *accepted = None;
            return None;
        }
        let since = *accepted.get_or_insert(now);
        let due = since.checked_add(self.propagation).unwrap_or(now);
        // Waiting protects the calls that still trust what is served. If none does, it only costs.
        let lost = served.is_some_and(|served| callers.accept(served, now).is_err());
        // What others have long been serving needs no wait in one that has just started.
        let known = served.is_none() && age(candidate, now) >= self.propagation * LONG_KNOWN;
        if now >= due || lost || known {
            return Some(Arc::clone(candidate));
        }
        agenda.wake_at(due);
        None
    }
}

/// How long ago a certificate was made, by itself: other replicas may make them for another time.
fn age(identity: &Identity, now: Timestamp) -> Duration {
    let valid = Duration::try_from(now.duration_since(identity.not_before())).unwrap_or_default();
    valid.saturating_sub(SKEW)
}

#[cfg(test)]
mod tests;
