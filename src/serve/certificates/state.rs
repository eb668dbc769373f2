//! The rotator's next action, as a function of its observations.
//!
//! A rotation takes these steps, and no call fails because of it:
//!
//! 1. After two thirds of the old certificate's lifetime, a replica writes a new CA and its
//!    certificate to the Secret. The old CA stays in the bundle. If several replicas do this at
//!    once, `resourceVersion` lets one win.
//! 2. Every replica writes the bundle to every webhook configuration that lacks it.
//! 3. A replica serves the new certificate once all configurations have trusted it for the
//!    propagation delay: the time that an API server may take to see a changed configuration.
//! 4. A replica removes the old CA from the bundle when it has expired. Its only certificate has
//!    expired, too, so no replica serves it.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;

use super::issue::{Material, MaterialError, SKEW, unexpired};
use super::trust::{Callers, Configuration, ConfigurationName};
use super::verify::verify_for;
use crate::serve::tls::Identity;

/// The age of a certificate, in propagation delays, from which every API server knows its CA.
const LONG_KNOWN: u32 = 5;

/// Maximum number of names in a certificate, including those of earlier settings.
const MOST_NAMES: usize = 16;

/// One replica's settings and observations.
pub(super) struct State {
    names: Vec<String>,
    lifetime: Duration,
    propagation: Duration,
    secret: SharedSecret,
    /// The certificate that is served.
    served: Option<Arc<Identity>>,
    /// The certificate in the Secret, and since when every configuration has accepted it.
    candidate: Option<(Arc<Identity>, Option<Timestamp>)>,
    /// The CAs of the last usable Secret, in case it is deleted.
    last_bundle: Vec<CertificateDer<'static>>,
}

/// The Secret as it was last seen.
#[derive(Default)]
enum SharedSecret {
    /// It has not been read yet.
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
        /// The CAs that must stay trusted for now.
        keep: Vec<CertificateDer<'static>>,
        /// The Secret's version that this replaces; `None` if there is no Secret.
        base: Option<String>,
        /// For the log.
        why: String,
    },
    /// Write the Secret without the CAs that have expired.
    Prune { material: Material, base: String },
    /// Write the bundle to a configuration, unless that has changed since it was seen.
    Announce {
        name: ConfigurationName,
        seen: Configuration,
        bundle: Vec<u8>,
    },
}

/// The actions to take now, and the time of the next check without an event.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    /// The certificate to serve from now on, before any write.
    pub serve: Option<Arc<Identity>>,
    /// The writes, the most urgent first.
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

    /// Stores the Secret: its `resourceVersion` and content, or `None` if it does not exist.
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

    /// The `resourceVersion` of the Secret as it was last seen, `None` if it does not exist.
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

    /// Stores that `identity` is served now.
    pub(super) fn see_served(&mut self, identity: Arc<Identity>) {
        self.served = Some(identity);
    }

    /// The actions at `now`.
    ///
    /// If a write fails, the others are still worth doing. After the Secret is written, the other
    /// actions are out of date: the caller must call this again.
    pub(super) fn step(&mut self, callers: &Callers, now: Timestamp) -> Agenda {
        let mut agenda = Agenda::default();
        let secret = self.maintain(callers, now, &mut agenda);
        // Serving a trusted certificate needs no permission to write.
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

    /// The CAs that must stay trusted if the Secret is not usable: other replicas may still serve
    /// their certificates. A replica that has just started knows them only from the configurations.
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
            // Until all configurations have been read, it is not known which CAs they trust.
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
        // This does not fail: the Secret was parsed when it was seen.
        let Ok(identity) = material.identity() else {
            return issue(self.names.clone(), "it cannot be read".to_owned());
        };
        for name in &self.names {
            if let Err(cause) = verify_for(&identity, &material.bundle, name, now) {
                // In a roll-out that changes the names, the other replicas still need the old ones.
                // If those were missing, they would issue a certificate with only the old ones, and
                // so on in turn.
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

    /// The certificate to serve from now on, unless it is already served.
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
        // The wait protects callers that trust only the served certificate. If the configurations
        // no longer trust that one, the wait protects no call.
        let lost = served.is_some_and(|served| callers.accept(served, now).is_err());
        // A replica that has just started need not wait with a certificate that others have long
        // served.
        let known = served.is_none() && age(candidate, now) >= self.propagation * LONG_KNOWN;
        if now >= due || lost || known {
            return Some(Arc::clone(candidate));
        }
        agenda.wake_at(due);
        None
    }
}

/// How long ago a certificate was made. It is read from the certificate: other replicas may have
/// another lifetime in their settings.
fn age(identity: &Identity, now: Timestamp) -> Duration {
    let valid = Duration::try_from(now.duration_since(identity.not_before())).unwrap_or_default();
    valid.saturating_sub(SKEW)
}

#[cfg(test)]
mod tests;
