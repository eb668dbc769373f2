//! A certificate from files, such as a mounted Secret of cert-manager.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing::error;

use super::install;
use crate::cli::chain;
use crate::serve::metrics::Metrics;
use crate::serve::stop::Stop;
use crate::serve::tls::{Identity, IdentityError, Served};

/// Reasons why files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(in crate::serve) enum FilesError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The files hold no certificate and key that can be served.
    #[error("{certificate} with {key}")]
    Identity {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What is wrong with them.
        source: IdentityError,
    },
    /// The file holds no CA certificate that can be used.
    #[error("{path}")]
    Authorities {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        source: IdentityError,
    },
}

/// The files of a certificate and its private key.
#[derive(Debug)]
pub(in crate::serve) struct Files {
    certificate: PathBuf,
    key: PathBuf,
    /// The last content, usable or not.
    last: Option<(Vec<u8>, Vec<u8>)>,
}

impl Files {
    pub(in crate::serve) fn new(certificate: PathBuf, key: PathBuf) -> Self {
        Self {
            certificate,
            key,
            last: None,
        }
    }

    /// The identity in the files, if they have changed since the last call.
    pub(in crate::serve) async fn changed(&mut self) -> Result<Option<Identity>, FilesError> {
        let pair = (read(&self.certificate).await?, read(&self.key).await?);
        if self.last.as_ref() == Some(&pair) {
            return Ok(None);
        }
        // If the files are replaced between the two reads, they do not match. This check fails
        // then, and the next one finds the right pair.
        let identity = Identity::from_pem(&pair.0, &pair.1);
        self.last = Some(pair);
        identity.map(Some).map_err(|source| FilesError::Identity {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            source,
        })
    }

    /// Keeps `served` up to date until the server closes.
    pub(in crate::serve) async fn follow(
        mut self,
        interval: Duration,
        served: Arc<Served>,
        metrics: Metrics,
        stop: Stop,
    ) {
        let failure = "cannot reload the certificate; still serving the previous one";
        let mut looks = Looks::new(interval, stop, failure);
        while looks.next().await {
            let changed = self.changed().await;
            looks.end(changed.map(|changed| {
                if let Some(identity) = changed {
                    install(Arc::new(identity), &served, &metrics);
                }
            }));
        }
    }
}

/// Checks files periodically. Each problem is logged once, not at each check.
///
/// It compares the content instead of waiting for file system events: a Secret's volume swaps a
/// symbolic link two levels up, and a subPath or a network file system sends no event. Two small
/// reads cost little.
pub(super) struct Looks {
    interval: Duration,
    stop: Stop,
    failure: &'static str,
    trouble: Option<String>,
}

impl Looks {
    pub(super) fn new(interval: Duration, stop: Stop, failure: &'static str) -> Self {
        Self {
            interval,
            stop,
            failure,
            trouble: None,
        }
    }

    /// Waits for the time of the next check. Returns `false` once the server closes.
    pub(super) async fn next(&self) -> bool {
        tokio::select! {
            () = self.stop.closing() => false,
            () = tokio::time::sleep(self.interval) => true,
        }
    }

    /// Takes the result of a check, and logs a new problem. A bad file that stays the same counts
    /// as unchanged, so only a read error comes again at each check.
    pub(super) fn end(&mut self, look: Result<(), FilesError>) {
        let Err(error) = look else {
            self.trouble = None;
            return;
        };
        let cause = chain(&error);
        if self.trouble.as_ref() != Some(&cause) {
            error!(cause, "{}", self.failure);
        }
        self.trouble = Some(cause);
    }
}

pub(super) async fn read(path: &Path) -> Result<Vec<u8>, FilesError> {
    tokio::fs::read(path)
        .await
        .map_err(|source| FilesError::Read {
            path: path.to_owned(),
            source,
        })
}
