//! The authorities of the clients' certificates, in a file.

use std::path::PathBuf;
use std::time::Duration;

use tracing::info;

use super::files::{self, FilesError, Looks};
use crate::serve::stop::Stop;
use crate::serve::tls::{Acceptor, RequiredClients};

/// Who may call: `--client-ca` and `--client-name`.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Callers")]
pub struct ClientArgs {
    /// Authorities, PEM; a client without a certificate of theirs is refused in the handshake
    ///
    /// The API server needs a certificate then: see its `AdmissionConfiguration`. A
    /// change of the file is picked up.
    #[arg(long, value_name = "FILE")]
    client_ca: Option<PathBuf>,

    /// The common name or a DNS name that a client's certificate must have; repeatable
    #[arg(long, value_name = "NAME", requires = "client_ca")]
    client_name: Vec<String>,
}

/// The file of the authorities.
#[derive(Debug)]
pub(in crate::serve) struct ClientFile {
    path: PathBuf,
    names: Vec<String>,
    /// What was read last, whether it could be used or not.
    last: Vec<u8>,
}

impl ClientFile {
    /// The file, if clients need a certificate.
    pub(in crate::serve) fn new(args: ClientArgs) -> Option<Self> {
        let ClientArgs {
            client_ca,
            client_name,
        } = args;
        client_ca.map(|path| Self {
            path,
            names: client_name,
            last: Vec::new(),
        })
    }

    /// Makes the acceptor ask for certificates of what the file holds now, if that has changed.
    pub(in crate::serve) async fn apply(&mut self, acceptor: &Acceptor) -> Result<(), FilesError> {
        let text = files::read(&self.path).await?;
        if text == self.last {
            return Ok(());
        }
        let required = RequiredClients::new(&text, self.names.clone());
        self.last = text;
        let unusable = |source| FilesError::Authorities {
            path: self.path.clone(),
            source,
        };
        acceptor.require(required.map_err(unusable)?);
        info!(path = %self.path.display(), "clients need a certificate of these authorities");
        Ok(())
    }

    /// Does so whenever the file changes, until the server closes. Open connections stay.
    pub(in crate::serve) async fn follow(
        mut self,
        interval: Duration,
        acceptor: Acceptor,
        stop: Stop,
    ) {
        let failure = "the clients' authorities can't be reloaded; the previous ones stay in force";
        let mut looks = Looks::new(interval, stop, failure);
        while looks.next().await {
            looks.end(self.apply(&acceptor).await);
        }
    }
}
