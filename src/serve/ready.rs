//! The readiness of this replica.

use std::sync::Arc;

use jiff::Timestamp;

use super::certificates::trust::{Callers, NotTrusted};
use super::stop::Stop;
use super::tls::Served;

/// What `/readyz` reports.
#[derive(Debug, Clone)]
pub struct Readiness {
    served: Arc<Served>,
    callers: Callers,
    stop: Stop,
}

/// Reasons why this replica is not ready.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum NotReady {
    #[error("stopping")]
    Stopping,
    #[error("there is no certificate yet")]
    NoCertificate,
    #[error("the certificate expired at {0}")]
    Expired(Timestamp),
    #[error(transparent)]
    NotTrusted(#[from] NotTrusted),
}

impl Readiness {
    /// Ready while `served` holds a certificate that all `callers` accept, and `stop` has not
    /// begun.
    pub fn new(served: Arc<Served>, callers: Callers, stop: Stop) -> Self {
        Self {
            served,
            callers,
            stop,
        }
    }

    /// Whether this replica would answer a call from the API server now.
    pub fn check(&self) -> Result<(), NotReady> {
        if self.stop.is_stopping() {
            return Err(NotReady::Stopping);
        }
        let identity = self.served.get().ok_or(NotReady::NoCertificate)?;
        let now = Timestamp::now();
        if identity.not_after() <= now {
            return Err(NotReady::Expired(identity.not_after()));
        }
        Ok(self.callers.accept(&identity, now)?)
    }
}
